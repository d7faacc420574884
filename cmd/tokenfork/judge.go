package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/fleet"
	"tokenfork/internal/job"
	"tokenfork/internal/model"
	"tokenfork/internal/store"
	"tokenfork/judge"
	"tokenfork/judge/agreement"
	"tokenfork/judge/endpoint"
)

// judgeCmd asks whether continuations mean the same.
type judgeCmd struct {
	Job         string `placeholder:"DIR|s3://…" help:"The job: a folder, or a prefix in S3."`
	storeFlags  `embed:"" group:"Job and store"`
	workFlags   `embed:"" group:"Servers"`
	judgeFlags  `embed:"" group:"Judge"`
	judgeRates  `embed:"" group:"Costs"`
	ratesFlag   `embed:"" group:"Costs"`
	Shard       []int  `placeholder:"K,…" help:"Shards to judge (default: every one that is not)."`
	Retry       bool   `help:"Do again what failed or is damaged in finished shards."`
	Gold        string `type:"existingfile" placeholder:"FILE" help:"Measure the judge against the labels in this file: of mismatches of the job or, without --job, of pairs of texts in the file."`
	wantedFlags `embed:"" group:"Judge"`
	DryRun      bool `help:"Estimate questions, tokens and cost from a sample of the job's questions, and ask nothing."`
}

// Help shows how it is used.
func (judgeCmd) Help() string {
	return `The key of a hosted judge is read from TOKENFORK_JUDGE_KEY, or, over https, from OPENAI_API_KEY.

Examples:
  tokenfork judge --job ./job --judge https://api.openai.com --judge-model gpt-4.1-mini --budget '$20' --price-in 0.4 --price-out 1.6
  tokenfork judge --job ./job --judge local --judge-model /models/Qwen2.5-72B-Instruct --judge-tp 4 --shard 17
  tokenfork judge --job ./job --judge http://127.0.0.1:8000 --verdict-only
  tokenfork judge --job ./job --judge http://127.0.0.1:8000 --gold labels.csv
  tokenfork judge --judge http://127.0.0.1:8000 --gold pairs.csv
  tokenfork judge --job ./job --verdict-only --dry-run
`
}

// judgeFlags say who judges and how.
type judgeFlags struct {
	Judge            string            `kept:"" aliases:"judge-url" placeholder:"URL|local|none" env:"TOKENFORK_JUDGE" help:"An OpenAI-compatible server (http, https or unix URL), a vLLM that tokenfork starts (local), or none."`
	JudgeModel       string            `kept:"" placeholder:"NAME|PATH" help:"The judge: as its server calls it, or a model folder or cached hub name for --judge local."`
	JudgePrompt      string            `kept:"" placeholder:"seed|r2r|file=PATH" help:"How the question is put (default: seed, or r2r for a job of --preset r2r); see docs/judge.md."`
	JudgeContext     judge.ContextRule `kept:"" default:"sentences=2" placeholder:"RULE" help:"Real text that the judge sees before the fork: mismatch, sentences=N or tokens=N."`
	Blind            bool              `kept:"" help:"Call the two sides A and B, in an order hashed from the seed."`
	VerdictOnly      bool              `kept:"" help:"Ask for one token without an analysis: cheap, with a confidence from its probability."`
	Votes            int               `kept:"" default:"1" placeholder:"N" help:"Ask N times; the majority counts."`
	Swap             bool              `kept:"" help:"Ask each time with the two sides exchanged too."`
	JudgeTemperature string            `kept:"" default:"0" placeholder:"T" help:"Temperature of the judge; default leaves it to the model."`
	JudgeMaxTokens   int               `kept:"" default:"512" placeholder:"N" help:"Longest analysis; asked once more with four times as many when it is cut."`
	JudgeSeed        int64             `kept:"" placeholder:"N" help:"Decides what --blind shows first, and sampling."`
	JudgeNormalise   string            `kept:"" default:"space" enum:"space,exact" help:"Skip the judge for continuations that are equal exactly, or after ignoring white space."`
	JudgeBody        string            `kept:"" placeholder:"JSON" help:"JSON object merged into each question, for example to turn thinking off; part of the judging."`
	JudgeQuery       map[string]string `kept:"" placeholder:"NAME=VALUE" help:"Query parameters added to each URL of the judge (Azure's api-version)."`
	JudgeHeader      map[string]string `kept:"variables" placeholder:"NAME=ENVVAR" help:"Headers added to each request to the judge, each with the value of an environment variable."`
	JudgeInFlight    int               `placeholder:"N" help:"Most questions at once (default: 256, of a vLLM 1024); how many is found by measuring."`
	JudgeTimeout     time.Duration     `default:"5m" help:"How long an answer may take."`
	judgeServerFlags `embed:""`
	Batch            bool   `help:"Send the questions through the OpenAI Batch API: cheaper, within a day."`
	Budget           string `placeholder:"N|$N" help:"Stop before this run uses more tokens, or dollars by the prices; go on later."`
	priceFlags       `embed:"" group:"Costs"`
	firstFlags       `embed:"" group:"Judge"`

	kept *fleet.Pool `kong:"-"` // of run: servers of the judge's model that already run
}

