package job

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"tokenfork/internal/columnar"
	"tokenfork/internal/failure"
	"tokenfork/internal/store"
)

// Row is a row of a part. Every row belongs to a text, and may be a failure.
type Row interface {
	TextOrdinal() int64
	Failed() bool
}

// Task is one side's (or one judging's) work on one shard.
type Task struct {
	Stage    string // predict, infer or judge
	Shard    int
	Side     string // small, reference, a judging's id, or a model of predict's
	Manifest string // sha256 of the shard's manifest
}

// Prefix is where the task's objects are.
func (t Task) Prefix() string { return fmt.Sprintf("parts/%s/%05d/%s/", t.Stage, t.Shard, t.Side) }

// JudgingPrefix is where a job's judgings are described, each in ID.json.
const JudgingPrefix = "judgings/"

// Again is how a user has the task done again; flags are further ones of the
// command. The job keeps those that name infer's servers and a judging's judge.
func (t Task) Again(ctx context.Context, s store.Store, flags ...string) string {
	flags = append([]string{"--shard", strconv.Itoa(t.Shard)}, flags...)
	if t.Stage != "judge" {
		kept, _ := InferFlags(ctx, s) // without them the command still says what to do
		return "`" + Command(s, t.Stage, append(flags, kept...)...) + "`"
	}
	var record struct{ Flags []string }
	b, err := store.ReadAll(ctx, s, JudgingPrefix+t.Side+".json")
	if err == nil {
		err = json.Unmarshal(b, &record)
	}
	if err != nil || len(record.Flags) == 0 {
		return "`" + Command(s, t.Stage, flags...) + "` with the same judge and its flags"
	}
	return "`" + Command(s, t.Stage, append(flags, record.Flags...)...) + "`"
}

func (t Task) String() string { return fmt.Sprintf("%s of shard %d, %s", t.Stage, t.Shard, t.Side) }

const (
	attemptName   = "attempt.json"
	partMetadata  = "tokenfork_part"
	flushRows     = 20_000 // about 2 MB of a part
	maxWaitingFor = 4      // parts' worth of rows that may wait for a slow store
)

// partHead is kept in a part's schema.
type partHead struct {
	Manifest string            `json:"manifest_sha256"`
	Task     string            `json:"task"`
	Counters Counters          `json:"counters"`
	Inputs   map[string]string `json:"inputs_sha256,omitempty"` // see Log.From
}

// Log takes a task's finished texts and keeps them as immutable parts.
type Log[T Row] struct {
	store store.Store
	task  Task
	plan  string // the job's id
	who   Attempt
	every time.Duration

	mu       sync.Mutex
	flushed  *sync.Cond
	rows     []T
	counters Counters
	next     int // part number
	parts    map[string]*loaded
	owner    map[int64]owner // by text
	retry    bool            // failed texts are open
	listed   map[string]bool // parts of the commit that a retry replaces
	inputs   map[string]int  // see Commit
	sums     map[string]string
	round    int    // of the commit to be
	damaged  string // key of the damaged commit that it replaces
	err      error
	wake     chan struct{}
	stop     chan struct{}
	done     chan struct{}
}

// owner is the part whose rows of a text count.
type owner struct {
	key    string
	failed int // rows
}

type loaded struct {
	sum      string
	rows     int
	counters Counters
}

// OpenLog reads what every earlier attempt at the task left and starts a new
// one. Finished texts become a part when enough rows wait, and at least
// every so often.
func OpenLog[T Row](ctx context.Context, s store.Store, plan string, t Task, who Attempt, every time.Duration) (*Log[T], error) {
	return openLog[T](ctx, s, plan, t, who, every, 0, false)
}

// OpenTask opens the log of a task that is not finished. before is the task's
// commit: of a finished task, which has no log; or, with retry, the one that the
// log's will replace, because rows failed or parts are damaged. The texts
// that failed are then open. A damaged commit does not finish a task.
func OpenTask[T Row](ctx context.Context, s store.Store, plan string, t Task, who Attempt, every time.Duration, retry bool) (l *Log[T], before *Committed[T], err error) {
	round, err := lastRound(ctx, s, t)
	if err != nil {
		return nil, nil, err
	}
	c, err := loadCommit(ctx, s, t, round)
	switch {
	case errors.Is(err, fs.ErrNotExist), IsDamagedCommit(err):
	case err != nil:
		return nil, nil, err
	default:
		if before, err = newCommitted[T](s, t, c); err != nil {
			return nil, nil, err
		}
		if !retry || !before.worthRetrying(ctx) {
			return nil, before, nil
		}
	}
	damaged := ""
	if IsDamagedCommit(err) {
		damaged = CommitKey(t, round)
	}
	if l, err = openLog[T](ctx, s, plan, t, who, every, round+1, before != nil); err != nil {
		return nil, nil, err
	}
	l.damaged = damaged
	return l, before, nil
}

