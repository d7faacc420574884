package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tokenfork/internal/failure"
	"tokenfork/internal/vllm/fakevllm"
)

// TestCalibrateAndPlan measures a job's models and has plan, judge and submit estimate by what was found.
func TestCalibrateAndPlan(t *testing.T) {
	f := newFakeJob(t, 6, 60, 1)
	place, rates := filepath.Join(f.dir, "job"), filepath.Join(f.dir, "rates.json")
	models := []string{"--small-model", filepath.Join(f.dir, "small"), "--reference-model", filepath.Join(f.dir, "reference")}
	plan := append([]string{"plan", f.table, "--job", place, "--alignment", "next", "--max-new-tokens", "8"}, models...)
	must(t, []int{0}, plan...)
	t.Setenv(fakevllm.Var, fakevllm.Config{}.Env(t))
	said := must(t, []int{0}, "calibrate", "--job", place, "--vllm", os.Args[0]+" "+fakevllm.Command, "--time", "150ms", "--out", rates, "--judge-model", filepath.Join(f.dir, "reference"), "--tmp", f.dir)
	for _, model := range []string{"small", "reference", "judge"} {
		if !strings.Contains(said, "\n"+model+" ") {
			t.Errorf("no rates of %s:\n%s", model, said)
		}
	}
	given := `{"format":1,"prefill_rate":[1,0],"decode_rate":[2,4],"judge_prefill_rate":5,"judge_decode_rate":6,"measured":[]}`
	if err := os.WriteFile(rates+"2", []byte(given), 0o600); err != nil {
		t.Fatal(err)
	}
	hours := func(more ...string) (lines []string) {
		for line := range strings.Lines(must(t, []int{0}, append(append(plan[:len(plan):len(plan)], "--dry-run"), more...)...)) {
			if strings.Contains(line, "GPU hours") {
				lines = append(lines, line)
			}
		}
		return lines
	}
	byFile, byFlags := hours("--rates", rates+"2"), hours("--prefill-rate", "1,9300", "--decode-rate", "2,4", "--judge-prefill-rate", "5", "--judge-decode-rate", "6")
	if len(byFile) < 4 || strings.Join(byFile, "") != strings.Join(byFlags, "") {
		t.Errorf("by the file:\n%sby flags:\n%s", byFile, byFlags)
	}
	if mixed := hours("--rates", rates+"2", "--judge-prefill-rate", "7"); !strings.Contains(strings.Join(mixed, ""), "--judge-prefill-rate 7 --judge-decode-rate 6") {
		t.Errorf("a flag beside the file:\n%s", mixed)
	}
	if fast, slow := hours("--rates", rates), byFile; strings.Join(fast, "") == strings.Join(slow, "") {
		t.Errorf("what was measured makes no difference:\n%s", fast)
	}
	for _, args := range [][]string{{"judge", "--job", place, "--judge", "http://127.0.0.1:1", "--judge-model", "m", "--dry-run"}, {"submit", "--job", place, "--folder", f.dir, "--dry-run", "--judge", "http://127.0.0.1:1", "--judge-model", "m"}} {
		if said := must(t, []int{0}, append(args, "--rates", rates+"2")...); !strings.Contains(said, "--judge-prefill-rate 5 --judge-decode-rate 6") {
			t.Errorf("%s does not know the rates:\n%s", args[0], said)
		}
	}
	must(t, []int{failure.Usage}, append(plan[:len(plan):len(plan)], "--rates", f.table)...)
	must(t, []int{failure.Usage}, "calibrate", "--job", place, "--time", "0s")
	must(t, []int{failure.Usage}, append(plan[:len(plan):len(plan)], "--prefill-rate", "0,1")...)
}
