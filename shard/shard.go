// Package shard plans a job: it reads the table once, finds the mismatches,
// and splits the texts into shards that cost about the same.
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
	Sources []table.Source
	// Settings as asked for. What is empty, and an Alignment of auto, the table settles.
	Settings   job.Settings
	Models     [2]job.Model
	Audit      *float64  // see job.Plan
	Tokenizer  Tokenizer // of both models
	Ends       *tokenizer.Ends
	Store      store.Store // not used by DryRun
	Throughput [2]Throughput
	Shards     Shards
	Sample     Sample // of the texts with mismatches
	Grow       bool   // the job that is there to this sample
	// Text, if not nil, is shown each text with mismatches, from many goroutines;
	// the text is the planner's again once it returns.
	Text   func(*job.Text) error
	Tmp    string       // folder of the spool; empty: the system's
	Logger *slog.Logger // progress and warnings; nil: none
}

// Shards says how many there are to be: by number, or else by size.
type Shards struct {
	Count int
	Cost  float64 // GPU seconds of the mean shard, by the stated throughput
}

// Estimate is what a plan comes to.
type Estimate struct {
	Planned    bool // before: the job was there already and is as it would be now
	Rows       int64
	Texts      int64
	Positions  int64              // that could have been mismatches
	Mismatches int64              // planned, or added by growing
	Sample     *job.Sample        // as job.json has it
	Padding    int64              // see job.Job
	Alignment  string             // next or same
	Evidence   map[string]float64 // see job.Job
	Skipped    []job.Skipped
	TooLong    []job.TooLong
	Work       [2]Work    // by the side whose server does it
	GPUHours   [2]float64 // by the stated throughput
	Shards     int
	Largest    float64 // GPU seconds of the costliest shard
	Spool      int64   // bytes it took
	Longest    int     // tokens of the longest fork with its continuation
}
