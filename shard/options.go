// Package shard plans a job: it reads the table once, finds the mismatches,
// and deals the sentences out to shards that cost about the same.
package shard

import (
	"log/slog"

	"tokenfork/internal/job"
	"tokenfork/internal/store"
	"tokenfork/internal/table"
	"tokenfork/internal/tokenizer"
)

// Tokenizer turns ids into text. internal/tokenizer's Tokenizer is one.
type Tokenizer interface {
	Decode(ids []int32) string
	Bytes(id int32) []byte // nil for ids without a token
	JSON() []byte
}

// Options are all that planning depends on.
type Options struct {
	Sources  []table.Source
	Settings job.Settings // Layout, Small, Reference, SentenceIDType may be empty, Alignment auto: the table settles them
	Models   [2]job.Model
	// Tokenizer and Ends are those of the models.
	Tokenizer  Tokenizer
	Ends       *tokenizer.Ends
	Store      store.Store
	Throughput [2]Throughput
	Shards     Shards
	Tmp        string       // folder of the spool; empty: the system's
	Logger     *slog.Logger // progress and warnings; nil: none
}

// Shards says how many there are to be. Exactly one field is set.
type Shards struct {
	Count   int     // so many
	Seconds float64 // of one GPU's work in each, by the stated throughput
}

// TooLong is a sentence with mismatches that do not fit a model's context.
type TooLong struct {
	SentenceID string
	Tokens     int
	Mismatches int32
}

// Estimate is what a plan comes to, before or after it is written.
type Estimate struct {
	Rows       int64
	Sentences  int64
	Positions  int64 // that could have been mismatches
	Mismatches int64
	Padding    int64 // token ids that no token stands for
	Skipped    int
	TooLong    []TooLong
	Work       [2]Work    // by the server that does it
	GPUHours   [2]float64 // by the stated throughput
	Shards     int
	Largest    float64 // cost of the largest shard, in GPU seconds
	Spool      int64   // bytes
}
