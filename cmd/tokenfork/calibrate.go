package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"tokenfork/infer"
	"tokenfork/internal/failure"
)

// ratesFlag names rates that calibrate has measured.
type ratesFlag struct {
	Rates string `type:"existingfile" placeholder:"FILE" help:"Rates that calibrate has measured, in place of the defaults of the rates' flags."`
}

// read gives the rates of the file, none if it is not named.
func (f *ratesFlag) read() (*infer.Rates, error) {
	if f.Rates == "" {
		return &infer.Rates{}, nil
	}
	b, err := os.ReadFile(f.Rates)
	if err != nil {
		return nil, err
	}
	return infer.ReadRates(f.Rates, b)
}

// givenOr is what the flag gives, else what was measured, else the default, of which a model that was
// not measured has its part.
func givenOr(flag []float64, measured, otherwise [2]float64) []float64 {
	if len(flag) > 0 {
		return flag
	}
	for side, v := range measured {
		if v > 0 {
			otherwise[side] = v
		}
	}
	return otherwise[:]
}

// calibrateCmd measures rates.
type calibrateCmd struct {
	jobFlags         `embed:"" group:"Job and store"`
	modelFlags       `embed:"" group:"Models"`
	VLLM             string `name:"vllm" default:"vllm" placeholder:"CMD" env:"TOKENFORK_VLLM" help:"Command that runs vLLM, container or environment included."`
	argsFlags        `embed:""`
	JudgeModel       string `placeholder:"PATH" help:"Measure this model too, as a local judge."`
	judgeServerFlags `embed:""`
	StartTimeout     time.Duration `default:"30m" help:"How long a server may take to start."`
	Time             time.Duration `default:"1m" help:"How long to send requests to each model, once it is loaded. The last answers are awaited."`
	Out              string        `default:"rates.json" placeholder:"FILE" help:"Where the rates go."`
}

// Help shows how it is used.
func (calibrateCmd) Help() string {
	return `Run it on a node as the job's tasks will have it. It needs a planned job, such as a small sample, and
changes nothing in it.

Examples:
  tokenfork calibrate --job ./pilot
  tokenfork calibrate --job ./pilot --reference-tp 2 --judge-model /models/judge --time 3m
  tokenfork plan table.csv --job ./job --small-model DIR --reference-model DIR --rates rates.json --shard-time 2h
`
}

// Run is the command.
func (c *calibrateCmd) Run(ctx context.Context, con *console) error {
	if c.Time <= 0 {
		return failure.New(failure.Usage, "the usual is 1m", "--time %s", c.Time)
	}
	w := &workFlags{VLLM: c.VLLM, StartTimeout: c.StartTimeout}
	flags := inferFlags{serverFlags: serverFlags{argsFlags: c.argsFlags}}
	o, err := flags.infer(ctx, con, &c.jobFlags, w, &c.modelFlags)
	if err != nil {
		return err
	}
	o.Stall = judgeStall
	calibration := infer.Calibration{Options: o, Time: c.Time}
	if c.JudgeModel != "" {
		if calibration.Judge, err = localJudge(&c.jobFlags, w, "judge", c.JudgeModel, "--judge-args", c.JudgeArgs); err != nil {
			return err
		}
		calibration.Judge.TensorParallel = c.JudgeTP
	}
	rates, err := calibration.Run(ctx)
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(rates, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.Out, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the rates: %w", err)
	}
	l := &lines{w: con.out}
	for _, m := range rates.Measured {
		l.add("%-9s prefill %.0f and decode %.0f tokens a second a GPU, with %d requests in flight%s", m.Model, m.Prefill, m.Decode, m.InFlight, shardEnd(m.End))
	}
	l.add("the rates are in %s: give it to plan, judge and submit by --rates", c.Out)
	return l.err
}

// shardEnd is nothing for a judge, whose shards have no end of their own: its questions go on into the next one.
func shardEnd(seconds float64) string {
	if seconds == 0 {
		return ""
	}
	return fmt.Sprintf("; %.1f s more for the end of a shard", seconds)
}
