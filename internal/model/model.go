// Package model looks at a model folder as the hub lays it out, without reading its
// weights: where it is, its shape, its end-of-sentence ids, and by which sha256s it is
// known to be the same elsewhere.
package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"slices"

	"tokenfork/internal/failure"
	"tokenfork/internal/regular"
)

// Model is what config.json, generation_config.json and the headers of the weights
// say. Numbers that a config leaves out are 0.
type Model struct {
	Dir           string
	TokenizerPath string // tokenizer.json
	VocabSize     int    // rows of the embedding: may exceed the tokenizer's size by padding
	MaxPositions  int    // longest text in tokens
	Dtype         string // as the config names it: "bfloat16"
	EOS           []int32
	Layers        int
	Hidden        int
	Intermediate  int
	Heads         int // query heads
	KVHeads       int
	HeadDim       int
	Weights       Weights

	sums Fingerprint
}

// config has the fields of config.json that count. A model of text and images keeps
// them in text_config.
type config struct {
	VocabSize    int             `json:"vocab_size"`
	MaxPositions int             `json:"max_position_embeddings"`
	Dtype        string          `json:"dtype"`
	TorchDtype   string          `json:"torch_dtype"` // the name until transformers 4.56
	EOS          eosIDs          `json:"eos_token_id"`
	Layers       int             `json:"num_hidden_layers"`
	Hidden       int             `json:"hidden_size"`
	Intermediate int             `json:"intermediate_size"`
	Heads        int             `json:"num_attention_heads"`
	KVHeads      int             `json:"num_key_value_heads"`
	HeadDim      int             `json:"head_dim"`
	Tied         bool            `json:"tie_word_embeddings"`
	Text         json.RawMessage `json:"text_config"`
}

// eosIDs is one id, a list of ids or null.
type eosIDs []int32

// UnmarshalJSON reads any of the three forms.
func (e *eosIDs) UnmarshalJSON(data []byte) error {
	if string(data) == "null" {
		return nil
	}
	var one int32
	if json.Unmarshal(data, &one) == nil {
		*e = eosIDs{one}
		return nil
	}
	var list []int32
	if err := json.Unmarshal(data, &list); err != nil {
		return fmt.Errorf("eos_token_id is neither an id nor a list of ids: %w", err)
	}
	*e = list
	return nil
}

// Load reads the model folder dir: its config.json and tokenizer.json, which must be
// there, generation_config.json if it is, and the index or headers of the
// safetensors files. Dummy models need no weights.
func Load(dir string) (*Model, error) {
	c, configSum, err := readConfig(dir)
	if err != nil {
		return nil, err
	}
	tokenizer := filepath.Join(dir, "tokenizer.json")
	tokenizerSum, err := fileSum(tokenizer)
	if err != nil {
		return nil, failure.New(failure.Refused,
			"transformers' AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR) writes a tokenizer.json",
			"load model %s: %w", dir, err)
	}
	eos, err := readEOS(dir, c)
	if err != nil {
		return nil, err
	}
	weights, weightsSum, err := readWeights(dir)
	if err != nil {
		return nil, err
	}
	m := c.model()
	m.Dir, m.TokenizerPath, m.EOS, m.Weights = dir, tokenizer, eos, weights
	m.estimateWeights(c.Tied)
	m.sums = Fingerprint{Config: configSum, Weights: weightsSum, Tokenizer: tokenizerSum}
	return m, nil
}

func readConfig(dir string) (*config, string, error) {
	path := filepath.Join(dir, "config.json")
	data, err := regular.Read(path)
	if err != nil {
		return nil, "", failure.New(failure.Refused, "give a model folder with its config.json", "load model: %w", err)
	}
	c, err := parseConfig(data)
	if err != nil {
		return nil, "", damaged(path, err)
	}
	return c, sum(data), nil
}

func damaged(path string, err error) error {
	return failure.New(failure.Refused, "is the download complete? hf download resumes it", "read %s: %w", path, err)
}

func parseConfig(data []byte) (*config, error) {
	var c config
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, err
	}
	if len(c.Text) > 0 {
		if err := json.Unmarshal(c.Text, &c); err != nil {
			return nil, fmt.Errorf("text_config: %w", err)
		}
	}
	if c.VocabSize == 0 {
		return nil, errors.New("no vocab_size")
	}
	for _, n := range []int{c.VocabSize, c.MaxPositions, c.Layers, c.Hidden, c.Intermediate, c.Heads, c.KVHeads, c.HeadDim} {
		if n < 0 || n > math.MaxInt32 {
			return nil, fmt.Errorf("a size of %d", n)
		}
	}
	return &c, nil
}

// model fills in what configs leave to be derived.
func (c *config) model() *Model {
	m := &Model{
		VocabSize: c.VocabSize, MaxPositions: c.MaxPositions, Dtype: c.Dtype,
		Layers: c.Layers, Hidden: c.Hidden, Intermediate: c.Intermediate,
		Heads: c.Heads, KVHeads: c.KVHeads, HeadDim: c.HeadDim,
	}
	if m.Dtype == "" {
		m.Dtype = c.TorchDtype
	}
	if m.KVHeads == 0 {
		m.KVHeads = c.Heads
	}
	if m.HeadDim == 0 && c.Heads > 0 {
		m.HeadDim = c.Hidden / c.Heads
	}
	return m
}

// estimateWeights fills in what neither index nor headers say.
func (m *Model) estimateWeights(tied bool) {
	w, width := &m.Weights, int64(2)
	if m.Dtype == "float32" {
		width = 4
	}
	switch w.Source {
	case FromIndex:
		w.Parameters = w.Bytes / width
	case NoWeights:
		if m.Layers > 0 {
			w.Parameters = m.denseParameters(tied)
		}
		w.Bytes = w.Parameters * width
	}
}

// denseParameters counts a decoder with gated feed-forward layers, as Llama and Qwen
// have them; biases are left out.
func (m *Model) denseParameters(tied bool) int64 {
	hidden, queries, keys := int64(m.Hidden), int64(m.Heads*m.HeadDim), int64(m.KVHeads*m.HeadDim)
	layer := 2*hidden*queries + 2*hidden*keys + 3*hidden*int64(m.Intermediate) + 2*hidden
	embedding := int64(m.VocabSize) * hidden
	if !tied {
		embedding *= 2
	}
	return embedding + int64(m.Layers)*layer + hidden
}

// readEOS takes the ids of generation_config.json, and where it has none those of
// the config; none at all is possible.
func readEOS(dir string, c *config) ([]int32, error) {
	path := filepath.Join(dir, "generation_config.json")
	data, err := regular.Read(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("load model: %w", err)
	}
	var generation struct {
		EOS eosIDs `json:"eos_token_id"`
	}
	if err == nil {
		if err := json.Unmarshal(data, &generation); err != nil {
			return nil, damaged(path, err)
		}
	}
	ids := generation.EOS
	if len(ids) == 0 {
		ids = c.EOS
	}
	return slices.Compact(slices.Sorted(slices.Values(ids))), nil
}
