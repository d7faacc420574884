package merge_test

import (
	"io"
	"strings"
	"testing"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/job/jobtest"
	"tokenfork/internal/store"
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
