package infer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"

	"golang.org/x/sync/errgroup"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/progress"
	"tokenfork/internal/store"
)

// lane is one side's way through the shards: a stream of texts without a
// stop between texts or shards, served by one or more replicas.
type lane struct {
	side    job.Side
	store   store.Store
	who     job.Attempt
	options *Options
	plan    *job.Plan
	engine  string // hash of the engine's record
	length  int    // tokens the served model takes
	meter   *progress.Meter
	sum     *summary
	log     *slog.Logger

	queue chan *item

	mu       sync.Mutex
	replicas []*replica
}

// up are the replicas that have come so far; one at least.
func (l *lane) up() []*replica {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.replicas
}

// item is a text on its way, with the shard that it belongs to.
type item struct {
	*text
	run *shardRun
}

// shardRun is a shard on its way through a lane.
type shardRun struct {
	manifest *job.Manifest
	log      *job.Log[job.Continuation]
	ordinals []int64        // all texts of the shard
	open     sync.WaitGroup // texts not yet in the log
}

// run works through the shards. It takes no new text once admit is done, and
// gives up what is in flight once ctx is.
func (l *lane) run(admit, ctx context.Context, shards []int, first *replica, more *arrivals) error {
	l.queue = make(chan *item)
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	g, gctx := errgroup.WithContext(ctx)
	join := func(r *replica) {
		l.mu.Lock()
		l.replicas = append(l.replicas[:len(l.replicas):len(l.replicas)], r)
		l.mu.Unlock()
		g.Go(func() error { return r.serve(gctx, l) })
		if l.options.InFlight == 0 {
			go r.tune(ctx, l.log.With("server", l.side))
		}
		if _, own := r.server.Engine(); !own {
			go r.watch(ctx, l.options.Stall, giveUp)
		}
	}
	join(first)
	g.Go(func() error {
		for r := range more.replicas {
			if r.length != l.length {
				return failure.New(failure.Refused, "serve all with one --max-model-len", "servers of the %s model take %d and %d tokens", l.side, l.length, r.length)
			}
			join(r)
		}
		if more.Loading.Err() != nil {
			return nil // whoever was still loading is not needed
		}
		return more.Err()
	})
	opened := make(chan *shardRun) // one ahead of the one that is fed
	g.Go(func() error {
		defer close(opened)
		return l.openAll(admit, gctx, shards, opened)
	})
	g.Go(func() error {
		defer close(l.queue)
		defer more.Enough()
		for run := range opened {
			if err := l.shard(admit, gctx, g, run); err != nil {
				return err
			}
		}
		return nil
	})
	return g.Wait()
}

// openAll opens the shards, each while the one before is on its way.
func (l *lane) openAll(admit, ctx context.Context, shards []int, opened chan<- *shardRun) error {
	for _, k := range shards {
		if admit.Err() != nil {
			l.sum.stopped(job.Task{Stage: "infer", Shard: k, Side: l.side.String()})
			continue
		}
		run, err := l.open(ctx, k)
		if err != nil {
			return err
		}
		if run == nil {
			continue
		}
		select {
		case opened <- run:
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), run.log.Close())
		}
	}
	return nil
}

// shard feeds one shard and leaves its commit to g, so that the next shard's
// first texts run beside this one's last.
func (l *lane) shard(admit, ctx context.Context, g *errgroup.Group, run *shardRun) error {
	complete, err := l.feed(admit, ctx, run)
	if err != nil {
		return errors.Join(err, run.log.Close())
	}
	g.Go(func() error { return l.commit(ctx, run, complete) })
	return nil
}

// open prepares a shard; nil if there is nothing to do.
func (l *lane) open(ctx context.Context, k int) (*shardRun, error) {
	m, err := job.OpenManifest(ctx, l.store, k)
	if err != nil {
		return nil, err
	}
	t := task(m, l.side)
	log, done, err := job.OpenTask[job.Continuation](ctx, l.store, m.ID, t, l.who, l.options.PartEvery, l.options.Retry)
	if err == nil && log == nil {
		l.log.Info("already committed, nothing to do", "shard", k, "side", l.side, "by", done.Commit().Attempt.Slurm, "host", done.Commit().Attempt.Host)
	}
	if err != nil || log == nil {
		return nil, err
	}
	return &shardRun{manifest: m, log: log}, nil
}