// noJudge leaves the verdict columns null.
const noJudge = "none"

// Run is the command.
func (c *judgeCmd) Run(ctx context.Context, con *console) error {
	switch {
	case c.Job == "" && (c.Gold == "" || c.DryRun):
		return failure.New(failure.Usage, "add --job DIR", "no job is named")
	case c.Job == "":
		return c.run(ctx, con, attempt())
	case c.DryRun:
		return c.dryRun(ctx, con)
	}
	return c.at().watched(ctx, con, "judge", c.Shard, "both", func(who job.Attempt) error { return c.run(ctx, con, who) })
}

// at is where the job is.
func (c *judgeCmd) at() *jobFlags { return &jobFlags{Job: c.Job, storeFlags: c.storeFlags} }

func (c *judgeCmd) run(ctx context.Context, con *console, who job.Attempt) error {
	if c.Judge == "" || c.Judge == noJudge {
		return failure.New(failure.Usage, "give --judge URL or --judge local --judge-model PATH", "no judge given")
	}
	if err := c.firstFlags.check(c.Gold == ""); err != nil {
		return err
	}
	o, err := c.judge(ctx, con, c.at(), &c.workFlags)
	if err != nil {
		return err
	}
	o.Shards, o.Retry, o.Who = c.Shard, c.Retry, who
	if c.Gold != "" {
		if o.Wanted, err = c.wanted(); err != nil {
			return err
		}
		return c.gold(ctx, con, o)
	}
	_, err = judge.Run(ctx, o)
	return err
}

func (c *judgeCmd) gold(ctx context.Context, con *console, o judge.Options) error {
	report, by, err := c.measure(ctx, o)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(con.out, "%s, prompt %s, against %s\n%s", by.Model, by.PromptVersion, c.Gold, report)
	if first := by.First; first != nil && err == nil {
		_, err = fmt.Fprintf(con.out, "first judge: %s, prompt %s, one word\n", first.Judging.Model, first.Judging.PromptVersion)
	}
	return err
}

func (c *judgeCmd) measure(ctx context.Context, o judge.Options) (*judge.Measured, *judge.Judging, error) {
	if c.Job == "" {
		pairs, err := agreement.ReadPairs(c.Gold)
		if err != nil {
			return nil, nil, err
		}
		return judge.GoldPairs(ctx, o, pairs)
	}
	labels, err := agreement.ReadLabels(c.Gold)
	if err != nil {
		return nil, nil, err
	}
	return judge.Gold(ctx, o, labels)
}

