package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"tokenfork/infer"
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
	jobFlags   `embed:"" group:"Job and store"`
	modelFlags `embed:"" group:"Models"`
	planFlags  `embed:"" group:"Table"`
	priceFlags `embed:"" group:"Costs"`
	judgeRates `embed:"" group:"Costs"`
	DryRun     bool `help:"Print counts and estimates, those of judging included, without writing a job."`
}

// modelFlags name the models; infer may give other paths to the same ones.
type modelFlags struct {
	SmallModel     string `kept:"" placeholder:"PATH|NAME" help:"Small model: a folder, or a hub name that is in the local cache."`
	ReferenceModel string `kept:"" placeholder:"PATH|NAME" help:"Reference model: a folder, or a hub name that is in the local cache."`
}

// planFlags are the table's, the labels' and the shards'.
type planFlags struct {
	tableFlags  `embed:"" group:"Table"`
	labelFlags  `embed:"" group:"Labels"`
	shardFlags  `embed:"" group:"Shards"`
	ratesFlag   `embed:"" group:"Costs"`
	sampleFlags `embed:"" group:"Sample"`
}

// Help shows how it is used.
func (planCmd) Help() string {
	return `Examples:
  tokenfork plan table.csv --job ./job --small-model DIR --reference-model DIR
  tokenfork plan 'part-*.parquet' --job s3://bucket/jobs/a --shards 200 --small 7.0 --reference 32.0
  zcat table.csv.gz | tokenfork plan - --job ./job --alignment next --dry-run

A pilot, and then the rest of it:
  tokenfork plan table.csv --job ./job --small-model DIR --reference-model DIR --sample 0.05
  tokenfork plan table.csv --job ./job --small-model DIR --reference-model DIR --grow all --shards 50
`
}

// tableFlags say what is read.
type tableFlags struct {
	Inputs         []string `arg:"" optional:"" name:"input" help:"The table: CSV (plain, gzip, zstd, xz or bzip2), Parquet or Arrow; paths, patterns, s3://… or - for standard input."`
	Delimiter      string   `default:"," placeholder:"CHAR" help:"Delimiter of the cells in CSV: a character, or tab."`
	Layout         string   `enum:"auto,study,r2r" default:"auto" help:"Columns of the table: auto, study or r2r."`
	Small          string   `placeholder:"NAME" help:"Small model, as the table names it (default: 1.5)."`
	Reference      string   `placeholder:"NAME" help:"Reference model, as the table names it (default: 32.0)."`
	Alignment      string   `enum:"auto,next,same" default:"auto" help:"Whether a row predicts the next token or its own: auto, next or same."`
	SentenceIDType string   `name:"sentence-id-type" enum:"auto,int64,string" default:"auto" help:"auto, int64 or string."`
	OnBadText      string   `aliases:"on-bad-sentence" enum:"stop,skip" default:"stop" help:"What to do with a text that has a bad row: stop, or skip it and list it."`
}

// labelFlags decide what the results say; the job keeps them.
type labelFlags struct {
	Preset        string  `enum:"study,r2r" default:"study" help:"Defaults of the flags below: study, or r2r (trajectories real, ends r2r, 8192 new tokens; the judge is asked by R2R's prompt)."`
	Trajectories  string  `enum:",own,reference,real" default:"" placeholder:"T" help:"Who goes on: own (each model with its own fork), reference (it with both), real (it with small's fork, against the real text)."`
	Replay        string  `default:"auto" placeholder:"auto|off|audit=F" help:"Take from the table what it already says."`
	Ends          string  `placeholder:"CHARS|r2r" help:"Characters that end a sentence (default: . ! ? and newline), or R2R's rule."`
	Decimals      bool    `help:"A point between digits ends no sentence."`
	MaxNewTokens  *int    `placeholder:"N" help:"Longest continuation, without the predicted token (default: 128)."`
	Temperature   float64 `default:"0" help:"0 is greedy."`
	TopP          float64 `name:"top-p" default:"1" help:"Only with a temperature."`
	Seed          int64   `default:"0" help:"Only with a temperature."`
	Margins       bool    `help:"Record each continuation's smallest lead of the best token over the next."`
	Deterministic bool    `help:"Require batch-invariant output from vLLM; fail if it is unavailable."`
}

