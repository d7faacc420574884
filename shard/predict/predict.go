// Package predict makes a table from texts: every model reads every text once,
// and the table gets what each would have said at each position.
package predict

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

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
	Store  store.Store
	Corpus *job.Corpus
	Shards []int // nil: all of the corpus
	Retry  bool  // read again what failed or is damaged in finished shards
	// Serve says where the model of a reading is served.
	Serve func(job.Reader) (*fleet.Model, error)
	// Keep takes the models' servers, by number, for a later stage: those of two models
	// then run at once. nil: each model has the GPUs for itself, and its servers end.
	Keep          []*fleet.Pool
	Deterministic bool // as the engine's record says

	AllowMixedEngines bool

	PartEvery time.Duration // a text that was read waits no longer for its part
	Grace     time.Duration // for what is in flight when the task is told to stop
	Stall     time.Duration // without an answer, after which a server is probed
	Who       job.Attempt
	Log       *slog.Logger
	Console   io.Writer // progress
}

// Run lets the models read the shards that they have not read, one model after the
// other, so that each has the GPUs for itself; the one that tokenises comes first.
// When ctx ends it takes no new text, gives what is in flight the grace, and returns
// an error with failure.Stopped.
func Run(ctx context.Context, o Options) error {
	if o.Shards == nil {
		for k := range o.Corpus.Shards {
			o.Shards = append(o.Shards, k)
		}
	}
	for _, k := range o.Shards {
		if k < 0 || k >= len(o.Corpus.Shards) {
			return failure.New(failure.Usage, "they are numbered from 0", "shard %d of %d", k, len(o.Corpus.Shards))
		}
	}
	work, cancel := stage.Graceful(ctx, o.Grace)
	defer cancel(nil)
	var sum stage.Summary
	var loads loading
	for _, reader := range o.Corpus.Readers() {
		r := &reading{Options: &o, Reader: reader, model: &o.Corpus.Models[reader.Model], sum: &sum, loads: &loads, counters: job.Counters{}}
		if err := r.run(ctx, work); err != nil {
			return stopped(ctx, errors.Join(err, loads.close()))
		}
	}
	if err := loads.close(); err != nil {
		return err
	}
	hint := "give the servers a larger --max-model-len, or shorter texts, and run the same command"
	if !o.Retry {
		hint += " with --retry"
	}
	return sum.Result("readings of texts failed, and the table lacks those texts", hint)
}

// arrange finds places for the servers of one model or two.
func (o *Options) arrange(ctx context.Context, readers ...job.Reader) ([2]*fleet.Fleet, error) {
	var models [2]*fleet.Model
	for i, r := range readers {
		var err error
		if models[i], err = o.Serve(r); err != nil {
			return [2]*fleet.Fleet{}, err
		}
	}
	return fleet.Arrange(ctx, models, o.Log)
}

// loading are the servers of two models that are kept. They load side by side: a server
// spends its start in one thread.
type loading struct {
	fleets [2]*fleet.Fleet
	up     [2]<-chan brought // nil: not wanted, or taken
	enough context.CancelFunc
}

type brought struct {
	servers []fleet.Server
	err     error
}

// start begins to load the servers of the models that are wanted, unless they do already.
func (l *loading) start(ctx context.Context, o *Options, wanted [2]bool) (err error) {
	if l.enough != nil {
		return nil
	}
	if l.fleets, err = o.arrange(ctx, job.Reader{Model: 0}, job.Reader{Model: 1}); err != nil {
		return err
	}
	ctx, l.enough = context.WithCancel(ctx)
	for i, f := range l.fleets {
		if !wanted[i] {
			continue
		}
		up := make(chan brought, 1)
		l.up[i] = up
		go func() {
			servers, err := f.All(ctx)
			up <- brought{servers, err}
		}()
	}
	return nil
}

// take waits for a model's servers, which then belong to the caller.
func (l *loading) take(ctx context.Context, model int) ([]fleet.Server, error) {
	up := l.up[model]
	if up == nil {
		return l.fleets[model].All(ctx)
	}
	l.up[model] = nil
	b := <-up
	return b.servers, b.err
}

// close ends servers that were not taken.
func (l *loading) close() (err error) {
	if l.enough == nil {
		return nil
	}
	l.enough()
	for _, up := range l.up {
		if up != nil {
			err = errors.Join(err, fleet.Close((<-up).servers))
		}
	}
	return err
}

