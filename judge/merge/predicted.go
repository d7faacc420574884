package merge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"golang.org/x/sync/errgroup"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
)

// commitsAtOnce is how many of predict's commits are read at the same time.
const commitsAtOnce = 16

// predicted adds to the summary what predict took for the jobs' texts. The results need
// nothing of predict, so of a model that lacks a commit, or whose commits say nothing, there
// is nothing in the summary.
func (m *merger) predicted(ctx context.Context) error {
	all, known := map[string]job.Counters{}, [2]int{} // by side: jobs whose readings are all known
	sides := [2]job.Counters{{}, {}}
	for _, src := range m.jobs {
		corpus, err := job.LoadCorpus(ctx, src.Store)
		var models []job.Counters
		if err == nil {
			models, err = took(ctx, src, corpus)
		}
		switch {
		case errors.Is(err, fs.ErrNotExist) || failure.Code(err) == failure.Refused: // which check names
			continue
		case ctx.Err() != nil:
			return err
		case err != nil:
			if _, err := fmt.Fprintf(m.Console, "tokenfork: summary.json leaves out what predict took: %v\n", err); err != nil {
				return err
			}
			continue
		}
		for i, counters := range models {
			if len(counters) == 0 {
				continue
			}
			about := &corpus.Models[i]
			if all[about.Side] == nil {
				all[about.Side] = job.Counters{}
			}
			all[about.Side].Add(counters)
			for _, side := range job.Sides {
				if _, tells := counters[job.ComputedTokens]; tells && len(about.Fingerprint.Diff(src.job.Models[side].Fingerprint)) == 0 {
					sides[side].Add(counters)
					known[side]++
				}
			}
		}
	}
	if len(all) == 0 {
		return nil
	}
	m.sum.Run.Predict = all
	for _, side := range job.Sides {
		inferred := [...]job.Counters{m.sum.Run.Small, m.sum.Run.Reference}[side]
		computed, tells := inferred[job.ComputedTokens]
		texts, splits := inferred[job.IdealTextTokens]
		if known[side] != len(m.jobs) || !tells || !splits {
			continue
		}
		if m.sum.Run.BothStages == nil {
			m.sum.Run.BothStages = map[string]job.Counters{}
		}
		m.sum.Run.BothStages[side.String()] = job.Counters{
			job.ComputedTokens: sides[side][job.ComputedTokens] + computed,
			job.IdealTokens:    sides[side][job.IdealTokens] + inferred[job.IdealTokens] - texts,
		}
	}
	return nil
}

// took sums the commits of each of the corpus' models up; nil of one that lacks a commit.
func took(ctx context.Context, src *source, corpus *job.Corpus) ([]job.Counters, error) {
	sums, lacks := make([]job.Counters, len(corpus.Models)), make([]bool, len(corpus.Models))
	for i := range sums {
		sums[i] = job.Counters{}
	}
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(commitsAtOnce)
	for k := range corpus.Shards {
		for _, r := range corpus.Readers() {
			g.Go(func() error {
				c, err := job.LoadCommit(ctx, src.Store, corpus.Task(k, r.Side))
				mu.Lock()
				defer mu.Unlock()
				switch {
				case errors.Is(err, fs.ErrNotExist) || failure.Code(err) == failure.Refused: // which check names
					lacks[r.Model] = true
				case err != nil:
					return err
				default:
					sums[r.Model].Add(c.Counters)
				}
				return nil
			})
		}
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for i := range sums {
		if lacks[i] {
			sums[i] = nil
		}
	}
	return sums, nil
}
