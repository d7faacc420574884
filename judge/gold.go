package judge

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"tokenfork/internal/columnar"
	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/results"
	"tokenfork/judge/agreement"
	"tokenfork/judge/endpoint"
)

// Label is a human's word on a mismatch.
type Label struct {
	SentenceID string
	Position   int64 // the table's numbering
	Same       bool  // both continuations mean the same
}

// ReadGold reads labels from CSV or Parquet with the columns sentence_id,
// mismatch_position and label: true or false, 1 or 0, same or different.
func ReadGold(path string) ([]Label, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read gold labels: %w", err)
	}
	defer f.Close()
	var labels []Label
	if strings.HasSuffix(path, ".parquet") {
		labels, err = goldParquet(f)
	} else {
		labels, err = goldCSV(f)
	}
	if err != nil {
		return nil, failure.New(failure.Refused, "it needs the columns sentence_id, mismatch_position and label (true or false)", "gold labels %s: %w", path, err)
	}
	return labels, nil
}

func goldCSV(r io.Reader) ([]Label, error) {
	c := csv.NewReader(r)
	header, err := c.Read()
	if err != nil {
		return nil, err
	}
	at := map[string]int{}
	for i, name := range header {
		at[strings.TrimPrefix(name, "\ufeff")] = i
	}
	for _, name := range []string{"sentence_id", "mismatch_position", "label"} {
		if _, ok := at[name]; !ok {
			return nil, fmt.Errorf("no column %s", name)
		}
	}
	var labels []Label
	for {
		row, err := c.Read()
		if err == io.EOF {
			return labels, nil
		}
		if err != nil {
			return nil, err
		}
		line, _ := c.FieldPos(0)
		position, err := strconv.ParseInt(strings.TrimSuffix(row[at["mismatch_position"]], ".0"), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("line %d: position %q is no number", line, row[at["mismatch_position"]])
		}
		same, err := parseLabel(row[at["label"]])
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		labels = append(labels, Label{row[at["sentence_id"]], position, same})
	}
}

func parseLabel(s string) (same bool, err error) {
	switch strings.ToLower(s) {
	case "true", "1", "1.0", "same":
		return true, nil
	case "false", "0", "0.0", "different":
		return false, nil
	}
	return false, fmt.Errorf("label %q is not true or false", s)
}

type goldRow[T any] struct {
	SentenceID string `col:"sentence_id"`
	Position   int64  `col:"mismatch_position"`
	Label      T      `col:"label"`
}

// goldParquet takes labels as booleans, numbers or text.
func goldParquet(f columnar.ReaderAtSeeker) ([]Label, error) {
	labels, err := goldRows(f, func(b bool) string { return strconv.FormatBool(b) })
	if err == nil {
		return labels, nil
	}
	if labels, err := goldRows(f, func(n int64) string { return strconv.FormatInt(n, 10) }); err == nil {
		return labels, nil
	}
	if labels, err := goldRows(f, func(s string) string { return s }); err == nil {
		return labels, nil
	}
	return nil, err
}

func goldRows[T any](f columnar.ReaderAtSeeker, text func(T) string) ([]Label, error) {
	r, err := columnar.ReadParquet[goldRow[T]](f)
	if err != nil {
		return nil, err
	}
	var labels []Label
	for row, err := range r.Rows() {
		if err != nil {
			return nil, err
		}
		same, err := parseLabel(text(row.Label))
		if err != nil {
			return nil, err
		}
		labels = append(labels, Label{row.SentenceID, row.Position, same})
	}
	return labels, nil
}

// place is a mismatch in a job.
type place struct {
	sentence string
	position int64
}

const (
	goldRounds = 2000
	goldSeed   = 1
)

// Gold asks the judge about the labelled mismatches alone, or takes the
// verdicts that the job has from it, and measures how far they agree with the
// labels. What it asks is kept for a later Run.
func Gold(ctx context.Context, o Options, labels []Label) (*agreement.Report, *Judging, error) {
	want := map[place]bool{}
	for _, l := range labels {
		at := place{l.SentenceID, l.Position}
		if same, twice := want[at]; twice && same != l.Same {
			return nil, nil, failure.New(failure.Refused, "settle it first", "gold labels disagree on position %d of sentence %s", l.Position, l.SentenceID)
		}
		want[at] = l.Same
	}
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

func (r *runner) gold(ctx context.Context, cfg endpoint.Config, want map[place]bool) (*agreement.Report, error) {
	if err := r.dial(ctx, cfg); err != nil {
		return nil, err
	}
	if err := r.negotiate(ctx); err != nil {
		return nil, err
	}
	g := &goldRun{runner: r, want: want, found: map[place]*job.Verdict{}}
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
	want  map[place]bool
	found map[place]*job.Verdict // nil: no continuation
	order []place                // as they are in the job
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
	err = g.sentences(ctx, run, func(s *job.Sentence, rows []job.Result) error {
		if judged != nil {
			return g.known(ctx, s, rows, judged)
		}
		g.ask(actx, asks, s, rows, kept)
		return nil
	})
	return errors.Join(err, asks.Wait(), kept.close())
}

// sentences calls f for each sentence with labels, with the rows that have one.
func (g *goldRun) sentences(ctx context.Context, run *shardRun, f func(*job.Sentence, []job.Result) error) error {
	labelled := map[string]bool{}
	for at := range g.want {
		labelled[at.sentence] = true
	}
	for s, err := range run.manifest.Sentences() {
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
			if _, ok := g.want[place{s.ID, row.MismatchPosition}]; ok {
				mine = append(mine, row)
			}
		}
		if err := f(s, mine); err != nil {
			return err
		}
	}
	return nil
}

func (g *goldRun) take(s *job.Sentence, row *job.Result, v *job.Verdict) {
	at := place{s.ID, row.MismatchPosition}
	g.sum.mu.Lock()
	defer g.sum.mu.Unlock()
	g.found[at] = v
}

// known takes verdicts that are in the job.
func (g *goldRun) known(ctx context.Context, s *job.Sentence, rows []job.Result, judged *job.Committed[job.Verdict]) error {
	verdicts, err := judged.Sentence(ctx, s.Ordinal)
	if err != nil {
		return err
	}
	for i := range rows {
		at := place{s.ID, rows[i].MismatchPosition}
		g.order = append(g.order, at)
		for j := range verdicts {
			if int64(verdicts[j].Position)+int64(g.job.Settings.FirstPosition) == at.position {
				g.take(s, &rows[i], &verdicts[j])
			}
		}
	}
	return nil
}

// ask asks for verdicts.
func (g *goldRun) ask(ctx context.Context, asks *errgroup.Group, s *job.Sentence, rows []job.Result, kept *journal) {
	for i := range rows {
		row := &rows[i]
		g.order = append(g.order, place{s.ID, row.MismatchPosition})
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
			pairs = append(pairs, agreement.Pair{Cluster: at.sentence, Human: g.want[at], Judge: *v.MeaningMatch})
		}
	}
	if len(pairs) == 0 {
		return nil, failure.New(failure.Refused, "sentence_id and mismatch_position are those of the results", "none of the %d labels has a verdict in %s", len(g.want), g.Store)
	}
	r := agreement.Measure(pairs, len(g.want)-len(pairs), goldRounds, goldSeed)
	return &r, nil
}
