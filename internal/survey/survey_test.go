package survey_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/store"
	"tokenfork/internal/survey"
	"tokenfork/internal/tasks"
)

// counted counts what is read.
type counted struct {
	store.Store
	opened atomic.Int64
}

func (c *counted) Open(ctx context.Context, key string) (io.ReadCloser, error) {
	c.opened.Add(1)
	return c.Store.Open(ctx, key)
}

// newJob writes a job of shards with so many mismatches each.
func newJob(t *testing.T, shards, each int) (dir string, s *counted) {
	t.Helper()
	dir = t.TempDir()
	f, err := store.Open(t.Context(), dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	j := job.Job{Plan: job.Plan{Format: job.Format, ID: "j", Settings: job.Settings{Trajectories: job.Own}}, Mismatches: int64(shards * each)}
	for range shards {
		j.Shards = append(j.Shards, job.Shard{Mismatches: each})
	}
	b, err := job.SealJSON(j)
	if err != nil {
		t.Fatal(err)
	}
	put(t, dir, job.Key, string(b), 0)
	return dir, &counted{Store: f}
}

// put writes an object that is so old.
func put(t *testing.T, dir, key, content string, age time.Duration) {
	t.Helper()
	path := filepath.Join(dir, key)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	at := time.Now().Add(-age)
	if err := os.Chtimes(path, at, at); err != nil {
		t.Fatal(err)
	}
}

// commit is a sealed one. Of what it lists nothing is read here.
var commit = func() string {
	b, err := job.SealJSON(job.Commit{Format: job.Format})
	if err != nil {
		panic(err)
	}
	return string(b)
}()

func small(t *testing.T, o survey.Options) (*survey.Report, *survey.Stage) {
	t.Helper()
	r, err := survey.Status(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(r.Stages, func(s *survey.Stage) bool { return s.Side == "small" })
	if i < 0 {
		t.Fatalf("no small side in %+v", r)
	}
	return r, r.Stages[i]
}

func TestStates(t *testing.T) {
	dir, s := newJob(t, 7, 10)
	put(t, dir, "parts/infer/00000/small/aa/attempt.json", "{}", time.Hour)
	put(t, dir, "parts/infer/00000/small/aa/00000-10.arrow", "x", 20*time.Minute)
	put(t, dir, "parts/infer/00000/small/commit.json", commit, 19*time.Minute)
	put(t, dir, "parts/infer/00001/small/bb/attempt.json", "{}", 12*time.Minute)
	put(t, dir, "parts/infer/00001/small/bb/00000-4.arrow", "x", 10*time.Minute)
	put(t, dir, "parts/infer/00002/small/cc/attempt.json", "{}", 40*time.Hour)
	put(t, dir, "parts/infer/00003/small/dd/attempt.json", "{}", time.Minute)
	for shard, err := range map[int]error{4: failure.New(failure.Refused, "do that", "no good"), 5: failure.New(failure.Stopped, "again", "told to stop")} {
		got := job.RecordAttempt(t.Context(), s, "infer", shard, "both", job.Attempt{Host: "n1", Slurm: "7_4", Restart: 2}, func(job.Attempt) error { return err })
		if !errors.Is(got, err) {
			t.Fatalf("RecordAttempt gave %v", got)
		}
	}
	live := []survey.Live{{Key: tasks.Key{Stage: "infer", Side: "small", Shard: 3}, Slurm: "9_3", State: "PENDING", Reason: "(Priority)"}}
	r, st := small(t, survey.Options{Store: s, Shard: -1, Live: live})
	want := map[string]int{"done": 1, "running": 1, "queued": 1, "stopped": 1, "failed": 2, "missing": 1}
	for state, n := range want {
		if st.Shards[state] != n {
			t.Errorf("%d %s, want %d; all: %v", st.Shards[state], state, n, st.Shards)
		}
	}
	if st.Done != 14 || st.Of != 70 {
		t.Errorf("%d of %d mismatches, want 14 of 70", st.Done, st.Of)
	}
	// 4 mismatches in the 10 minutes after the first part; 56 are left.
	if want := 4.0 / 600; st.PerSecond < want*0.99 || st.PerSecond > want*1.01 || st.Left < 56/want*0.98 || st.Left > 56/want*1.02 {
		t.Errorf("%v/s, %v s left; want %v/s", st.PerSecond, st.Left, want)
	}
	for _, task := range st.Tasks {
		switch task.Shard {
		case 2:
			if !strings.Contains(task.Error, "without a word") {
				t.Errorf("silent for 40 hours: %+v", task)
			}
		case 3:
			if task.Queue != "PENDING (Priority)" || task.Slurm != "9_3" {
				t.Errorf("queued: %+v", task)
			}
		case 4:
			if task.Error != "no good" || task.Hint != "do that" || task.Code != failure.Refused || task.Host != "n1" || task.Slurm != "7_4" || task.Restart != 2 {
				t.Errorf("failed: %+v", task)
			}
		}
	}
	if !slices.Contains(r.Next, "tokenfork infer --job "+dir+" --shard 0,2,4,5,6") && !slices.Contains(r.Next, "tokenfork infer --job "+dir) {
		t.Errorf("next: %q", r.Next)
	}
}

// Before a judge's first verdict nobody knows the judging's id.
func TestJudgeTaskThatNeverAsked(t *testing.T) {
	_, s := newJob(t, 2, 10)
	bad := errors.New("no key")
	if err := job.RecordAttempt(t.Context(), s, "judge", 1, "both", job.Attempt{}, func(job.Attempt) error { return bad }); !errors.Is(err, bad) {
		t.Fatal(err)
	}
	r, _ := small(t, survey.Options{Store: s, Shard: -1})
	last := r.Stages[len(r.Stages)-1]
	if last.Stage != "judge" || last.Shards["failed"] != 1 || last.Shards["missing"] != 1 || last.Tasks[0].Error != "no key" || last.Tasks[0].Attempts != 1 {
		t.Errorf("%+v, first task %+v", last, last.Tasks)
	}
}

// What Slurm does not have any more is over, however short ago it was heard of.
func TestSlurmKnowsWhatIsOver(t *testing.T) {
	dir, s := newJob(t, 1, 10)
	put(t, dir, "parts/infer/00000/small/aa/00000-4.arrow", "x", time.Second)
	o := survey.Options{Store: s, Shard: -1, LiveKnown: true, Submissions: []job.Submission{{N: 1, Args: []string{"submit", "--job", dir, "--mem", "1 G"}}}}
	start, _ := json.Marshal(job.Attempt{Host: "n2", Slurm: "5_0"})
	put(t, dir, "attempts/infer/00000/both.xyz.start.json", string(start), time.Minute)
	if r, st := small(t, o); st.Shards["failed"] != 1 || r.Next[0] != "tokenfork submit --job "+dir+" --mem '1 G' --missing" {
		t.Errorf("a task that Slurm does not have: %v, %q", st.Shards, r.Next)
	}
	start, _ = json.Marshal(job.Attempt{Host: "n2"})
	put(t, dir, "attempts/infer/00000/both.xyz.start.json", string(start), time.Minute)
	if _, st := small(t, o); st.Shards["running"] != 1 {
		t.Errorf("a runner outside Slurm: %v", st.Shards)
	}
}

// A merge that waits at Slurm is waited for; one that has ended in vain has a log.
func TestMergeOnSlurm(t *testing.T) {
	dir, s := newJob(t, 1, 10)
	for _, side := range job.Sides {
		put(t, dir, "parts/infer/00000/"+side.String()+"/commit.json", commit, time.Minute)
	}
	o := survey.Options{Store: s, Shard: -1, LiveKnown: true, Submissions: []job.Submission{{N: 1, Folder: "/f", Arrays: []job.SlurmJob{{Stage: "merge", ID: "9", Log: "merge-%j.log"}}}}}
	o.Live = []survey.Live{{Key: tasks.Key{Stage: "merge", Shard: -1}, Slurm: "9", State: "PENDING", Reason: "(Dependency)"}}
	if r, _ := small(t, o); r.Jobs["merge"].Slurm != "9" || r.MergeLog != "" || !slices.Equal(r.Next, []string{"tokenfork status --job " + dir + " --watch"}) {
		t.Errorf("waiting: %+v", r)
	}
	o.Live = nil
	if r, _ := small(t, o); len(r.Jobs) > 0 || r.MergeLog != "/f/logs/merge-9.log" || !slices.Equal(r.Next, []string{"tokenfork merge --job " + dir + " --judge 'URL|local|none'"}) {
		t.Errorf("ended: %+v", r)
	}
	put(t, dir, "results.parquet", "x", 0)
	if r, _ := small(t, o); r.MergeLog != "" || !slices.Equal(r.Next, []string{"tokenfork check --job " + dir}) {
		t.Errorf("merged: %+v", r)
	}
}

// A look at many shards reads no more than the job, and what is not in order.
func TestManyShardsAreListedNotRead(t *testing.T) {
	const shards = 1000
	dir, s := newJob(t, shards, 3)
	for k := range shards - 5 {
		prefix := fmt.Sprintf("parts/infer/%05d/small/", k)
		put(t, dir, prefix+"aa/00000-3.arrow", "x", time.Minute)
		put(t, dir, prefix+"commit.json", commit, time.Minute)
	}
	for k := shards - 5; k < shards-2; k++ {
		put(t, dir, fmt.Sprintf("attempts/infer/%05d/small.x.start.json", k), "{}", time.Minute)
	}
	_, st := small(t, survey.Options{Store: s, Shard: -1})
	if st.Shards["done"] != shards-5 || st.Shards["running"] != 3 || st.Shards["missing"] != 2 {
		t.Errorf("%v", st.Shards)
	}
	if n := s.opened.Load(); n > 5 {
		t.Errorf("%d objects read, want job.json, the look for corpus.json and 3 starts", n)
	}
	if got := tasks.Ranges(st.Unfinished); got != "995-999" {
		t.Errorf("unfinished: %s", got)
	}
}

// What is left counts by its cost, not by its number: the last shard's texts are long. Each
// running task has a rate of its own.
func TestRatesByCost(t *testing.T) {
	dir, s := newJob(t, 0, 0)
	j := job.Job{Plan: job.Plan{Format: job.Format, ID: "j", Settings: job.Settings{Trajectories: job.Own}}, Mismatches: 200,
		Shards: []job.Shard{{Mismatches: 100, Cost: 100}, {Mismatches: 100, Cost: 900}}}
	b, err := job.SealJSON(j)
	if err != nil {
		t.Fatal(err)
	}
	put(t, dir, job.Key, string(b), 0)
	for k, name := range []string{"aa", "bb"} {
		prefix := fmt.Sprintf("parts/infer/%05d/small/%s/", k, name)
		put(t, dir, fmt.Sprintf("attempts/infer/%05d/small.%s.start.json", k, name), `{"host":"n1"}`, 12*time.Minute)
		put(t, dir, prefix+"attempt.json", "{}", 12*time.Minute)
		put(t, dir, prefix+"00000-10.arrow", "x", 10*time.Minute)
		put(t, dir, prefix+"00001-40.arrow", "x", 0)
	}
	seen := new(survey.Records)
	r, st := small(t, survey.Options{Store: s, Shard: -1, Seen: seen})
	near := func(what string, got, want float64) {
		if got < want*0.98 || got > want*1.02 {
			t.Errorf("%s is %v, want %v", what, got, want)
		}
	}
	near("the stage's rate", st.PerSecond, 90./600) // of the parts after the oldest one
	near("what the stage has left", st.Left, 500/((40*1+50*9)/600.))
	for _, task := range st.Tasks {
		near("a task's rate", task.PerSecond, 40./600)
		near("what a task has left", task.Left, 50/(40./600))
		if task.Of != 100 || task.End.Sub(r.At).Round(time.Minute) != 13*time.Minute {
			t.Errorf("%+v at %s", task, r.At)
		}
	}
	before := s.opened.Load()
	if _, again := small(t, survey.Options{Store: s, Shard: -1, Seen: seen}); again.Tasks[0].Host != "n1" {
		t.Errorf("%+v", again.Tasks[0])
	}
	if n := s.opened.Load() - before; n != 2 {
		t.Errorf("the next look reads %d objects, want job.json and the look for corpus.json", n)
	}
}

// KeptObjects is what a task on a node compares to see whether it got on.
func TestKeptObjectsGrow(t *testing.T) {
	dir, s := newJob(t, 2, 10)
	kept := func() int {
		r, _ := small(t, survey.Options{Store: s, Shard: 1})
		return r.KeptObjects
	}
	put(t, dir, "parts/infer/00001/small/aa/attempt.json", "{}", 0)
	put(t, dir, "parts/infer/00000/small/aa/00000-4.arrow", "x", 0)
	if n := kept(); n != 0 {
		t.Errorf("%d kept, want none: a start and another shard's part don't count", n)
	}
	put(t, dir, "parts/infer/00001/small/aa/00000-4.arrow", "x", 0)
	put(t, dir, "parts/judge/00001/0123/aa/00000-abc.answers", "x", 0)
	if n := kept(); n != 2 {
		t.Errorf("%d kept, want a part and a file of answers", n)
	}
}

func TestRanges(t *testing.T) {
	for _, c := range []struct {
		in   []int
		want string
	}{{nil, ""}, {[]int{3}, "3"}, {[]int{0, 1, 2}, "0-2"}, {[]int{17, 88, 89, 90, 92}, "17, 88-90, 92"}} {
		if got := tasks.Ranges(c.in); got != c.want {
			t.Errorf("Ranges(%v) = %q, want %q", c.in, got, c.want)
		}
	}
}
