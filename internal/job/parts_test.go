package job

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/store"
)

var testTask = Task{Stage: "infer", Shard: 7, Side: "small", Manifest: "m1"}

func folder(t *testing.T) (store.Store, string) {
	t.Helper()
	dir := t.TempDir()
	s, err := store.Open(t.Context(), dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s, dir
}

func openTestLog(t *testing.T, s store.Store) *Log[Continuation] {
	t.Helper()
	l, err := OpenLog[Continuation](t.Context(), s, "job", testTask, Attempt{Host: "h"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func ids(n int32, rows int) []Continuation {
	cs := make([]Continuation, rows)
	for i := range cs {
		cs[i] = Continuation{Ordinal: int64(n), Position: int32(i), IDs: []int32{n, int32(i)}}
	}
	return cs
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestLogResumes(t *testing.T) {
	s, _ := folder(t)
	first := openTestLog(t, s)
	must(t, first.Add(ids(1, 2)))
	first.Count(Counters{"tokens": 5})
	must(t, first.Close())

	second := openTestLog(t, s)
	if !second.Has(1) || second.Has(2) {
		t.Fatalf("has 1: %v, 2: %v", second.Has(1), second.Has(2))
	}
	must(t, second.Add(ids(2, 3)))
	second.Count(Counters{"tokens": 6})
	c, err := second.Commit(t.Context(), []int64{1, 2})
	must(t, err)
	if c.Rows != 5 || c.Counters["tokens"] != 11 || len(c.Parts) != 2 {
		t.Errorf("commit %+v", c)
	}
	r, err := OpenCommitted[Continuation](t.Context(), s, testTask)
	must(t, err)
	for n := range int32(2) {
		got, err := r.Text(t.Context(), int64(n+1))
		must(t, err)
		if want := ids(n+1, int(n)+2); !reflect.DeepEqual(got, want) {
			t.Errorf("text %d: got %v, want %v", n+1, got, want)
		}
	}
}

func TestTwoAttemptsFirstWins(t *testing.T) {
	s, _ := folder(t)
	a, b := openTestLog(t, s), openTestLog(t, s)
	for _, l := range []*Log[Continuation]{a, b} {
		must(t, l.Add(ids(1, 2)))
		must(t, l.Add(ids(2, 1)))
	}
	first, err := a.Commit(t.Context(), []int64{1, 2})
	must(t, err)
	second, err := b.Commit(t.Context(), []int64{1, 2})
	if !errors.Is(err, fs.ErrExist) || second.Attempt.ID != first.Attempt.ID {
		t.Errorf("second commit: %v, by %s; the first is %s's", err, second.Attempt.ID, first.Attempt.ID)
	}
	// A third that starts after both sees each text once, of the smaller name.
	third := openTestLog(t, s)
	if n := len(third.owner); n != 2 {
		t.Errorf("%d texts, want 2", n)
	}
	must(t, third.Close())
}

func TestCommitWantsEveryText(t *testing.T) {
	s, _ := folder(t)
	l := openTestLog(t, s)
	must(t, l.Add(ids(1, 1)))
	if _, err := l.Commit(t.Context(), []int64{1, 2}); err == nil || !strings.Contains(err.Error(), "text 2") {
		t.Errorf("got %v", err)
	}
	if _, err := LoadCommit(t.Context(), s, testTask); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("commit: %v", err)
	}
}

// TestDamage flips every byte of a part: each flip must be seen, by a reader
// of the commit and by a restart, which does the texts again.
func TestDamage(t *testing.T) {
	s, dir := folder(t)
	l := openTestLog(t, s)
	must(t, l.Add(ids(1, 1)))
	c, err := l.Commit(t.Context(), []int64{1})
	must(t, err)
	path := filepath.Join(dir, c.Parts[0].Key)
	whole, err := os.ReadFile(path)
	must(t, err)
	for i := range whole {
		bad := append([]byte{}, whole...)
		bad[i] ^= 0x20
		must(t, os.WriteFile(path, bad, 0o600))
		r, err := OpenCommitted[Continuation](t.Context(), s, testTask)
		must(t, err)
		if _, err := r.Text(t.Context(), 1); failure.Code(err) != failure.Refused || !strings.Contains(err.Error(), c.Parts[0].Key) {
			t.Fatalf("byte %d flipped: %v", i, err)
		}
	}
	must(t, os.WriteFile(path, whole[:len(whole)/2], 0o600))
	again := openTestLog(t, s)
	if again.Has(1) {
		t.Error("a truncated part counts as finished")
	}
	must(t, again.Close())
}

func TestForeignParts(t *testing.T) {
	s, _ := folder(t)
	l := openTestLog(t, s)
	must(t, l.Add(ids(1, 1)))
	must(t, l.Close())
	other := testTask
	other.Manifest = "m2"
	if _, err := OpenLog[Continuation](t.Context(), s, "job", other, Attempt{}, time.Hour); failure.Code(err) != failure.Refused {
		t.Errorf("got %v", err)
	}
}

func TestRetry(t *testing.T) {
	s, dir := folder(t)
	class := "server"
	l := openTestLog(t, s)
	bad := ids(2, 2)
	bad[1].Error = &class
	must(t, l.Add(ids(1, 1)))
	must(t, l.Close())
	l = openTestLog(t, s) // a part of its own
	must(t, l.Add(bad))
	must(t, l.Add(ids(3, 1)))
	c, err := l.Commit(t.Context(), []int64{1, 2, 3})
	must(t, err)
	if c.Failed != 1 {
		t.Fatalf("%d failed, want 1", c.Failed)
	}
	must(t, os.Remove(filepath.Join(dir, c.Parts[0].Key))) // text 1's, or 2's and 3's: names are random

	lost := map[int64]bool{}
	for _, n := range c.Parts[0].Texts {
		lost[n] = true
	}
	again, _, err := OpenTask[Continuation](t.Context(), s, "job", testTask, Attempt{}, time.Hour, true)
	must(t, err)
	for n := int64(1); n <= 3; n++ {
		if open := lost[n] || n == 2; again.Has(n) == open {
			t.Errorf("text %d: has %v, open %v", n, again.Has(n), open)
		}
		if !again.Has(n) {
			must(t, again.Add(ids(int32(n), 2)))
		}
	}
	c, err = again.Commit(t.Context(), []int64{1, 2, 3})
	must(t, err)
	if c.Failed != 0 {
		t.Errorf("%d failed after the retry", c.Failed)
	}
	r, err := OpenCommitted[Continuation](t.Context(), s, testTask)
	must(t, err)
	for n := int64(1); n <= 3; n++ {
		rows, err := r.Text(t.Context(), n)
		must(t, err)
		for _, row := range rows {
			if row.Failed() {
				t.Errorf("text %d is still failed", n)
			}
		}
	}
}

// A task whose first commit was removed after a retry is still finished, and a
// further retry's commit comes after the one that is there.
func TestRoundsOfCommits(t *testing.T) {
	s, dir := folder(t)
	l := openTestLog(t, s)
	class := "server"
	must(t, l.Add([]Continuation{{Ordinal: 1, Error: &class}}))
	_, err := l.Commit(t.Context(), []int64{1})
	must(t, err)
	for round := 1; round <= 2; round++ {
		again, before, err := OpenTask[Continuation](t.Context(), s, "job", testTask, Attempt{}, time.Hour, true)
		must(t, err)
		if again == nil || before == nil || before.Commit().Failed != 1 {
			t.Fatalf("round %d: log %v, before %v", round, again, before)
		}
		must(t, again.Add([]Continuation{{Ordinal: 1, Error: &class}}))
		_, err = again.Commit(t.Context(), []int64{1})
		must(t, err)
		must(t, os.Remove(filepath.Join(dir, CommitKey(testTask, round-1))))
		if _, err := LoadCommit(t.Context(), s, testTask); err != nil {
			t.Errorf("only round %d: %v", round, err)
		}
	}
}

// A commit without its sha256, or with any byte changed, finishes nothing: the
// task goes on from its parts and its next commit counts.
func TestDamagedCommit(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"unsealed":  func(b []byte) []byte { return append(b[:bytes.LastIndex(b, []byte(",\n \"sha256\""))], "\n}\n"...) },
		"truncated": func(b []byte) []byte { return b[:len(b)/2] },
		"changed":   func(b []byte) []byte { return bytes.Replace(b, []byte(`"rows": 2`), []byte(`"rows": 3`), 1) },
		"empty":     func([]byte) []byte { return nil },
	} {
		s, dir := folder(t)
		l := openTestLog(t, s)
		must(t, l.Add(ids(1, 2)))
		_, err := l.Commit(t.Context(), []int64{1})
		must(t, err)
		path := filepath.Join(dir, CommitKey(testTask, 0))
		b, err := os.ReadFile(path)
		must(t, err)
		must(t, os.WriteFile(path, damage(b), 0o644))
		if _, err := OpenCommitted[Continuation](t.Context(), s, testTask); failure.Code(err) != failure.Refused || !IsDamagedCommit(err) || !strings.Contains(err.Error(), "commit.json") {
			t.Errorf("%s: %v", name, err)
		}
		again, _, err := OpenTask[Continuation](t.Context(), s, "job", testTask, Attempt{}, time.Hour, false)
		must(t, err)
		if again == nil || !again.Has(1) {
			t.Fatalf("%s: the task is not open from its parts", name)
		}
		c, err := again.Commit(t.Context(), []int64{1})
		must(t, err)
		if now, err := LoadCommit(t.Context(), s, testTask); err != nil || now.Rows != 2 || now.Attempt.ID != c.Attempt.ID {
			t.Errorf("%s: after the next commit: %+v, %v", name, now, err)
		}
	}
}
