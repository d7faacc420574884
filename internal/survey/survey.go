// Package survey reports how far a job is, from listings of its objects and a
// few small records: no part is read, so that a look at 10,000 shards stays cheap.
package survey

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/store"
	"tokenfork/internal/tasks"
)

// States of a task.
const (
	Done    = "done"
	Running = "running"
	Queued  = "queued"  // Slurm has it and has not started it
	Stopped = "stopped" // told to stop, nothing is wrong
	Failed  = "failed"  // ended with an error, or without a word
	Damaged = "damaged" // its commit cannot be used: its stage goes on from its parts
	Missing = "missing" // no attempt has begun

	Outdated = "outdated" // judged before infer --retry made some of its continuations again
)

// Live is a task that Slurm has not finished with, or, with shard -1, a merge or report.
type Live struct {
	tasks.Key `json:"-"`
	Slurm     string `json:"slurm"`  // job, or array_task
	State     string `json:"state"`  // PENDING, RUNNING, …
	Reason    string `json:"reason"` // why it waits, or where it runs
}

// Task is a begun, unfinished task, with its last attempt.
type Task struct {
	Shard    int       `json:"shard"`
	State    string    `json:"state"`
	Attempts int       `json:"attempts"`
	Host     string    `json:"host,omitempty"`
	Slurm    string    `json:"slurm,omitempty"` // array_task
	Restart  int       `json:"restart"`
	Queue    string    `json:"queue,omitempty"` // Slurm's own state and reason
	Last     time.Time `json:"last,omitzero"`   // when it last kept something, or began
	Done     int64     `json:"mismatches_done"` // of the stage's unit
	Of       int64     `json:"mismatches"`      // of the unit
	Rate
	Code  int    `json:"code,omitempty"`
	Error string `json:"error,omitempty"`
	Hint  string `json:"hint,omitempty"`
	Log   string `json:"log,omitempty"`

	attempt *tasks.Attempt
}

// Stage sums up a stage and side.
type Stage struct {
	Stage  string         `json:"stage"`
	Side   string         `json:"side"` // small, reference, a judging's id, or a model of predict's
	Unit   string         `json:"unit"` // what is counted: mismatches, or predict's texts
	Shards map[string]int `json:"shards"`
	Done   int64          `json:"mismatches_done"` // of the unit; those in parts of unfinished shards included
	Of     int64          `json:"mismatches"`      // of the unit
	Rate
	Last       time.Time `json:"last,omitzero"`
	Unfinished []int     `json:"unfinished,omitempty"`
	Tasks      []*Task   `json:"tasks,omitempty"` // begun or queued, and not done
}

// Report is a look at a job.
type Report struct {
	Job         string          `json:"job"` // its id; of texts that are not planned yet, theirs
	Sample      *job.Sample     `json:"sample,omitempty"`
	Place       string          `json:"place"`
	At          time.Time       `json:"at"`
	Shards      int             `json:"shards"`
	Mismatches  int64           `json:"mismatches"`
	Texts       int64           `json:"texts,omitzero"` // that predict reads
	KeptObjects int             `json:"kept_objects"`   // parts, answers and commits: grows with every bit of progress
	Stages      []*Stage        `json:"stages"`
	Jobs        map[string]Live `json:"jobs,omitempty"`      // merge and report, while Slurm has them
	MergeLog    string          `json:"merge_log,omitempty"` // of the last merge on Slurm, if there are no up-to-date results
	Merged      time.Time       `json:"merged,omitzero"`
	Stale       bool            `json:"merge_is_stale"` // something was finished since
	Slurm       string          `json:"slurm"`          // asked, or why not
	Next        []string        `json:"next,omitempty"` // commands
}

