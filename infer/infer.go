// Package infer carries every fork of a shard on to the end of its sentence,
// on servers that it starts itself or is pointed to, and keeps the
// continuations as parts of the job.
package infer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"tokenfork/internal/failure"
	"tokenfork/internal/fleet"
	"tokenfork/internal/job"
	"tokenfork/internal/progress"
	"tokenfork/internal/stage"
	"tokenfork/internal/store"
	"tokenfork/internal/tasks"
	"tokenfork/internal/vllm"
)

// Options say how a task works; none of them changes what it finds.
type Options struct {
	Store    store.Store
	Shards   []int      // nil: all of the job
	Sides    []job.Side // nil: all that the trajectories need
	Servers  [2]Servers // by Side
	InFlight int        // requests per server; 0 finds a good number by measuring

	PartEvery         time.Duration // a finished text waits no longer for its part
	Grace             time.Duration // for what is in flight when the task is told to stop
	Stall             time.Duration // without a token, after which a server is suspect
	MinAgreement      float64       // of the recorded predictions with the server's, 0 to 1
	AuditShare        *float64      // of the replayed forks that are generated as well; nil: as planned, else 0.005
	AllowMixedEngines bool
	Retry             bool     // open committed shards again where forks failed or parts are damaged
	Flags             []string // of tokenfork infer that name the models and servers, for messages

	Who     job.Attempt
	Log     *slog.Logger
	Console io.Writer // progress
}

// Run works through the shards that are not yet done, both sides at once. When
// ctx ends it takes no new text, gives what is in flight the grace, keeps
// what is finished, and returns an error with failure.Stopped.
func Run(ctx context.Context, o Options) error {
	todo, plan, err := open(ctx, &o)
	if ctx.Err() != nil {
		return failure.New(failure.Stopped, "run the same command again to go on", "stopped on request before anything began")
	}
	if err != nil {
		return err
	}
	lanes, err := newLanes(ctx, &o, plan, todo)
	if err != nil {
		return err
	}
	work, cancel := stage.Graceful(ctx, o.Grace)
	defer cancel(nil)
	if len(todo[job.Small])+len(todo[job.Reference]) == 0 {
		o.Log.Info("nothing to do: every shard is committed")
		return nil
	}
	if err := job.KeepInferFlags(ctx, o.Store, o.Flags); err != nil {
		return err
	}
	fleets, err := arrange(ctx, &o, plan, todo)
	if err != nil {
		return err
	}
	var sum stage.Summary
	var meters []*progress.Lane
	for _, l := range lanes {
		if l != nil {
			l.sum = &sum
			meters = append(meters, l.meter)
		}
	}
	defer progress.NewLanes(o.Console, "infer", "forks", meters...).Close()
	g, gctx := errgroup.WithContext(work)
	for _, side := range job.Sides {
		if l := lanes[side]; l != nil {
			g.Go(func() error { return l.runSide(ctx, gctx, fleets[side], todo[side]) })
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return sum.Result("forks failed", "`"+job.Command(o.Store, "merge", "--judge", "none")+"` lists them in failures.csv")
}

// newLanes are those of the sides that have something to do, with what the shards hold by
// job.json. Where that is not at hand the number of forks is not known: a task needs its manifest only. A damaged one is refused all the same.
func newLanes(ctx context.Context, o *Options, plan *job.Plan, todo [2][]int) (lanes [2]*lane, err error) {
	j, err := job.Load(ctx, o.Store)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return lanes, err
	}
	for _, side := range job.Sides {
		if len(todo[side]) == 0 {
			continue
		}
		forks, work := int64(0), 0.0
		for _, k := range todo[side] {
			if j == nil {
				forks = -1
				break
			}
			if k >= len(j.Shards) {
				return lanes, failure.New(failure.Refused, "finish the `tokenfork plan --grow` that wrote its manifest", "%s of %s does not list shard %d", job.Key, o.Store, k)
			}
			forks += int64(j.Shards[k].Mismatches * len(forksOf(plan.Settings.Trajectories, side)))
			work += j.Shards[k].Cost
		}
		l := &lane{side: side, options: o, plan: plan, log: o.Log}
		l.meter = progress.NewLane(side.String(), forks, work, l.reading)
		lanes[side] = l
	}
	return lanes, nil
}

// open finds the shards of each side that have no commit, and the plan as the first
// manifest that can be read has it, which is nil if there are no shards.
func open(ctx context.Context, o *Options) ([2][]int, *job.Plan, error) {
	var todo [2][]int
	if o.Shards == nil {
		var err error
		if o.Shards, err = shards(ctx, o.Store); err != nil {
			return todo, nil, err
		}
	}
	if len(o.Shards) == 0 {
		return todo, nil, nil
	}
	m, err := job.OpenManifest(ctx, o.Store, o.Shards[0])
	if errors.Is(err, fs.ErrNotExist) {
		if none, bad := noShard(ctx, o, o.Shards[0], err); none || bad != nil {
			return todo, nil, bad
		}
	}
	for _, k := range o.Shards[1:] {
		if failure.Code(err) != failure.Refused {
			break
		}
		if other, damaged := job.OpenManifest(ctx, o.Store, k); damaged == nil {
			m, err = other, nil
		}
	}
	if err != nil {
		return todo, nil, err
	}
	var all []job.Task
	for _, side := range m.Settings.Servers() {
		if o.Sides == nil || slices.Contains(o.Sides, side) {
			for _, k := range o.Shards {
				all = append(all, job.Task{Stage: "infer", Shard: k, Side: side.String()})
			}
		}
	}
	if !o.Retry {
		if all, err = unfinished(ctx, o, all); err != nil {
			return todo, nil, err
		}
	}
	for _, side := range job.Sides {
		for _, t := range all {
			if t.Side == side.String() {
				todo[side] = append(todo[side], t.Shard)
			}
		}
	}
	return todo, &m.Plan, nil
}

// noShard says why a shard has no manifest: the table has no mismatches, and there
// is nothing to do, or there is no such shard, or the manifest is gone.
func noShard(ctx context.Context, o *Options, k int, gone error) (none bool, err error) {
	j, err := job.Load(ctx, o.Store)
	switch {
	case err != nil:
		return false, failure.New(failure.Refused, "run `tokenfork plan INPUT --job "+o.Store.String()+"` first", "%w", gone)
	case len(j.Shards) == 0:
		return true, nil
	case k < 0 || k >= len(j.Shards):
		return false, failure.New(failure.Usage, fmt.Sprintf("they are 0 to %d", len(j.Shards)-1), "%s has no shard %d", o.Store, k)
	}
	return false, failure.New(failure.Refused, "restore it or plan the job again", "%w", gone)
}

func shards(ctx context.Context, s store.Store) ([]int, error) {
	var ks []int
	for o, err := range s.List(ctx, job.ShardPrefix) {
		if err != nil {
			return nil, fmt.Errorf("list the shards of %s: %w", s, err)
		}
		k, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(o.Key, job.ShardPrefix), ".arrow"))
		if err != nil {
			return nil, failure.New(failure.Refused, "remove it", "%s of %s is no manifest", o.Key, s)
		}
		ks = append(ks, k)
	}
	j, err := job.Load(ctx, s)
	if err == nil { // without those of a growth that job.json does not list yet
		ks = slices.DeleteFunc(ks, func(k int) bool { return k >= len(j.Shards) })
	}
	if len(ks) > 0 {
		return ks, nil
	}
	if err != nil || len(j.Shards) > 0 {
		return nil, failure.New(failure.Refused, "run `tokenfork plan INPUT --job "+s.String()+"` first", "no shards at %s", s)
	}
	return ks, nil // a table without mismatches
}

