package main

import (
	"context"
	"os"
	"strings"

	"tokenfork/internal/failure"
	"tokenfork/internal/fleet"
	"tokenfork/judge"
	"tokenfork/judge/agreement"
	"tokenfork/judge/endpoint"
)

// firstFlags say who is asked before the judge.
type firstFlags struct {
	JudgeFirst      string   `kept:"" placeholder:"URL|local" help:"A cheaper judge that is asked first, for one word; where it is unsure, --judge is asked. Its key: TOKENFORK_JUDGE_FIRST_KEY."`
	JudgeFirstModel string   `kept:"" placeholder:"NAME|PATH" help:"The first judge: as its server calls it, or a model folder or cached hub name for --judge-first local."`
	JudgeFirstArgs  string   `kept:"" placeholder:"ARGS" help:"Further flags for vllm serve of a local first judge."`
	FirstPriceIn    *float64 `placeholder:"$" help:"Dollars per million tokens of questions to the first judge (0 for a server of your own)."`
	FirstPriceOut   *float64 `placeholder:"$" help:"Dollars per million tokens of its answers."`
	EscalateBelow   *float64 `kept:"" placeholder:"P" help:"Probability of the first judge's verdict below which --judge is asked; --gold finds it."`
}

// check refuses flags that do not go together. Whether judging needs the probability
// that decides between two judges, --gold does not.
func (f *firstFlags) check(judging bool) error {
	usage := func(hint, format string, args ...any) error { return failure.New(failure.Usage, hint, format, args...) }
	switch {
	case f.JudgeFirst == "" && (f.JudgeFirstModel != "" || f.JudgeFirstArgs != "" || f.FirstPriceIn != nil || f.FirstPriceOut != nil || f.EscalateBelow != nil):
		return usage("add --judge-first URL or local", "--judge-first-model, --judge-first-args, --first-price-in, --first-price-out and --escalate-below without --judge-first")
	case f.JudgeFirst == "":
		return nil
	case f.JudgeFirst == "local" && f.JudgeFirstModel == "":
		return usage("add --judge-first-model PATH", "no model for a local first judge")
	case f.EscalateBelow == nil && judging:
		return usage("find it with --gold and add --escalate-below P", "--judge-first without the probability below which --judge is asked")
	case f.EscalateBelow != nil && !(*f.EscalateBelow > 0 && *f.EscalateBelow <= 1):
		return usage("it is a probability", "--escalate-below %v is not above 0 and at most 1", *f.EscalateBelow)
	}
	return nil
}

func (f *judgeFlags) firstConfig() endpoint.Config {
	in, out := f.firstPrices()
	return endpoint.Config{Budget: endpoint.Budget{PriceIn: in, PriceOut: out}, URL: f.JudgeFirst, Model: f.JudgeFirstModel, Key: os.Getenv("TOKENFORK_JUDGE_FIRST_KEY"), InFlight: f.JudgeInFlight, Timeout: f.JudgeTimeout}
}

// firstPrices are the first judge's, 0 where none are given.
func (f *firstFlags) firstPrices() (in, out float64) {
	if f.FirstPriceIn != nil {
		in = *f.FirstPriceIn
	}
	if f.FirstPriceOut != nil {
		out = *f.FirstPriceOut
	}
	return in, out
}

// checkPrices refuses a budget that could not count the first judge.
func (f *judgeFlags) checkPrices() error {
	in, out := f.firstPrices()
	switch {
	case in < 0 || out < 0:
		return failure.New(failure.Usage, "give dollars per million tokens", "--first-price-in %g --first-price-out %g: a price is negative", in, out)
	case f.JudgeFirst != "local" && strings.HasPrefix(f.Budget, "$") && (f.FirstPriceIn == nil || f.FirstPriceOut == nil):
		return failure.New(failure.Usage, "add --first-price-in and --first-price-out, 0 for a server of your own", "a dollar budget needs the prices of the first judge too")
	}
	return nil
}

// addFirst adds the first judge to the options, if there is one. It gives its model
// where the task serves it.
func (f *judgeFlags) addFirst(o *judge.Options, j *jobFlags, w *workFlags) (*fleet.Model, error) {
	if f.JudgeFirst == "" {
		return nil, nil
	}
	if err := f.checkPrices(); err != nil {
		return nil, err
	}
	o.First = &judge.FirstOptions{Model: modelName(f.JudgeFirst, f.JudgeFirstModel)}
	if f.EscalateBelow != nil {
		o.First.Below = *f.EscalateBelow
	}
	o.First.Connect = func(context.Context) (judge.Backend, error) { return judge.Backend{Config: f.firstConfig()}, nil }
	if f.JudgeFirst != "local" {
		return nil, nil
	}
	own, err := localJudge(j, w, "judge-first", f.JudgeFirstModel, "--judge-first-args", f.JudgeFirstArgs)
	if err != nil {
		return nil, err
	}
	o.First.Identity, err = localIdentity(own)
	return own, err
}

// wantedFlags say what --gold is to find for two judges.
type wantedFlags struct {
	GoldAgreement  float64 `default:"0.9" placeholder:"A" help:"With --gold and --judge-first: find the lowest P at which the first judge's verdicts agree in at least A of the cases that it decides."`
	GoldConfidence float64 `default:"0.95" placeholder:"C" help:"The confidence at which that must hold."`
	GoldTarget     string  `default:"judge" enum:"judge,labels" help:"What the first judge must agree with: the judge's verdicts, or the labels."`
}

// wanted refuses what is no share.
func (f *wantedFlags) wanted() (agreement.Wanted, error) {
	w := agreement.Wanted{Agreement: f.GoldAgreement, Confidence: f.GoldConfidence, Labels: f.GoldTarget == "labels"}
	if f.GoldAgreement > 0 && f.GoldAgreement < 1 && f.GoldConfidence > 0 && f.GoldConfidence < 1 {
		return w, nil
	}
	return w, failure.New(failure.Usage, "0.9 and 0.95 are the defaults", "--gold-agreement %v and --gold-confidence %v are not between 0 and 1", f.GoldAgreement, f.GoldConfidence)
}