// shardFlags say how the work is cut, and by which throughput it is estimated.
type shardFlags struct {
	Shards      int           `placeholder:"N" help:"How many array tasks to plan for (default: 1)."`
	ShardTime   time.Duration `placeholder:"D" help:"In place of --shards: how long a task takes, by the rates below."`
	ShardGPUs   int           `name:"shard-gpus" default:"1" placeholder:"N" help:"GPUs that a task has, for --shard-time and for the layout that --dry-run shows."`
	ShardCost   float64       `placeholder:"S" help:"In place of --shards: GPU seconds of a task."`
	GPUMemory   int64         `name:"gpu-memory" default:"80" placeholder:"GIB" help:"Memory of a GPU, for the layout that --dry-run shows where this machine has no GPUs."`
	PrefillRate []float64     `placeholder:"SMALL,REFERENCE" help:"Prompt tokens a second that a GPU computes with each model (default: 60000,9300)."`
	DecodeRate  []float64     `placeholder:"SMALL,REFERENCE" help:"Tokens a second that a GPU generates with each model at position 2500 (default: 8000,3300)."`
}

// sampleFlags leave texts out.
type sampleFlags struct {
	Sample string `placeholder:"F|N" help:"Plan a random sample of the texts: a share of them up to 1, or a number of texts above 1."`
	Grow   string `placeholder:"F|N|all" help:"Extend the job's sample to a larger one, or to all texts. What is planned and finished stays."`
}

// sample is what the flags ask for, and whether the job that is there grows to it.
func (f *sampleFlags) sample() (s shard.Sample, grow bool, err error) {
	flag, said := "--sample", f.Sample
	switch {
	case f.Sample != "" && f.Grow != "":
		return s, false, errors.New("--sample begins a sample and --grow extends one: leave one out")
	case f.Grow == "all":
		return s, true, nil
	case f.Grow != "":
		flag, said, grow = "--grow", f.Grow, true
	case f.Sample == "":
		return s, false, nil
	}
	if n, err := strconv.ParseInt(said, 10, 64); err == nil && n > 1 {
		return shard.Sample{Texts: n}, grow, nil
	}
	share, err := strconv.ParseFloat(said, 64)
	if err != nil || !(share > 0 && share <= 1) {
		return s, grow, fmt.Errorf("%s %s: want a share above 0 and up to 1, or a whole number of texts above 1", flag, said)
	}
	return shard.Sample{Share: share}, grow, nil
}

// planMemory is what the collector aims at: planning has to fit a login node.
const planMemory = 200 << 20

// Run is the command.
func (c *planCmd) Run(ctx context.Context, con *console) error {
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(planMemory))
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	o, err := c.planFlags.options(ctx, con, &c.jobFlags, &c.modelFlags)
	if err != nil {
		return err
	}
	if c.DryRun {
		return c.dryRun(ctx, con, o)
	}
	j, e, err := shard.Plan(ctx, o)
	if err != nil {
		return err
	}
	if err := describePlan(con.out, e); err != nil {
		return err
	}
	is := "is planned"
	switch {
	case e.Planned:
		is = "was planned before, and nothing changed,"
	case o.Grow:
		is = "has grown and is planned"
	}
	if _, err = fmt.Fprintf(con.out, "job %s %s at %s: next, %s\n", j.ID, is, o.Store, job.Command(o.Store, "infer")); err != nil {
		return err
	}
	return leftOut(e)
}

// leftOut says that a plan lacks texts, which are listed with the plan.
func leftOut(e *shard.Estimate) error {
	if len(e.Skipped) == 0 {
		return nil
	}
	return failure.New(failure.Partial, "the stages go on without them; correct the table and plan into another place to have them all",
		"%d texts are left out (skipped_sentences in job.json)", len(e.Skipped))
}

// options turns the flags into options.
func (f *planFlags) options(ctx context.Context, con *console, jf *jobFlags, mf *modelFlags) (shard.Options, error) {
	log := con.logger()
	if err := f.check(); err != nil {
		return shard.Options{}, err
	}
	o := shard.Options{Tmp: jf.Tmp, Logger: log, Settings: f.labelFlags.settings()}
	f.tableFlags.settle(&o.Settings)
	var err error
	if o.Audit, err = f.audit(); err != nil {
		return o, err
	}
	if o.Sample, o.Grow, err = f.sample(); err != nil {
		return o, err
	}
	if o.Store, err = jf.open(ctx, log); err != nil {
		return o, err
	}
	if o.Sources, err = f.sources(ctx, jf.options(log)); err != nil {
		return o, err
	}
	rates, err := f.read()
	if err != nil {
		return o, err
	}
	if o.Shards, o.Throughput, err = f.shards(rates); err != nil {
		return o, err
	}
	return o, mf.load(&o)
}