// judge turns the flags into options.
func (f *judgeFlags) judge(ctx context.Context, con *console, j *jobFlags, w *workFlags) (judge.Options, error) {
	log := con.logger()
	var s store.Store // nil without a job: judge --gold with pairs of texts
	var err error
	if j.Job != "" {
		if s, err = j.open(ctx, log); err != nil {
			return judge.Options{}, err
		}
	}
	o := judge.Options{Store: s, Model: modelName(f.Judge, f.JudgeModel), Batch: f.Batch, PartEvery: w.PartEvery, Grace: w.Grace, Log: log, Console: con.err}
	if o.Settings, err = f.settings(); err != nil {
		return o, err
	}
	cfg := endpoint.Config{URL: f.Judge, Model: f.JudgeModel, InFlight: f.JudgeInFlight, Timeout: f.JudgeTimeout}
	if err := f.address(&cfg, os.Getenv); err != nil {
		return o, err
	}
	if o.Flags, err = f.flags(w); err != nil {
		return o, err
	}
	if cfg.Budget, err = endpoint.ParseBudget(f.Budget, f.PriceIn, f.PriceOut); err != nil {
		return o, err
	}
	var own [2]*fleet.Model // the judge, and the first judge
	o.Connect = func(context.Context) (judge.Backend, error) { return judge.Backend{Config: cfg}, nil }
	if f.Judge == "local" {
		if own[0], err = f.ownServers(j, w); err != nil {
			return o, err
		}
		if o.Identity, err = localIdentity(own[0]); err != nil {
			return o, err
		}
	}
	if own[1], err = f.addFirst(&o, j, w); err != nil {
		return o, err
	}
	arranged := &arrangement{models: own, log: log}
	if own[0] != nil {
		o.Connect = func(ctx context.Context) (judge.Backend, error) { return f.startJudge(ctx, arranged, 0, cfg, log) }
	}
	if own[1] != nil {
		o.First.Connect = func(ctx context.Context) (judge.Backend, error) {
			return f.startJudge(ctx, arranged, 1, f.firstConfig(), log)
		}
	}
	return o, nil
}

func (f *judgeFlags) settings() (judge.Settings, error) {
	s := judge.Settings{Prompt: f.JudgePrompt, Context: f.JudgeContext, Blind: f.Blind, VerdictOnly: f.VerdictOnly, Votes: f.Votes, Swap: f.Swap,
		MaxTokens: f.JudgeMaxTokens, Seed: f.JudgeSeed, Normalisation: f.JudgeNormalise}
	if f.JudgeTemperature != "default" {
		t, err := strconv.ParseFloat(f.JudgeTemperature, 64)
		if err != nil {
			return s, failure.New(failure.Usage, "give a number, or default", "judge temperature %q", f.JudgeTemperature)
		}
		s.Temperature = &t
	}
	var err error
	if s.Body, err = endpoint.ParseBody(f.JudgeBody); err != nil {
		return s, err
	}
	return s, s.Validate()
}

// modelName is what the results call a judge: a folder by its last element, for
// where it lies says nothing. Without one, its server says.
func modelName(where, model string) string {
	if where == "local" && model != "" {
		if _, err := os.Stat(model); err == nil {
			return filepath.Base(filepath.Clean(model))
		}
	}
	return model
}

// localIdentity is what a local judge is: its files' content and the flags of
// its server, some of which decide what it answers. Two checkpoints in folders of
// one name are two judges, and one in two places is one.
func localIdentity(own *fleet.Model) (string, error) {
	sum, err := model.ContentSum(own.Model.Dir)
	if err != nil {
		return "", err
	}
	words := []string{"sha256:" + sum}
	if own.MaxModelLen > 0 {
		words = append(words, "--max-model-len", strconv.Itoa(own.MaxModelLen))
	}
	return strings.Join(append(words, own.Args...), " "), nil
}

// address adds what the judge's server wants beside its URL.
func (f *judgeFlags) address(cfg *endpoint.Config, env func(string) string) error {
	for name, value := range f.JudgeQuery {
		if cfg.Query == nil {
			cfg.Query = url.Values{}
		}
		cfg.Query.Set(name, value)
	}
	for name, variable := range f.JudgeHeader {
		value := env(variable)
		if value == "" {
			return failure.New(failure.Usage, "export it; a key is never given as a flag", "--judge-header %s: the environment variable %s is not set", name, variable)
		}
		if cfg.Header == nil {
			cfg.Header = http.Header{}
		}
		cfg.Header.Set(name, value)
	}
	cfg.Key = judgeKey(f.Judge, len(cfg.Header) > 0, env)
	return nil
}

