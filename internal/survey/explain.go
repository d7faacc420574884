package survey

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/shell"
	"tokenfork/internal/store"
	"tokenfork/internal/tasks"
)

// readers is how many records are read at once.
const readers = 16

// explain reads who works on, or how ended, the tasks that are begun and not done.
func (v *view) explain(ctx context.Context, r *Report) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	for _, s := range r.Stages {
		for _, t := range s.Tasks {
			if t.attempt != nil {
				g.Go(func() error { return t.read(gctx, v.Store, v.Seen) })
			}
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, s := range r.Stages {
		for _, t := range s.Tasks {
			s.Shards[t.State]--
			t.settle()
			s.Shards[t.State]++
			t.Log = v.logOf(tasks.Key{Stage: s.Stage, Side: s.Side, Shard: t.Shard}, t.Slurm)
		}
		maps.DeleteFunc(s.Shards, func(_ string, n int) bool { return n == 0 })
	}
	return nil
}

// read fills in the last attempt's record.
func (t *Task) read(ctx context.Context, s store.Store, seen *Records) error {
	key := t.attempt.Record()
	b, err := seen.read(ctx, s, key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed since it was listed
	}
	if err != nil {
		return fmt.Errorf("read attempt: %w", err)
	}
	var e job.Ending // a start has the same fields, fewer
	if err := json.Unmarshal(b, &e); err != nil {
		t.Error = fmt.Sprintf("%s is damaged: %v", key, err)
		return nil
	}
	t.Host, t.Restart = e.Host, e.Restart
	if t.Slurm == "" {
		t.Slurm = e.Slurm
	}
	if t.Queue == "" && t.attempt.Ended {
		t.Code, t.Error, t.Hint = e.Code, e.Error, e.Hint
	}
	return nil
}

// Records keeps attempts' records, which never change, from one look to the next: a
// watched job then costs its listings alone.
type Records struct{ all sync.Map }

func (r *Records) read(ctx context.Context, s store.Store, key string) ([]byte, error) {
	if r == nil {
		return store.ReadAll(ctx, s, key)
	}
	if b, ok := r.all.Load(key); ok {
		return b.([]byte), nil
	}
	b, err := store.ReadAll(ctx, s, key)
	if err == nil {
		r.all.Store(key, b)
	}
	return b, err
}

// settle corrects the state by what the record says.
func (t *Task) settle() {
	switch {
	case t.State != Failed:
	case t.Code == failure.Stopped:
		t.State = Stopped
	case t.attempt != nil && !t.attempt.Ended && t.Slurm == "" && time.Since(t.Last) < silence:
		t.State, t.Error = Running, "" // not Slurm's
	}
}

// logOf is the task's log by the submission that its Slurm id belongs to.
func (v *view) logOf(k tasks.Key, slurm string) string {
	id, index, _ := strings.Cut(slurm, "_")
	task, err := strconv.Atoi(index)
	if err != nil {
		return ""
	}
	for _, s := range v.Submissions {
		for _, a := range s.Arrays {
			if a.ID == id && a.Stage == k.Stage {
				return filepath.Join(s.Folder, "logs", a.LogOf(task))
			}
		}
	}
	return ""
}

// next are the commands that fix what is not done, or lead on.
func (v *view) next(r *Report) []string {
	open, busy := v.openShards(r)
	switch {
	case len(open) > 0 && len(v.Submissions) > 0:
		return []string{v.submitted()}
	case len(open) > 0:
		return v.byHand(open)
	case busy || len(r.Jobs) > 0:
		return []string{job.Command(v.Store, "status", "--watch")}
	case !v.planned() && !v.table:
		return []string{job.Command(v.Store, "predict", "--table-only")}
	case !v.planned():
		return []string{"tokenfork plan " + shell.Join(append([]string{v.Store.String() + "/" + job.TableKey}, store.Flags(v.Store)...))}
	case (r.Merged.IsZero() || r.Stale) && r.Stages[len(r.Stages)-1].Stage != "judge":
		return []string{job.Command(v.Store, "merge", "--judge", "URL|local|none")}
	case r.Merged.IsZero() || r.Stale:
		return []string{job.Command(v.Store, "merge", v.which(r)...)}
	}
	return []string{job.Command(v.Store, "check")}
}

// submitted is the command that submits what is open: as it was submitted before, or,
// where that was only predict, for the first time.
func (v *view) submitted() string {
	for _, s := range slices.Backward(v.Submissions) {
		if s.OfTexts() != v.planned() {
			return s.Again()
		}
	}
	return job.Command(v.Store, "submit")
}

// which names a judging for merge where the job has several: the one that was
// worked on last.
func (v *view) which(r *Report) []string {
	var last *Stage
	n := 0
	for _, s := range r.Stages {
		if s.Stage != "judge" || s.Side == both {
			continue
		}
		n++
		if last == nil || s.Last.After(last.Last) {
			last = s
		}
	}
	if n < 2 {
		return nil
	}
	return []string{"--judging", last.Side}
}

// openShards are those, by stage and judging, that no attempt works on and Slurm does not have.
func (v *view) openShards(r *Report) (open map[[2]string][]int, busy bool) {
	open = map[[2]string][]int{}
	unread := map[int]bool{} // shards whose continuations are not finished: judge refuses them
	for _, s := range r.Stages {
		if s.Stage == "predict" && v.planned() {
			continue // the plan has what it needs of them
		}
		waits := map[int]bool{}
		for _, t := range s.Tasks {
			waits[t.Shard] = t.State == Running || t.State == Queued
		}
		at := [2]string{s.Stage, s.Side}
		if s.Stage != "judge" {
			at[1] = "" // one command is for all sides
		}
		for _, k := range s.Unfinished {
			switch {
			case waits[k]:
				busy = true
			case s.Stage != "judge" || !unread[k]:
				open[at] = append(open[at], k)
			}
			unread[k] = unread[k] || s.Stage == "infer"
		}
	}
	return open, busy
}

// byHand are the commands for a job that is not on Slurm.
func (v *view) byHand(open map[[2]string][]int) []string {
	var all []string
	for _, at := range slices.SortedFunc(maps.Keys(open), func(a, b [2]string) int { return slices.Compare(a[:], b[:]) }) {
		var flags []string
		if ks := slices.Compact(slices.Sorted(slices.Values(open[at]))); len(ks) < len(v.sizes(at[0])) && len(ks) <= 20 {
			flags = []string{"--shard", strings.ReplaceAll(strings.Trim(fmt.Sprint(ks), "[]"), " ", ",")}
		}
		if at[0] == "judge" {
			flags = append(flags, v.JudgeFlags(at[1])...)
		} else {
			flags = append(flags, v.InferFlags...)
		}
		all = append(all, job.Command(v.Store, at[0], flags...))
	}
	return all
}
