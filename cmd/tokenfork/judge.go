package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/model"
	"tokenfork/internal/vllm"
	"tokenfork/judge"
	"tokenfork/judge/endpoint"
)

// judgeCmd asks the judge about every pair of continuations.
type judgeCmd struct {
	jobFlags   `embed:""`
	judgeFlags `embed:""`
	Shard      []int `placeholder:"K,…" help:"Shards to work on (default: every unfinished one)."`
	Retry      bool  `help:"Ask again where finished shards have no verdict or are damaged."`
}

// Help shows how it is used.
func (judgeCmd) Help() string {
	return `The key of an endpoint is read from TOKENFORK_JUDGE_KEY, else OPENAI_API_KEY.

Examples:
  tokenfork judge --job ./job --judge https://host/v1 --judge-model NAME --budget 25 --price-in 0.4 --price-out 1.6
  tokenfork judge --job ./job --judge local --judge-model DIR --judge-tp 4
  tokenfork judge --job s3://bucket/jobs/a --shard 17 --judge unix:///run/judge.sock
`
}

// judgeFlags say who judges and what is asked.
type judgeFlags struct {
	Judge            string             `placeholder:"URL|local|none" help:"The judge: an OpenAI-compatible endpoint, local (a vLLM that is started for it), or none."`
	JudgeModel       string             `placeholder:"NAME|PATH" help:"The endpoint's model, or the folder of the local one."`
	JudgeArgs        string             `placeholder:"ARGS" help:"Further flags for vllm serve of a local judge."`
	JudgeTP          int                `name:"judge-tp" default:"1" placeholder:"N" help:"GPUs that a local judge is spread over."`
	JudgeVLLM        string             `name:"judge-vllm" default:"vllm" placeholder:"CMD" env:"TOKENFORK_VLLM" help:"Command that runs vLLM for a local judge."`
	JudgeInFlight    int                `placeholder:"N" help:"Most questions in flight (256)."`
	Prompt           string             `default:"seed" placeholder:"seed|r2r|file=PATH" help:"What is asked: the study's prompt, one after R2R's, or a template of yours."`
	JudgeContext     *judge.ContextRule `placeholder:"RULE" help:"Real text before the fork that the judge sees: mismatch, sentences=N or tokens=N (sentences=2)."`
	Blind            bool               `help:"Call the sides A and B, in an order hashed from the seed."`
	VerdictOnly      bool               `help:"Ask for one token without an analysis."`
	Votes            int                `default:"1" placeholder:"N" help:"Ask so many times; the majority counts."`
	Swap             bool               `help:"Ask with the sides exchanged too."`
	JudgeTemperature float64            `default:"0" placeholder:"T" help:"0 is greedy."`
	JudgeMaxTokens   int                `default:"512" placeholder:"N" help:"Longest analysis."`
	Budget           float64            `placeholder:"DOLLARS" help:"Stop, resumable, before this is exceeded; needs the prices."`
	BudgetTokens     int64              `placeholder:"N" help:"Stop, resumable, before so many tokens are exceeded."`
	PriceIn          float64            `placeholder:"DOLLARS" help:"Per million prompt tokens."`
	PriceOut         float64            `placeholder:"DOLLARS" help:"Per million answered tokens."`
}

const (
	noJudge    = "none"
	localJudge = "local"
)

// Run is the command.
func (c *judgeCmd) Run(ctx context.Context, con *console) error {
	if c.Judge == "" || c.Judge == noJudge {
		return failure.New(failure.Usage, "give --judge URL, or --judge local --judge-model DIR", "no judge is named")
	}
	_, err := c.judge(ctx, con, &c.jobFlags, c.Shard, c.Retry)
	return err
}