func task(m *job.Manifest, side job.Side) job.Task {
	return job.Task{Stage: "infer", Shard: m.Index, Side: side.String(), Manifest: m.Shard.SHA256}
}

// feed puts the shard's open texts on the queue and says whether it got through.
func (l *lane) feed(admit, ctx context.Context, run *shardRun) (bool, error) {
	if admit.Err() == nil {
		c, err := l.probe(ctx, run)
		if err != nil {
			return false, err
		}
		run.log.Count(c)
	}
	for s, err := range run.manifest.Texts() {
		if err != nil {
			return false, fmt.Errorf("read manifest of shard %d: %w", run.manifest.Index, err)
		}
		run.ordinals = append(run.ordinals, s.Ordinal)
		if run.log.Has(s.Ordinal) {
			l.meter.Resumed(int64(len(s.Mismatches) * len(forksOf(run.manifest.Settings.Trajectories, l.side))))
			continue
		}
		it := &item{work(s, l.side, &run.manifest.Settings, run.manifest.Ends, l.length, auditShare(l.options.AuditShare, l.plan)), run}
		run.open.Add(1)
		if len(it.rests) == 0 {
			if err := l.finish(it); err != nil {
				return false, err
			}
			continue
		}
		select {
		case l.queue <- it:
		case <-admit.Done():
			run.open.Done()
			return false, nil
		case <-ctx.Done():
			run.open.Done()
			return false, context.Cause(ctx)
		}
	}
	return true, nil
}

// finish hands a text whose rests are all done to the log.
func (l *lane) finish(it *item) error {
	defer it.run.open.Done()
	rows := it.rows(l.engine, it.run.manifest.Settings.Margins)
	it.countSaved()
	it.countAudits()
	it.run.log.Count(it.counters)
	if err := it.run.log.Add(rows); err != nil {
		return err
	}
	l.meter.Add(int64(len(rows)))
	return nil
}

// commit waits for the shard's texts and declares it done, or closes it
// with what there is.
func (l *lane) commit(ctx context.Context, run *shardRun, complete bool) error {
	done := make(chan struct{})
	go func() { run.open.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		return errors.Join(context.Cause(ctx), run.log.Close())
	}
	if !complete {
		l.sum.stopped(task(run.manifest, l.side))
		return run.log.Close()
	}
	c, err := run.log.Commit(ctx, run.ordinals)
	if errors.Is(err, fs.ErrExist) {
		l.log.Warn("another attempt committed first; its result counts", "shard", run.manifest.Index, "side", l.side,
			"attempt", run.log.Attempt().ID, "first", c.Attempt.ID, "host", c.Attempt.Host)
		err = nil
	}
	if err != nil {
		return err
	}
	l.sum.committed(c)
	tellAudit(l.log, c)
	l.log.Info("shard done", "shard", run.manifest.Index, "side", l.side, "mismatches", run.manifest.Shard.Mismatches, "failed", c.Failed)
	return nil
}

// serve takes texts from the lane and sends their rests, all of a
// text to this one server and in order, without waiting for one text
// to end before the next begins.
func (r *replica) serve(ctx context.Context, l *lane) error {
	g, gctx := errgroup.WithContext(ctx)
	for it := range l.queue {
		if err := r.dispatch(gctx, g, l, it); err != nil {
			return cmp.Or(g.Wait(), err) // the first one is the reason
		}
	}
	return g.Wait()
}

func (r *replica) dispatch(ctx context.Context, g *errgroup.Group, l *lane, it *item) error {
	// A text longer than the cache is refused by the server, not here: room
	// for one fork is left in any case.
	text, own := min(it.prefix(), r.capacity-r.forkTokens()), r.forkTokens()
	if err := r.tokens.Acquire(ctx, text); err != nil {
		return context.Cause(ctx)
	}
	for _, rest := range it.rests {
		if err := r.tokens.Acquire(ctx, own); err != nil {
			return context.Cause(ctx)
		}
		if err := r.gate.acquire(ctx); err != nil {
			return err
		}
		g.Go(func() error {
			err := r.finish(ctx, it.text, rest)
			r.gate.release()
			r.tokens.Release(own)
			if err != nil || !it.last() {
				return err
			}
			r.tokens.Release(text)
			it.countIdeal(r.block)
			return l.finish(it)
		})
	}
	return nil
}

// last says whether the rest that just ended was the text's last.
func (w *text) last() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open--
	return w.open == 0
}
