package report

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tokenfork/judge/agreement"
)

// findPython is the Python that setup-vllm installed.
func findPython(t *testing.T) string {
	t.Helper()
	venv := os.Getenv("TOKENFORK_VENV")
	if venv == "" {
		venv = "../../.venv"
	}
	python := filepath.Join(venv, "bin", "python")
	if _, err := os.Stat(python); err != nil {
		t.Fatalf("no Python environment: make it with scripts/setup-vllm, or name one by TOKENFORK_VENV: %v", err)
	}
	return python
}

// recompute runs the script that computes the tables anew over pairs of a job's
// and a report's folder; it gives what it says of each job.
func recompute(t *testing.T, pairs ...string) map[string]string {
	t.Helper()
	python := findPython(t)
	cmd := exec.Command(python, append([]string{"testdata/reference.py"}, pairs...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("reference.py: %v\n%s", err, &stderr)
	}
	said := map[string]string{}
	for line := range strings.Lines(string(out)) {
		dir, what, _ := strings.Cut(line, ": ")
		said[dir] += what
	}
	return said
}

// TestRecomputed makes several reports and one of another job's results. One
// process looks at them all: it agrees with the first, and to make sure that it
// compares every table, not with the last.
func TestRecomputed(t *testing.T) {
	var pairs []string
	for _, s := range []synthetic{
		{texts: 120, seed: 3, margins: true, measures: true},
		{texts: 30, seed: 4, measures: true},
		{texts: 30, seed: 5},
		{texts: 30, seed: 6, measures: true, unjudged: true},
	} {
		st := s.write(t)
		var labels agreement.Labels
		if s.margins {
			labels = s.labels(t, st)
		}
		dir, _ := makeWithGold(t, st, 1000, labels)
		pairs = append(pairs, st.String(), dir)
	}
	s := synthetic{texts: 20, seed: 7, measures: true}
	wrong := s.write(t)
	s.labels(t, wrong)
	s.seed++
	other := s.write(t)
	dir, _ := makeWithGold(t, other, 50, s.labels(t, other))

	said := recompute(t, append(pairs, wrong.String(), dir)...)
	for i := 0; i < len(pairs); i += 2 {
		if said[pairs[i]] != "" {
			t.Error(said[pairs[i]])
		}
	}
	for _, what := range []string{"tokens", "rates all", "status", "mismatch-class", "mismatch-position", "divergence-position", "divergence-class", "small_au no length-cut",
		"AUC reference_eu", "AP small_entropy", "curve of small_eu", "lengths small", "finish reference", "confidence votes", "reference_entropy from", "reliability votes"} {
		if !strings.Contains(said[wrong.String()], what) {
			t.Errorf("no word of %s, though the report is another job's", what)
		}
	}
}
