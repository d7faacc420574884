package judge

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"golang.org/x/sync/errgroup"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/results"
	"tokenfork/judge/agreement"
)

// Gold asks the judge about the labelled mismatches alone, or takes the
// verdicts that the job has from it, and measures how far they agree with the
// labels. What it asks is kept for a later Run.
func Gold(ctx context.Context, o Options, want agreement.Labels) (*Measured, *Judging, error) {
	r, err := newRunner(ctx, &o)
	if err != nil {
		return nil, nil, err
	}
	return r.measure(ctx, func() (*Measured, error) { return r.gold(ctx, want) })
}

// measure reaches the judges for a measurement.
func (r *runner) measure(ctx context.Context, ask func() (*Measured, error)) (m *Measured, _ *Judging, err error) {
	at, err := r.connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err = r.dial(ctx, at); err == nil {
		m, err = ask()
	}
	return m, &r.judging, stopped(ctx, errors.Join(err, at.close()))
}

func (r *runner) gold(ctx context.Context, want agreement.Labels) (*Measured, error) {
	g := &goldRun{runner: r, want: want, found: map[agreement.Place]twoVerdicts{}}
	for k := range r.job.Shards {
		if err := g.shard(ctx, k); err != nil {
			return nil, err
		}
	}
	return g.report()
}

// goldRun collects verdicts on labelled mismatches.
type goldRun struct {
	*runner
	want  agreement.Labels
	found map[agreement.Place]twoVerdicts // not there: no continuation
	order []agreement.Place               // as they are in the job
}

// shard finds the shard's labelled mismatches and their verdicts.
func (g *goldRun) shard(ctx context.Context, k int) error {
	run, err := g.shardRun(ctx, k)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // not generated yet: what is labelled in it is missing
	}
	if err != nil {
		return err
	}
	judged, err := job.OpenCommitted[job.Verdict](ctx, g.Store, g.task(k))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := g.remember(ctx, k); err != nil {
		return err
	}
	kept := openJournal(ctx, g.Store, g.task(k), goldAttempt, time.Minute)
	asks, actx := errgroup.WithContext(ctx)
	asks.SetLimit(g.client.InFlight())
	err = g.texts(ctx, run, func(s *job.Text, rows []job.Result) error {
		if judged != nil && g.first == nil {
			return g.known(ctx, s, rows, judged)
		}
		g.ask(actx, asks, s, rows, kept)
		return nil
	})
	return errors.Join(err, asks.Wait(), kept.close())
}

// texts calls f for each text with labels, with the rows that have one.
func (g *goldRun) texts(ctx context.Context, run *shardRun, f func(*job.Text, []job.Result) error) error {
	labelled := map[string]bool{}
	for at := range g.want {
		labelled[at.SentenceID] = true
	}
	for s, err := range run.manifest.Texts() {
		if err != nil {
			return err
		}
		if !labelled[s.ID] {
			continue
		}
		rows, err := run.results.Rows(ctx, s)
		if err != nil {
			return err
		}
		var mine []job.Result
		for _, row := range rows {
			if _, ok := g.want[agreement.Place{SentenceID: s.ID, Position: row.MismatchPosition}]; ok {
				mine = append(mine, row)
			}
		}
		if err := f(s, mine); err != nil {
			return err
		}
	}
	return nil
}

func (g *goldRun) take(s *job.Text, row *job.Result, v twoVerdicts) {
	at := agreement.Place{SentenceID: s.ID, Position: row.MismatchPosition}
	g.counts.mu.Lock()
	defer g.counts.mu.Unlock()
	g.found[at] = v
}

// known takes verdicts that are in the job.
func (g *goldRun) known(ctx context.Context, s *job.Text, rows []job.Result, judged *job.Committed[job.Verdict]) error {
	verdicts, err := judged.Text(ctx, s.Ordinal)
	if err != nil {
		return err
	}
	for i := range rows {
		at := agreement.Place{SentenceID: s.ID, Position: rows[i].MismatchPosition}
		g.order = append(g.order, at)
		for j := range verdicts {
			if int64(verdicts[j].Position)+int64(g.job.Settings.FirstPosition) == at.Position {
				g.take(s, &rows[i], twoVerdicts{judge: &verdicts[j]})
			}
		}
	}
	return nil
}

// ask asks for verdicts.
func (g *goldRun) ask(ctx context.Context, asks *errgroup.Group, s *job.Text, rows []job.Result, kept *journal) {
	for i := range rows {
		row := &rows[i]
		g.order = append(g.order, agreement.Place{SentenceID: s.ID, Position: row.MismatchPosition})
		if row.Status != results.OK {
			continue
		}
		asks.Go(func() error {
			v, err := g.askAll(ctx, g.framer.Question(s, row))
			if err != nil {
				return err
			}
			g.take(s, row, v)
			return kept.addAll(v.judge, v.first)
		})
	}
}

func (g *goldRun) report() (*Measured, error) {
	if lost := len(g.want) - len(g.order); lost > 0 {
		g.Log.Warn("labels are of no mismatch in the job, or of one that is not generated yet", "labels", lost)
	}
	var cases []agreement.Case
	for _, at := range g.order {
		cases = append(cases, g.found[at].asCase(at.SentenceID, g.want[at], ""))
	}
	m := g.measured(cases, len(g.want)-len(cases))
	if m.Pairs == 0 {
		return nil, failure.New(failure.Refused, "sentence_id and mismatch_position are those of the results", "none of the %d labels has a verdict in %s", len(g.want), g.Store)
	}
	return m, nil
}
