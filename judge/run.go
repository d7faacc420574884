package judge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/progress"
	"tokenfork/internal/results"
	"tokenfork/internal/stage"
	"tokenfork/internal/store"
	"tokenfork/internal/tasks"
	"tokenfork/judge/agreement"
	"tokenfork/judge/endpoint"
)

// Options say what to judge and how to work. Only Settings and Model change
// what comes out.
type Options struct {
	Store    store.Store
	Shards   []int // nil: all of the job
	Retry    bool  // open committed shards again where verdicts failed or parts are damaged
	Settings Settings
	Model    string           // the judge's name in the results; "" takes what the server calls it
	Identity string           // what the judge is, beside its name: part of the judging; "" takes what the server says
	Flags    []string         // of tokenfork judge that name this judge and these settings, for messages and the record
	First    *FirstOptions    // who is asked first, nil for one judge alone
	Wanted   agreement.Wanted // of Gold with two judges

	// Batch sends the questions as batches of the OpenAI Batch API, which cost
	// less and take up to a day, and waits for them.
	Batch     bool
	BatchPoll time.Duration // how often it asks after a batch; 0 is a minute

	// AllowMissing passes over shards without continuations, which are an error else.
	AllowMissing bool

	// Connect says where the judge is and starts it if need be. It is called
	// once, when there is something to judge; Close ends what it started.
	Connect func(ctx context.Context) (Backend, error)

	PartEvery time.Duration // a verdict waits no longer to be kept
	Grace     time.Duration // for what is in flight when the task is told to stop
	Who       job.Attempt
	Log       *slog.Logger
	Console   io.Writer // progress
}

// Backend is a judge's server. What is not said of one of others is nil.
type Backend struct {
	endpoint.Config
	Done  <-chan struct{} // closed when it has died
	Err   func() error    // why
	Close func() error

	Running func() (up, restarts int64) // its servers, and how often one was restarted; nil: one, by somebody else
}

// Run judges what is generated and not yet judged. When ctx ends it asks
// nothing new, gives what is in flight the grace, keeps every verdict, and
// returns an error with failure.Stopped. The judging is that of the settings
// and the model.
func Run(ctx context.Context, o Options) (*Judging, error) {
	r, err := newRunner(ctx, &o)
	if err != nil {
		return nil, err
	}
	if o.Model != "" && o.Identity != "" && (o.First == nil || o.First.Model != "" && o.First.Identity != "") {
		if o.First != nil {
			r.first.named(o.First.Model, o.First.Identity)
		}
		// What is done can be told without the server, which may take long to start.
		r.judging = r.named(o.Model, o.Identity)
		if err := r.findWork(ctx); err != nil || len(r.todo) == 0 {
			return &r.judging, err
		}
	}
	at, err := r.connect(ctx)
	if err != nil {
		return nil, stopped(ctx, err)
	}
	err = errors.Join(r.work(ctx, at), at.close())
	return &r.judging, stopped(ctx, err)
}

// stopped gives an error that came of being told to stop the code that says so.
func stopped(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil || failure.Code(err) != failure.Other {
		return err
	}
	return failure.New(failure.Stopped, "start it again: verdicts are kept", "stopped on request: %w", err)
}

// runner is one run over some shards of a job.
type runner struct {
	*Options
	job       *job.Job
	prompt    *Prompt
	framer    Framer
	judging   Judging
	todo      []int        // shards with continuations and without a commit
	waiting   []int        // shards without continuations
	again     map[int]bool // of todo: continuations were made anew since they were judged
	judge     *Judge
	client    *endpoint.Client
	first     *firstJudge // nil: one judge alone
	escalated atomic.Int64
	asks      *errgroup.Group
	meter     *progress.Lane // counts mismatches
	sum       stage.Summary
	counts
}

func newRunner(ctx context.Context, o *Options) (*runner, error) {
	if err := o.Settings.Validate(); err != nil {
		return nil, err
	}
	j, err := job.Load(ctx, o.Store)
	if err != nil {
		return nil, err
	}
	o.Settings.Prompt = cmp.Or(o.Settings.Prompt, promptFor(&j.Settings))
	p, err := LoadPrompt(o.Settings)
	if err != nil {
		return nil, err
	}
	text, err := results.LoadText(ctx, o.Store)
	if err != nil {
		return nil, err
	}
	first, err := newFirst(o)
	if err != nil {
		return nil, err
	}
	return &runner{Options: o, job: j, prompt: p, first: first, framer: Framer{Plan: &j.Plan, Text: text, Context: o.Settings.Context}}, nil
}

func (r *runner) named(model, identity string) Judging {
	j := Judging{Format: judgingFormat, Model: model, Identity: identity, PromptVersion: r.prompt.Version, PromptHash: r.prompt.Hash, Settings: r.Settings}
	if r.first != nil {
		j.First = &r.first.about
	}
	return j
}