// judgeKey never sends the well-known key to a server in the clear.
// It sends it to none that has a header of its own for keys.
func judgeKey(url string, header bool, env func(string) string) string {
	if key := env("TOKENFORK_JUDGE_KEY"); key != "" {
		return key
	}
	if strings.HasPrefix(url, "https://") && !header {
		return env("OPENAI_API_KEY")
	}
	return ""
}

// judgeLength is more than a question and its longest answer take: a judge's
// own window often does not fit the GPU.
const judgeLength = 8192

// judgeStall is how long a local judge may give no token before it is probed.
const judgeStall = 2 * time.Minute

// ownServers are those of a local judge.
func (f *judgeFlags) ownServers(j *jobFlags, w *workFlags) (*fleet.Model, error) {
	if f.JudgeModel == "" {
		return nil, failure.New(failure.Usage, "add --judge-model PATH", "no model for a local judge")
	}
	own, err := localJudge(j, w, "judge", f.JudgeModel, "--judge-args", f.JudgeArgs)
	if err == nil {
		own.TensorParallel = f.JudgeTP
	}
	return own, err
}

// localJudge is a model that judges in servers of the task's own.
func localJudge(j *jobFlags, w *workFlags, name, path, argsFlag, args string) (*fleet.Model, error) {
	dir, err := model.Resolve(path, os.Getenv)
	if err != nil {
		return nil, err
	}
	own := &fleet.Model{Name: name, StartTimeout: w.StartTimeout, Stall: judgeStall, Cost: 1}
	if own.LogDir, err = j.logDir(); err != nil {
		return nil, err
	}
	if own.Model, err = model.Load(dir); err != nil {
		return nil, err
	}
	if err := split(line{&own.Command, "--vllm", w.VLLM}, line{&own.Args, argsFlag, args}); err != nil {
		return nil, err
	}
	own.MaxModelLen = min(judgeLength, own.Model.MaxPositions)
	own.Longest = cmp.Or(own.MaxModelLen, judgeLength)
	return own, nil
}

// arrangement lays the local judges' servers out over the GPUs, at once.
type arrangement struct {
	models [2]*fleet.Model
	log    *slog.Logger
	fleets *[2]*fleet.Fleet
}

func (a *arrangement) servers(ctx context.Context, which int) ([]fleet.Server, error) {
	if a.fleets == nil {
		fleets, err := fleet.Arrange(ctx, a.models, a.log)
		if err != nil {
			return nil, err
		}
		a.fleets = &fleets
	}
	return a.fleets[which].All(ctx)
}

// startJudge gives a local judge's servers: those that run has kept, else new ones.
func (f *judgeFlags) startJudge(ctx context.Context, a *arrangement, which int, cfg endpoint.Config, log *slog.Logger) (judge.Backend, error) {
	var servers []fleet.Server
	var err error
	if f.kept != nil && which == 0 {
		servers = f.kept.Take()
	}
	if len(servers) > 0 {
		log.Info("the judge is the reference's model: its servers are used")
	} else if servers, err = a.servers(ctx, which); err != nil {
		return judge.Backend{}, err
	}
	t := fleet.NewTransport(servers)
	if cfg.URL, cfg.Model, err = t.Describe(ctx); err != nil {
		return judge.Backend{}, errors.Join(err, t.Close())
	}
	cfg.Key, cfg.HTTP, cfg.Patience = "", &http.Client{Transport: t}, a.models[which].StartTimeout+10*time.Minute // a restart loads the model again
	return judge.Backend{Config: cfg, Done: t.Gone(), Err: t.Err, Close: t.Close, Running: t.Running}, nil
}
