package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/ordered"
	"tokenfork/internal/progress"
	"tokenfork/internal/store"
)

// predicted checks the texts that predict reads, and what its models said along them.
func (c *checker) predicted(ctx context.Context) error {
	if !c.there[job.CorpusKey] {
		return nil
	}
	corpus, err := job.LoadCorpus(ctx, c.Store)
	if err != nil {
		return c.tolerate(err)
	}
	if id, err := corpus.Identity(); err != nil || id != corpus.ID {
		return c.say("remove it and give `tokenfork predict` the same texts and models again", "%s is damaged: its settings are not those of %s", job.CorpusKey, corpus.ID)
	}
	meter := progress.New(c.Console, "check", "texts", corpus.Texts)
	defer meter.Close()
	engines := map[string]map[string]bool{}
	for _, side := range corpus.Sides() {
		engines[side] = map[string]bool{}
	}
	type seen struct {
		*shard
		engines map[string]map[string]bool
	}
	err = ordered.Map(ctx, readers, ordered.Upto(len(corpus.Shards)), func(k int) seen {
		s, e := c.lookAtTexts(ctx, corpus, k)
		return seen{s, e}
	}, func(s seen) error {
		for side, hashes := range s.engines {
			maps.Copy(engines[side], hashes)
		}
		meter.Add(int64(corpus.Shards[s.k].Texts))
		return c.take(s.shard)
	})
	if err != nil {
		return err
	}
	for side, hashes := range engines {
		if err := c.engineFile(ctx, job.CorpusEngineKey(side), hashes); err != nil {
			return err
		}
	}
	return nil
}

// lookAtTexts checks one of predict's shards; by side, engines are the hashes that rows name.
func (c *checker) lookAtTexts(ctx context.Context, corpus *job.Corpus, k int) (*shard, map[string]map[string]bool) {
	s, engines := &shard{k: k, used: []string{job.CorpusManifestKey(k)}}, map[string]map[string]bool{}
	m, err := corpus.OpenManifest(ctx, c.Store, k)
	want := map[int64]int{}
	if err == nil {
		for x, err := range job.Sources(m) {
			if err != nil {
				s.wrong = append(s.wrong, failure.New(failure.Refused, "remove corpus.json and give `tokenfork predict` the same texts again", "%s: %w", job.CorpusManifestKey(k), err))
				return s, nil
			}
			want[x.Ordinal] = 1
		}
	} else if damage(err) {
		s.wrong = append(s.wrong, err)
		return s, nil
	} else {
		s.err = err
		return s, nil
	}
	for _, t := range corpus.Tasks(k) {
		engines[t.Side] = map[string]bool{}
		s.err = verify(ctx, c, s, t, want, func(row *job.Prediction) {
			if row.Engine != nil {
				engines[t.Side][*row.Engine] = true
			}
		})
		if s.err != nil {
			break
		}
	}
	return s, engines
}

// engineFile compares the engines that rows name with the record.
func (c *checker) engineFile(ctx context.Context, key string, hashes map[string]bool) error {
	c.used[key] = true
	if len(hashes) == 0 {
		return nil // nothing is generated yet
	}
	b, err := store.ReadAll(ctx, c.Store, key)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return c.say("restore it; without it the next task of this model is not compared with the earlier ones", "%s is missing", key)
	case err == nil && !hashes[job.EngineHash(b)]:
		return c.say("restore it, or remove it: the next task of this model then records its own", "%s is damaged: no row names its hash %s", key, job.EngineHash(b))
	}
	if err != nil {
		return fmt.Errorf("read %s of %s: %w", key, c.Store, err)
	}
	return nil
}
