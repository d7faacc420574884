package check

import (
	"context"
	"errors"
	"io/fs"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
)

// shard is what was seen of one.
type shard struct {
	k          int
	err        error   // of the store: nothing is known
	wrong      []error // each with its way out
	ordinals   []int64
	mismatches int64
	used       []string
	open       []job.Task
	engines    [2]map[string]bool
}

// look checks a manifest and the shard's tasks.
func (c *checker) look(ctx context.Context, k int) *shard {
	s := &shard{k: k, used: []string{job.ManifestKey(k)}, engines: [2]map[string]bool{{}, {}}}
	rows, err := s.manifest(ctx, c)
	switch {
	case err != nil && damage(err):
		s.wrong = append(s.wrong, failure.New(failure.Refused, replan(job.ManifestKey(k)), "%w", err))
		return s
	case err != nil:
		s.err = err
		return s
	}
	for _, t := range c.job.Tasks(k, c.judgingIDs()...) {
		if t.Stage == "judge" {
			err = verify[job.Verdict](ctx, c, s, t, rows(1), nil)
		} else {
			side := job.Small
			if t.Side == job.Reference.String() {
				side = job.Reference
			}
			err = verify(ctx, c, s, t, rows(c.job.Settings.Forks()), func(row *job.Continuation) {
				if row.Engine != nil {
					s.engines[side][*row.Engine] = true
				}
			})
		}
		if err != nil {
			s.err = err
			return s
		}
	}
	return s
}

// manifest reads the shard's manifest; rows says how many rows each text
// has in a task that makes so many of a mismatch.
func (s *shard) manifest(ctx context.Context, c *checker) (rows func(each int) map[int64]int, err error) {
	m, err := job.OpenManifest(ctx, c.Store, s.k)
	if err != nil {
		return nil, err
	}
	if said := c.job.Shards[s.k]; m.Shard != said {
		return nil, failure.New(failure.Refused, "", "manifest %s is not the one that %s lists", job.ManifestKey(s.k), job.Key)
	}
	mismatches := map[int64]int{}
	for x, err := range m.Texts() {
		if err != nil {
			return nil, failure.New(failure.Refused, "", "manifest %s: %w", job.ManifestKey(s.k), err)
		}
		mismatches[x.Ordinal] = len(x.Mismatches)
		s.ordinals = append(s.ordinals, x.Ordinal)
		s.mismatches += int64(len(x.Mismatches))
	}
	if len(s.ordinals) != m.Shard.Texts || s.mismatches != int64(m.Shard.Mismatches) {
		return nil, failure.New(failure.Refused, "", "manifest %s has %d texts with %d mismatches, it says %d with %d",
			job.ManifestKey(s.k), len(s.ordinals), s.mismatches, m.Shard.Texts, m.Shard.Mismatches)
	}
	return func(each int) map[int64]int {
		want := make(map[int64]int, len(mismatches))
		for n, count := range mismatches {
			want[n] = each * count
		}
		return want
	}, nil
}

// wanted says whether a task without a commit is missing: a judging that the
// results were not merged with may have been given up.
func (c *checker) wanted(t job.Task) bool {
	return t.Stage != "judge" || c.summary == nil || c.summary.Judging == t.Side
}

// verify checks a task's commit and the parts that it lists.
func verify[T job.Row](ctx context.Context, c *checker, s *shard, t job.Task, want map[int64]int, see func(*T)) error {
	if key := c.tasks.CommitKey(t); key != "" {
		s.used = append(s.used, key)
	}
	r, err := job.OpenCommitted[T](ctx, c.Store, t)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if c.wanted(t) {
			s.open = append(s.open, t)
		}
		return nil
	case err != nil && damage(err):
		s.wrong = append(s.wrong, err)
		return nil
	case err != nil:
		return err
	}
	for _, p := range r.Commit().Parts {
		s.used = append(s.used, p.Key)
	}
	wrong, err := r.Verify(ctx, want, see)
	s.wrong = append(s.wrong, wrong...)
	return err
}
