package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"

	"tokenfork/internal/failure"
	"tokenfork/internal/model"
	"tokenfork/internal/store"
)

// CorpusKey is where a job keeps what texts predict reads, and with which models.
const CorpusKey = "corpus.json"

// TableKey is where predict writes its table where it is named no other place.
const TableKey = "table.parquet"

// CorpusManifestKey is where the texts of predict's shard k are.
func CorpusManifestKey(k int) string { return fmt.Sprintf("corpus/%05d.arrow", k) }

// CorpusEngineKey is where the engine is recorded on which a model reads the texts.
func CorpusEngineKey(side string) string { return "engine-predict-" + side + ".json" }

// Corpus is corpus.json: the texts of a job, cut into shards in their order.
type Corpus struct {
	Format      int           `json:"format"`
	ID          string        `json:"id"` // sha256 of the texts, models and settings, 16 hex digits
	Models      []CorpusModel `json:"models"`
	Chat        bool          `json:"chat"`             // prompts are messages to be put into the chat template
	MaxResponse int           `json:"max_response"`     // tokens that are written at most where a text has no response
	Layout      string        `json:"layout"`           // of the table: study or r2r
	Top         int           `json:"top,omitempty"`    // log-probabilities that entropy is made of; 0: the table has predictions alone
	Pairs       bool          `json:"pairs,omitempty"`  // the table compares each model with the last; needs Top
	Logits      int           `json:"logits,omitempty"` // of the first model that are kept at each position
	Fingerprint string        `json:"fingerprint"`      // sha256 over the texts
	Sources     []string      `json:"sources"`          // as given, for people
	Texts       int64         `json:"texts"`
	Longest     int           `json:"longest"` // tokens of the longest text, at most
	Shards      []Shard       `json:"shards"`  // Mismatches is 0, Cost the bytes of the texts
	Sum         string        `json:"sha256,omitempty"`
}

// CorpusModel is a model that reads the texts. The last of a corpus tokenises them and
// writes what is missing.
type CorpusModel struct {
	Side string  `json:"side"` // its name in the table, of tasks and parts
	EOS  []int32 `json:"eos"`  // ids that end what it writes
	Model
}

// Source is a text as predict was given it: a row of a corpus' manifest.
type Source struct {
	Ordinal  int64   `col:"ordinal"` // place in the input, from 0
	ID       string  `col:"id"`
	Prompt   string  `col:"prompt"`
	Messages *string `col:"messages"` // JSON of the prompt's messages, if it is a chat; Prompt has their contents
	Response *string `col:"response"` // nil: the last model writes it
}

// TextOrdinal makes it a stage's text.
func (s *Source) TextOrdinal() int64 { return s.Ordinal }

// Size bounds the text's tokens: it has at most as many as bytes.
func (c *Corpus) Size(x *Source) int64 {
	size := len(x.Prompt) + 1
	if x.Response != nil {
		size += len(*x.Response)
	} else {
		size += c.MaxResponse
	}
	return int64(size)
}

// Prediction is what a model said along one text of n tokens: a row of predict's parts.
type Prediction struct {
	Ordinal      int64     `col:"ordinal"`
	IDs          []int32   `col:"ids"`                    // n token ids, of the model that tokenises; nil of the others
	Prompt       int32     `col:"prompt"`                 // how many of them are the prompt's
	Read         string    `col:"read"`                   // sha256 of the ids
	Predictions  []int32   `col:"predictions"`            // n: after each token the most probable one
	Entropy      []float64 `col:"entropy,optional"`       // n, in nats; of a reading for it
	EntropyError []float64 `col:"entropy_error,optional"` // n: how far Entropy may be off
	AU           []float64 `col:"au,optional"`            // n; NaN where there is no evidence
	EU           []float64 `col:"eu,optional"`            // n
	TopLogprobs  []float64 `col:"top_logprobs,optional"`  // n times Corpus.Top, descending at each position; with Corpus.Pairs, of a reading for the entropy
	TopIDs       []int32   `col:"top_ids,optional"`       // the tokens whose they are
	Logits       []float64 `col:"logits,optional"`        // n times Corpus.Logits, descending at each position; of the first model
	LogitIDs     []int32   `col:"logit_ids,optional"`     // the tokens whose they are
	Engine       *string   `col:"engine"`                 // hash of the engine's record
	Error        *string   `col:"error"`                  // class, nil if all is well
	Message      *string   `col:"message"`
}

// TextOrdinal makes it a Row.
func (p Prediction) TextOrdinal() int64 { return p.Ordinal }

