package stage_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/job/jobtest"
	"tokenfork/internal/progress"
	"tokenfork/internal/stage"
	"tokenfork/internal/store"
)

// judging is the side of the tasks here: a job made for tests has none of it.
const judging = "0123456789abcdef"

// bench runs a stage whose work on a text is a function, and notes what it is asked.
type bench struct {
	store store.Store
	job   *job.Job
	admit context.Context
	stop  context.CancelFunc

	text  func(sh *stage.Shard[*job.Text, job.Verdict], x *job.Text) (bool, error)
	grace time.Duration
	hangs bool // texts may come to no end

	mu     sync.Mutex
	events []string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{store: jobtest.Make(t, 6, 3), grace: time.Minute}
	b.admit, b.stop = context.WithCancel(t.Context())
	var err error
	if b.job, err = job.Load(t.Context(), b.store); err != nil {
		t.Fatal(err)
	}
	b.text = func(sh *stage.Shard[*job.Text, job.Verdict], x *job.Text) (bool, error) {
		return true, sh.Done(verdicts(x))
	}
	return b
}

func verdicts(x *job.Text) []job.Verdict {
	var all []job.Verdict
	for _, p := range x.Mismatches {
		all = append(all, job.Verdict{Ordinal: x.Ordinal, Position: p})
	}
	return all
}

func (b *bench) note(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = append(b.events, fmt.Sprintf(format, args...))
}

func (b *bench) task(k int) job.Task {
	return job.Task{Stage: "judge", Shard: k, Side: judging, Manifest: b.job.Shards[k].SHA256}
}

// work is the bench's Work on one shard.
type work struct {
	*bench
	sh *stage.Shard[*job.Text, job.Verdict]
}

func (w *work) Begin(context.Context, context.Context) error {
	w.note("begin %d", w.sh.Manifest.Index)
	return nil
}

func (w *work) Text(admit, _ context.Context, x *job.Text) (bool, error) {
	if admit.Err() != nil {
		w.sh.Drop()
		return false, nil
	}
	return w.text(w.sh, x)
}

func (w *work) End(c *job.Commit) error {
	w.note("end %d committed=%v", w.sh.Manifest.Index, c != nil)
	return nil
}

func (b *bench) run(t *testing.T, retry bool) error {
	t.Helper()
	ctx, cancel := stage.Graceful(b.admit, b.grace)
	defer cancel(nil)
	var sum stage.Summary
	s := stage.Stage[*job.Text, job.Verdict]{Store: b.store, Manifest: job.OpenManifest, Texts: (*job.Manifest).Texts, Rows: func(x *job.Text) int { return len(x.Mismatches) }, Retry: func(int) bool { return retry }, PartEvery: time.Hour, Log: slog.New(slog.DiscardHandler), Summary: &sum, Settles: !b.hangs,
		Lane: progress.NewLane("", 30, 0, nil), Fed: func() { b.note("fed") },
		Task: func(m *job.Manifest) job.Task { return b.task(m.Index) },
		Open: func(_ context.Context, sh *stage.Shard[*job.Text, job.Verdict]) (stage.Work[*job.Text], error) {
			b.note("open %d", sh.Manifest.Index)
			return &work{b, sh}, nil
		}}
	if err := s.Run(b.admit, ctx, []int{0, 1, 2}); err != nil {
		return err
	}
	return sum.Result("rows failed", "merge lists them")
}

func (b *bench) committed(t *testing.T) (ks []int) {
	t.Helper()
	for k := range b.job.Shards {
		switch _, err := job.LoadCommit(t.Context(), b.store, b.task(k)); {
		case err == nil:
			ks = append(ks, k)
		case !errors.Is(err, fs.ErrNotExist):
			t.Fatal(err)
		}
	}
	return ks
}

func TestAllShards(t *testing.T) {
	b := newBench(t)
	if err := b.run(t, false); err != nil {
		t.Fatal(err)
	}
	if got := b.committed(t); !slices.Equal(got, []int{0, 1, 2}) {
		t.Errorf("committed: %v", got)
	}
	for k := range 3 {
		if n := slices.Index(b.events, fmt.Sprintf("end %d committed=true", k)); n < slices.Index(b.events, fmt.Sprintf("begin %d", k)) {
			t.Errorf("events: %q", b.events)
		}
	}
	b.events = nil
	if err := b.run(t, false); err != nil || !slices.Equal(b.events, []string{"fed"}) {
		t.Errorf("again: %v, %q", err, b.events)
	}
}

// While a shard is fed the next one is opened, and no further one.
func TestOneShardAhead(t *testing.T) {
	b := newBench(t)
	b.text = func(sh *stage.Shard[*job.Text, job.Verdict], x *job.Text) (bool, error) {
		if sh.Manifest.Index == 0 {
			for ahead := false; !ahead; time.Sleep(time.Millisecond) {
				b.mu.Lock()
				ahead = slices.Contains(b.events, "open 1")
				b.mu.Unlock()
			}
			b.mu.Lock()
			if slices.Contains(b.events, "open 2") {
				t.Error("shard 2 is open while shard 0 is fed")
			}
			b.mu.Unlock()
		}
		return true, sh.Done(verdicts(x))
	}
	if err := b.run(t, false); err != nil {
		t.Fatal(err)
	}
}