// Options say what to look at.
type Options struct {
	Store       store.Store
	Shard       int              // -1: all
	Live        []Live           // what Slurm has of the job
	LiveKnown   bool             // Slurm was asked: what it does not list is over
	Submissions []job.Submission // of the job
	InferFlags  []string         // by which infer finds its models and servers

	// JudgeFlags name the judge of a judging's id in a command, or placeholders.
	JudgeFlags func(judging string) []string

	Seen *Records // read by earlier looks; nil: none are kept
}

// silence is how long a runner may keep nothing before, unknown to Slurm, it is
// taken for dead: servers take long to start, parts come each minute.
const silence = 30 * time.Minute

// Status looks at the job.
func Status(ctx context.Context, o Options) (*Report, error) {
	corpus, err := job.LoadCorpus(ctx, o.Store)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	j, err := job.Load(ctx, o.Store)
	if errors.Is(err, fs.ErrNotExist) && corpus != nil {
		j, err = &job.Job{Plan: job.Plan{ID: corpus.ID}}, nil // nothing is planned yet
	}
	if err != nil {
		return nil, err
	}
	table, err := tasks.List(ctx, o.Store, o.Shard)
	if err != nil {
		return nil, err
	}
	attempts, err := tasks.Attempts(ctx, o.Store, o.Shard)
	if err != nil {
		return nil, err
	}
	r := &Report{Job: j.ID, Place: o.Store.String(), At: time.Now().UTC().Truncate(time.Second), Shards: len(j.Shards), Mismatches: j.Mismatches, Sample: j.Sample}
	if corpus != nil {
		r.Texts = corpus.Texts
	}
	for _, t := range table.All() {
		r.KeptObjects += t.Kept
	}
	v := &view{Options: o, corpus: corpus, job: j, tasks: table, attempts: attempts, live: byKey(o.Live)}
	if err := v.sum(ctx, r); err != nil {
		return nil, err
	}
	if !r.Busy() { // the next command reads the commits, and must not refuse them
		changed, err := v.verify(ctx, r)
		if err == nil && changed {
			err = v.sum(ctx, r)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := v.tabled(ctx); err != nil {
		return nil, err
	}
	if err := merged(ctx, o.Store, r); err != nil {
		return nil, err
	}
	v.jobs(r)
	r.Next = v.next(r)
	return r, nil
}

// Busy says whether anything of the job runs or waits at Slurm.
func (r *Report) Busy() bool {
	return len(r.Jobs) > 0 || slices.ContainsFunc(r.Stages, func(s *Stage) bool { return s.Shards[Running]+s.Shards[Queued] > 0 })
}

// sum fills in the stages.
func (v *view) sum(ctx context.Context, r *Report) error {
	r.Stages = nil
	for _, s := range v.stages() {
		r.Stages = append(r.Stages, v.stage(s.Stage, s.Side))
	}
	return v.explain(ctx, r)
}

// verify reads the commits and says whether one does not count.
func (v *view) verify(ctx context.Context, r *Report) (bool, error) {
	var all []job.Task
	for _, s := range r.Stages {
		for k := range v.sizes(s.Stage) {
			all = append(all, job.Task{Stage: s.Stage, Side: s.Side, Shard: k})
		}
	}
	err := v.tasks.Verify(ctx, all)
	for _, t := range all {
		if o := v.tasks.Of(tasks.KeyOf(t)); !o.Committed.IsZero() && !o.Finished() {
			return true, err
		}
	}
	return false, err
}

// jobs are what Slurm has besides tasks, and how the last merge ended.
func (v *view) jobs(r *Report) {
	r.Jobs = map[string]Live{}
	for _, l := range v.Live {
		if l.Shard < 0 {
			r.Jobs[l.Stage] = l
		}
	}
	if _, waits := r.Jobs["merge"]; waits || !v.LiveKnown || !r.Merged.IsZero() && !r.Stale {
		return
	}
	for _, s := range v.Submissions {
		for _, a := range s.Arrays {
			if a.Stage == "merge" {
				r.MergeLog = filepath.Join(s.Folder, "logs", a.LogOf(-1))
			}
		}
	}
}

// view is a job while its report is made.
type view struct {
	Options
	corpus   *job.Corpus // nil: the job has none
	job      *job.Job    // without shards if it is not planned yet
	table    bool        // predict has written its table into the job
	tasks    *tasks.Table
	attempts map[tasks.Key][]*tasks.Attempt
	live     map[tasks.Key]Live
}

func byKey(all []Live) map[tasks.Key]Live {
	m := map[tasks.Key]Live{}
	for _, l := range all {
		m[l.Key] = l
	}
	return m
}

// stages are the sides of infer and the judgings that have begun, or one that is submitted.
func (v *view) stages() []tasks.Key {
	var all []tasks.Key
	if v.corpus != nil {
		for _, side := range v.corpus.Sides() {
			all = append(all, tasks.Key{Stage: "predict", Side: side})
		}
	}
	if !v.planned() {
		return all
	}
	for _, side := range v.job.Settings.Servers() {
		all = append(all, tasks.Key{Stage: "infer", Side: side.String()})
	}
	judgings := map[string]bool{}
	for k := range v.tasks.All() {
		if k.Stage == "judge" && !judgings[k.Side] {
			judgings[k.Side] = true
			all = append(all, tasks.Key{Stage: "judge", Side: k.Side})
		}
	}
	if len(judgings) == 0 && v.judgeIsExpected() {
		all = append(all, tasks.Key{Stage: "judge", Side: both})
	}
	slices.SortStableFunc(all, func(a, b tasks.Key) int {
		if a.Stage == b.Stage && a.Stage == "judge" {
			return cmp.Compare(a.Side, b.Side)
		}
		return cmp.Compare(slices.Index(tasks.Stages, a.Stage), slices.Index(tasks.Stages, b.Stage))
	})
	return all
}

// planned says whether there is more of the job than texts.
func (v *view) planned() bool { return v.job.Format != 0 }

// sizes are the units of work in each shard of the stage: mismatches, or texts of predict.
func (v *view) sizes(stage string) (sizes []int64) {
	if stage == "predict" {
		for _, shard := range v.corpus.Shards {
			sizes = append(sizes, int64(shard.Texts))
		}
		return sizes
	}
	for _, shard := range v.job.Shards {
		sizes = append(sizes, int64(shard.Mismatches))
	}
	return sizes
}

func (v *view) judgeIsExpected() bool {
	for _, s := range v.Submissions {
		for _, a := range s.Arrays {
			if a.Stage == "judge" {
				return true
			}
		}
	}
	for k := range v.attempts {
		if k.Stage == "judge" {
			return true
		}
	}
	return false
}

// both is the side of a runner that works on all sides of its stage.
const both = "both"

// at finds what is kept under the task's own side or under both.
func at[T any](m map[tasks.Key]T, k tasks.Key) (T, bool) {
	if t, ok := m[k]; ok {
		return t, true
	}
	k.Side = both
	t, ok := m[k]
	return t, ok
}

func (v *view) stage(stage, side string) *Stage {
	s := &Stage{Stage: stage, Side: side, Unit: "mismatches", Shards: map[string]int{}}
	if stage == "predict" {
		s.Unit = "texts"
	}
	var sum pace
	costs, now := v.costs(stage), time.Now()
	for k, size := range v.sizes(stage) {
		if v.Shard >= 0 && k != v.Shard {
			continue
		}
		key := tasks.Key{Stage: stage, Side: side, Shard: k}
		o := v.tasks.Of(key)
		s.Of += size
		t := v.task(key, o)
		t.Done, t.Of = min(o.Rows()/v.rowsPerMismatch(stage), size), size
		p := newPace(t, o, v.rowsPerMismatch(stage), costs[k])
		if t.State == Running {
			t.Rate = p.rate(now)
		}
		sum.add(p)
		s.Shards[t.State]++
		if t.State == Done {
			s.Done += size
		} else {
			s.Done += t.Done
			s.Unfinished = append(s.Unfinished, k)
			if t.State != Missing {
				s.Tasks = append(s.Tasks, t)
			}
		}
		if o.Last.After(s.Last) {
			s.Last = o.Last
		}
	}
	if len(s.Unfinished) > 0 {
		s.Rate = sum.rate(now)
	}
	if s.Shards[Running] == 0 {
		s.Left, s.End = 0, time.Time{}
	}
	return s
}

// rowsPerMismatch is how many rows of a stage's parts are of one mismatch.
func (v *view) rowsPerMismatch(stage string) int64 {
	if stage == "infer" {
		return int64(v.job.Settings.Forks())
	}
	return 1
}

// task settles one task's state: the job's own objects say what is done, Slurm
// what still lives, the runners' records how the others ended.
func (v *view) task(k tasks.Key, o *tasks.Objects) *Task {
	t := &Task{Shard: k.Shard, State: Missing, Attempts: o.Attempts, Last: o.Last}
	if o.Finished() {
		t.State = Done
		return t
	}
	t.attempt = v.lastAttempt(k, t)
	if live, ok := at(v.live, k); ok {
		t.Slurm, t.Queue = live.Slurm, strings.TrimSpace(live.State+" "+live.Reason)
		t.State = Running
		if waiting[live.State] {
			t.State = Queued
		}
		return t
	}
	switch {
	case o.Damage != nil:
		t.attempt, t.State, t.Error, t.Hint = nil, Damaged, o.Damage.Error(), failure.Hint(o.Damage)
	case o.Outdated:
		t.attempt, t.State = nil, Outdated
	case t.attempt == nil && o.Kept == 0 && o.Attempts == 0:
	case t.attempt != nil && t.attempt.Ended:
		t.State = Failed // or stopped: its record says
	case v.LiveKnown && len(v.Submissions) > 0 || time.Since(t.Last) > silence:
		t.State, t.Error = Failed, "ended without a word: killed, out of memory, or its node was lost"
	default:
		t.State = Running
	}
	return t
}

// waiting are Slurm's states of tasks that it has not started, or not again.
var waiting = map[string]bool{"PENDING": true, "CONFIGURING": true, "REQUEUED": true, "REQUEUE_FED": true, "REQUEUE_HOLD": true,
	"SPECIAL_EXIT": true, "RESV_DEL_HOLD": true, "PREEMPTED": true, "NODE_FAIL": true, "BOOT_FAIL": true}

// lastAttempt is the record of the last runner on the task's side, or on both.
func (v *view) lastAttempt(k tasks.Key, t *Task) *tasks.Attempt {
	var last *tasks.Attempt
	n := 0
	for _, side := range slices.Compact([]string{k.Side, both}) {
		all := v.attempts[tasks.Key{Stage: k.Stage, Side: side, Shard: k.Shard}]
		n += len(all)
		for _, one := range all {
			if last == nil || one.Start.After(last.Start) {
				last = one
			}
		}
	}
	t.Attempts = max(t.Attempts, n)
	if last != nil && last.Last.After(t.Last) {
		t.Last = last.Last
	}
	return last
}

// tabled finds out whether predict has written the table into the job.
func (v *view) tabled(ctx context.Context) error {
	for _, err := range v.Store.List(ctx, job.TableKey) {
		if err != nil {
			return fmt.Errorf("look for the table of %s: %w", v.Store, err)
		}
		v.table = true
	}
	return nil
}

// merged says whether there are results, and whether they are up to date.
func merged(ctx context.Context, s store.Store, r *Report) error {
	for o, err := range s.List(ctx, "results") { // of any format, in one file or in parts
		if err != nil {
			return fmt.Errorf("look for results of %s: %w", s, err)
		}
		if r.Merged.Before(o.Modified) {
			r.Merged = o.Modified
		}
	}
	for _, stage := range r.Stages {
		r.Stale = r.Stale || !r.Merged.IsZero() && stage.Last.After(r.Merged)
	}
	return nil
}
