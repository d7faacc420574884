package shard

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/store"
)

// Sample says how many of the texts with mismatches are planned, by share or by number.
// The zero Sample is all of them.
type Sample struct {
	Share float64 // above 0, up to 1; at least one text
	Texts int64
}

// of is how many of n texts it takes.
func (s Sample) of(n int) int {
	switch {
	case s.Texts > 0:
		return int(min(s.Texts, int64(n)))
	case s.Share > 0:
		return min(int(math.Ceil(s.Share*float64(n)-1e-9)), n)
	}
	return n
}

// sideWork is what a text is for a side's server.
type sideWork struct {
	work Work
	cost float64 // GPU nanoseconds, whole
}

// samples says whether some texts may be left out.
func (p *planner) samples() bool { return p.Sample != Sample{} || p.Grow }

// choose gives the texts that are to be planned now, and sums them up.
func (p *planner) choose() ([]planned, error) {
	e, t := &p.estimate, &p.total
	if !p.samples() {
		p.cost, e.Work = t.cost, t.work
		return p.all, nil
	}
	slices.SortFunc(p.all, func(a, b planned) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.ordinal, b.ordinal))
	})
	from, to := 0, p.Sample.of(len(p.all))
	if p.Grow {
		if from = held(p.before); to < from {
			return nil, failure.New(failure.Refused, "a sample can only grow; plan a smaller one into another place", "job %s holds %d texts already, more than %d", p.Store, from, to)
		}
		if s := p.before.Sample; s != nil && (from > len(p.all) || s.HighestRank != p.highestRank(from)) {
			return nil, failure.New(failure.Refused, "restore it or plan the job again in another place", "%s of %s is damaged: its %d texts are not the first of the table's order of sampling", job.Key, p.Store, from)
		}
	}
	if p.Grow && to == from {
		e.Sample = p.before.Sample
		return nil, nil
	}
	if to < len(p.all) || p.Grow {
		e.Sample = &job.Sample{Texts: int64(to), OfTexts: int64(len(p.all)), OfMismatches: e.Mismatches, HighestRank: p.highestRank(to)}
	}
	chosen := p.all[from:to]
	e.Mismatches = 0
	for _, x := range chosen {
		e.Mismatches += int64(x.mismatches)
		for side, s := range x.sides {
			e.Work[side].add(s.work)
			p.cost[side] += s.cost
		}
	}
	return chosen, nil
}

// highestRank is that of the first n texts in the order of sampling.
func (p *planner) highestRank(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%016x", p.all[n-1].rank)
}

// held is how many texts a job holds.
func held(j *job.Job) (n int) {
	for _, s := range j.Shards {
		n += s.Texts
	}
	return n
}

// growable refuses to grow where there is no job.
func (p *planner) growable() error {
	if p.before == nil {
		return failure.New(failure.Refused, "plan one first, with --sample", "there is no job at %s to grow", p.Store)
	}
	return nil
}

// grow adds shards of the new texts to the job that is there, whose own stay as they are.
// A growth that was interrupted before job.json was replaced can be started again.
func (p *planner) grow(ctx context.Context) (*job.Job, error) {
	j := *p.before
	for side := range p.cost {
		j.Cost[side] += p.cost[side] / 1e9
	}
	added, err := p.manifests(ctx, j.Plan, len(j.Shards))
	if failure.Code(err) == failure.Refused {
		return nil, failure.New(failure.Refused, fmt.Sprintf("run that growth again with the same flags, or remove the manifests that %s does not list, %s and later ones", job.Key, job.ManifestKey(len(j.Shards))),
			"another growth of job %s is running or was interrupted: %w", p.Store, err)
	}
	if err != nil {
		return nil, err
	}
	j.Shards = append(slices.Clone(j.Shards), added...)
	j.Mismatches += p.estimate.Mismatches
	steps := slices.Clone(j.Sample.Steps)
	j.Sample, j.Sum = p.estimate.Sample, ""
	j.Sample.Steps = append(steps, job.SampleStep{Texts: j.Sample.Texts, Shards: len(j.Shards)})
	b, err := job.SealJSON(&j)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", job.Key, err)
	}
	return &j, store.ReplaceBytes(ctx, p.Store, job.Key, b)
}