// Failed says whether the text is left out of the table.
func (p Prediction) Failed() bool { return p.Error != nil }

// Tokenizes is the model that tokenises.
func (c *Corpus) Tokenizes() *CorpusModel { return &c.Models[len(c.Models)-1] }

// Reader is one reading of the texts by a model: a task of each shard.
type Reader struct {
	Side    string
	Model   int  // number of the model
	Entropy bool // reads log-probabilities for the entropy, and not predictions
}

// entropySuffix ends the side of a model's second reading.
const entropySuffix = "-entropy"

// Readers are the readings in order: that of the model that tokenises first, since the
// others wait for it. A server gives either logits or log-probabilities, so that with
// measures each model reads the texts twice.
func (c *Corpus) Readers() []Reader {
	var all []Reader
	for n, m := range slices.Backward(c.Models) {
		all = append(all, Reader{Side: m.Side, Model: n})
		if c.Top > 0 {
			all = append(all, Reader{Side: m.Side + entropySuffix, Model: n, Entropy: true})
		}
	}
	return all
}

// KeepsLogits says whether the reader keeps a model's largest logits.
func (c *Corpus) KeepsLogits(r Reader) bool { return c.Logits > 0 && r.Model == 0 && !r.Entropy }

// Sides are those of the readers.
func (c *Corpus) Sides() []string {
	var all []string
	for _, r := range c.Readers() {
		all = append(all, r.Side)
	}
	return all
}

// Task is a model's work on shard k.
func (c *Corpus) Task(k int, side string) Task {
	return Task{Stage: "predict", Shard: k, Side: side, Manifest: c.Shards[k].SHA256}
}

// Tasks are those of shard k.
func (c *Corpus) Tasks(k int) []Task {
	var all []Task
	for _, side := range c.Sides() {
		all = append(all, c.Task(k, side))
	}
	return all
}

// LoadCorpus reads corpus.json; fs.ErrNotExist (errors.Is) if the job has none.
func LoadCorpus(ctx context.Context, s store.Store) (*Corpus, error) {
	b, err := store.ReadAll(ctx, s, CorpusKey)
	if err != nil {
		return nil, fmt.Errorf("read %s of %s: %w", CorpusKey, s, err)
	}
	var c Corpus
	if err := OpenJSON(b, &c); err != nil {
		return nil, failure.New(failure.Refused, "remove it and give `tokenfork predict` the same texts and models again", "%s of %s is damaged: %w", CorpusKey, s, err)
	}
	if c.Format != Format {
		return nil, failure.New(failure.Refused, "use the tokenfork that made it", "%s of %s has format %d, this tokenfork reads %d", CorpusKey, s, c.Format, Format)
	}
	return &c, nil
}

// Identity is the id of a corpus of these texts, models and settings.
func (c *Corpus) Identity() (string, error) {
	type reader struct {
		Side        string
		Fingerprint model.Fingerprint
	}
	var readers []reader
	for _, m := range c.Models {
		readers = append(readers, reader{m.Side, m.Fingerprint})
	}
	said := map[string]any{"format": c.Format, "texts": c.Fingerprint, "models": readers, "chat": c.Chat, "max_response": c.MaxResponse, "layout": c.Layout, "top": c.Top}
	if c.Pairs {
		said["pairs"] = true
	}
	if c.Logits > 0 {
		said["logits"] = c.Logits
	}
	b, err := json.Marshal(said)
	if err != nil {
		return "", fmt.Errorf("hash the texts' settings: %w", err)
	}
	return Sum(b)[:16], nil
}

// OpenManifest reads the texts of shard k and checks that they are the corpus'.
func (c *Corpus) OpenManifest(ctx context.Context, s store.Store, k int) (*Manifest, error) {
	const again = "remove corpus.json and give `tokenfork predict` the same texts again: what is finished is kept"
	m, err := openManifest[Source](ctx, s, CorpusManifestKey(k), k)
	switch {
	case errors.Is(err, fs.ErrNotExist) || failure.Code(err) == failure.Refused:
		return nil, failure.New(failure.Refused, again, "%w", err)
	case err != nil:
		return nil, err
	case m.ID != c.ID || m.Shard.SHA256 != c.Shards[k].SHA256:
		return nil, failure.New(failure.Refused, again, "%s of %s is not the one that %s lists", CorpusManifestKey(k), s, CorpusKey)
	}
	return m, nil
}

// Sources yields the texts of a corpus' manifest.
func Sources(m *Manifest) iter.Seq2[*Source, error] {
	return rowsOf[Source](m)
}
