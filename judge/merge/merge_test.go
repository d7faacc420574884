package merge_test

import (
	"context"
	"io"
	"io/fs"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/job/jobtest"
	"tokenfork/internal/store"
	"tokenfork/judge"
	"tokenfork/judge/merge"
)

// judged commits, for a job of one shard and one text, a verdict at each position.
func judged(t *testing.T, positions ...int32) store.Store {
	t.Helper()
	s := jobtest.Make(t, 1, 1)
	j, err := job.Load(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	task := job.Task{Stage: "judge", Shard: 0, Side: jobtest.Judging, Manifest: j.Shards[0].SHA256}
	log, err := job.OpenLog[job.Verdict](t.Context(), s, j.ID, task, job.Attempt{}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	var vs []job.Verdict
	for _, p := range positions {
		vs = append(vs, job.Verdict{Position: p, MeaningMatch: new(bool), JudgeModel: "m", PromptVersion: "v", PromptHash: "h"})
	}
	if err := log.Add(vs); err != nil {
		t.Fatal(err)
	}
	if _, err := log.Commit(t.Context(), []int64{0}); err != nil {
		t.Fatal(err)
	}
	return s
}

func mergeJudged(t *testing.T, s store.Store, accept merge.Accept) (*merge.Summary, error) {
	t.Helper()
	return merge.Merge(t.Context(), merge.Options{Jobs: []merge.Source{{Store: s, Judging: jobtest.Judging, Accept: accept}}, Out: s, Console: io.Discard})
}

func accepted(*job.Text, *job.Result, *job.Verdict) error { return nil }

// unreadable is a store in which one object cannot be read.
type unreadable struct {
	store.Store
	key string
}

func (u unreadable) Open(ctx context.Context, key string) (io.ReadCloser, error) {
	if key == u.key {
		return nil, fs.ErrPermission
	}
	return u.Store.Open(ctx, key)
}

// What predict took is left out of the summary where it cannot be read, with a word.
func TestUnreadableCorpus(t *testing.T) {
	var said strings.Builder
	s := unreadable{jobtest.Make(t, 2, 1), job.CorpusKey}
	sum, err := merge.Merge(t.Context(), merge.Options{Jobs: []merge.Source{{Store: s}}, Out: s, Console: &said})
	if err != nil || sum.Mismatches != 10 || !strings.Contains(said.String(), "leaves out what predict took: read corpus.json") {
		t.Errorf("%+v, %v, said %s", sum, err, &said)
	}
}

// Each planned mismatch has one verdict, or is listed.
func TestEachMismatchOnce(t *testing.T) {
	sum, err := mergeJudged(t, judged(t, 1, 2, 3, 4, 5), accepted)
	if err != nil || sum.ByStatus["ok"] != jobtest.PerText || sum.Verdicts["different"] != jobtest.PerText {
		t.Errorf("got %+v, %v", sum, err)
	}
	if sum, err := mergeJudged(t, judged(t, 1, 2, 4, 5), accepted); failure.Code(err) != failure.Partial || sum.ByStatus["not_judged"] != 1 {
		t.Errorf("got %+v, %v", sum, err)
	}
	for name, positions := range map[string][]int32{"a second verdict": {1, 2, 2, 3, 4, 5}, "an unplanned one": {0, 1, 2, 3, 4, 5}} {
		if _, err := mergeJudged(t, judged(t, positions...), accepted); err == nil || !strings.Contains(err.Error(), "unplanned or second") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// A verdict on another question ends the merge, and leaves no results.
func TestVerdictOnAnotherQuestion(t *testing.T) {
	s := judged(t, 1, 2, 3, 4, 5)
	no := failure.New(failure.Refused, "judge again", "another question")
	if _, err := mergeJudged(t, s, func(_ *job.Text, r *job.Result, _ *job.Verdict) error {
		if r.MismatchPosition == 4 {
			return no
		}
		return nil
	}); failure.Code(err) != failure.Refused {
		t.Errorf("got %v", err)
	}
	if r, err := s.Open(t.Context(), merge.CSVKey); err == nil {
		r.Close()
		t.Error("there are results")
	}
}

// Verdicts of a part that names the inputs that are merged are not checked again. A shard
// whose continuations were committed once more since is, and so is each with Recheck.
func TestVerdictsOfTheSameInputs(t *testing.T) {
	s := judgedLarge(t, 3, 3)
	before, asked := mergeAsking(t, s, false)
	if asked != 0 {
		t.Errorf("%d verdicts were checked", asked)
	}
	if again, asked := mergeAsking(t, s, true); asked != 3*jobtest.LargePerText || again != before {
		t.Errorf("with Recheck %d verdicts were checked", asked)
	}
	j, err := job.Load(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	task := job.Task{Stage: "infer", Shard: 1, Side: job.Small.String(), Manifest: j.Shards[1].SHA256}
	c, err := job.LoadCommit(t.Context(), s, task)
	if err != nil {
		t.Fatal(err)
	}
	c.Attempt.ID, c.Sum = "another", ""
	b, err := job.SealJSON(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.CreateBytes(t.Context(), s, job.CommitKey(task, 1), b); err != nil {
		t.Fatal(err)
	}
	if again, asked := mergeAsking(t, s, false); asked != jobtest.LargePerText || again != before {
		t.Errorf("after another commit of a shard %d verdicts were checked", asked)
	}
}

// mergeAsking merges a judged job, and gives the hash of results.csv and how many verdicts
// were checked against their questions.
func mergeAsking(t *testing.T, s store.Store, recheck bool) (csv string, asked int64) {
	t.Helper()
	var n atomic.Int64
	records, err := judge.Judgings(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	accept := func(*job.Text, *job.Result, *job.Verdict) error { n.Add(1); return nil }
	sum, err := merge.Merge(t.Context(), merge.Options{Jobs: []merge.Source{{Store: s, Judging: records[0].ID(), Accept: accept, Recheck: recheck}}, Out: s, Console: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	return sum.SHA256[merge.CSVKey], n.Load()
}