func stopped(ctx context.Context, err error) error {
	if failure.Code(err) == failure.Other && (ctx.Err() != nil || vllm.IsGone(err)) {
		return failure.New(failure.Stopped, "run the same command: texts that were read are kept", "stopped: %w", err)
	}
	return err
}

// reading is one model's way through the shards.
type reading struct {
	*Options
	job.Reader
	model   *job.CorpusModel
	engine  string // hash of the engine's record
	servers []fleet.Server
	slots   chan fleet.Server // places for requests in flight
	length  int               // tokens the served model takes
	asks    *errgroup.Group
	alone   sync.RWMutex   // held for writing by a request that is suspected of killing servers
	meter   *progress.Lane // counts texts, and their bytes
	sum     *stage.Summary

	mu       sync.Mutex
	counters job.Counters // of this run

	loads  *loading // of models whose servers are kept
	wanted [2]bool  // which of them has not read all shards
}

// inFlight is how many texts a server reads at once: each is a whole prefill.
const inFlight = 32

// entropyInFlight is the same where the answers are many times as long.
const entropyInFlight = 4

func (r *reading) tokenizes() bool { return r.Side == r.Corpus.Tokenizes().Side }

func (r *reading) task(k int) job.Task { return r.Corpus.Task(k, r.Side) }

// run brings up the model's servers and sends them the shards.
func (r *reading) run(admit, ctx context.Context) (err error) {
	todo, err := r.todo(admit)
	if err != nil || len(todo) == 0 {
		return err
	}
	stop := func() error {
		for _, k := range todo {
			r.sum.Stop(r.task(k))
		}
		return nil
	}
	if admit.Err() != nil {
		return stop()
	}
	if err := r.connect(admit); err != nil {
		if admit.Err() != nil {
			return stop()
		}
		return err
	}
	defer func() {
		if r.Keep != nil {
			r.Keep[r.Model].Put(r.servers)
			return
		}
		err = errors.Join(err, fleet.Close(r.servers))
	}()
	texts, size := int64(0), 0.0
	for _, k := range todo {
		texts += int64(r.Corpus.Shards[k].Texts)
		size += r.Corpus.Shards[k].Cost
	}
	r.meter = progress.NewLane(r.Side, texts, size, r.reading)
	defer progress.NewLanes(r.Console, "predict", "texts", r.meter).Close()
	return r.shards(admit, ctx, todo)
}

// reading is what the servers do.
func (r *reading) reading() progress.Reading {
	up, restarts := fleet.Running(r.servers)
	r.mu.Lock()
	defer r.mu.Unlock()
	return progress.Reading{InFlight: int64(cap(r.slots) - len(r.slots)), Servers: up, Restarts: restarts, Counters: maps.Clone(r.counters)}
}

func (r *reading) work(x *job.Source) float64 { return float64(r.Corpus.Size(x)) }

// count counts a text that was read, and what that took.
func (run *shardRun) count(x *job.Source, row *job.Prediction, took job.Counters) {
	failed := int64(0)
	if row.Failed() {
		failed = 1
	}
	run.Log.Count(took)
	run.mu.Lock()
	run.counters.Add(took)
	run.mu.Unlock()
	run.meter.Add(1, failed, run.work(x))
}

// todo are the shards that the model has not read and could.
func (r *reading) todo(ctx context.Context) ([]int, error) {
	table, err := tasks.ListShards(ctx, r.Store, r.Shards)
	if err != nil {
		return nil, err
	}
	var all []job.Task
	for _, k := range r.Shards {
		all = append(all, r.Corpus.Tasks(k)...)
	}
	open, err := table.Unfinished(ctx, all)
	if err != nil {
		return nil, err
	}
	for i := range r.Corpus.Models {
		if r.Keep != nil && slices.ContainsFunc(open, func(t job.Task) bool { return t.Side == r.Corpus.Models[i].Side }) {
			r.wanted[i] = true
		}
	}
	var todo []int
	for _, k := range r.Shards {
		own, tokens := r.task(k), r.Corpus.Task(k, r.Corpus.Tokenizes().Side)
		switch {
		case !r.tokenizes() && slices.Contains(open, tokens): // which the summary names
		case slices.Contains(open, own):
			if damage := table.Of(tasks.KeyOf(own)).Damage; damage != nil {
				r.Log.Warn("the task is not finished: going on from its parts", "task", own.String(), "reason", damage)
			}
			todo = append(todo, k)
		case r.Retry:
			again, err := job.WorthRetrying[job.Prediction](ctx, r.Store, own)
			if err != nil {
				return nil, err
			}
			if again {
				todo = append(todo, k)
			}
		}
	}
	return todo, nil
}

