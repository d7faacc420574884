package tasks

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"tokenfork/internal/job"
	"tokenfork/internal/store"
)

// Attempt is a runner's record of its start and end, as a listing shows it.
type Attempt struct {
	Start time.Time
	Ended bool
	Last  time.Time // of the later of both

	key string // without .start.json or .end.json
}

// Record is the key of the attempt's newest record, a job.Attempt or a job.Ending.
func (a *Attempt) Record() string {
	if a.Ended {
		return a.key + endSuffix
	}
	return a.key + startSuffix
}

const startSuffix, endSuffix = ".start.json", ".end.json"

// Attempts are the runners' records of each stage, side and shard. Sides are
// job.Sides' names, both, or a judging's.
func Attempts(ctx context.Context, s store.Store, shard int) (map[Key][]*Attempt, error) {
	all := map[Key][]*Attempt{}
	for _, stage := range Stages {
		for o, err := range s.List(ctx, prefix(job.AttemptPrefix, stage, shard)) {
			if err != nil {
				return nil, fmt.Errorf("list the attempts of %s: %w", s, err)
			}
			if k, name, ok := attemptKey(o.Key); ok {
				all[k] = addRecord(all[k], name, o)
			}
		}
	}
	return all, nil
}

// addRecord adds a record to the last attempt if that has the name: a listing
// is in order of key.
func addRecord(all []*Attempt, name string, o store.Object) []*Attempt {
	if len(all) == 0 || all[len(all)-1].key != name {
		all = append(all, &Attempt{key: name})
	}
	one := all[len(all)-1]
	if strings.HasSuffix(o.Key, endSuffix) {
		one.Ended = true
	} else {
		one.Start = o.Modified
	}
	if o.Modified.After(one.Last) {
		one.Last = o.Modified
	}
	return all
}

// attemptKey splits attempts/<stage>/<shard>/<side>.<id>.start.json or .end.json.
func attemptKey(key string) (k Key, name string, ok bool) {
	at := strings.Split(key, "/")
	name, started := strings.CutSuffix(key, startSuffix)
	name, ended := strings.CutSuffix(name, endSuffix)
	if len(at) != 4 || !started && !ended {
		return k, "", false
	}
	shard, err := strconv.Atoi(at[2])
	side, _, _ := strings.Cut(at[3], ".")
	return Key{at[1], side, shard}, name, err == nil
}
