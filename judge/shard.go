package judge

import (
	"context"
	"errors"
	"sync"

	"tokenfork/internal/job"
	"tokenfork/internal/results"
	"tokenfork/internal/stage"
	"tokenfork/judge/endpoint"
)

// shardRun is a shard on its way. It is the stage's Work.
type shardRun struct {
	*runner
	*stage.Shard[*job.Text, job.Verdict]
	manifest *job.Manifest
	results  results.Reader
	inputs   map[string]int // rounds of the continuations, by side
	journal  *journal
}

// shardRun reads what there is of a shard; fs.ErrNotExist (errors.Is) if it
// has no continuations.
func (r *runner) shardRun(ctx context.Context, k int) (*shardRun, error) {
	m, err := job.OpenManifest(ctx, r.Store, k)
	if err != nil {
		return nil, err
	}
	return r.inferredShard(ctx, m)
}

func (r *runner) inferredShard(ctx context.Context, m *job.Manifest) (_ *shardRun, err error) {
	run := &shardRun{runner: r, manifest: m, results: results.Reader{Plan: &r.job.Plan, Text: r.framer.Text}, inputs: map[string]int{}}
	for _, side := range r.job.Settings.Servers() {
		if run.results.Sides[side], err = job.OpenCommitted[job.Continuation](ctx, r.Store, r.inferred(m.Index, side)); err != nil {
			return nil, err
		}
		run.inputs[side.String()] = run.results.Sides[side].Commit().Round()
	}
	return run, nil
}

// remember takes over the answers that earlier attempts kept.
func (r *runner) remember(ctx context.Context, k int) error {
	for _, same := range r.alike() {
		t := r.task(k)
		t.Side = same.ID()
		answers, err := readJournals(ctx, r.Store, t)
		if err != nil {
			return err
		}
		for i := range answers {
			r.know(&answers[i])
		}
	}
	return nil
}

// alike are the judgings whose answers are this one's too. Of two judges these are also those before
// there was a probability between them, as of --gold, and those of the second judge alone.
func (r *runner) alike() []Judging {
	all := []Judging{r.judging}
	if r.first == nil {
		return all
	}
	before, alone := r.judging, r.judging
	before.First, alone.First = &First{Judging: r.first.about.Judging}, nil
	return append(all, before, alone)
}

// know keeps an earlier verdict in mind, whichever judge gave it.
func (r *runner) know(v *job.Verdict) {
	r.judge.Remember(v)
	if r.first != nil {
		r.first.judge.Remember(v)
	}
}

// open prepares a shard for its judging.
func (r *runner) open(ctx context.Context, sh *stage.Shard[*job.Text, job.Verdict]) (stage.Work[*job.Text], error) {
	run, err := r.inferredShard(ctx, sh.Manifest)
	if err != nil {
		return nil, err
	}
	if err := r.remember(ctx, sh.Manifest.Index); err != nil {
		return nil, err
	}
	run.Shard = sh
	sh.Log.From(run.inputs, run.results.Inputs())
	run.journal = openJournal(ctx, r.Store, r.task(sh.Manifest.Index), sh.Log.Attempt().ID, r.PartEvery)
	return run, nil
}

// Begin waits for the shard's batches, where the questions were sent so.
func (run *shardRun) Begin(admit, _ context.Context) error {
	if !run.Batch {
		return nil
	}
	return run.collect(admit, run.manifest.Index)
}

// Text asks about a text's mismatches.
func (run *shardRun) Text(admit, ctx context.Context, x *job.Text) (bool, error) {
	rows, err := run.results.Rows(ctx, x)
	if err != nil {
		run.Drop()
		return false, err
	}
	if len(rows) == 0 {
		return true, run.Done(nil)
	}
	run.keep(ctx, x)
	return run.ask(admit, ctx, x, rows), nil
}

// End keeps the answers on texts that are not finished.
func (run *shardRun) End(*job.Commit) error { return run.journal.close() }

// keep remembers what an earlier round knows of a text that has to be done
// again. From a damaged part there is nothing to remember.
func (run *shardRun) keep(ctx context.Context, s *job.Text) {
	if run.Before == nil {
		return
	}
	verdicts, err := run.Before.Text(ctx, s.Ordinal)
	if err != nil {
		return
	}
	for i := range verdicts {
		run.know(&verdicts[i])
	}
}