// connect brings up the model's servers.
func (r *reading) connect(ctx context.Context) error {
	at, err := r.bring(ctx)
	if err != nil {
		return err
	}
	if err := r.check(ctx, at.Args()); err != nil {
		return errors.Join(err, fleet.Close(r.servers))
	}
	each := inFlight
	if r.Entropy || r.Corpus.KeepsLogits(r.Reader) {
		each = entropyInFlight
	}
	r.slots = make(chan fleet.Server, each*len(r.servers))
	for range each {
		for _, s := range r.servers {
			r.slots <- s
		}
	}
	return nil
}

// bring waits for the model's servers.
func (r *reading) bring(ctx context.Context) (at *fleet.Fleet, err error) {
	if r.Keep == nil {
		one, err := r.arrange(ctx, r.Reader)
		if err != nil {
			return nil, err
		}
		r.servers, err = one[0].All(ctx)
		return one[0], err
	}
	r.wanted[r.Model] = true // also to try again what failed
	if err := r.loads.start(ctx, r.Options, r.wanted); err != nil {
		return nil, err
	}
	r.servers, err = r.loads.take(ctx, r.Model)
	return r.loads.fleets[r.Model], err
}

// check asks each server whether it serves the model, and records what answers.
func (r *reading) check(ctx context.Context, args []string) error {
	var fit []fleet.Server
	for _, s := range r.servers {
		client, _, err := s.Client(ctx)
		if err != nil {
			return err
		}
		served, err := client.Check(ctx, vllm.Want{Model: client.Model, VocabSize: r.model.VocabSize})
		if err != nil {
			return err
		}
		if fits, err := r.fits(ctx, client); err != nil {
			return err
		} else if !fits {
			continue
		}
		fit = append(fit, s)
		if r.length == 0 || served.MaxModelLen < r.length {
			r.length = served.MaxModelLen
		}
	}
	if len(fit) == 0 {
		return r.unfit()
	}
	r.servers = fit // at URLs; those of the task's own are alike
	e := fleet.Engine{Deterministic: r.Deterministic}
	if err := e.Ask(ctx, r.servers[0], args, 0); err != nil {
		return err
	}
	e.MaxModelLen, e.Args = "", withoutWindow(e.Args) // what was too long is read again with a larger one
	var err error
	r.engine, err = e.Keep(ctx, r.Store, job.CorpusEngineKey(r.Side), r.AllowMixedEngines, r.Log)
	return err
}

// k is how many scores the reading needs at each position.
func (r *reading) k() int {
	switch {
	case r.Entropy:
		return r.Corpus.Top
	case r.Corpus.Top > 0 && r.Corpus.KeepsLogits(r.Reader):
		return max(evidence, r.Corpus.Logits)
	case r.Corpus.KeepsLogits(r.Reader):
		return r.Corpus.Logits
	case r.Corpus.Top > 0:
		return evidence
	}
	return 1
}

// fits asks a server whether its scores are what the reading needs: logits for AU and
// EU, log-probabilities for the entropy. Probabilities are at most 1 in all.
func (r *reading) fits(ctx context.Context, c *vllm.Client) (bool, error) {
	if r.Corpus.Top == 0 && !r.Corpus.KeepsLogits(r.Reader) {
		return true, nil // the best token is the same by both
	}
	probe := make([]int32, 16)
	for i := range probe {
		probe[i] = int32(i * r.model.VocabSize / len(probe))
	}
	read, err := c.Predict(ctx, probe, r.k())
	if err != nil {
		return false, fmt.Errorf("ask %s for %d scores at each position (does it run with --max-logprobs %d?): %w", c.URL(), r.k(), r.k(), err)
	}
	most := 0.0
	for i := 0; i < len(read.Top); i += r.k() {
		sum := 0.0
		for _, v := range read.Top[i : i+r.k()] {
			sum += math.Exp(v)
		}
		most = max(most, sum)
	}
	return r.Entropy == (most < 1.001), nil
}