// Told to stop within shard 1, the stage keeps what is finished, says what is
// not, and goes on from there.
func TestStopAndResume(t *testing.T) {
	b := newBench(t)
	done := map[int64]int{}
	b.text = func(sh *stage.Shard[*job.Text, job.Verdict], x *job.Text) (bool, error) {
		done[x.Ordinal]++
		if sh.Manifest.Index == 1 {
			b.stop()
		}
		return true, sh.Done(verdicts(x))
	}
	err := b.run(t, false)
	if failure.Code(err) != failure.Stopped || !strings.Contains(err.Error(), "judge of shards 1-2, "+judging) {
		t.Errorf("stopped: %v", err)
	}
	if got := b.committed(t); !slices.Equal(got, []int{0}) {
		t.Errorf("committed: %v", got)
	}
	b.admit, b.stop = context.WithCancel(t.Context())
	b.text = func(sh *stage.Shard[*job.Text, job.Verdict], x *job.Text) (bool, error) {
		done[x.Ordinal]++
		return true, sh.Done(verdicts(x))
	}
	if err := b.run(t, false); err != nil {
		t.Fatal(err)
	}
	for n := range int64(6) {
		if done[n] != 1 {
			t.Errorf("text %d was worked on %d times", n, done[n])
		}
	}
}

// What is still in flight when the grace is over is given up; the rest is kept.
func TestGraceIsOver(t *testing.T) {
	b := newBench(t)
	b.grace, b.hangs = time.Millisecond, true
	b.text = func(sh *stage.Shard[*job.Text, job.Verdict], x *job.Text) (bool, error) {
		if x.Ordinal == 0 {
			return true, sh.Done(verdicts(x))
		}
		b.stop()
		return true, nil
	}
	if err := b.run(t, false); failure.Code(err) != failure.Stopped || !strings.Contains(err.Error(), "work in flight") {
		t.Errorf("got %v", err)
	}
	if !slices.Contains(b.events, "end 0 committed=false") {
		t.Errorf("events: %q", b.events)
	}
	log, _, err := job.OpenTask[job.Verdict](t.Context(), b.store, "a job", b.task(0), job.Attempt{}, time.Hour, false)
	if err != nil || !log.Has(0) || log.Has(3) {
		t.Errorf("kept: %v, %v", log, err)
	}
	if err := log.Close(); err != nil {
		t.Error(err)
	}
}

// A text that is given up leaves its shard unfinished, and only that.
func TestDrop(t *testing.T) {
	b := newBench(t)
	b.text = func(sh *stage.Shard[*job.Text, job.Verdict], x *job.Text) (bool, error) {
		if x.Ordinal == 4 {
			sh.Drop()
			return true, nil
		}
		return true, sh.Done(verdicts(x))
	}
	if err := b.run(t, false); failure.Code(err) != failure.Stopped {
		t.Errorf("got %v", err)
	}
	if got := b.committed(t); !slices.Equal(got, []int{0, 2}) {
		t.Errorf("committed: %v", got)
	}
}

func TestWorkFails(t *testing.T) {
	b := newBench(t)
	bad := errors.New("no good")
	b.text = func(sh *stage.Shard[*job.Text, job.Verdict], x *job.Text) (bool, error) {
		if sh.Manifest.Index == 1 {
			sh.Drop()
			return false, bad
		}
		return true, sh.Done(verdicts(x))
	}
	if err := b.run(t, false); !errors.Is(err, bad) {
		t.Errorf("got %v", err)
	}
	if got := b.committed(t); slices.Contains(got, 1) || slices.Contains(got, 2) {
		t.Errorf("committed: %v", got)
	}
}

// Failed rows are Partial; a retry does them again and nothing else.
func TestRetry(t *testing.T) {
	b := newBench(t)
	class := "server"
	b.text = func(sh *stage.Shard[*job.Text, job.Verdict], x *job.Text) (bool, error) {
		rows := verdicts(x)
		if x.Ordinal == 3 {
			rows[0].Error = &class
		}
		return true, sh.Done(rows)
	}
	if err := b.run(t, false); failure.Code(err) != failure.Partial || !strings.Contains(err.Error(), "1 of 30 rows failed") {
		t.Errorf("got %v", err)
	}
	var again []int64
	b.text = func(sh *stage.Shard[*job.Text, job.Verdict], x *job.Text) (bool, error) {
		if sh.Before == nil || sh.Before.Commit().Failed != 1 {
			t.Error("the commit that is replaced is not at hand")
		}
		again = append(again, x.Ordinal)
		return true, sh.Done(verdicts(x))
	}
	if err := b.run(t, true); err != nil || !slices.Equal(again, []int64{3}) {
		t.Errorf("retry: %v, texts %v", err, again)
	}
}

// Where another attempt commits first, its commit counts and that is no error.
func TestAnotherAttemptIsFirst(t *testing.T) {
	b := newBench(t)
	b.text = func(sh *stage.Shard[*job.Text, job.Verdict], x *job.Text) (bool, error) {
		if sh.Manifest.Index == 0 && x.Ordinal == 0 {
			other := newOther(t, b)
			if err := other.run(t, false); err != nil {
				t.Error(err)
			}
		}
		return true, sh.Done(verdicts(x))
	}
	if err := b.run(t, false); err != nil {
		t.Fatal(err)
	}
	if got := b.committed(t); !slices.Equal(got, []int{0, 1, 2}) {
		t.Errorf("committed: %v", got)
	}
}

// newOther is another attempt at the same job.
func newOther(t *testing.T, b *bench) *bench {
	t.Helper()
	other := &bench{store: b.store, job: b.job, admit: t.Context(), stop: func() {}, grace: time.Minute}
	other.text = func(sh *stage.Shard[*job.Text, job.Verdict], x *job.Text) (bool, error) {
		return true, sh.Done(verdicts(x))
	}
	return other
}
