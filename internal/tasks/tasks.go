// Package tasks says which of a job's tasks are finished, from the listing of
// its store and, where that must be certain, from the commits themselves.
// Every command asks here: what one calls finished no other refuses.
package tasks

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"tokenfork/internal/job"
	"tokenfork/internal/store"
)

// Stages that work on shards, in order.
var Stages = []string{"predict", "infer", "judge"}

// AllShards is given for a shard to mean all of the job.
const AllShards = -1

// Key names a task: Side is small, reference or, for judge, a judging's id.
type Key struct {
	Stage string
	Side  string
	Shard int
}

// KeyOf is the task's name.
func KeyOf(t job.Task) Key { return Key{t.Stage, t.Side, t.Shard} }

// Objects is what the job's store holds of a task.
type Objects struct {
	Committed time.Time // when the commit that counts was written; zero: there is none
	Damage    error     // why that commit cannot be used; known after Verify
	Outdated  bool      // a judging of continuations some of which were made again since; known after Verify
	Kept      int       // objects with results, committed or not
	Attempts  int
	Last      time.Time // of any object of the task's
	Parts     []Part

	round    int // of the commit that counts
	verified bool
}

// Part is a part as the listing tells it.
type Part struct {
	At   time.Time
	Rows int64
}

// Finished says whether the task has a commit that, as far as it was verified, can be used
// and is up to date.
func (o *Objects) Finished() bool { return !o.Committed.IsZero() && o.Damage == nil && !o.Outdated }

// Rows sums the task's parts.
func (o *Objects) Rows() int64 {
	n := int64(0)
	for _, p := range o.Parts {
		n += p.Rows
	}
	return n
}

// Table is what the store holds of each task.
type Table struct {
	store store.Store
	tasks map[Key]*Objects
}

// List looks at every task, or at one shard's. It reads no object: a listing
// of 10,000 shards stays cheap.
func List(ctx context.Context, s store.Store, shard int) (*Table, error) {
	t := &Table{s, map[Key]*Objects{}}
	for _, stage := range Stages {
		for o, err := range s.List(ctx, prefix("parts/", stage, shard)) {
			if err != nil {
				return nil, fmt.Errorf("list the parts of %s: %w", s, err)
			}
			t.add(o)
		}
	}
	return t, nil
}

// ListShards is List for those who work on these shards: of one alone it lists no other.
func ListShards(ctx context.Context, s store.Store, shards []int) (*Table, error) {
	if len(shards) == 1 {
		return List(ctx, s, shards[0])
	}
	return List(ctx, s, AllShards)
}

// prefix is a stage's below top, of one shard or of all.
func prefix(top, stage string, shard int) string {
	top += stage + "/"
	if shard != AllShards {
		top += fmt.Sprintf("%05d/", shard)
	}
	return top
}

// add sorts an object in: parts/<stage>/<shard>/<side>/commit.json or …/<attempt>/<name>.
func (t *Table) add(o store.Object) {
	at := strings.SplitN(o.Key, "/", 5)
	if len(at) < 5 {
		return
	}
	shard, err := strconv.Atoi(at[2])
	if err != nil {
		return
	}
	k := Key{at[1], at[3], shard}
	task := t.tasks[k]
	if task == nil {
		task = &Objects{}
		t.tasks[k] = task
	}
	if o.Modified.After(task.Last) {
		task.Last = o.Modified
	}
	if round, ok := job.CommitRound(at[4]); ok {
		task.Kept++
		if task.Committed.IsZero() || round > task.round {
			task.Committed, task.round = o.Modified, round
		}
		return
	}
	switch name := path.Base(o.Key); {
	case name == "attempt.json":
		task.Attempts++
	case strings.HasSuffix(name, ".arrow"):
		_, rows, _ := strings.Cut(strings.TrimSuffix(name, ".arrow"), "-")
		n, _ := strconv.ParseInt(rows, 10, 64) // a name without them counts as none
		task.Parts = append(task.Parts, Part{o.Modified, n})
		task.Kept++
	default:
		task.Kept++
	}
}

// Of is what the store holds of the task; never nil.
func (t *Table) Of(k Key) *Objects {
	if o := t.tasks[k]; o != nil {
		return o
	}
	return &Objects{}
}

// All are the tasks of which the store holds anything.
func (t *Table) All() map[Key]*Objects { return t.tasks }

// CommitKey is the key of the task's commit that counts; "" if there is none.
func (t *Table) CommitKey(task job.Task) string {
	o := t.Of(KeyOf(task))
	if o.Committed.IsZero() {
		return ""
	}
	return job.CommitKey(task, o.round)
}

// readers is how many commits are read at once.
const readers = 32

// Verify reads the commits of the tasks that have one and notes which are damaged.
func (t *Table) Verify(ctx context.Context, all []job.Task) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	seen := map[Key]bool{}
	for _, task := range all {
		o := t.tasks[KeyOf(task)]
		if o == nil || o.Committed.IsZero() || o.verified || seen[KeyOf(task)] {
			continue
		}
		seen[KeyOf(task)] = true
		g.Go(func() error {
			c, err := job.ReadCommit(gctx, t.store, task, o.round)
			switch {
			case err == nil && task.Stage == "judge":
				for _, side := range job.Sides {
					o.Outdated = o.Outdated || c.Outdated(side.String(), t.Of(Key{"infer", side.String(), task.Shard}).round)
				}
			case errors.Is(err, fs.ErrNotExist): // removed since it was listed
				o.Committed = time.Time{}
			case job.IsDamagedCommit(err):
				o.Damage = err
			case err != nil:
				return err
			}
			o.verified = true
			return nil
		})
	}
	return g.Wait()
}

// Unfinished verifies the tasks and gives those that have no usable commit.
func (t *Table) Unfinished(ctx context.Context, all []job.Task) ([]job.Task, error) {
	if err := t.Verify(ctx, all); err != nil {
		return nil, err
	}
	var open []job.Task
	for _, task := range all {
		if !t.Of(KeyOf(task)).Finished() {
			open = append(open, task)
		}
	}
	return open, nil
}

// Describe names the task with, if its commit is damaged, that reason.
func (t *Table) Describe(task job.Task) string {
	if damage := t.Of(KeyOf(task)).Damage; damage != nil {
		return fmt.Sprintf("%s (%v)", task, damage)
	}
	return task.String()
}