// settings are those that the flags decide, by the preset where they are silent.
func (f *labelFlags) settings() job.Settings {
	s := job.Settings{Trajectories: f.Trajectories, Replay: f.Replay != "off", Ends: f.Ends, Decimals: f.Decimals,
		Temperature: f.Temperature, TopP: f.TopP, Seed: f.Seed, Margins: f.Margins, Deterministic: f.Deterministic}
	trajectories, ends, limit := job.Own, tokenizer.DefaultEnds, 128
	if f.Preset == "r2r" {
		trajectories, ends, limit, s.R2RMismatches = job.Real, tokenizer.R2REnds, 8192, true
	}
	if s.Trajectories == "" {
		s.Trajectories = trajectories
	}
	if s.Ends == "" {
		s.Ends = ends
	}
	s.MaxNewTokens = limit
	if f.MaxNewTokens != nil {
		s.MaxNewTokens = *f.MaxNewTokens
	}
	return s
}

// check checks what kong cannot.
func (f *planFlags) check() error {
	_, _, err := f.sample()
	if err := cmp.Or(f.labelFlags.check(), err); err != nil {
		return failure.New(failure.Usage, "see --help", "%w", err)
	}
	return nil
}

func (f *labelFlags) check() error {
	switch {
	case f.MaxNewTokens != nil && *f.MaxNewTokens < 0:
		return fmt.Errorf("--max-new-tokens %d is negative", *f.MaxNewTokens)
	case f.Temperature < 0 || f.TopP <= 0 || f.TopP > 1:
		return fmt.Errorf("--temperature %g --top-p %g: want at least 0, and above 0 up to 1", f.Temperature, f.TopP)
	}
	_, err := f.audit()
	return err
}

// audit is the share of replayed forks that are generated as well, nil if it is not said.
func (f *labelFlags) audit() (*float64, error) {
	share, isAudit := strings.CutPrefix(f.Replay, "audit=")
	if !isAudit && f.Replay != "auto" && f.Replay != "off" {
		return nil, fmt.Errorf("--replay %s: want auto, off or audit=F", f.Replay)
	}
	if !isAudit {
		return nil, nil
	}
	v, err := strconv.ParseFloat(share, 64)
	if err != nil || !(v >= 0 && v <= 1) {
		return nil, fmt.Errorf("--replay %s: want a share from 0 to 1", f.Replay)
	}
	return &v, nil
}

func (f *tableFlags) settle(s *job.Settings) {
	s.Small, s.Reference, s.Alignment, s.OnBadText = f.Small, f.Reference, f.Alignment, f.OnBadText
	if f.Layout != "auto" {
		s.Layout = f.Layout
	}
	if f.SentenceIDType != "auto" {
		s.SentenceIDType = f.SentenceIDType
	}
}

// sources are the table's files.
func (f *tableFlags) sources(ctx context.Context, o store.Options) ([]table.Source, error) {
	if len(f.Inputs) == 0 {
		return nil, failure.New(failure.Usage, "name its files, or - for standard input", "no table is named")
	}
	var all []table.Source
	delimiter := f.Delimiter
	if delimiter == "tab" || delimiter == `\t` {
		delimiter = "\t"
	}
	if len(delimiter) != 1 || strings.ContainsAny(delimiter, "\"\r\n") || delimiter[0] >= utf8.RuneSelf {
		return nil, failure.New(failure.Usage, "give one ASCII character, or tab", "--delimiter %q", f.Delimiter)
	}
	for _, in := range f.Inputs {
		if in == "-" {
			all = append(all, table.Source{Name: "standard input", Delimiter: delimiter[0], Open: func(context.Context) (io.ReadCloser, error) {
				return store.Piped(func() (io.ReadCloser, error) { return os.Stdin, nil }), nil
			}})
			continue
		}
		names, err := store.Glob(ctx, in, o)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			s := table.Source{Name: name, Delimiter: delimiter[0], Open: func(ctx context.Context) (io.ReadCloser, error) { return store.OpenInput(ctx, name, o) }}
			if info, err := os.Stat(name); err == nil && info.Mode().IsRegular() {
				s.Size = info.Size()
			} else if err == nil && info.IsDir() {
				return nil, failure.New(failure.Usage, "name its files: '"+filesOf(name)+"'", "%s is a folder", name)
			}
			all = append(all, s)
		}
	}
	return all, nil
}

