package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/alecthomas/kong"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/terminal"
	"tokenfork/internal/tokenizer"
	"tokenfork/judge"
	"tokenfork/judge/endpoint"
	"tokenfork/shard"
)

// priceFlags are what a hosted judge costs.
type priceFlags struct {
	PriceIn  float64 `placeholder:"$" help:"Dollars per million tokens of questions."`
	PriceOut float64 `placeholder:"$" help:"Dollars per million tokens of answers."`
}

// judgeRates are the throughput by which dry runs estimate a judge's GPU hours.
type judgeRates struct {
	JudgePrefillRate *float64 `placeholder:"N" help:"Prompt tokens a second that a GPU computes with the judge, for --dry-run (default: 4100)."`
	JudgeDecodeRate  *float64 `placeholder:"N" help:"Tokens a second that a GPU generates with the judge, for --dry-run (default: 1450)."`
}

// Validate checks what kong cannot.
func (f *judgeRates) Validate() error {
	for name, rate := range map[string]*float64{"--judge-prefill-rate": f.JudgePrefillRate, "--judge-decode-rate": f.JudgeDecodeRate} {
		if rate != nil && !(*rate > 0) {
			return fmt.Errorf("%s %g: want a positive number", name, *rate)
		}
	}
	return nil
}

// settle takes the rates that were measured, or the defaults, where the flags give none.
func (f *judgeRates) settle(file *ratesFlag) error {
	measured, err := file.read()
	if err != nil {
		return err
	}
	if f.JudgePrefillRate == nil {
		f.JudgePrefillRate = new(cmp.Or(measured.JudgePrefill, 4100))
	}
	if f.JudgeDecodeRate == nil {
		f.JudgeDecodeRate = new(cmp.Or(measured.JudgeDecode, 1450))
	}
	return nil
}

// describe prints an estimate of a judging: dollars by the prices if there are
// any, which the flags of that name give, else GPU hours by the rates.
func (f *judgeRates) describe(w io.Writer, what string, e *judge.Estimate, prices priceFlags, flag string) error {
	l := &lines{w: w}
	if e.Mismatches == 0 {
		l.add("judge     %s: no mismatch is left to judge", what)
		return l.err
	}
	cost := fmt.Sprintf("%.2f GPU hours (--judge-prefill-rate %g --judge-decode-rate %g)",
		e.GPUHours(judge.Throughput{Prefill: *f.JudgePrefillRate, Decode: *f.JudgeDecodeRate}), *f.JudgePrefillRate, *f.JudgeDecodeRate)
	if b := (endpoint.Budget{PriceIn: prices.PriceIn, PriceOut: prices.PriceOut}); b.PriceIn > 0 || b.PriceOut > 0 {
		cost = fmt.Sprintf("$%.2f (%s-in %g %s-out %g)", e.Dollars(b), flag, b.PriceIn, flag, b.PriceOut)
	}
	l.add("%-9s %s: about %s questions, %s prompt tokens (%s after the prefix cache), %s answer tokens: %s", "judge", what,
		terminal.Grouped(e.Questions), terminal.Grouped(e.PromptTokens), terminal.Grouped(e.ComputedTokens), terminal.Grouped(e.AnswerTokens), cost)
	return l.err
}

// describeFirst prints the first of two judges, and what it leaves to the other.
func (c *judgeCmd) describeFirst(w io.Writer, first *judge.Escalation) error {
	in, out := c.firstPrices()
	if err := c.describe(w, "first, for one word", &first.Estimate, priceFlags{PriceIn: in, PriceOut: out}, "--first-price"); err != nil {
		return err
	}
	l := &lines{w: w}
	if in == 0 && out == 0 {
		l.add("          its GPU hours are by the rates of the judge: a smaller model takes fewer")
	}
	if first.Of == 0 {
		l.add("          it is not known how many of its verdicts are sure: below, the judge is asked all questions; judge --job J --gold FILE tells")
	} else {
		l.add("          %.1f %% of its %d answers to --gold are below --escalate-below: as many questions go to the judge", 100*first.Share, first.Of)
	}
	return l.err
}

// describeSample says what an estimate stands on.
func describeSample(w io.Writer, e *judge.Estimate) error {
	l := &lines{w: w}
	if e.Sampled == 0 {
		return nil
	}
	of := "with their continuations"
	switch {
	case e.Expected == e.Sampled:
		of = "with the table's text in place of the continuations; identical ones, which need no judge, are not known yet"
	case e.Expected > 0:
		of = fmt.Sprintf("%d of them with the table's text in place of the continuations", e.Expected)
	}
	l.add("          from %s of %s mismatches, %s", terminal.Grouped(int64(e.Sampled)), terminal.Grouped(e.Mismatches), of)
	if e.Expected < e.Sampled {
		l.add("          %.1f %% are identical and need no judge, %.1f %% have no continuation", 100*e.Identical, 100*e.Failed)
	}
	l.add("          %.2f bytes a token, as the job's tokenizer cuts these texts; an answer is taken to have %d tokens, or 1 with --verdict-only;", e.BytesPerToken, judge.AnalysisTokens)
	l.add("          thoughts and the judge's chat template come on top")
	return l.err
}