// unfinished leaves out what is committed, and says which commits are damaged.
func unfinished(ctx context.Context, o *Options, all []job.Task) ([]job.Task, error) {
	table, err := tasks.ListShards(ctx, o.Store, o.Shards)
	if err != nil {
		return nil, err
	}
	open, err := table.Unfinished(ctx, all)
	for _, t := range open {
		if damage := table.Of(tasks.KeyOf(t)).Damage; damage != nil {
			o.Log.Warn("the task is not finished: going on from its parts", "task", t.String(), "reason", damage)
		}
	}
	return open, err
}

// runSide brings up the side's servers and sends its shards through those that
// are up; the others join as they come, and once all is done none is waited for.
func (l *lane) runSide(admit, ctx context.Context, f *fleet.Fleet, shards []int) (err error) {
	o, plan, side, sum := l.options, l.plan, l.side, l.sum
	up := l.bringUp(admit, f)
	defer func() { err = errors.Join(err, up.Close(o.Servers[side].Keep)) }()
	first, ok := <-up.replicas
	switch {
	case !ok && admit.Err() != nil: // told to stop before anything was up
		for _, k := range shards {
			sum.Stop(job.Task{Stage: "infer", Shard: k, Side: side.String()})
		}
		return nil
	case !ok && plan.Settings.Deterministic: // which vLLM may not be able to do here
		err := up.Err()
		return failure.New(failure.Code(err), failure.Hint(err)+"; where it is batch invariance that vLLM cannot do here, plan without --deterministic", "the job is planned with --deterministic: %w", err)
	case !ok:
		return up.Err()
	}
	l.length = first.length
	if l.engine, err = recordEngine(ctx, o, plan, side, first.server, l.length); err != nil {
		return err
	}
	return l.run(admit, ctx, shards, first, up)
}

// newReplica asks the server what it can hold.
func (l *lane) newReplica(ctx context.Context, s fleet.Server) (*replica, error) {
	plan := l.plan
	client, _, err := s.Client(ctx)
	if err != nil {
		return nil, err
	}
	model, err := client.Check(ctx, vllm.Want{Model: client.Model, VocabSize: plan.Models[l.side].VocabSize})
	if err != nil {
		return nil, err
	}
	m, err := client.Metrics(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask the %s server for its KV cache: %w", l.side, err)
	}
	capacity := m.KVCapacity
	if capacity == 0 {
		capacity = int64(model.MaxModelLen) // not told: one full text always fits
	}
	r := &replica{server: s, length: model.MaxModelLen, set: &plan.Settings, capacity: capacity, block: max(m.BlockSize, 1), vocab: int32(plan.Models[l.side].VocabSize), tokens: semaphore.NewWeighted(capacity),
		gate: newGate(cmp.Or(l.options.InFlight, startInFlight)), stop: vllm.NewSequence(plan.Ends.IDs()), isStop: map[int32]bool{}}
	for _, id := range plan.Ends.IDs() {
		r.isStop[id] = true
	}
	return r, nil
}
