package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// maxID bounds what a damaged file can make us allocate; vocabularies are far smaller.
const maxID = 1<<22 - 1

type document struct {
	AddedTokens []addedToken `json:"added_tokens"`
	Decoder     *decoder     `json:"decoder"`
	Model       struct {
		Type   string          `json:"type"`
		Vocab  json.RawMessage `json:"vocab"`
		Merges json.RawMessage `json:"merges"`
	} `json:"model"`
}

type addedToken struct {
	ID      int32  `json:"id"`
	Content string `json:"content"`
	Special bool   `json:"special"`
}

type decoder struct {
	Type     string    `json:"type"`
	Decoders []decoder `json:"decoders"`
}

// Parse reads the bytes of a tokenizer.json, which it keeps.
func Parse(data []byte) (*Tokenizer, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("read tokenizer.json: not valid UTF-8")
	}
	var doc document
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("read tokenizer.json: %w", err)
	}
	decode, err := doc.decoding()
	if err != nil {
		return nil, err
	}
	vocab, err := doc.vocabulary()
	if err != nil {
		return nil, err
	}
	t := &Tokenizer{
		raw: data, added: map[int32]string{}, special: map[int32]bool{}, ids: map[string]int32{}, vocab: len(vocab),
	}
	if err := t.setVocabulary(vocab, decode); err != nil {
		return nil, err
	}
	if err := t.setAdded(doc.AddedTokens, vocab, decode); err != nil {
		return nil, err
	}
	return t, nil
}

// decoding is how the file's decoder turns one token into bytes. It must be ByteLevel
// or Fuse (tokens joined as they are), possibly in a Sequence; a Fuse after ByteLevel
// changes nothing, any other order or decoder is refused by name.
func (d *document) decoding() (func(string) []byte, error) {
	if d.Decoder == nil {
		return nil, errors.New("no decoder: only ByteLevel and Fuse are known")
	}
	var decode func(string) []byte
	for _, name := range d.Decoder.flatten() {
		switch {
		case name == "ByteLevel" && decode == nil:
			decode = byteLevel
		case name == "Fuse":
			if decode == nil {
				decode = func(token string) []byte { return []byte(token) }
			}
		default:
			return nil, fmt.Errorf("decoder %v: %s cannot be decoded here, only ByteLevel and Fuse",
				d.Decoder.flatten(), quote(name))
		}
	}
	if decode == nil {
		return nil, errors.New("decoder Sequence is empty: only ByteLevel and Fuse are known")
	}
	return decode, nil
}

// flatten lists the types of the decoders in the order they are applied.
func (d *decoder) flatten() []string {
	if d.Type != "Sequence" {
		return []string{d.Type}
	}
	var names []string
	for _, inner := range d.Decoders {
		names = append(names, inner.flatten()...)
	}
	return names
}

// vocabulary is the model's own tokens. Files of early versions leave out the type
// of a BPE, which its merges give away.
func (d *document) vocabulary() (map[string]int32, error) {
	m := d.Model
	if m.Type != "BPE" && m.Type != "WordLevel" && (m.Type != "" || m.Merges == nil) {
		return nil, fmt.Errorf("model type %s: only BPE and WordLevel are known", quote(m.Type))
	}
	var vocab map[string]int32
	if err := json.Unmarshal(m.Vocab, &vocab); err != nil {
		return nil, fmt.Errorf("read model.vocab: %w", err)
	}
	if len(vocab) == 0 {
		return nil, errors.New("model.vocab is empty")
	}
	return vocab, nil
}

func (t *Tokenizer) setVocabulary(vocab map[string]int32, decode func(string) []byte) error {
	for token, id := range vocab {
		if err := t.grow(id); err != nil {
			return fmt.Errorf("token %s: %w", quote(token), err)
		}
		if t.tokens[id] != nil {
			return fmt.Errorf("two tokens of model.vocab have id %d, one is %s", id, quote(token))
		}
		t.tokens[id] = decode(token)
	}
	return nil
}

// grow makes place for id.
func (t *Tokenizer) grow(id int32) error {
	if id < 0 || id > maxID {
		return fmt.Errorf("id %d is not between 0 and %d", id, maxID)
	}
	if missing := int(id) + 1 - len(t.tokens); missing > 0 {
		t.tokens = append(t.tokens, make([][]byte, missing)...)
	}
	return nil
}

// setAdded numbers the added tokens as the library does, which ignores the ids of the
// file: in its order, a token of the vocabulary keeps its id there, each other one
// gets the next number. A file whose own ids say otherwise is refused, since programs
// would read it differently.
func (t *Tokenizer) setAdded(added []addedToken, vocab map[string]int32, decode func(string) []byte) error {
	next := int32(t.vocab)
	for _, token := range added {
		if token.Content == "" {
			continue
		}
		id, known := t.ids[token.Content]
		if !known {
			id, known = vocab[token.Content]
		}
		if !known {
			id, next = next, next+1
		}
		if id != token.ID {
			return fmt.Errorf("added token %s has id %d in the file, but is loaded as %d",
				quote(token.Content), token.ID, id)
		}
		if err := t.grow(id); err != nil {
			return fmt.Errorf("added token %s: %w", quote(token.Content), err)
		}
		t.tokens[id] = decode(token.Content)
		t.added[id], t.ids[token.Content] = token.Content, id
		t.special[id] = token.Special
	}
	return nil
}
