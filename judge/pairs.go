package judge

import (
	"cmp"
	"context"
	"strings"

	"golang.org/x/sync/errgroup"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/judge/agreement"
)

// GoldPairs asks the judge about labelled pairs that bring their own texts, and
// measures how far it agrees with the labels. It needs no job, and keeps nothing.
func GoldPairs(ctx context.Context, o Options, pairs []agreement.Labelled) (_ *Measured, _ *Judging, err error) {
	if err := o.Settings.Validate(); err != nil {
		return nil, nil, err
	}
	o.Settings.Prompt = cmp.Or(o.Settings.Prompt, "seed")
	r := &runner{Options: &o}
	if r.prompt, err = LoadPrompt(o.Settings); err != nil {
		return nil, nil, err
	}
	if r.first, err = newFirst(&o); err != nil {
		return nil, nil, err
	}
	return r.measure(ctx, func() (*Measured, error) { return r.pairs(ctx, pairs) })
}

func (r *runner) pairs(ctx context.Context, pairs []agreement.Labelled) (*Measured, error) {
	verdicts := make([]twoVerdicts, len(pairs))
	asks, actx := errgroup.WithContext(ctx)
	asks.SetLimit(r.client.InFlight())
	for i := range pairs {
		asks.Go(func() (err error) {
			verdicts[i], err = r.askAll(actx, pairQuestion(int64(i), &pairs[i]))
			return err
		})
	}
	if err := asks.Wait(); err != nil {
		return nil, err
	}
	var cases []agreement.Case
	for i, v := range verdicts {
		r.count(v.judge)
		cases = append(cases, v.asCase(pairs[i].SentenceID, pairs[i].Same, pairs[i].Kind))
	}
	m := r.measured(cases, 0)
	if m.Pairs == 0 {
		return nil, failure.New(failure.Refused, "see the judge's log", "none of the %d pairs got a verdict%s", len(pairs), r.byClass())
	}
	return m, nil
}

// pairQuestion asks about texts alone: the current sentence starts after the last
// end in the context, and a continuation's token is its first word.
func pairQuestion(n int64, p *agreement.Labelled) *Question {
	start := strings.LastIndexAny(p.Context, ".!?\n") + 1
	fork := func(text string) Fork {
		word := len(text)
		if at := strings.IndexByte(strings.TrimLeft(text, " "), ' '); at > 0 {
			word = len(text) - len(strings.TrimLeft(text, " ")) + at
		}
		return Fork{Token: text[:word], Rest: text[word:], Finish: job.FinishStop, bytes: text}
	}
	return &Question{Ordinal: n, Position: int32(p.Position), Before: p.Context[:start], Start: p.Context[start:],
		Forks: [2]Fork{fork(p.Small), fork(p.Reference)}, Row: &job.Result{SentenceID: p.SentenceID, MismatchPosition: p.Position}}
}
