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
	"tokenfork/judge/endpoint"
)

const (
	goldRounds = 2000
	goldSeed   = 1
)

// Gold asks the judge about the labelled mismatches alone, or takes the
// verdicts that the job has from it, and measures how far they agree with the
// labels. What it asks is kept for a later Run.
func Gold(ctx context.Context, o Options, want agreement.Labels) (*agreement.Report, *Judging, error) {
	r, err := newRunner(ctx, &o)
	if err != nil {
		return nil, nil, err
	}
	server, err := o.Connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	report, err := r.gold(ctx, server.Config, want)
	if server.Close != nil {
		err = errors.Join(err, server.Close())
	}
	return report, &r.judging, stopped(ctx, err)
}

func (r *runner) gold(ctx context.Context, cfg endpoint.Config, want agreement.Labels) (*agreement.Report, error) {
	if err := r.dial(ctx, cfg); err != nil {
		return nil, err
	}
	g := &goldRun{runner: r, want: want, found: map[agreement.Place]*job.Verdict{}}
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
	found map[agreement.Place]*job.Verdict // nil: no continuation
	order []agreement.Place                // as they are in the job
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
	kept := openJournal(ctx, g.Store, g.task(k), "gold", time.Minute)
	asks, actx := errgroup.WithContext(ctx)
	asks.SetLimit(g.client.InFlight())
	err = g.texts(ctx, run, func(s *job.Text, rows []job.Result) error {
		if judged != nil {
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

func (g *goldRun) take(s *job.Text, row *job.Result, v *job.Verdict) {
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
				g.take(s, &rows[i], &verdicts[j])
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
			v, err := g.judge.Ask(ctx, g.framer.Question(s, row))
			if err != nil {
				return err
			}
			g.take(s, row, &v)
			return kept.add(v)
		})
	}
}

func (g *goldRun) report() (*agreement.Report, error) {
	if lost := len(g.want) - len(g.order); lost > 0 {
		g.Log.Warn("labels are of no mismatch in the job, or of one that is not generated yet", "labels", lost)
	}
	var pairs []agreement.Pair
	for _, at := range g.order {
		if v := g.found[at]; v != nil && v.MeaningMatch != nil {
			pairs = append(pairs, agreement.Pair{Cluster: at.SentenceID, Human: g.want[at], Judge: *v.MeaningMatch})
		}
	}
	if len(pairs) == 0 {
		return nil, failure.New(failure.Refused, "sentence_id and mismatch_position are those of the results", "none of the %d labels has a verdict in %s", len(g.want), g.Store)
	}
	r := agreement.Measure(pairs, len(g.want)-len(pairs), goldRounds, goldSeed)
	return &r, nil
}
