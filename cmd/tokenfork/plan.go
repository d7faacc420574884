package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/model"
	"tokenfork/internal/store"
	"tokenfork/internal/table"
	"tokenfork/internal/tokenizer"
	"tokenfork/shard"
)

// planCmd turns a table into a job.
type planCmd struct {
	jobFlags   `embed:""`
	modelFlags `embed:""`
	planFlags  `embed:""`
	DryRun     bool `help:"Print counts and estimates without writing a job."`
}

// Help shows how it is used.
func (planCmd) Help() string {
	return `Examples:
  tokenfork plan table.csv --job ./job --small-model DIR --reference-model DIR
  tokenfork plan 'part-*.parquet' --job s3://bucket/jobs/a --shards 200 --small 1.5 --reference 32.0
  zcat table.csv.gz | tokenfork plan - --job ./job --alignment next
`
}

// modelFlags name the models; infer may give other paths to the same ones.
type modelFlags struct {
	SmallModel     string `placeholder:"PATH|NAME" help:"Small model: a folder, or a hub name that is in the local cache."`
	ReferenceModel string `placeholder:"PATH|NAME" help:"Reference model: a folder, or a hub name that is in the local cache."`
}

// planFlags are the table's and the labels' settings, frozen by plan.
type planFlags struct {
	Input          []string  `arg:"" placeholder:"TABLE" help:"Tables: CSV (also .gz, .zst), Parquet or Arrow; paths, globs, s3://… or - for standard input."`
	Small          string    `default:"1.5" help:"The table's name of the small model."`
	Reference      string    `default:"32.0" help:"The table's name of the reference model."`
	Layout         string    `enum:"auto,study,r2r" default:"auto" help:"Columns of the table: auto, study or r2r."`
	Alignment      string    `enum:"auto,next,same" default:"auto" help:"Whether a row predicts the next token or its own: auto, next or same."`
	SentenceIDType string    `enum:"auto,int64,string" default:"auto" help:"Type of sentence ids: auto, int64 or string."`
	OnBadSentence  string    `enum:"stop,skip" default:"stop" help:"What to do with a sentence that cannot be used: stop, or skip and list it."`
	Trajectories   string    `enum:"own,reference,real" default:"own" help:"Who goes on: own (each its fork), reference (it both), real (it small's; the other side is the text)."`
	Replay         string    `default:"auto" placeholder:"auto|off|audit=F" help:"Take from the table what it already tells; generate a share of it too, to check."`
	Ends           string    `default:".!?\\n" placeholder:"CHARS|r2r" help:"Characters that end a sentence, or r2r for R2R's rule."`
	Decimals       bool      `help:"A point within a decimal number ends no sentence."`
	MaxNewTokens   int       `default:"128" placeholder:"N" help:"Longest continuation, without the predicted token."`
	Temperature    float64   `default:"0" placeholder:"T" help:"0 is greedy."`
	TopP           float64   `default:"1" placeholder:"P" help:"With a temperature: nucleus sampling."`
	Seed           int64     `default:"0" placeholder:"N" help:"With a temperature: seed of the job."`
	Margins        bool      `help:"Record each continuation's smallest gap of the two best logprobs."`
	Deterministic  bool      `help:"Have the servers answer alike in any batch (VLLM_BATCH_INVARIANT), where they can."`
	Shards         int       `default:"1" placeholder:"N" help:"How many array tasks to plan for."`
	ShardTime      float64   `placeholder:"SECONDS" help:"Instead of --shards: GPU time of a shard by the stated throughput."`
	PrefillRate    []float64 `default:"60000,9300" placeholder:"SMALL,REFERENCE" help:"Prompt tokens a second of each model, for costs."`
	DecodeRate     []float64 `default:"8000,3300" placeholder:"SMALL,REFERENCE" help:"Generated tokens a second of each model, for costs."`
}

// Run is the command.
func (c *planCmd) Run(ctx context.Context, con *console) error {
	o, err := c.planFlags.options(ctx, con, &c.jobFlags, &c.modelFlags)
	if err != nil {
		return err
	}
	if c.DryRun {
		e, err := shard.DryRun(ctx, o)
		if err == nil {
			printEstimate(con.out, e)
		}
		return err
	}
	if err := store.Probe(ctx, o.Store); err != nil && !c.SingleWriter {
		return err
	}
	j, e, err := shard.Plan(ctx, o)
	if err != nil {
		return err
	}
	printEstimate(con.out, e)
	fmt.Fprintf(con.out, "job %s is planned at %s: next, tokenfork infer --job %s\n", j.ID, o.Store, o.Store)
	return nil
}

