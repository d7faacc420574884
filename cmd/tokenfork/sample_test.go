package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tokenfork/internal/failure"
	"tokenfork/judge/merge"
)

// TestPilot runs a sample, reports on it, and grows it to all texts: nothing that was finished is
// made again, and the results are those of a job that was planned whole.
func TestPilot(t *testing.T) {
	t.Parallel()
	f := newFakeJob(t, 24, 60, 2)
	whole, pilot := filepath.Join(f.dir, "whole"), filepath.Join(f.dir, "pilot")
	f.whole(t, whole)
	do := func(code int, args ...string) string {
		t.Helper()
		var out bytes.Buffer
		if got := run(t.Context(), args, &out, &out); got != code {
			t.Fatalf("%s: exit code %d, want %d:\n%s", strings.Join(args, " "), got, code, &out)
		}
		return out.String()
	}
	said := do(0, append(f.args(pilot), "--sample", "0.25")...)
	if !strings.Contains(said, "a sample of 6 of 24 texts (25 %)") {
		t.Errorf("planning says:\n%s", said)
	}
	if said := do(0, "status", "--job", pilot); !strings.Contains(said, "a sample of 6 of 24 texts") {
		t.Errorf("status says:\n%s", said)
	}
	do(0, "check", "--job", pilot)
	do(0, "report", "--job", pilot, "--resamples", "50")
	page, err := os.ReadFile(filepath.Join(pilot, "report", "report.html"))
	if err != nil {
		t.Fatal(err)
	}
	table, err := os.ReadFile(filepath.Join(pilot, "report", "tables", "whole-table.csv"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), "From a sample of 6 of 24 texts (25 %)") || !strings.Contains(string(table), "divergent of tokens,6,24,4,") {
		t.Errorf("the report does not speak of the sample:\n%s", table)
	}
	if said := do(0, "compare", pilot, whole); !strings.Contains(said, "in 6 texts are in both jobs; 0 are only in "+pilot) || !strings.Contains(said, "meaning_match") {
		t.Errorf("the pilot compared with the whole:\n%s", said)
	}
	do(80, "compare", pilot)
	before := map[string][]byte{}
	for _, name := range files(t, pilot) {
		if strings.HasPrefix(name, "parts/") || strings.HasPrefix(name, "shards/") {
			if before[name], err = os.ReadFile(filepath.Join(pilot, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, grow := range []string{"15", "all"} {
		do(0, append(f.args(pilot), "--grow", grow)...)
	}
	for name, b := range before {
		if after, err := os.ReadFile(filepath.Join(pilot, name)); err != nil || !bytes.Equal(after, b) {
			t.Errorf("%s is not what it was: %v", name, err)
		}
	}
	for _, name := range files(t, pilot) {
		if shard := strings.Split(name, "/"); shard[0] == "parts" && shard[2] < "00002" && before[name] == nil {
			t.Errorf("growing made %s, of a shard that was finished", name)
		}
	}
	if names := differs(t, pilot, whole); len(names) > 0 {
		t.Errorf("%s differ from those of a job planned whole", names)
	}
	do(0, "check", "--job", pilot)
	do(0, append(f.args(pilot), "--grow", "all")...)
	summary, err := os.ReadFile(filepath.Join(pilot, merge.SummaryKey))
	if err != nil || bytes.Contains(summary, []byte(`"sample"`)) {
		t.Errorf("%s of a job that holds all texts speaks of a sample: %v", merge.SummaryKey, err)
	}
	if said := do(4, append(f.args(pilot), "--sample", "0.25")...); !strings.Contains(said, "holds 24 of 24 texts") {
		t.Errorf("a smaller sample: %s", said)
	}
}

// TestSampleFlags refuses values that are no samples before anything is read.
func TestSampleFlags(t *testing.T) {
	for _, flags := range [][]string{{"--sample", "0"}, {"--sample", "1.5"}, {"--grow", "-3"}, {"--sample", "5", "--grow", "all"}, {"--sample", "NaN"}, {"--replay", "x"}} {
		must(t, []int{failure.Usage}, append([]string{"plan", "none.csv", "--job", t.TempDir()}, flags...)...)
	}
}
