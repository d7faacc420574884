package judge

import (
	"cmp"
	"context"
	"errors"
	"strings"

	"golang.org/x/sync/errgroup"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/judge/agreement"
)

// GoldPairs asks the judge about labelled pairs that bring their own texts, and
// measures how far it agrees with the labels. It needs no job, and keeps nothing.
func GoldPairs(ctx context.Context, o Options, pairs []agreement.Labelled) (_ *agreement.Report, _ *Judging, err error) {
	if err := o.Settings.Validate(); err != nil {
		return nil, nil, err
	}
	o.Settings.Prompt = cmp.Or(o.Settings.Prompt, "seed")
	r := &runner{Options: &o}
	if r.prompt, err = LoadPrompt(o.Settings); err != nil {
		return nil, nil, err
	}
	server, err := o.Connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	report, err := r.pairs(ctx, server, pairs)
	if server.Close != nil {
		err = errors.Join(err, server.Close())
	}
	return report, &r.judging, stopped(ctx, err)
}

func (r *runner) pairs(ctx context.Context, server Server, pairs []agreement.Labelled) (*agreement.Report, error) {
	if err := r.dial(ctx, server.Config); err != nil {
		return nil, err
	}
	verdicts := make([]job.Verdict, len(pairs))
	asks, actx := errgroup.WithContext(ctx)
	asks.SetLimit(r.client.InFlight())
	for i := range pairs {
		asks.Go(func() (err error) {
			verdicts[i], err = r.judge.Ask(actx, pairQuestion(int64(i), &pairs[i]))
			return err
		})
	}
	if err := asks.Wait(); err != nil {
		return nil, err
	}
	var told []agreement.Pair
	for i, v := range verdicts {
		r.count(&v)
		if v.MeaningMatch != nil {
			told = append(told, agreement.Pair{Cluster: pairs[i].SentenceID, Human: pairs[i].Same, Judge: *v.MeaningMatch, Kind: pairs[i].Kind})
		}
	}
	if len(told) == 0 {
		return nil, failure.New(failure.Refused, "see the judge's log", "none of the %d pairs got a verdict%s", len(pairs), r.byClass())
	}
	report := agreement.Measure(told, len(pairs)-len(told), goldRounds, goldSeed)
	return &report, nil
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