// judge judges what is not yet judged, and says which judging that is.
func (f *judgeFlags) judge(ctx context.Context, con *console, j *jobFlags, shards []int, retry bool) (*judge.Judging, error) {
	log := con.logger()
	s, err := j.open(ctx, log)
	if err != nil {
		return nil, err
	}
	o := judge.Options{Store: s, Shards: shards, Retry: retry, Settings: f.settings(), Model: f.name(), PartEvery: 30 * time.Second, Grace: 20 * time.Second,
		Who: attempt(), Log: log, Console: con.err,
		Connect: func(ctx context.Context) (judge.Server, error) { return f.connect(ctx, con, j) }}
	return judge.Run(ctx, o)
}

func (f *judgeFlags) settings() judge.Settings {
	s := judge.Defaults()
	s.Prompt, s.Blind, s.VerdictOnly, s.Votes, s.Swap, s.MaxTokens = f.Prompt, f.Blind, f.VerdictOnly, f.Votes, f.Swap, f.JudgeMaxTokens
	s.Temperature = &f.JudgeTemperature
	if f.JudgeContext != nil {
		s.Context = *f.JudgeContext
	}
	return s
}

// name is what the results call the judge: a local one by its folder.
func (f *judgeFlags) name() string {
	if f.Judge == localJudge {
		return filepath.Base(f.JudgeModel)
	}
	return f.JudgeModel
}

func (f *judgeFlags) connect(ctx context.Context, con *console, j *jobFlags) (judge.Server, error) {
	e := endpoint.Config{URL: f.Judge, Model: f.JudgeModel, Key: cmp.Or(os.Getenv("TOKENFORK_JUDGE_KEY"), os.Getenv("OPENAI_API_KEY")), InFlight: f.JudgeInFlight,
		Budget: endpoint.Budget{Tokens: f.BudgetTokens, Dollars: f.Budget, PriceIn: f.PriceIn, PriceOut: f.PriceOut}}
	if f.Judge != localJudge {
		return judge.Server{Config: e}, nil
	}
	s, err := f.start(ctx, con, j)
	if err != nil {
		return judge.Server{}, err
	}
	e.URL, e.Model, e.Key = s.Endpoint().URL(), s.Endpoint().Model, ""
	return judge.Server{Config: e, Close: func() error { return s.Stop(context.WithoutCancel(ctx)) }}, nil
}

func (f *judgeFlags) start(ctx context.Context, con *console, j *jobFlags) (*vllm.Server, error) {
	if f.JudgeModel == "" {
		return nil, failure.New(failure.Usage, "give --judge-model DIR", "--judge local needs a model to serve")
	}
	dir, err := model.Resolve(f.JudgeModel, os.Getenv)
	if err != nil {
		return nil, fmt.Errorf("find the judge's model: %w", err)
	}
	command, err := words("--judge-vllm", f.JudgeVLLM)
	if err != nil {
		return nil, err
	}
	args, err := words("--judge-args", f.JudgeArgs)
	if err != nil {
		return nil, err
	}
	return vllm.Start(ctx, vllm.Config{Command: command, Model: dir, Name: "judge", Args: args, TensorParallel: f.JudgeTP,
		LogPath: filepath.Join(j.logDir(), "vllm-judge.log"), Logger: con.logger()})
}

// pickJudging picks the judging whose verdicts a merge takes: the one it just
// asked for, the named one, or the only one.
func pickJudging(all []judge.Record, id string) (*judge.Record, error) {
	var ids []string
	for i, r := range all {
		if r.ID() == id || id == "" && len(all) == 1 {
			return &all[i], nil
		}
		ids = append(ids, fmt.Sprintf("%s (%s, %s)", r.ID(), r.Model, r.PromptVersion))
	}
	switch {
	case id != "":
		return nil, failure.New(failure.Usage, "name one of them", "no judging %s; there are: %s", id, strings.Join(ids, ", "))
	case len(all) > 1:
		return nil, failure.New(failure.Usage, "name one by --judging", "the job has %d judgings: %s", len(all), strings.Join(ids, ", "))
	}
	return nil, nil
}
