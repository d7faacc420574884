// Package survey says how far a job is, from listings of its objects and a few
// small records: no part is read, so that a look at 10,000 shards stays cheap.
package survey

import (
	"context"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"tokenfork/internal/job"
	"tokenfork/internal/store"
)

// Key names a task: Side is small, reference or, for judge, a judging's id.
type Key struct {
	Stage string
	Side  string
	Shard int
}

// Objects is what the job holds of a task.
type Objects struct {
	Committed time.Time // zero: open
	Kept      int       // objects with results, committed or not
	Attempts  int
	Last      time.Time // of any object of the task's
	parts     []part
}

// part is a part of which the listing tells the rows.
type part struct {
	at   time.Time
	rows int64
}

// rows sums the task's parts.
func (o *Objects) rows() int64 {
	n := int64(0)
	for _, p := range o.parts {
		n += p.rows
	}
	return n
}

// Look lists what the job holds of every task, or of one shard's (all: -1).
func Look(ctx context.Context, s store.Store, shard int) (map[Key]*Objects, error) {
	tasks := map[Key]*Objects{}
	for _, stage := range stages {
		for o, err := range s.List(ctx, prefix("parts/", stage, shard)) {
			if err != nil {
				return nil, fmt.Errorf("list the parts of %s: %w", s, err)
			}
			see(tasks, o)
		}
	}
	return tasks, nil
}

// stages that work on shards.
var stages = []string{"infer", "judge"}

// prefix is a stage's below top, of one shard unless that is -1.
func prefix(top, stage string, shard int) string {
	top += stage + "/"
	if shard >= 0 {
		top += fmt.Sprintf("%05d/", shard)
	}
	return top
}

// see sorts an object in: parts/<stage>/<shard>/<side>/commit.json or …/<attempt>/<name>.
func see(tasks map[Key]*Objects, o store.Object) {
	at := strings.SplitN(o.Key, "/", 5)
	if len(at) < 5 {
		return
	}
	shard, err := strconv.Atoi(at[2])
	if err != nil {
		return
	}
	k := Key{at[1], at[3], shard}
	t := tasks[k]
	if t == nil {
		t = &Objects{}
		tasks[k] = t
	}
	if o.Modified.After(t.Last) {
		t.Last = o.Modified
	}
	switch name := path.Base(o.Key); {
	case strings.HasPrefix(at[4], "commit.json"): // one that was opened again has several
		t.Committed = o.Modified
		t.Kept++
	case name == "attempt.json":
		t.Attempts++
	case strings.HasSuffix(name, ".arrow"):
		_, rows, _ := strings.Cut(strings.TrimSuffix(name, ".arrow"), "-")
		n, _ := strconv.ParseInt(rows, 10, 64) // a name without them counts as none
		t.parts = append(t.parts, part{o.Modified, n})
		t.Kept++
	default:
		t.Kept++
	}
}

// sign is a start or an end of a runner, as a listing shows it.
type sign struct {
	key   string // without .start.json or .end.json
	start time.Time
	ended bool
	at    time.Time // of the later of both
}

// signs are the runners' records of each stage, side and shard (all: -1).
// Sides are job.Sides' names, both, or a judging's.
func signs(ctx context.Context, s store.Store, shard int) (map[Key][]*sign, error) {
	all := map[Key][]*sign{}
	for _, stage := range stages {
		for o, err := range s.List(ctx, prefix(job.AttemptPrefix, stage, shard)) {
			if err != nil {
				return nil, fmt.Errorf("list the attempts of %s: %w", s, err)
			}
			if k, name, ok := attemptKey(o.Key); ok {
				all[k] = note(all[k], name, o)
			}
		}
	}
	return all, nil
}

// note adds a record to the last sign, which it belongs to if that has the
// name: a listing is in order of key.
func note(all []*sign, name string, o store.Object) []*sign {
	if len(all) == 0 || all[len(all)-1].key != name {
		all = append(all, &sign{key: name})
	}
	one := all[len(all)-1]
	if strings.HasSuffix(o.Key, ".end.json") {
		one.ended = true
	} else {
		one.start = o.Modified
	}
	if o.Modified.After(one.at) {
		one.at = o.Modified
	}
	return all
}

// attemptKey splits attempts/<stage>/<shard>/<side>.<id>.start.json or .end.json.
func attemptKey(key string) (k Key, name string, ok bool) {
	at := strings.Split(key, "/")
	name, started := strings.CutSuffix(key, ".start.json")
	name, ended := strings.CutSuffix(name, ".end.json")
	if len(at) != 4 || !started && !ended {
		return k, "", false
	}
	shard, err := strconv.Atoi(at[2])
	side, _, _ := strings.Cut(at[3], ".")
	return Key{at[1], side, shard}, name, err == nil
}