func (f *planFlags) options(ctx context.Context, con *console, jf *jobFlags, mf *modelFlags) (shard.Options, error) {
	log := con.logger()
	o := shard.Options{Settings: f.settings(), Shards: shard.Shards{Count: f.Shards}, Tmp: jf.Tmp, Logger: log}
	if f.ShardTime > 0 {
		o.Shards = shard.Shards{Seconds: f.ShardTime}
	}
	if len(f.PrefillRate) != 2 || len(f.DecodeRate) != 2 {
		return o, failure.New(failure.Usage, "give two numbers: small's, reference's", "--prefill-rate and --decode-rate take a rate per model")
	}
	for side := range o.Throughput {
		o.Throughput[side] = shard.Throughput{Prefill: f.PrefillRate[side], Decode: f.DecodeRate[side]}
	}
	var err error
	if o.Store, err = jf.open(ctx, log); err != nil {
		return o, err
	}
	if o.Sources, err = f.sources(ctx, jf.options(log)); err != nil {
		return o, err
	}
	return o, f.models(&o, mf)
}

func (f *planFlags) settings() job.Settings {
	auto := func(s string) string {
		if s == "auto" {
			return ""
		}
		return s
	}
	return job.Settings{Layout: auto(f.Layout), Small: f.Small, Reference: f.Reference, Alignment: f.Alignment, SentenceIDType: auto(f.SentenceIDType),
		Trajectories: f.Trajectories, Replay: f.Replay != "off", Decimals: f.Decimals, MaxNewTokens: f.MaxNewTokens, Temperature: f.Temperature,
		TopP: f.TopP, Seed: f.Seed, Margins: f.Margins, Deterministic: f.Deterministic, OnBadSentence: f.OnBadSentence}
}

// sources opens nothing yet; a glob is taken apart here, so that the order of
// its files is settled.
func (f *planFlags) sources(ctx context.Context, o store.Options) ([]table.Source, error) {
	var all []table.Source
	for _, in := range f.Input {
		if in == "-" {
			all = append(all, table.Source{Name: "standard input", Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(os.Stdin), nil }})
			continue
		}
		names, err := store.Glob(ctx, in, o)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			all = append(all, table.Source{Name: name, Open: func(ctx context.Context) (io.ReadCloser, error) { return store.OpenInput(ctx, name, o) }})
		}
	}
	return all, nil
}

// models reads both folders: their shapes, and the tokenizer that they share.
func (f *planFlags) models(o *shard.Options, mf *modelFlags) error {
	var toks [2]*tokenizer.Tokenizer
	var eos []int32
	for side, name := range [2]string{mf.SmallModel, mf.ReferenceModel} {
		m, tok, err := loadModel(job.Side(side), name)
		if err != nil {
			return err
		}
		o.Models[side] = job.Model{Name: name, Fingerprint: m.Fingerprint(), VocabSize: m.VocabSize, MaxPositions: m.MaxPositions}
		toks[side] = tok
		eos = append(eos, m.EOS...)
	}
	if err := tokenizer.Equal(toks[job.Small], toks[job.Reference]); err != nil {
		return failure.New(failure.Refused, "compare models that share a tokenizer", "the models' tokenizers differ: %w", err)
	}
	ends, err := tokenizer.NewEnds(toks[job.Reference], f.Ends, eos, f.Decimals)
	if err != nil {
		return err
	}
	o.Tokenizer, o.Ends, o.Settings.Ends = toks[job.Reference], ends, ends.Spec()
	return nil
}

func loadModel(side job.Side, name string) (*model.Model, *tokenizer.Tokenizer, error) {
	if name == "" {
		return nil, nil, failure.New(failure.Usage, fmt.Sprintf("give --%s-model FOLDER (or a cached hub name)", side), "no %s model is named", side)
	}
	dir, err := model.Resolve(name, os.Getenv)
	if err != nil {
		return nil, nil, err
	}
	m, err := model.Load(dir)
	if err != nil {
		return nil, nil, err
	}
	tok, err := tokenizer.Load(m.TokenizerPath)
	return m, tok, err
}

// printEstimate says what a plan comes to.
func printEstimate(w io.Writer, e *shard.Estimate) {
	rate := 0.0
	if e.Positions > 0 {
		rate = 100 * float64(e.Mismatches) / float64(e.Positions)
	}
	fmt.Fprintf(w, "%d rows, %d sentences, %d mismatches (%.1f %% of %d positions), %d shards\n", e.Rows, e.Sentences, e.Mismatches, rate, e.Positions, e.Shards)
	for _, side := range job.Sides {
		fmt.Fprintf(w, "  %-9s %+v, %.3g GPU hours\n", side, e.Work[side], e.GPUHours[side])
	}
	if e.Skipped > 0 {
		fmt.Fprintf(w, "  %d sentences were left out: see skipped_sentences in %s\n", e.Skipped, job.Key)
	}
	for _, t := range e.TooLong {
		fmt.Fprintf(w, "  sentence %s has %d tokens: %d mismatches do not fit the model and will be listed as failed\n", t.SentenceID, t.Tokens, t.Mismatches)
	}
}