// filesOf is a pattern for a folder's files, by the first that is no mark, such as Spark's _SUCCESS.
func filesOf(dir string) string {
	entries, _ := os.ReadDir(dir) // without them any pattern is as good
	all := filepath.Join(dir, "*.csv")
	for _, e := range entries {
		switch name := e.Name(); {
		case strings.HasPrefix(name, "."), strings.HasPrefix(name, "_"):
		case e.IsDir():
			all = filepath.Join(dir, "*", filepath.Base(filesOf(filepath.Join(dir, name))))
		default:
			return filepath.Join(dir, "*"+filepath.Ext(name))
		}
	}
	return all
}

func (f *shardFlags) shards(measured *infer.Rates) (shard.Shards, [2]shard.Throughput, error) {
	s, rates := shard.Shards{Count: 1}, [2]shard.Throughput{}
	said := 0
	if f.Shards != 0 {
		s, said = shard.Shards{Count: f.Shards}, said+1
	}
	if f.ShardTime != 0 {
		s, said = shard.Shards{Cost: f.ShardTime.Seconds() * float64(f.ShardGPUs)}, said+1
	}
	if f.ShardCost != 0 {
		s, said = shard.Shards{Cost: f.ShardCost}, said+1
	}
	if said > 1 {
		return s, rates, failure.New(failure.Usage, "leave all but one out", "--shards, --shard-time and --shard-cost all say how large a shard is")
	}
	if s.Count < 1 && s.Cost <= 0 {
		return s, rates, failure.New(failure.Usage, "give a positive number", "--shards %d --shard-time %s --shard-gpus %d --shard-cost %g", f.Shards, f.ShardTime, f.ShardGPUs, f.ShardCost)
	}
	prefill, decode := givenOr(f.PrefillRate, measured.Prefill, [2]float64{60_000, 9300}), givenOr(f.DecodeRate, measured.Decode, [2]float64{8000, 3300})
	if len(prefill) != 2 || len(decode) != 2 || !(min(prefill[0], prefill[1], decode[0], decode[1]) > 0) {
		return s, rates, failure.New(failure.Usage, "give two positive numbers: small's, reference's", "--prefill-rate and --decode-rate take a rate per model")
	}
	for side := range rates {
		rates[side] = shard.Throughput{Prefill: prefill[side], Decode: decode[side], End: measured.End[side]}
	}
	return s, rates, nil
}

// load looks at both models' folders and reads the tokenizer that they share.
func (f *modelFlags) load(o *shard.Options) error {
	var models [2]*model.Model
	var eos []int32
	for side, name := range [2]string{f.SmallModel, f.ReferenceModel} {
		m, err := findModel(job.Side(side), name)
		if err != nil {
			return err
		}
		o.Models[side] = job.Model{Name: name, Fingerprint: m.Fingerprint(), VocabSize: m.VocabSize, MaxPositions: m.MaxPositions}
		models[side] = m
		eos = append(eos, m.EOS...)
	}
	tok, err := tokenizer.Shared(models)
	if err != nil {
		return err
	}
	o.Tokenizer = tok
	if o.Ends, err = tokenizer.NewEnds(tok, o.Settings.Ends, eos, o.Settings.Decimals); err != nil {
		return err
	}
	o.Settings.Ends = o.Ends.Spec() // "\\n" and a newline are the same setting
	return nil
}

func findModel(side job.Side, name string) (*model.Model, error) {
	return findModelAt(fmt.Sprintf("--%s-model FOLDER", side), side.String(), name)
}

// findModelAt finds a model by a folder or hub name, which the flag gives.
func findModelAt(flag, side, name string) (*model.Model, error) {
	if name == "" {
		return nil, failure.New(failure.Usage, "give "+flag+" (or a cached hub name)", "no %s model is named", side)
	}
	dir, err := model.Resolve(name, os.Getenv)
	if err != nil {
		return nil, err
	}
	return model.Load(dir)
}