// textVerdicts collects the verdicts on a text.
type textVerdicts struct {
	verdicts []job.Verdict
	mu       sync.Mutex
	left     int
	lacking  bool // a question was not answered
}

// ask asks about each of the text's rows; false if it was told to stop.
func (run *shardRun) ask(admit, ctx context.Context, x *job.Text, rows []job.Result) bool {
	all := &textVerdicts{verdicts: make([]job.Verdict, len(rows)), left: len(rows)}
	for i := range rows {
		if admit.Err() != nil || ctx.Err() != nil {
			run.leave(all, len(rows)-i)
			return false
		}
		run.asks.Go(func() error {
			v, err := run.verdict(ctx, x, &rows[i])
			if err == nil {
				return run.take(all, i, v)
			}
			run.leave(all, 1)
			if errors.Is(err, endpoint.ErrDrained) {
				return nil
			}
			return err
		})
	}
	return true
}

// leave gives up n of the text's questions.
func (run *shardRun) leave(all *textVerdicts, n int) {
	all.mu.Lock()
	defer all.mu.Unlock()
	all.lacking = true
	if all.left -= n; all.left == 0 {
		run.Drop()
	}
}

func (run *shardRun) verdict(ctx context.Context, s *job.Text, row *job.Result) (job.Verdict, error) {
	if row.Status != results.OK {
		j := &run.judging
		return job.Verdict{Ordinal: s.Ordinal, Position: int32(row.MismatchPosition) - int32(run.job.Settings.FirstPosition),
			JudgeModel: j.Model, PromptVersion: j.PromptVersion, PromptHash: j.PromptHash, Error: new(results.NoContinuation), Message: &row.Status}, nil
	}
	return run.decide(ctx, run.framer.Question(s, row))
}

// take keeps a verdict, and the text once it has all of its.
func (run *shardRun) take(all *textVerdicts, i int, v job.Verdict) error {
	run.count(&v)
	failed := int64(0)
	if v.Failed() {
		failed = 1
	}
	run.meter.Add(1, failed, 0)
	err := run.journal.add(v)
	all.mu.Lock()
	defer all.mu.Unlock()
	all.verdicts[i] = v
	if all.left--; all.left > 0 {
		return err
	}
	if all.lacking || err != nil {
		run.Drop()
		return err
	}
	run.Log.Count(run.used())
	if err := run.Done(all.verdicts); err != nil {
		return err
	}
	run.journal.finished(v.Ordinal)
	return nil
}

// Names of the counters in commits and in summary.json, beside those of package job.
const (
	NotAsked = "identical"
	Repeated = "repeated"

	// Of two judges: those above are the second one's alone.
	Escalated            = "escalated" // different questions that the first judge left to the second
	FirstRequests        = "first_requests"
	FirstPromptTokens    = "first_prompt_tokens"
	FirstCachedTokens    = "first_cached_tokens"
	FirstGeneratedTokens = "first_generated_tokens"
)

// usage is what the judges used in this run.
func (r *runner) usage() job.Counters {
	u := r.client.Usage()
	now := job.Counters{job.Requests: u.Requests, job.PromptTokens: u.PromptTokens, job.CachedTokens: u.CachedTokens, job.GeneratedTokens: u.CompletionTokens,
		job.ComputedTokens: u.PromptTokens - u.CachedTokens, job.IdealTokens: r.judge.sent.ideal(u.PromptTokens), NotAsked: r.judge.count.identical.Load(), Repeated: r.judge.count.repeated.Load()}
	if f := r.first; f != nil {
		u := f.client.Usage()
		now[Escalated], now[FirstRequests], now[FirstPromptTokens] = r.escalated.Load(), u.Requests, u.PromptTokens
		now[FirstCachedTokens], now[FirstGeneratedTokens] = u.CachedTokens, u.CompletionTokens
		now[NotAsked] += f.judge.count.identical.Load()
		now[Repeated] += f.judge.count.repeated.Load()
	}
	return now
}

// used is what the judges used since it was last asked.
func (r *runner) used() job.Counters {
	now := r.usage()
	r.counts.mu.Lock()
	defer r.counts.mu.Unlock()
	delta := job.Counters{}
	for name, n := range now {
		delta[name] = n - r.counts.used[name]
	}
	r.counts.used = now
	return delta
}