func openLog[T Row](ctx context.Context, s store.Store, plan string, t Task, who Attempt, every time.Duration, round int, retry bool) (*Log[T], error) {
	who = who.named()
	l := &Log[T]{store: s, task: t, plan: plan, who: who, every: every, counters: Counters{}, parts: map[string]*loaded{},
		owner: map[int64]owner{}, listed: map[string]bool{}, retry: retry, round: round, wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	l.flushed = sync.NewCond(&l.mu)
	if retry && round > 0 {
		last, err := ReadCommit(ctx, s, t, round-1)
		if err != nil {
			return nil, err
		}
		for _, p := range last.Parts {
			l.listed[p.Key] = true
		}
	}
	if err := l.resume(ctx); err != nil {
		return nil, err
	}
	b, err := json.Marshal(who)
	if err != nil {
		return nil, fmt.Errorf("describe the attempt: %w", err)
	}
	if err := store.CreateBytes(ctx, s, t.Prefix()+who.ID+"/"+attemptName, b); err != nil {
		return nil, fmt.Errorf("start an attempt at %s: %w", t, err)
	}
	go l.flushLoop(context.WithoutCancel(ctx))
	return l, nil
}

// resume reads parts in ascending order of key, so that of two parts with one
// text, both as good, the smaller name wins. A damaged part counts for nothing: its
// texts are done again.
func (l *Log[T]) resume(ctx context.Context) error {
	for o, err := range l.store.List(ctx, l.task.Prefix()) {
		if err != nil {
			return fmt.Errorf("list the parts of %s: %w", l.task, err)
		}
		if !strings.HasSuffix(o.Key, ".arrow") {
			continue
		}
		p, err := readPart[T](ctx, l.store, o.Key, l.task)
		if _, ok := errors.AsType[*damagedError](err); ok {
			continue
		}
		if err != nil {
			return err
		}
		l.take(o.Key, p)
	}
	return nil
}

func (l *Log[T]) take(key string, p *part[T]) {
	l.parts[key] = &loaded{sum: p.sum, rows: len(p.rows), counters: p.head.Counters}
	here := map[int64]owner{}
	for _, r := range p.rows {
		o := owner{key, here[r.TextOrdinal()].failed}
		if r.Failed() {
			o.failed++
		}
		here[r.TextOrdinal()] = o
	}
	for n, o := range here {
		before, ok := l.owner[n]
		again := l.listed[before.key] && !l.listed[key] // what a retry found, which is newer
		if !ok || o.failed < before.failed || o.failed == before.failed && again {
			l.owner[n] = o
		}
	}
}

// Has says whether the text is finished.
func (l *Log[T]) Has(ordinal int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	o, ok := l.owner[ordinal]
	return ok && !(l.retry && o.failed > 0)
}

// Attempt is this attempt's record.
func (l *Log[T]) Attempt() Attempt { return l.who }

// From says of which rounds of its inputs, by side, the task's rows are made, and the
// sha256 of all inputs by name, which its parts keep. It comes before the first row.
func (l *Log[T]) From(rounds map[string]int, sums map[string]string) { l.inputs, l.sums = rounds, sums }

// Count adds to the counters that go with the next part.
func (l *Log[T]) Count(c Counters) {
	l.mu.Lock()
	l.counters.Add(c)
	l.mu.Unlock()
}

// Add takes all rows of a finished text. It waits while the store lags far
// behind, and returns the store's error once there is one.
func (l *Log[T]) Add(rows []T) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.err == nil && len(l.rows) > maxWaitingFor*flushRows {
		l.flushed.Wait()
	}
	if l.err != nil {
		return l.err
	}
	l.rows = append(l.rows, rows...)
	if len(l.rows) >= flushRows {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
	return nil
}

func (l *Log[T]) flushLoop(ctx context.Context) {
	defer close(l.done)
	tick := time.NewTicker(l.every)
	defer tick.Stop()
	for {
		select {
		case <-l.stop:
			l.flush(ctx)
			return
		case <-l.wake:
		case <-tick.C:
		}
		l.flush(ctx)
	}
}

// flush writes the waiting rows as one part. Only flushLoop calls it.
func (l *Log[T]) flush(ctx context.Context) {
	l.mu.Lock()
	rows, counters := l.rows, l.counters
	key := fmt.Sprintf("%s%s/%05d-%d.arrow", l.task.Prefix(), l.who.ID, l.next, len(rows)) // rows: for status, which reads no parts
	if len(rows) == 0 || l.err != nil {
		l.mu.Unlock()
		return
	}
	l.rows, l.counters = nil, Counters{}
	l.next++
	l.mu.Unlock()

	p, err := writePart(ctx, l.store, key, partHead{l.task.Manifest, l.task.String(), counters, l.sums}, rows)

	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.err = fmt.Errorf("write part %s: %w", key, err)
	} else {
		l.take(key, p)
	}
	l.flushed.Broadcast()
}

