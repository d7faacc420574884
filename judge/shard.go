package judge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"

	"tokenfork/internal/job"
	"tokenfork/internal/results"
	"tokenfork/judge/endpoint"
)

// shardRun is a shard on its way.
type shardRun struct {
	*runner
	manifest *job.Manifest
	results  results.Reader
	log      *job.Log[job.Verdict]
	before   *job.Committed[job.Verdict] // what a retry may keep; nil at the first try
	journal  *journal
	inputs   map[string]int // rounds of the continuations, by side
	ordinals []int64        // all texts of the shard
	open     sync.WaitGroup // questions without a verdict
	drained  atomic.Bool    // some questions were not asked
}

// shardRun reads what there is of a shard; fs.ErrNotExist (errors.Is) if it
// has no continuations.
func (r *runner) shardRun(ctx context.Context, k int) (*shardRun, error) {
	m, err := job.OpenManifest(ctx, r.Store, k)
	if err != nil {
		return nil, err
	}
	run := &shardRun{runner: r, manifest: m, results: results.Reader{Plan: &r.job.Plan, Text: r.framer.Text}, inputs: map[string]int{}}
	for _, side := range r.job.Settings.Servers() {
		if run.results.Sides[side], err = job.OpenCommitted[job.Continuation](ctx, r.Store, r.inferred(k, side)); err != nil {
			return nil, err
		}
		run.inputs[side.String()] = run.results.Sides[side].Commit().Round()
	}
	return run, nil
}

// remember takes over the answers that earlier attempts kept.
func (r *runner) remember(ctx context.Context, k int) error {
	answers, err := readJournals(ctx, r.Store, r.task(k))
	for i := range answers {
		r.judge.Remember(&answers[i])
	}
	return err
}

// open prepares a shard for its judging; nil if another attempt has finished it meanwhile.
func (r *runner) open(ctx context.Context, k int) (*shardRun, error) {
	run, err := r.shardRun(ctx, k)
	if err != nil {
		return nil, err
	}
	if err := r.remember(ctx, k); err != nil {
		return nil, err
	}
	if run.log, run.before, err = job.OpenTask[job.Verdict](ctx, r.Store, r.job.ID, r.task(k), r.Who, r.PartEvery, r.Retry || r.again[k]); err != nil || run.log == nil {
		return nil, err
	}
	run.log.From(run.inputs)
	run.journal = openJournal(ctx, r.Store, r.task(k), run.log.Attempt().ID, r.PartEvery)
	return run, nil
}

// feed asks about the shard's open texts and says whether it got through.
func (run *shardRun) feed(admit, ctx context.Context) (bool, error) {
	for s, err := range run.manifest.Texts() {
		if err != nil {
			return false, fmt.Errorf("read manifest of shard %d: %w", run.manifest.Index, err)
		}
		run.ordinals = append(run.ordinals, s.Ordinal)
		if run.log.Has(s.Ordinal) {
			run.meter.Resumed(int64(len(s.Mismatches)))
			continue
		}
		rows, err := run.results.Rows(ctx, s)
		if err != nil {
			return false, err
		}
		run.keep(ctx, s)
		if !run.ask(admit, ctx, s, rows) {
			return false, nil
		}
	}
	return true, nil
}

// keep remembers what an earlier round knows of a text that has to be done
// again. From a damaged part there is nothing to remember.
func (run *shardRun) keep(ctx context.Context, s *job.Text) {
	if run.before == nil {
		return
	}
	verdicts, err := run.before.Text(ctx, s.Ordinal)
	if err != nil {
		return
	}
	for i := range verdicts {
		run.judge.Remember(&verdicts[i])
	}
}

// textVerdicts collects the verdicts on a text.
type textVerdicts struct {
	verdicts []job.Verdict
	mu       sync.Mutex
	left     int
}

