package infer

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"sync"

	"golang.org/x/sync/errgroup"

	"tokenfork/internal/failure"
	"tokenfork/internal/fleet"
	"tokenfork/internal/job"
	"tokenfork/internal/progress"
	"tokenfork/internal/stage"
)

// lane is one side's way through the shards: a stream of texts without a
// stop between texts or shards, served by one or more replicas.
type lane struct {
	side    job.Side
	options *Options
	plan    *job.Plan
	engine  string         // hash of the engine's record
	length  int            // tokens the served model takes
	meter   *progress.Lane // counts forks
	sum     *stage.Summary
	log     *slog.Logger

	queue chan *item

	mu       sync.Mutex
	replicas []*replica
	counters job.Counters // of this run
}

// count adds to what the lane did in this run.
func (l *lane) count(c job.Counters) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.counters == nil {
		l.counters = job.Counters{}
	}
	l.counters.Add(c)
}

// reading is what the lane's servers do.
func (l *lane) reading() progress.Reading {
	var r progress.Reading
	for _, one := range l.up() {
		up, restarts := fleet.Running([]fleet.Server{one.server})
		r.InFlight, r.Servers, r.Restarts = r.InFlight+one.inFlight.Load(), r.Servers+up, r.Restarts+restarts
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	r.Counters = maps.Clone(l.counters)
	return r
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

// shardRun is a shard on its way through a lane. It is the stage's Work.
type shardRun struct {
	*stage.Shard[*job.Text, job.Continuation]
	lane *lane
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
			go func() {
				if err := fleet.Watch(ctx, r.server, l.options.Stall, func() int { return int(r.inFlight.Load()) }); err != nil {
					giveUp(err)
				}
			}()
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
	way := l.stage()
	way.Fed = func() {
		close(l.queue)
		more.Enough()
	}
	g.Go(func() error { return way.Run(admit, gctx, shards) })
	return g.Wait()
}

// stage is the lane's way through its shards.
func (l *lane) stage() *stage.Stage[*job.Text, job.Continuation] {
	o := l.options
	return &stage.Stage[*job.Text, job.Continuation]{
		Store: o.Store, Retry: func(int) bool { return o.Retry }, PartEvery: o.PartEvery, Who: o.Who, Log: l.log, Lane: l.meter, Summary: l.sum,
		Manifest: job.OpenManifest, Texts: (*job.Manifest).Texts,
		Rows: func(x *job.Text) int { return len(x.Mismatches) * len(forksOf(l.plan.Settings.Trajectories, l.side)) },
		Work: func(x *job.Text) float64 { return x.Cost },
		Task: func(m *job.Manifest) job.Task {
			return job.Task{Stage: "infer", Shard: m.Index, Side: l.side.String(), Manifest: m.Shard.SHA256}
		},
		Open: func(_ context.Context, sh *stage.Shard[*job.Text, job.Continuation]) (stage.Work[*job.Text], error) {
			return &shardRun{sh, l}, nil
		},
	}
}

// Begin compares the server with what the table recorded.
func (run *shardRun) Begin(admit, ctx context.Context) error {
	if admit.Err() != nil {
		return nil
	}
	c, err := run.lane.probe(ctx, run)
	run.Log.Count(c)
	run.lane.count(c)
	return err
}

// Text puts a text on the queue.
func (run *shardRun) Text(admit, ctx context.Context, x *job.Text) (bool, error) {
	l := run.lane
	it := &item{work(x, l.side, &run.Manifest.Settings, run.Manifest.Ends, l.length, auditShare(l.options.AuditShare, l.plan)), run}
	it.spent = l.count
	l.begun(it.text)
	if len(it.rests) == 0 {
		return true, l.finish(it)
	}
	select {
	case l.queue <- it:
		return true, nil
	case <-admit.Done():
		run.Drop()
		return false, nil
	case <-ctx.Done():
		run.Drop()
		return false, context.Cause(ctx)
	}
}

// End tells how the audits of the shard came out.
func (run *shardRun) End(c *job.Commit) error {
	if c != nil {
		tellAudit(run.lane.log, c)
	}
	return nil
}

// finish hands a text whose rests are all done to the log.
func (l *lane) finish(it *item) error {
	rows := it.rows(l.engine, it.run.Manifest.Settings.Margins)
	it.countAudits()
	it.run.Log.Count(it.counters)
	return it.run.Done(rows)
}

// begun counts the forks that need no server, and the text's work if none does.
func (l *lane) begun(w *text) {
	var alone []*branch
	for _, b := range w.forks {
		if b.rest == nil {
			alone = append(alone, b)
		}
	}
	work := 0.0
	if len(w.rests) == 0 {
		work = w.Cost
	}
	if len(alone) > 0 || work > 0 {
		l.add(w, alone, work)
	}
}

// ended counts the forks of a rest, and its share of the text's work.
func (l *lane) ended(w *text, r *rest) {
	work := w.Cost / float64(len(w.rests))
	if r.audits != nil { // its fork is counted already
		l.meter.Add(0, 0, work)
		return
	}
	l.add(w, r.sharers, work)
}

// add counts forks that are done, and what was not generated for them.
func (l *lane) add(w *text, forks []*branch, work float64) {
	failed := int64(0)
	for _, b := range forks {
		if b.err != nil {
			failed++
		}
	}
	l.count(w.countSaved(forks))
	l.meter.Add(int64(len(forks)), failed, work)
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
			if err == nil {
				l.ended(it.text, rest)
			}
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