func (r *reading) unfit() error {
	if r.Entropy {
		return failure.New(failure.Refused, "give a server without --logprobs-mode raw_logits too (with --max-logprobs "+strconv.Itoa(r.k())+"), or --measures none",
			"no server of the %s model gives log-probabilities, of which the entropy is made", r.model.Side)
	}
	return failure.New(failure.Refused, "AU, EU and --logits need vLLM "+vllm.Since(vllm.PromptLogits).String()+" or later, with --logprobs-mode raw_logits; without it leave --logits out and give --measures none",
		"no server of the %s model gives logits", r.model.Side)
}

// withoutWindow leaves the flag of the window out of a server's.
func withoutWindow(args []string) []string {
	var kept []string
	for i := 0; i < len(args); i++ {
		switch name, _, whole := strings.Cut(args[i], "="); {
		case name == "--max-model-len" && !whole:
			i++
		case name != "--max-model-len":
			kept = append(kept, args[i])
		}
	}
	return kept
}

// shards sends the shards' texts to the servers.
func (r *reading) shards(admit, ctx context.Context, todo []int) error {
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	for _, s := range r.servers {
		if _, own := s.Engine(); own {
			continue
		}
		go func() {
			if err := fleet.Watch(ctx, s, r.Stall, func() int { return cap(r.slots) - len(r.slots) }); err != nil {
				giveUp(err)
			}
		}()
	}
	asks, actx := errgroup.WithContext(ctx)
	r.asks = asks
	way := stage.Stage[*job.Source, job.Prediction]{
		Store: r.Store, Manifest: r.Corpus.OpenManifest, Texts: job.Sources, Rows: func(*job.Source) int { return 1 }, Work: r.work,
		Task: func(m *job.Manifest) job.Task { return r.task(m.Index) }, Open: r.open, Retry: func(int) bool { return r.Retry },
		PartEvery: r.PartEvery, Who: r.Who, Log: r.Log, Lane: r.meter, Summary: r.sum, Settles: true,
	}
	err := way.Run(admit, actx, todo)
	asked := actx.Err() == nil // asks.Wait ends actx
	if failed := asks.Wait(); failed != nil && (!asked || err == nil) {
		return failed // of which err is a consequence
	}
	return err
}

// shardRun is a shard on its way. It is the stage's Work.
type shardRun struct {
	*reading
	*stage.Shard[*job.Source, job.Prediction]
	tokens *job.Committed[job.Prediction] // of the model that tokenises; nil where that is this one
}

func (r *reading) open(ctx context.Context, sh *stage.Shard[*job.Source, job.Prediction]) (stage.Work[*job.Source], error) {
	run := &shardRun{reading: r, Shard: sh}
	if r.tokenizes() {
		return run, nil
	}
	var err error
	run.tokens, err = job.OpenCommitted[job.Prediction](ctx, r.Store, r.Corpus.Task(sh.Manifest.Index, r.Corpus.Tokenizes().Side))
	return run, err
}

// Begin is the stage's; nothing has to be prepared.
func (run *shardRun) Begin(context.Context, context.Context) error { return nil }

// End is the stage's; nothing is left to be closed.
func (run *shardRun) End(*job.Commit) error { return nil }

// Text has a server read a text, as soon as one has a place for it.
func (run *shardRun) Text(admit, ctx context.Context, x *job.Source) (bool, error) {
	var before *job.Prediction // of the model that tokenises
	if run.tokens != nil {
		rows, err := run.tokens.Text(ctx, x.Ordinal)
		if err == nil && len(rows) != 1 {
			err = failure.New(failure.Refused, "remove the commit: the task then goes on from its parts", "%s has %d rows of text %d",
				run.Corpus.Task(run.Manifest.Index, run.Corpus.Tokenizes().Side), len(rows), x.Ordinal)
		}
		if err != nil {
			run.Drop()
			return false, err
		}
		before = &rows[0]
	}
	var server fleet.Server
	select {
	case server = <-run.slots:
	case <-admit.Done():
		run.Drop()
		return false, nil
	case <-ctx.Done():
		run.Drop()
		return false, context.Cause(ctx)
	}
	run.asks.Go(func() error {
		took := job.Counters{}
		row, err := run.read(ctx, server, x, before, took)
		run.slots <- server
		if err != nil {
			run.Drop()
			return err
		}
		run.count(x, row, took)
		return run.Done([]job.Prediction{*row})
	})
	return true, nil
}