// Close writes what waits and ends the attempt without committing.
func (l *Log[T]) Close() error {
	select {
	case <-l.stop:
	default:
		close(l.stop)
	}
	<-l.done
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Commit closes the log and declares the task done; texts are all that the
// shard has. The first commit wins: another attempt's is returned with
// fs.ErrExist, which is no failure.
func (l *Log[T]) Commit(ctx context.Context, texts []int64) (*Commit, error) {
	if err := l.Close(); err != nil {
		return nil, err
	}
	c := &Commit{Format: Format, Job: l.plan, Manifest: l.task.Manifest, Stage: l.task.Stage, Shard: l.task.Shard, Side: l.task.Side,
		Attempt: l.who, Counters: Counters{}, Inputs: l.inputs}
	of := map[string][]int64{}
	for _, n := range texts {
		o, ok := l.owner[n]
		if !ok {
			return nil, fmt.Errorf("commit %s: text %d is in no part", l.task, n)
		}
		of[o.key] = append(of[o.key], n)
		c.Failed += o.failed
	}
	for _, key := range slices.Sorted(maps.Keys(l.parts)) {
		p := l.parts[key]
		c.Counters.Add(p.counters) // work that another part made superfluous was work all the same
		if len(of[key]) > 0 {
			c.Parts = append(c.Parts, Part{Key: key, SHA256: p.sum, Rows: p.rows, Texts: of[key]})
			c.Rows += p.rows
		}
	}
	b, err := SealJSON(c)
	if err != nil {
		return nil, fmt.Errorf("encode commit: %w", err)
	}
	err = store.CreateBytes(ctx, l.store, CommitKey(l.task, l.round), b)
	if errors.Is(err, fs.ErrExist) {
		theirs, lerr := LoadCommit(ctx, l.store, l.task)
		if lerr != nil {
			return nil, lerr
		}
		return theirs, err
	}
	if err != nil {
		return nil, fmt.Errorf("commit %s: %w", l.task, err)
	}
	if l.damaged != "" {
		err = l.store.Remove(ctx, l.damaged)
	}
	return c, err
}

// part is one part in memory.
type part[T Row] struct {
	head partHead
	sum  string
	rows []T
}

func writePart[T Row](ctx context.Context, s store.Store, key string, h partHead, rows []T) (*part[T], error) {
	md, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	sealed := newSealer(&b)
	w, err := columnar.NewStreamWriter[T](sealed, columnar.Metadata(map[string]string{partMetadata: string(md)}))
	if err != nil {
		return nil, err
	}
	for i := range rows {
		if err := w.Write(&rows[i]); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	sum, err := sealed.seal()
	if err != nil {
		return nil, err
	}
	return &part[T]{h, sum, rows}, store.CreateBytes(ctx, s, key, b.Bytes())
}

// damagedError is a part that is there but can't be used.
type damagedError struct {
	key string
	err error
}

func (e *damagedError) Error() string { return fmt.Sprintf("part %s is damaged: %v", e.key, e.err) }
func (e *damagedError) Unwrap() error { return e.err }

func readPart[T Row](ctx context.Context, s store.Store, key string, t Task) (*part[T], error) {
	b, err := store.ReadAll(ctx, s, key)
	if err != nil {
		return nil, fmt.Errorf("read part %s: %w", key, err)
	}
	body, sum, err := unseal(b)
	if err != nil {
		return nil, &damagedError{key, err}
	}
	r, err := columnar.ReadStream[T](bytes.NewReader(body))
	if err != nil {
		return nil, &damagedError{key, err}
	}
	p := &part[T]{sum: sum}
	if err := json.Unmarshal([]byte(r.Metadata()[partMetadata]), &p.head); err != nil {
		return nil, &damagedError{key, err}
	}
	if p.head.Manifest != t.Manifest {
		return nil, failure.New(failure.Refused, "plan and run in a new job", "part %s of %s is for another manifest", key, s)
	}
	for rows, err := range r.Batches() {
		if err != nil {
			return nil, &damagedError{key, err}
		}
		if p.rows == nil { // mostly there is one batch
			p.rows = rows
		} else {
			p.rows = append(p.rows, rows...)
		}
	}
	return p, nil
}
