package job

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"tokenfork/internal/failure"
	"tokenfork/internal/store"
)

// Part is a finished piece of a task's rows, as a commit lists it.
type Part struct {
	Key    string  `json:"key"`
	SHA256 string  `json:"sha256"`
	Rows   int     `json:"rows"`
	Texts  []int64 `json:"sentences"` // ordinals for which this part counts
}

// Commit says that a task is done, and by which parts. Each text is in
// one part's list.
type Commit struct {
	Format   int      `json:"format"`
	Job      string   `json:"job"`
	Manifest string   `json:"manifest_sha256"`
	Stage    string   `json:"stage"`
	Shard    int      `json:"shard"`
	Side     string   `json:"side"`
	Attempt  Attempt  `json:"attempt"` // the one that committed
	Parts    []Part   `json:"parts"`
	Rows     int      `json:"rows"`
	Failed   int      `json:"failed"`
	Counters Counters `json:"counters"`
	// Inputs are the rounds of the commits that this one's rows were made from, by
	// side: of a judging, infer's. A side that is not named had round 0.
	Inputs map[string]int `json:"inputs,omitempty"`
	Sum    string         `json:"sha256,omitempty"` // see SealJSON: without it the commit is damaged

	round int
}

const commitName = "commit.json"

// CommitKey is where a task's commit is. round counts how often the task was
// opened again: because something in it failed, or because its last commit or
// a part was damaged. Of a task's commits the one of the last round counts.
func CommitKey(t Task, round int) string {
	if round == 0 {
		return t.Prefix() + commitName
	}
	return fmt.Sprintf("%s%s.%04d", t.Prefix(), commitName, round)
}

// CommitRound is the round of a commit by its file name; ok is false for any other file.
func CommitRound(name string) (round int, ok bool) {
	if name == commitName {
		return 0, true
	}
	digits, ok := strings.CutPrefix(name, commitName+".")
	if !ok {
		return 0, false
	}
	round, err := strconv.Atoi(digits)
	return round, err == nil && round > 0
}

// lastRound finds the task's commit that counts; -1 if the task has none.
func lastRound(ctx context.Context, s store.Store, t Task) (int, error) {
	last := -1
	for o, err := range s.List(ctx, t.Prefix()+commitName) {
		if err != nil {
			return -1, fmt.Errorf("look for the commit of %s: %w", t, err)
		}
		if round, ok := CommitRound(strings.TrimPrefix(o.Key, t.Prefix())); ok {
			last = max(last, round)
		}
	}
	return last, nil
}

// damagedCommit is a commit that is there but cannot be used.
type damagedCommit struct{ error }

func (e damagedCommit) Unwrap() error { return e.error }

// IsDamagedCommit says whether err is that a task's commit is damaged: the
// task then counts as unfinished, and its stage writes a new commit.
func IsDamagedCommit(err error) bool { return errors.As(err, new(damagedCommit)) }

// ReadCommit reads the commit of a round and checks its seal. Of the task its
// manifest is not needed.
func ReadCommit(ctx context.Context, s store.Store, t Task, round int) (*Commit, error) {
	key := CommitKey(t, round)
	b, err := store.ReadAll(ctx, s, key)
	if err != nil {
		return nil, fmt.Errorf("read %s of %s: %w", key, s, err)
	}
	var c Commit
	if err := OpenJSON(b, &c); err != nil {
		return nil, damagedCommit{failure.New(failure.Refused, t.Again(ctx, s), "%s of %s is damaged: %w", key, s, err)}
	}
	c.round = round
	return &c, nil
}

// Round counts how often the task had been opened again before this commit.
func (c *Commit) Round() int { return c.round }

// Outdated says whether rows of a judging that failed may do better now: a side
// was generated again since, and is at that round.
func (c *Commit) Outdated(side string, round int) bool { return c.Failed > 0 && round > c.Inputs[side] }

// LoadCommit gives the task's commit; fs.ErrNotExist (errors.Is) if it is open.
func LoadCommit(ctx context.Context, s store.Store, t Task) (*Commit, error) {
	round, err := lastRound(ctx, s, t)
	if err != nil {
		return nil, err
	}
	return loadCommit(ctx, s, t, round)
}

func loadCommit(ctx context.Context, s store.Store, t Task, round int) (*Commit, error) {
	if round < 0 {
		return nil, fmt.Errorf("%s is not committed: %w", t, fs.ErrNotExist)
	}
	c, err := ReadCommit(ctx, s, t, round)
	if err == nil && c.Manifest != t.Manifest {
		return nil, failure.New(failure.Refused, "plan and run in a new job", "%s of %s is for another manifest (sha256 %s, here %s)", CommitKey(t, round), s, c.Manifest, t.Manifest)
	}
	return c, err
}