// findWork sorts the shards by what is there of them.
func (r *runner) findWork(ctx context.Context) error {
	shards, err := r.chosen()
	if err != nil {
		return err
	}
	r.todo, r.waiting = nil, nil
	if err := r.sort(ctx, shards); err != nil {
		return err
	}
	if len(r.todo) == 0 && len(r.waiting) == 0 {
		r.Log.Info("nothing to do: every shard is judged", "judging", r.judging.ID())
	}
	if len(r.todo) > 0 {
		return nil
	}
	if err := r.unready(ctx); err != nil {
		return err
	}
	return r.record().save(ctx, r.Store) // in case it was lost
}

// sort finds the shards that are to do and those that wait for continuations.
func (r *runner) sort(ctx context.Context, shards []int) error {
	table, err := tasks.List(ctx, r.Store, tasks.AllShards)
	if err != nil {
		return err
	}
	var all []job.Task
	for _, k := range shards {
		all = append(all, r.job.Tasks(k, r.judging.ID())...)
	}
	unfinished, err := table.Unfinished(ctx, all)
	if err != nil {
		return err
	}
	r.again = map[int]bool{}
	lacks := map[int]string{} // by shard: the first stage that is not finished
	for _, t := range unfinished {
		lacks[t.Shard] = cmp.Or(lacks[t.Shard], t.Stage)
		if damage := table.Of(tasks.KeyOf(t)).Damage; damage != nil {
			r.Log.Warn("the task is not finished", "task", t.String(), "reason", damage)
		}
	}
	for _, k := range shards {
		switch {
		case lacks[k] == "infer":
			r.waiting = append(r.waiting, k)
		case lacks[k] == "judge":
			r.todo = append(r.todo, k)
			if table.Of(tasks.KeyOf(r.task(k))).Outdated {
				r.again[k] = true
			}
		case r.Retry:
			again, err := job.WorthRetrying[job.Verdict](ctx, r.Store, r.task(k))
			if err != nil {
				return err
			}
			if again {
				r.todo = append(r.todo, k)
			}
		}
	}
	return nil
}

func (r *runner) inferred(k int, side job.Side) job.Task {
	return job.Task{Stage: "infer", Shard: k, Side: side.String(), Manifest: r.job.Shards[k].SHA256}
}

func (r *runner) task(k int) job.Task {
	return job.Task{Stage: "judge", Shard: k, Side: r.judging.ID(), Manifest: r.job.Shards[k].SHA256}
}

// unready is an error if shards wait for continuations.
func (r *runner) unready(ctx context.Context) error {
	if len(r.waiting) == 0 || r.AllowMissing {
		return nil
	}
	flags, err := job.InferFlags(ctx, r.Store)
	if err != nil {
		return err
	}
	return failure.New(failure.Refused, "run `"+job.Command(r.Store, "infer", flags...)+"` first", "shards without continuations: %s", tasks.Ranges(r.waiting))
}

func (r *runner) record() Record { return Record{r.judging, r.prompt.Text, r.Flags} }

// dial reaches the servers, settles with them how they are asked, and learns what the judges are.
func (r *runner) dial(ctx context.Context, at servers) (err error) {
	if at.first != nil {
		first := at.first.Config
		first.Budget.Tokens, first.Budget.Dollars = at.judge.Budget.Tokens, at.judge.Budget.Dollars
		if err := r.dialFirst(ctx, first); err != nil {
			return err
		}
	}
	cfg := at.judge.Config
	cfg.Log, cfg.Body = r.Log, r.Settings.Body
	if r.first != nil {
		cfg.Beside = r.first.client
	}
	if r.client, err = endpoint.Open(ctx, cfg); err != nil {
		return err
	}
	if err = r.client.Negotiate(ctx, r.prompt.request(r.Settings, "")); err != nil {
		return err
	}
	r.judging = r.named(cmp.Or(r.Model, r.client.Model()), cmp.Or(r.Identity, r.client.Identity()))
	r.judge = newJudge(r.prompt, r.judging, r.client)
	r.judge.sent.inBlocksOf(r.client.CacheBlock(ctx))
	return r.apart()
}

// warn tells of a judging in the job that differs in nothing but what the judge
// is: its verdicts stay, and all is asked again.
func (r *runner) warn(ctx context.Context) error {
	all, err := Judgings(ctx, r.Store)
	if err != nil {
		return err
	}
	for _, other := range all {
		if other.ID() == r.judging.ID() {
			return nil
		}
	}
	for _, other := range all {
		same := r.judging
		if same.Identity = other.Identity; same.ID() == other.ID() {
			r.Log.Warn("this is a new judging: the job's other one is by a judge of the same name that is another, or is reached elsewhere",
				"other", other.ID(), "its_judge", other.Identity, "judge", r.judging.Identity)
		}
	}
	return nil
}

