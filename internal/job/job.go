// Package job is what the stages share: a job's layout in its store, its
// settings, the manifests that plan writes, the parts that tasks write, and
// the rows of the results.
package job

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"tokenfork/internal/failure"
	"tokenfork/internal/model"
	"tokenfork/internal/shell"
	"tokenfork/internal/store"
	"tokenfork/internal/tokenizer"
)

// Format is the version of everything this package writes. A job of another
// version is refused.
const Format = 1

// Side names one of the two models, and the server that runs it.
type Side int

// The two sides, in the order of every pair in this program.
const (
	Small Side = iota
	Reference
)

// Sides are both, in order.
var Sides = [2]Side{Small, Reference}

func (s Side) String() string { return [2]string{"small", "reference"}[s] }

// Keys of a job's objects.
const (
	Key            = "job.json"
	TokenizerKey   = "tokenizer.json"
	MismatchesCSV  = "mismatches.csv"
	MismatchesFile = "mismatches.parquet"
	RatesKey       = "rates.parquet"
	ShardPrefix    = "shards/"
)

// ManifestKey is where shard k's manifest is.
func ManifestKey(k int) string { return fmt.Sprintf("%s%05d.arrow", ShardPrefix, k) }

// EngineKey is where the side's engine is recorded.
func EngineKey(side Side) string { return "engine-" + side.String() + ".json" }

// EngineHash is how rows name the engine of a record.
func EngineHash(record []byte) string { return Sum(record)[:12] }

// Trajectories: who goes on from where.
const (
	Own           = "own"       // each model continues its own fork
	FromReference = "reference" // the reference continues both
	Real          = "real"      // small ≠ real token; the reference continues small's fork, the other side is the text
)

// Settings decide what the results say; plan freezes them. Two jobs with the
// same input and equal settings are the same job.
type Settings struct {
	Layout         string  `json:"layout"`    // study or r2r
	Small          string  `json:"small"`     // the table's name of the small model: 1.5
	Reference      string  `json:"reference"` // 32.0
	Alignment      string  `json:"alignment"` // next or same
	FirstPosition  int     `json:"first_position"`
	SentenceIDType string  `json:"sentence_id_type"` // int64 or string
	Trajectories   string  `json:"trajectories"`     // own, reference or real
	Replay         bool    `json:"replay"`
	Ends           string  `json:"ends"`
	Decimals       bool    `json:"decimals"`
	MaxNewTokens   int     `json:"max_new_tokens"`
	Temperature    float64 `json:"temperature"`
	TopP           float64 `json:"top_p"`
	Seed           int64   `json:"seed"`
	Margins        bool    `json:"margins"`
	Deterministic  bool    `json:"deterministic"`
	R2RMismatches  bool    `json:"r2r_mismatches,omitempty"` // none at a real </think>, none in a text without an instruction
	OnBadText      string  `json:"on_bad_sentence"`
}

// Servers lists the sides whose servers the trajectories need.
func (s *Settings) Servers() []Side {
	if s.Trajectories == Own {
		return []Side{Small, Reference}
	}
	return []Side{Reference}
}

// Forks is how many forks of a mismatch one server carries on.
func (s *Settings) Forks() int {
	if s.Trajectories == Own {
		return 1
	}
	return 2
}

// PredictionOffset is how many rows before position p its prediction stands.
func (s *Settings) PredictionOffset() int {
	if s.Alignment == "next" {
		return 1
	}
	return 0
}

// Model says which model a side was planned for. Paths are no identity.
type Model struct {
	Name         string            `json:"name"` // as the user gave it, for messages
	Fingerprint  model.Fingerprint `json:"fingerprint"`
	VocabSize    int               `json:"vocab_size"` // of config.json, padding included
	MaxPositions int               `json:"max_positions"`
}

// Input says what was planned: the fingerprint is over the table's content, so
// that the same rows as CSV and as Parquet are the same input.
type Input struct {
	Fingerprint string   `json:"fingerprint"` // sha256
	Sources     []string `json:"sources"`     // as given, for people
	Rows        int64    `json:"rows"`
	Texts       int64    `json:"sentences"`
}

// Plan is the shared head of job.json and of every manifest.
type Plan struct {
	Format   int             `json:"format"`
	ID       string          `json:"id"` // sha256 of input and settings, 16 hex digits
	Settings Settings        `json:"settings"`
	Models   [2]Model        `json:"models"` // by Side
	Input    Input           `json:"input"`
	Ends     *tokenizer.Ends `json:"ends"`
	Longest  int             `json:"longest"`               // tokens of the longest fork with its continuation
	Audit    *float64        `json:"audit_share,omitempty"` // of the replayed forks that infer generates as well, unless it is told another; changes no result
	Cost     [2]float64      `json:"cost"`                  // predicted GPU seconds by Side, at the throughputs that plan was given
}