// ask asks about each of the text's rows; false if it was told to stop.
func (run *shardRun) ask(admit, ctx context.Context, s *job.Text, rows []job.Result) bool {
	all := &textVerdicts{verdicts: make([]job.Verdict, len(rows)), left: len(rows)}
	for i := range rows {
		if admit.Err() != nil || ctx.Err() != nil {
			return false
		}
		run.open.Add(1)
		run.asks.Go(func() error {
			defer run.open.Done()
			v, err := run.verdict(ctx, s, &rows[i])
			if errors.Is(err, endpoint.ErrDrained) {
				run.drained.Store(true)
				return nil
			}
			if err != nil {
				return err
			}
			return run.take(all, i, v)
		})
	}
	return true
}

func (run *shardRun) verdict(ctx context.Context, s *job.Text, row *job.Result) (job.Verdict, error) {
	if row.Status != results.OK {
		j := &run.judging
		return job.Verdict{Ordinal: s.Ordinal, Position: int32(row.MismatchPosition) - int32(run.job.Settings.FirstPosition),
			JudgeModel: j.Model, PromptVersion: j.PromptVersion, PromptHash: j.PromptHash, Error: ptr(results.NoContinuation), Message: &row.Status}, nil
	}
	return run.judge.Ask(ctx, run.framer.Question(s, row))
}

// take keeps a verdict, and the text once it has all of its.
func (run *shardRun) take(all *textVerdicts, i int, v job.Verdict) error {
	run.sum.count(&v)
	run.meter.Add(1)
	if err := run.journal.add(v); err != nil {
		return err
	}
	all.mu.Lock()
	all.verdicts[i] = v
	all.left--
	last := all.left == 0
	all.mu.Unlock()
	if !last {
		return nil
	}
	run.log.Count(run.used())
	if err := run.log.Add(all.verdicts); err != nil {
		return err
	}
	run.journal.finished(v.Ordinal)
	return nil
}

// Names of the counters in commits and in summary.json.
const (
	Requests        = "requests"
	PromptTokens    = "prompt_tokens"
	CachedTokens    = "cached_tokens"   // of the prompt tokens, those found in the judge's prefix cache
	ComputedTokens  = "computed_tokens" // of the prompt tokens, the others
	IdealTokens     = "ideal_tokens"    // the least that a judge would compute with the beginnings of the last prompts in its cache
	GeneratedTokens = "generated_tokens"
	AskedNobody     = "identical"
	Repeated        = "repeated"
)

// used is what the judge used since it was last asked.
func (r *runner) used() job.Counters {
	u := r.client.Usage()
	now := job.Counters{Requests: u.Requests, PromptTokens: u.PromptTokens, CachedTokens: u.CachedTokens, GeneratedTokens: u.CompletionTokens,
		ComputedTokens: u.PromptTokens - u.CachedTokens, IdealTokens: r.judge.sent.ideal(u.PromptTokens), AskedNobody: r.judge.count.identical.Load(), Repeated: r.judge.count.repeated.Load()}
	r.sum.mu.Lock()
	defer r.sum.mu.Unlock()
	delta := job.Counters{}
	for name, n := range now {
		delta[name] = n - r.sum.counted[name]
	}
	r.sum.counted = now
	return delta
}

// end waits for the shard's questions and declares it done, or keeps what there is.
func (run *shardRun) end(ctx context.Context, complete bool) error {
	run.open.Wait()
	if ctx.Err() != nil || !complete || run.drained.Load() {
		run.sum.stop(run.manifest.Index)
		return run.close()
	}
	if err := run.journal.close(); err != nil {
		return errors.Join(err, run.log.Close())
	}
	c, err := run.log.Commit(ctx, run.ordinals)
	if errors.Is(err, fs.ErrExist) {
		run.Log.Warn("another attempt committed first; its verdicts count", "shard", run.manifest.Index,
			"attempt", run.log.Attempt().ID, "first", c.Attempt.ID, "host", c.Attempt.Host)
		err = nil
	}
	if err != nil {
		return err
	}
	run.sum.committed(c, run.manifest.Shard.Mismatches)
	run.Log.Info("shard judged", "shard", run.manifest.Index, "mismatches", run.manifest.Shard.Mismatches, "failed", c.Failed)
	return nil
}

// close keeps what there is for the next attempt.
func (run *shardRun) close() error {
	run.open.Wait()
	return errors.Join(run.journal.close(), run.log.Close())
}