// dryRun estimates the job and its judging, with an analysis and without.
func (c *planCmd) dryRun(ctx context.Context, con *console, o shard.Options) error {
	if err := c.settle(&c.ratesFlag); err != nil {
		return err
	}
	text, err := tokenizer.Parse(o.Tokenizer.JSON())
	if err != nil {
		return err
	}
	plan := job.Plan{Settings: o.Settings, Ends: o.Ends}
	analysis := judge.Defaults()
	analysis.Prompt = ""
	var by [2]*judge.Estimator
	if by[0], err = judge.NewEstimator(&plan, text, analysis); err != nil {
		return err
	}
	if by[1], err = by[0].VerdictOnly(); err != nil {
		return err
	}
	o.Text = func(t *job.Text) error {
		if err := by[0].Planned(t); err != nil {
			return err
		}
		return by[1].Planned(t)
	}
	e, err := shard.DryRun(ctx, o)
	if err != nil {
		return err
	}
	if err := describePlan(con.out, e); err != nil {
		return err
	}
	for i, what := range []string{"with an analysis", "--verdict-only"} {
		est := by[i].Estimate(e.Mismatches)
		if err := c.describe(con.out, what, &est, c.priceFlags, "--price"); err != nil {
			return err
		}
	}
	est := by[0].Estimate(e.Mismatches)
	if e.Sample != nil {
		est.Mismatches = e.Sample.OfMismatches // of all texts the estimate knows what a question is
	}
	if err := describeSample(con.out, &est); err != nil {
		return err
	}
	return errors.Join(c.describeLayout(ctx, con.out, o.Settings.Servers(), e), leftOut(e))
}

// dryRun estimates what the judging would take. It needs no server.
func (c *judgeCmd) dryRun(ctx context.Context, con *console) error {
	if err := cmp.Or(c.firstFlags.check(true), c.settle(&c.ratesFlag)); err != nil {
		return err
	}
	o, err := c.judge(ctx, con, c.at(), &c.workFlags)
	if err != nil {
		return err
	}
	o.Shards = c.Shard
	return c.describeJob(ctx, con, o)
}

// describeJob prints what plan predicted for infer, and what judging takes.
func (c *judgeCmd) describeJob(ctx context.Context, con *console, o judge.Options) error {
	if err := describeInfer(ctx, con.out, o); err != nil {
		return err
	}
	e, err := judge.DryRun(ctx, o)
	if err != nil {
		return err
	}
	what := "with an analysis"
	if c.VerdictOnly {
		what = "--verdict-only"
	}
	if e.First != nil {
		if err := c.describeFirst(con.out, e.First); err != nil {
			return err
		}
	}
	if err := c.describe(con.out, what, e, c.priceFlags, "--price"); err != nil {
		return err
	}
	return describeSample(con.out, e)
}

func describeInfer(ctx context.Context, w io.Writer, o judge.Options) error {
	j, err := job.Load(ctx, o.Store)
	if err != nil {
		return err
	}
	l := &lines{w: w}
	for _, side := range j.Settings.Servers() {
		l.add("%-9s infer of the whole job: %.2f GPU hours, as plan predicted them", side, j.Cost[side]/3600)
	}
	return l.err
}

// describeCost prints the cost of a submission's job. The judge's flags are
// those that its tasks would get.
func (c *submitCmd) describeCost(ctx context.Context, con *console, flags []string) error {
	if _, err := fmt.Fprintln(con.out, "--- cost"); err != nil {
		return err
	}
	if err := c.settle(&c.ratesFlag); err != nil {
		return err
	}
	j, err := c.judgeCommand(flags)
	if err != nil {
		return err
	}
	o := judge.Options{Log: con.logger()} // no model: the whole job, as if nothing were judged
	if o.Settings, err = j.settings(); err != nil {
		return err
	}
	if o.Store, err = c.open(ctx, o.Log); err != nil {
		return err
	}
	if err = j.check(true); err != nil {
		return err
	}
	if j.JudgeFirst != "" {
		o.First = &judge.FirstOptions{Model: modelName(j.JudgeFirst, j.JudgeFirstModel), Below: *j.EscalateBelow}
	}
	if c.Judge == noJudge {
		return describeInfer(ctx, con.out, o)
	}
	return j.describeJob(ctx, con, o)
}

// parseFlags parses the arguments of a command that another one names as its --COMMAND-flags.
func parseFlags(command any, name string, args []string) error {
	parser, err := kong.New(command, kong.Name("tokenfork "+name), kong.WithHyphenPrefixedParameters(true), kong.NoDefaultHelp())
	if err != nil {
		return err
	}
	if _, err := parser.Parse(args); err != nil {
		return failure.New(failure.Usage, "see tokenfork "+name+" --help", "--%s-flags: %w", name, err)
	}
	return nil
}

// judgeCommand is the judge command that a task of the submission runs.
func (c *submitCmd) judgeCommand(flags []string) (*judgeCmd, error) {
	j := &judgeCmd{}
	if err := parseFlags(j, "judge", append([]string{"--job", c.Job}, flags...)); err != nil {
		return nil, err
	}
	j.judgeRates = c.judgeRates
	if c.PriceIn > 0 || c.PriceOut > 0 {
		j.priceFlags = c.priceFlags
	}
	return j, nil
}
