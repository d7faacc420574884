package main

import (
	"path/filepath"
	"strings"
	"testing"

	"tokenfork/internal/failure"
	"tokenfork/internal/job/jobtest"
)

// judge --dry-run needs no server and gives GPU hours, or dollars by the prices.
func TestJudgeDryRun(t *testing.T) {
	job := " --job " + jobtest.Make(t, 4, 1).String()
	said := tokenfork(t, 0, "judge --dry-run"+job)
	for _, want := range []string{"small     infer of the whole job:", "judge     with an analysis: about 15 questions,", "2,250 answer tokens", "GPU hours (--judge-prefill-rate 4100",
		"from 20 of 20 mismatches, with their continuations", "20.0 % are identical and need no judge, 5.0 % have no continuation"} {
		if !strings.Contains(said, want) {
			t.Errorf("no %q in\n%s", want, said)
		}
	}
	said = tokenfork(t, 0, "judge --dry-run --verdict-only --price-in 1000 --price-out 2000"+job)
	if !strings.Contains(said, "judge     --verdict-only: about 15 questions,") || !strings.Contains(said, "$") || strings.Contains(said, "(--judge-prefill-rate") {
		t.Errorf("by prices it says\n%s", said)
	}
	tokenfork(t, failure.Usage, "judge --dry-run --shard 7"+job)
	tokenfork(t, failure.Usage, "judge --dry-run --judge-decode-rate 0"+job)
}

// plan --dry-run estimates the judging from the table alone.
func TestPlanDryRunGivesTheJudgesCost(t *testing.T) {
	dir := t.TempDir()
	table := write(t, dir, "table.csv", agreeing(5, 3))
	code, said, complaint := planned(t, "", table, "--job", filepath.Join(dir, "job"), "--dry-run", "--price-in", "1", "--price-out", "4")
	for _, want := range []string{"judge     with an analysis: about 1 questions,", "150 answer tokens: $0.00 (--price-in 1 --price-out 4)", "judge     --verdict-only: about 1 questions,",
		"from 1 of 1 mismatches, with the table's text in place of the continuations"} {
		if code != 0 || !strings.Contains(said, want) {
			t.Errorf("exit code %d, no %q in\n%s%s", code, want, said, complaint)
		}
	}
}

// submit --dry-run estimates with the flags that the judge's tasks get.
func TestSubmitDryRunGivesTheCost(t *testing.T) {
	dir := jobtest.Make(t, 4, 1).String()
	submit := func(code int, flags string) string {
		t.Helper()
		var out, complaint strings.Builder
		if got := run(t.Context(), []string{"submit", "--dry-run", "--job", dir, "--judge", "http://judge.invalid", "--judge-flags", flags}, &out, &complaint); got != code {
			t.Fatalf("exit code %d, want %d\n%s%s", got, code, &out, &complaint)
		}
		return out.String() + complaint.String()
	}
	said := submit(0, "--verdict-only --swap --price-in 1")
	if !strings.Contains(said, "--- cost\n") || !strings.Contains(said, "judge     --verdict-only: about 30 questions,") || !strings.Contains(said, "$0.0") {
		t.Errorf("it says\n%s", said)
	}
	if said := submit(failure.Usage, "--verdictonly"); !strings.Contains(said, "--judge-flags") {
		t.Errorf("it says\n%s", said)
	}
	if said := tokenfork(t, failure.Usage, "submit --dry-run --judge none --stage-model --job "+dir); !strings.Contains(said, "--stage-model without a model") {
		t.Errorf("it says\n%s", said)
	}
	if said := tokenfork(t, 0, "submit --dry-run --judge none --job "+dir); strings.Contains(said, "questions") || !strings.Contains(said, "reference infer of the whole job") {
		t.Errorf("without a judge it says\n%s", said)
	}
}
