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

// Parse reads the bytes of a tokenizer.json, which it keeps.
func Parse(data []byte) (*Tokenizer, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("read tokenizer.json: not valid UTF-8")
	}
	var doc document
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("read tokenizer.json: %w", err)
	}
	decode, err := newDecoding(doc.Decoder)
	if err != nil {
		return nil, err
	}
	vocab, err := doc.vocabulary()
	if err != nil {
		return nil, err
	}
	t := &Tokenizer{
		raw: data, decoding: decode, added: map[int32]string{}, ids: map[string]int32{}, vocab: len(vocab),
	}
	if err := t.setVocabulary(vocab); err != nil {
		return nil, err
	}
	if err := t.setAdded(doc.AddedTokens, vocab); err != nil {
		return nil, err
	}
	return t, t.check()
}

// vocabulary is the model's own tokens. Files of early versions leave out the type
// of a BPE, which its merges give away. A Unigram lists its tokens, with their scores,
// in the order of their ids.
func (d *document) vocabulary() (map[string]int32, error) {
	m := d.Model
	switch {
	case m.Type == "Unigram":
		return unigram(m.Vocab)
	case m.Type != "BPE" && m.Type != "WordLevel" && (m.Type != "" || m.Merges == nil):
		return nil, fmt.Errorf("model type %s: only BPE, Unigram and WordLevel are known", quote(m.Type))
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

func unigram(list json.RawMessage) (map[string]int32, error) {
	var scored [][]json.RawMessage
	if err := json.Unmarshal(list, &scored); err != nil {
		return nil, fmt.Errorf("read model.vocab: %w", err)
	}
	if len(scored) == 0 {
		return nil, errors.New("model.vocab is empty")
	}
	vocab := make(map[string]int32, len(scored))
	for id, pair := range scored {
		var token string
		if len(pair) != 2 || json.Unmarshal(pair[0], &token) != nil {
			return nil, fmt.Errorf("entry %d of model.vocab is not a token and its score", id)
		}
		if first, twice := vocab[token]; twice {
			return nil, fmt.Errorf("the token %s of model.vocab has the ids %d and %d", quote(token), first, id)
		}
		vocab[token] = int32(id)
	}
	return vocab, nil
}

func (t *Tokenizer) setVocabulary(vocab map[string]int32) error {
	for spelled, id := range vocab {
		if err := t.grow(id); err != nil {
			return fmt.Errorf("token %s: %w", quote(spelled), err)
		}
		if t.tokens[id].bytes != nil {
			return fmt.Errorf("two tokens of model.vocab have id %d, one is %s", id, quote(spelled))
		}
		t.set(id, spelled)
	}
	return nil
}

func (t *Tokenizer) set(id int32, spelled string) {
	decoded, isByte := t.decoding.token(spelled, false)
	t.tokens[id] = token{spelled: spelled, bytes: decoded, isByte: isByte}
}

// grow makes place for id.
func (t *Tokenizer) grow(id int32) error {
	if id < 0 || id > maxID {
		return fmt.Errorf("id %d is not between 0 and %d", id, maxID)
	}
	if missing := int(id) + 1 - len(t.tokens); missing > 0 {
		t.tokens = append(t.tokens, make([]token, missing)...)
	}
	return nil
}

// setAdded numbers the added tokens as the library does, which ignores the ids of the
// file: in its order, a token of the vocabulary keeps its id there, each other one
// gets the next number. A file whose own ids say otherwise is refused, since programs
// would read it differently.
func (t *Tokenizer) setAdded(added []addedToken, vocab map[string]int32) error {
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
		t.set(id, token.Content)
		t.added[id], t.ids[token.Content] = token.Content, id
		t.tokens[id].special = token.Special
	}
	return nil
}

// check refuses bytes that ByteLevel would take for characters.
func (t *Tokenizer) check() error {
	for id := range t.tokens {
		if t.decoding.level && t.tokens[id].isByte {
			return fmt.Errorf("id %d is a byte for ByteFallback, which ByteLevel would read as a character", id)
		}
	}
	return nil
}
