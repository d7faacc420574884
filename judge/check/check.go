// Package check reads every object that a job's results rest on, recomputes the
// results from them, and names what is missing or not what it was, with the
// command that fixes it.
package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"runtime"
	"slices"
	"strings"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/ordered"
	"tokenfork/internal/progress"
	"tokenfork/internal/store"
	"tokenfork/internal/tasks"
	"tokenfork/judge"
	"tokenfork/judge/merge"
)

// Finding is something that is missing or wrong.
type Finding struct {
	Said string // names the object
	Fix  string // the command, or what to do
}

// Options say what to check.
type Options struct {
	Store   store.Store
	TempDir string
	Console io.Writer // progress
}

// Check tells each finding as it comes. The error, of failure.Refused, counts them.
func Check(ctx context.Context, o Options, tell func(Finding) error) error {
	c := &checker{Options: o, tell: tell, there: map[string]bool{}, used: map[string]bool{}, texts: map[int64]bool{}, open: map[[2]string][]int{}}
	var err error
	if c.tasks, err = tasks.List(ctx, o.Store, tasks.AllShards); err != nil {
		return err
	}
	for object, err := range o.Store.List(ctx, "") {
		if err != nil {
			return fmt.Errorf("list %s: %w", o.Store, err)
		}
		c.there[object.Key] = true
	}
	parts := []func(context.Context) error{c.predicted, c.plan, c.judged, c.shards, c.unlisted, c.results}
	if c.there[job.CorpusKey] && !c.there[job.Key] { // its texts are not planned yet
		parts = []func(context.Context) error{c.predicted, c.unfinished, c.unlisted}
	}
	for _, part := range parts {
		if err := part(ctx); err != nil {
			return err
		}
	}
	if c.found > 0 {
		return failure.New(failure.Refused, "each line above says what fixes it", "%d things are missing or wrong in %s", c.found, o.Store)
	}
	return nil
}

type checker struct {
	Options
	tell     func(Finding) error
	found    int
	there    map[string]bool // all keys
	used     map[string]bool // keys that are listed somewhere and were checked there
	job      *job.Job
	summary  *merge.Summary // nil: not merged, or damaged
	tasks    *tasks.Table
	judgings []judge.Record
	texts    map[int64]bool      // seen in a manifest
	engines  [2]map[string]bool  // by side: hashes that rows name
	open     map[[2]string][]int // shards without a commit, by stage and side
}

func (c *checker) say(fix, format string, args ...any) error {
	c.found++
	return c.tell(Finding{fmt.Sprintf(format, args...), fix})
}

// wrong tells an error that carries its own way out.
func (c *checker) wrong(err error) error { return c.say(failure.Hint(err), "%v", err) }

func (c *checker) command(verb string) string {
	return job.Command(c.Store, verb)
}

// replan is how files of plan's come back.
func replan(key string) string {
	if key != job.Key {
		key = "it and " + job.Key
	}
	return "remove " + key + " and run the same tokenfork plan again: it writes what is missing and compares the rest"
}

