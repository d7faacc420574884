// Package tokenizer reads Hugging Face tokenizer.json files, turns token ids
// into bytes and text exactly as the tokenizers library decodes them in the middle
// of a text, and works out which ids end a sentence. It does not encode.
package tokenizer

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"unicode/utf8"

	"tokenfork/internal/failure"
	"tokenfork/internal/regular"
)

// Tokenizer maps token ids to bytes. It is immutable and safe for concurrent use.
type Tokenizer struct {
	raw      []byte
	decoding *decoding
	tokens   []token // by id
	added    map[int32]string
	ids      map[string]int32 // added tokens by content
	vocab    int              // entries of the model's own vocabulary
	sum      struct {
		sync.Once
		hex string
	}
}

type token struct {
	spelled string // in the file
	bytes   []byte // nil where there is no token
	isByte  bool   // of ByteFallback
	special bool   // an added token that the file marks so
}

// Load reads the tokenizer.json at path. A file that is damaged, or of a kind that
// cannot be decoded token by token, is refused.
func Load(path string) (*Tokenizer, error) {
	data, err := regular.Read(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, failure.New(failure.Refused,
			"a model with slow tokenizer files only gets one by transformers' AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)",
			"load tokenizer: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("load tokenizer: %w", err)
	}
	t, err := Parse(data)
	if err != nil && !json.Valid(data) {
		return nil, failure.New(failure.Refused, "is the download complete? hf download resumes it, git lfs pull replaces a pointer", "load tokenizer %s: %w", path, err)
	}
	if err != nil {
		return nil, failure.New(failure.Refused,
			"byte-level tokenizers (Qwen, Llama 3, gpt-oss) and SentencePiece ones (Llama 2, Mistral, Gemma) can be used",
			"load tokenizer %s: %w", path, err)
	}
	return t, nil
}

// Size is one more than the largest id.
func (t *Tokenizer) Size() int { return len(t.tokens) }

// Bytes is what the token id stands for in the middle of a text, nil for ids without a token: those beyond
// the vocabulary (padding of the model's embedding) and gaps in it. It may be half
// a UTF-8 character. The caller must not change it.
func (t *Tokenizer) Bytes(id int32) []byte {
	if id < 0 || int(id) >= len(t.tokens) {
		return nil
	}
	return t.tokens[id].bytes
}

// Decode is the text of ids in the middle of a text, as the library's
// decode(ids, skip_special_tokens=False) gives it after other tokens: the bytes of all
// tokens joined, added tokens like any other, then invalid UTF-8 replaced. Ids without
// a token add nothing. At the start of a text the library's Strip and Metaspace leave
// out a space; here it stays, so that pieces of a text can be joined.
func (t *Tokenizer) Decode(ids []int32) string {
	joined := make([]byte, 0, 256)
	for _, id := range ids {
		joined = append(joined, t.Bytes(id)...)
	}
	switch {
	case utf8.Valid(joined):
		return string(joined)
	case t.decoding.fallback && !t.decoding.level:
		return string(t.decodeRuns(ids))
	}
	return string(AppendText(nil, joined))
}

// decodeRuns decodes as ByteFallback does: bytes in a row are text if all of them
// together are valid, else each becomes U+FFFD.
func (t *Tokenizer) decodeRuns(ids []int32) []byte {
	var text, run []byte
	flush := func() {
		if !utf8.Valid(run) {
			run = bytes.Repeat([]byte("\uFFFD"), len(run))
		}
		text, run = append(text, run...), run[:0]
	}
	for _, id := range ids {
		b := t.Bytes(id)
		switch {
		case b == nil:
		case t.tokens[id].isByte:
			run = append(run, b...)
		default:
			flush()
			text = append(text, b...)
		}
	}
	flush()
	return text
}

// alone is the text of a token that is a whole text.
func (t *Tokenizer) alone(id int32) string {
	if t.Bytes(id) == nil {
		return ""
	}
	decoded, _ := t.decoding.token(t.tokens[id].spelled, true)
	return string(AppendText(nil, decoded))
}

// Special is the spelling of an added token that the file marks as special;
// false for all others.
func (t *Tokenizer) Special(id int32) (string, bool) {
	if id < 0 || int(id) >= len(t.tokens) || !t.tokens[id].special {
		return "", false
	}
	return t.tokens[id].spelled, true
}

// ID is the id of the added token that is spelled exactly content.
func (t *Tokenizer) ID(content string) (int32, bool) {
	id, ok := t.ids[content]
	return id, ok
}

// JSON is the file as it was read. The caller must not change it.
func (t *Tokenizer) JSON() []byte { return t.raw }

// Fingerprint is the sha256 of the file, in hex.
func (t *Tokenizer) Fingerprint() string {
	t.sum.Do(func() {
		sum := sha256.Sum256(t.raw)
		t.sum.hex = hex.EncodeToString(sum[:])
	})
	return t.sum.hex
}

// Equal is nil if every id stands for the same bytes in both and the added tokens
// agree; else the error names the first id that differs.
func Equal(small, reference *Tokenizer) error {
	for id := range int32(max(small.Size(), reference.Size())) {
		s, sAdded := small.added[id]
		r, rAdded := reference.added[id]
		if bytes.Equal(small.Bytes(id), reference.Bytes(id)) && s == r && sAdded == rAdded {
			continue
		}
		return failure.New(failure.Refused, "the two models must share one tokenizer",
			"compare tokenizers: id %d is %s in small, %s in reference",
			id, small.describe(id), reference.describe(id))
	}
	return nil
}

// describe shows the token of id in a message.
func (t *Tokenizer) describe(id int32) string {
	text := t.Bytes(id)
	if content, ok := t.added[id]; ok {
		return "the added token " + quote(content)
	}
	if text == nil {
		return "no token"
	}
	return quote(string(text))
}

// quote shows printable text as it is, anything else with escapes.
func quote(s string) string {
	if strconv.CanBackquote(s) {
		return "`" + s + "`"
	}
	return strconv.Quote(s)
}