// Shard says what a manifest holds.
type Shard struct {
	SHA256     string  `json:"sha256"`
	Texts      int     `json:"sentences"`
	Mismatches int     `json:"mismatches"`
	Cost       float64 `json:"cost"` // predicted, see shard.Cost
}

// Job is job.json.
type Job struct {
	Plan
	Alignment  map[string]float64 `json:"alignment_evidence"` // agreement with the real tokens under each reading
	Positions  int64              `json:"positions"`          // that could have been mismatches
	Mismatches int64              `json:"mismatches"`         // in the shards
	Sample     *Sample            `json:"sample,omitempty"`   // nil: the job was planned with all texts
	Padding    int64              `json:"padding_ids"`        // ids that no token stands for: real tokens at these positions, predictions at mismatches
	Skipped    []Skipped          `json:"skipped_sentences,omitempty"`
	TooLong    []TooLong          `json:"too_long_sentences,omitempty"`
	Shards     []Shard            `json:"shards"`
	Files      map[string]string  `json:"files"`            // sha256 of what else plan wrote, by key
	Sum        string             `json:"sha256,omitempty"` // see SealJSON
}

// Skipped is a text that --on-bad-text skip left out.
type Skipped struct {
	SentenceID string `json:"sentence_id"`
	Line       int64  `json:"line"`
	Reason     string `json:"reason"`
}

// TooLong is a text with mismatches that do not fit a model's context:
// they are planned, and infer lists them as context_length.
type TooLong struct {
	SentenceID string `json:"sentence_id"`
	Tokens     int    `json:"tokens"`
	Mismatches int    `json:"mismatches"`
}

// Command is a command of this program's over the job, to be shown and pasted.
func Command(s store.Store, verb string, flags ...string) string {
	return "tokenfork " + verb + " " + shell.Join(append(store.Flags(s), flags...))
}

// Load reads job.json.
func Load(ctx context.Context, s store.Store) (*Job, error) {
	b, err := store.ReadAll(ctx, s, Key)
	if errors.Is(err, fs.ErrNotExist) {
		for o, err := range s.List(ctx, "summary.json") {
			if err == nil && o.Key == "summary.json" {
				return nil, failure.New(failure.Refused, "name one of the jobs that were merged; the same `tokenfork merge` makes the results anew",
					"no job at %s, but results that were merged: %w", s, fs.ErrNotExist)
			}
		}
		return nil, failure.New(failure.Refused, "run `tokenfork plan INPUT --job "+s.String()+"` first", "no job at %s: %w", s, fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s of %s: %w", Key, s, err)
	}
	var j Job
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err = CheckJSON(b); err == nil {
		err = d.Decode(&j)
	}
	if err != nil {
		return nil, failure.New(failure.Refused, "plan the job again in another place", "%s of %s is damaged: %w", Key, s, err)
	}
	if j.Format != Format {
		return nil, failure.New(failure.Refused, "use the tokenfork that planned it", "job %s has format %d, this tokenfork reads %d", s, j.Format, Format)
	}
	return &j, nil
}

// Sum is the sha256 of b in hex.
func Sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// Tasks are those of shard k: the servers' of infer, and each judging's.
func (j *Job) Tasks(k int, judgings ...string) []Task {
	var all []Task
	for _, side := range j.Settings.Servers() {
		all = append(all, Task{Stage: "infer", Shard: k, Side: side.String(), Manifest: j.Shards[k].SHA256})
	}
	for _, id := range judgings {
		all = append(all, Task{Stage: "judge", Shard: k, Side: id, Manifest: j.Shards[k].SHA256})
	}
	return all
}

// Identity is the id of a job over the input with these settings and models.
func (p *Plan) Identity() (string, error) {
	models := [2]model.Fingerprint{p.Models[Small].Fingerprint, p.Models[Reference].Fingerprint}
	b, err := json.Marshal(map[string]any{"format": p.Format, "settings": p.Settings, "input": p.Input.Fingerprint, "models": models, "ends": p.Ends})
	if err != nil {
		return "", fmt.Errorf("hash the settings: %w", err)
	}
	return Sum(b)[:16], nil
}