// plan checks job.json and what it lists, manifests aside. Without a job.json
// there is nothing to go by.
func (c *checker) plan(ctx context.Context) error {
	if c.there[merge.SummaryKey] && !slices.ContainsFunc(slices.Collect(maps.Keys(c.there)), func(key string) bool { return strings.HasPrefix(key, "shards/") }) {
		if _, err := job.Load(ctx, c.Store); errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if len(c.there) > 0 && !c.there[job.Key] {
		return failure.New(failure.Refused, replan(job.Key), "%s of %s is missing", job.Key, c.Store)
	}
	var err error
	if c.job, err = job.Load(ctx, c.Store); err != nil {
		if failure.Code(err) != failure.Refused {
			return err
		}
		return failure.New(failure.Refused, replan(job.Key), "%w", err)
	}
	c.used[job.Key] = true
	if id, err := c.job.Identity(); err != nil || id != c.job.ID {
		if err := c.say(replan(job.Key), "%s is damaged: its settings are not those of job %s", job.Key, c.job.ID); err != nil {
			return err
		}
	}
	for _, key := range slices.Sorted(maps.Keys(c.job.Files)) {
		c.used[key] = true
		sum, err := store.Sum(ctx, c.Store, key)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			err = c.say(replan(key), "%s is missing", key)
		case err == nil && sum != c.job.Files[key]:
			err = c.say(replan(key), "%s is damaged: its sha256 is %s, %s lists %s", key, sum, job.Key, c.job.Files[key])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// judged reads how the results were merged, and who judged.
func (c *checker) judged(ctx context.Context) (err error) {
	if c.there[merge.SummaryKey] {
		c.summary, err = merge.LoadSummary(ctx, c.Store)
		if err := c.tolerate(err); err != nil {
			return err
		}
	}
	if c.judgings, err = judge.Judgings(ctx, c.Store); err != nil {
		return c.tolerate(err)
	}
	known := map[string]bool{}
	for _, r := range c.judgings {
		known[r.ID()] = true
		if _, err := r.Accept(&c.job.Plan, nil); err != nil { // nothing is accepted yet
			if err := c.say("remove it and start the same judging again: it writes its record", "%s%s.json is damaged, or of another tokenfork: %v", job.JudgingPrefix, r.ID(), err); err != nil {
				return err
			}
		}
	}
	for key := range c.there {
		at := strings.Split(key, "/")
		if len(at) > 4 && at[0] == "parts" && at[1] == "judge" && !known[at[3]] {
			known[at[3]] = true
			if err := c.say("start the same judging again: it writes its record", "%s%s.json is missing", job.JudgingPrefix, at[3]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *checker) judgingIDs() []string {
	ids := make([]string, len(c.judgings))
	for i, r := range c.judgings {
		ids[i] = r.ID()
	}
	return ids
}

// tolerate tells an error that is damage, and gives back any other.
func (c *checker) tolerate(err error) error {
	if err != nil && damage(err) {
		return c.wrong(err)
	}
	return err
}

// damage says that an object is missing or not what it was, and not that the
// store could not be read.
func damage(err error) bool {
	return failure.Code(err) == failure.Refused || errors.Is(err, fs.ErrNotExist)
}

// readers is how many shards, or other objects, are read at once.
var readers = max(4, runtime.GOMAXPROCS(0))

// shards checks the manifests and every task's commits and parts.
func (c *checker) shards(ctx context.Context) error {
	meter := progress.New(c.Console, "check", "mismatches", c.job.Mismatches)
	defer meter.Close()
	mismatches := int64(0)
	err := ordered.Map(ctx, readers, ordered.Upto(len(c.job.Shards)), func(k int) *shard { return c.look(ctx, k) }, func(s *shard) error {
		mismatches += s.mismatches
		meter.Add(s.mismatches)
		return c.take(s)
	})
	if err != nil {
		return err
	}
	if c.found == 0 && mismatches != c.job.Mismatches {
		if err := c.say(replan(job.Key), "%s says %d mismatches, the manifests have %d", job.Key, c.job.Mismatches, mismatches); err != nil {
			return err
		}
	}
	for _, side := range job.Sides {
		if err := c.engineFile(ctx, job.EngineKey(side), c.engines[side]); err != nil {
			return err
		}
	}
	return c.unfinished(ctx)
}

// take adds up what was seen of a shard.
func (c *checker) take(s *shard) error {
	if s.err != nil {
		return s.err
	}
	for _, n := range s.ordinals {
		if c.texts[n] {
			s.wrong = append(s.wrong, failure.New(failure.Refused, replan(job.ManifestKey(s.k)), "manifest %s has text %d, which another one has too", job.ManifestKey(s.k), n))
		}
		c.texts[n] = true
	}
	for _, key := range s.used {
		c.used[key] = true
	}
	for side := range s.engines {
		if c.engines[side] == nil {
			c.engines[side] = map[string]bool{}
		}
		maps.Copy(c.engines[side], s.engines[side])
	}
	for _, t := range s.open {
		at := [2]string{t.Stage, t.Side}
		c.open[at] = append(c.open[at], t.Shard)
	}
	for _, err := range s.wrong {
		if err := c.wrong(err); err != nil {
			return err
		}
	}
	return nil
}

// unfinished names the tasks without a commit, a line for each stage and side.
func (c *checker) unfinished(context.Context) error {
	for at, shards := range c.open {
		err := c.say("`"+c.command("status")+"` has the command", "%s of %s is not finished for shards %s: no commit.json there", at[0], at[1], tasks.Ranges(shards))
		if err != nil {
			return err
		}
	}
	return nil
}
