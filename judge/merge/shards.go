package merge

import (
	"context"
	"fmt"
	"runtime"

	"golang.org/x/sync/errgroup"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/results"
)

// shardsAtOnce bounds the shards that are in memory: of each, the parts that its
// next texts are in.
const shardsAtOnce = 4

// fill writes each shard's results to the spool, several shards side by side. Of
// several jobs only finished shards count: another job may have what one lacks.
func (m *merger) fill(ctx context.Context, s *spool) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(min(runtime.GOMAXPROCS(0), shardsAtOnce))
	if len(m.jobs) > 1 { // which text is refused, and beside which job, is the same each time
		g.SetLimit(1)
	}
	for _, src := range m.jobs {
		for k := range src.job.Shards {
			if src.missing[k] && len(m.jobs) > 1 {
				continue
			}
			g.Go(func() error {
				err := ctx.Err()
				if err == nil {
					err = m.fillShard(ctx, s, src, k)
				}
				if err != nil {
					return fmt.Errorf("merge shard %d of %s: %w", k, src.Store, err)
				}
				return nil
			})
		}
	}
	return g.Wait()
}

func (m *merger) fillShard(ctx context.Context, s *spool, src *source, k int) error {
	mf, err := job.OpenManifest(ctx, src.Store, k)
	if err != nil {
		return err
	}
	if mf.Shard.SHA256 != src.job.Shards[k].SHA256 {
		return failure.New(failure.Refused, "restore it or plan the job again", "manifest %s is not the one that %s lists", job.ManifestKey(k), job.Key)
	}
	r, err := m.reader(ctx, src, k)
	if err != nil {
		return err
	}
	p, n := s.pen(m.kept), 0
	for text, err := range mf.Texts() {
		if err != nil {
			return err
		}
		rows, err := r.rows(ctx, text)
		if err != nil {
			return err
		}
		if err := m.note(src, text, rows); err != nil {
			return err
		}
		if len(rows) > 0 {
			if err := p.add(place{int32(src.input), text.Ordinal}, src.number, rows); err != nil {
				return err
			}
		}
		n += len(rows)
		m.meter.Add(int64(len(rows)))
	}
	if n != src.job.Shards[k].Mismatches {
		return fmt.Errorf("%d mismatches, planned were %d", n, src.job.Shards[k].Mismatches)
	}
	if err := p.flush(); err != nil {
		return err
	}
	s.pens.Put(p)
	return nil
}

// reader opens what is committed of a shard.
func (m *merger) reader(ctx context.Context, src *source, k int) (*shardReader, error) {
	r := &shardReader{Reader: results.Reader{Plan: &src.job.Plan, Text: src.text}, accept: src.Accept}
	for _, t := range src.tasks(k) {
		var err error
		switch {
		case t.Stage == "judge":
			r.verdicts, err = committed[job.Verdict](ctx, m, src, t, m.sum.Run.Judge)
		case t.Side == job.Small.String():
			r.Sides[job.Small], err = committed[job.Continuation](ctx, m, src, t, m.sum.Run.Small)
		default:
			r.Sides[job.Reference], err = committed[job.Continuation](ctx, m, src, t, m.sum.Run.Reference)
		}
		if err != nil {
			return nil, err
		}
	}
	if !src.Recheck {
		r.inputs = r.Inputs()
	}
	return r, nil
}

// note sees to what has to be known of all rows before the first is written.
func (m *merger) note(src *source, text *job.Text, rows []job.Result) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range rows {
		r := &rows[i]
		if src.Tag != "" {
			r.Job = &src.Tag
		}
		if r.Stage != nil {
			again := src.Retry.command(*r.Stage)
			r.Stage = &again
		}
		if r.MeaningMatch == nil {
			m.unjudged[r.SentenceID] = place{int32(src.input), r.Ordinal}
		}
		if r.Engine != nil && r.ContinuationSmall != nil && r.ContinuationReference != nil {
			m.sum.engines[*r.Engine] = true
		}
	}
	return m.ids.add(src, text.ID)
}