// work opens the judge and sends it the shards.
func (r *runner) work(admit context.Context, at servers) error {
	if err := r.dial(admit, at); err != nil {
		return err
	}
	if err := r.findWork(admit); err != nil || len(r.todo) == 0 {
		return err
	}
	if err := r.warn(admit); err != nil {
		return err
	}
	r.Log.Info("judging", "judging", r.judging.ID(), "judge", r.client.Describe(), "prompt", r.prompt.Version, "shards", len(r.todo))
	if err := r.record().save(admit, r.Store); err != nil {
		return err
	}
	if r.Batch {
		if err := r.submit(admit); err != nil {
			return err
		}
	}
	err := r.shards(admit, at)
	if f := r.first; f != nil {
		u := f.client.Usage()
		r.Log.Info("first judge used", "judge", f.client.Describe(), "requests", u.Requests, "prompt_tokens", u.PromptTokens, "cached_tokens", u.CachedTokens, "completion_tokens", u.CompletionTokens,
			"dollars", u.Dollars, "escalated", r.escalated.Load())
	}
	u := r.client.Usage()
	r.Log.Info("judge used", "requests", u.Requests, "prompt_tokens", u.PromptTokens, "cached_tokens", u.CachedTokens,
		"completion_tokens", u.CompletionTokens, "dollars", u.Dollars, "throttled", u.Throttled, "retries", u.Retries, "identical", r.judge.count.identical.Load(), "repeated", r.judge.count.repeated.Load())
	if err != nil {
		return err
	}
	return cmp.Or(r.sum.Result("mismatches got no verdict"+r.byClass(),
		"`"+job.Command(r.Store, "merge", "--judging", r.judging.ID())+"` lists them in failures.csv"), r.unready(admit))
}

// shards judges all shards as one stream of questions, so that one shard's
// last questions run beside the next one's first.
func (r *runner) shards(admit context.Context, at servers) error {
	work, cancel := stage.Graceful(admit, r.Grace)
	defer cancel(nil)
	for _, server := range at.all() {
		go func() {
			select {
			case <-server.Done:
				cancel(failure.New(failure.Stopped, "start it again: verdicts are kept", "the judge's server is gone: %w", server.Err()))
			case <-work.Done():
			}
		}()
	}
	defer context.AfterFunc(admit, r.drain)()
	total := int64(0)
	for _, k := range r.todo {
		total += int64(r.job.Shards[k].Mismatches)
	}
	r.meter = progress.NewLane("", total, 0, func() progress.Reading { return r.reading(at) })
	defer progress.NewLanes(r.Console, "judge", "mismatches", r.meter).Close()

	asks, ctx := errgroup.WithContext(work)
	limit := 2 * r.client.InFlight()
	if r.first != nil {
		limit += 2 * r.first.client.InFlight()
	}
	asks.SetLimit(limit)
	r.asks = asks
	way := stage.Stage[*job.Text, job.Verdict]{
		Store: r.Store, Retry: func(k int) bool { return r.Retry || r.again[k] }, PartEvery: r.PartEvery, Who: r.Who, Log: r.Log, Lane: r.meter, Summary: &r.sum, Settles: true, Open: r.open,
		Manifest: job.OpenManifest, Texts: (*job.Manifest).Texts, Rows: func(x *job.Text) int { return len(x.Mismatches) },
		Task: func(m *job.Manifest) job.Task { return r.task(m.Index) },
	}
	err := way.Run(admit, ctx, r.todo)
	asked := ctx.Err() == nil // asks.Wait ends ctx
	if failed := asks.Wait(); failed != nil && (!asked || err == nil) {
		return failed // of which err is a consequence
	}
	return err
}

// reading is what the judges do.
func (r *runner) reading(at servers) progress.Reading {
	p := progress.Reading{InFlight: r.client.Under(), Counters: r.usage()}
	if r.first != nil {
		p.InFlight += r.first.client.Under()
	}
	delete(p.Counters, job.IdealTokens)    // an estimate, which may fall
	if p.Counters[job.CachedTokens] == 0 { // many servers do not tell
		delete(p.Counters, job.CachedTokens)
	}
	for _, server := range at.all() {
		up, restarts := int64(1), int64(0)
		if server.Running != nil {
			up, restarts = server.Running()
		}
		p.Servers, p.Restarts = p.Servers+up, p.Restarts+restarts
	}
	return p
}

// drain sends nothing new to either judge.
func (r *runner) drain() {
	r.client.Drain()
	if r.first != nil {
		r.first.client.Drain()
	}
}

// counts are what a run adds up beside its shards.
type counts struct {
	mu      sync.Mutex
	classes map[string]int // of this run's verdicts that could not be had
	used    job.Counters   // of the judge's usage, handed to a log
}

func (c *counts) count(v *job.Verdict) {
	if v.Error == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.classes == nil {
		c.classes = map[string]int{}
	}
	c.classes[*v.Error]++
}

// byClass lists this run's failures: earlier ones are only known by number.
func (c *counts) byClass() string {
	var b strings.Builder
	for _, class := range slices.Sorted(maps.Keys(c.classes)) {
		fmt.Fprintf(&b, ", %d %s", c.classes[class], class)
	}
	return b.String()
}
