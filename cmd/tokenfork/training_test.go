package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tokenfork/internal/failure"
	"tokenfork/internal/vllm/fakevllm"
	"tokenfork/internal/vllm/vllmtest"
)

// TestTrainingSet goes from texts to a router's training set: its rows are what R2R's step 4 makes of
// the table and the verdicts, and its logits the small model's largest.
func TestTrainingSet(t *testing.T) {
	t.Parallel()
	j := newFakeTexts(t, 12)
	place := filepath.Join(j.dir, "job")
	logits := fakevllm.Serve(t, fakevllm.Config{Model: j.models[0], Logits: true})
	at := slices.Index(j.flags, "--small-url") + 1
	probabilities := j.flags[at]
	if out := must(t, []int{failure.Refused}, j.args("--job", place, "--shards", "3", "--logits", "5")...); !strings.Contains(out, "no server of the small model gives logits") {
		t.Error(out)
	}
	j.flags[at] = logits.URL
	must(t, []int{0}, j.args("--job", place, "--shards", "3", "--logits", "5")...)
	models := []string{"--small-model", filepath.Join(j.dir, "small"), "--reference-model", filepath.Join(j.dir, "reference")}
	judge := fakevllm.Serve(t, fakevllm.Config{Model: j.models[1]})
	run := func(table string, to string) []string {
		return slices.Concat([]string{"run", table, "--job", to, "--trajectories", "real", "--alignment", "next", "--tmp", j.dir, "--max-new-tokens", "8", "--judge", judge.URL, "--judge-model", "fake",
			"--small-url", probabilities, "--reference-url", j.flags[slices.Index(j.flags, "--reference-url")+1]}, models)
	}
	must(t, []int{0}, run(filepath.Join(place, "table.parquet"), place)...)
	must(t, []int{0}, "merge", "--job", place, "--judge", judge.URL, "--judge-model", "fake", "--format", "r2r")
	said, err := exec.Command(filepath.Join(vllmtest.Venv(), "bin/python"), "testdata/read_training.py", place, "5").CombinedOutput()
	if err != nil || !strings.HasPrefix(string(said), "3 parts, ") || strings.Contains(string(said), " 0 mismatches") {
		t.Errorf("%v: %s", err, said)
	}
	must(t, []int{0}, "check", "--job", place)
	part := filepath.Join(place, "r2r", "part-00001.parquet")
	b, err := os.ReadFile(part)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(part, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if out := must(t, []int{failure.Refused}, "check", "--job", place); !strings.Contains(out, "r2r/part-00001.parquet is damaged") {
		t.Error(out)
	}
	must(t, []int{0}, "merge", "--job", place, "--judge", judge.URL, "--judge-model", "fake") // as there is an r2r.csv, all of it is written anew
	must(t, []int{0}, "check", "--job", place)
	must(t, []int{failure.Usage}, j.args("--out", filepath.Join(j.dir, "t.csv"), "--logits", "5")...)
}
