package report

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// recompute runs the script that computes the tables anew; what it says is empty if they agree.
func recompute(t *testing.T, jobDir, reportDir string) string {
	t.Helper()
	venv := os.Getenv("TOKENFORK_VENV")
	if venv == "" {
		venv = "../../.venv"
	}
	python := filepath.Join(venv, "bin", "python")
	if _, err := os.Stat(python); err != nil {
		t.Fatalf("no Python environment: make it with scripts/setup-vllm, or name one by TOKENFORK_VENV: %v", err)
	}
	cmd := exec.Command(python, "testdata/reference.py", jobDir, reportDir)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	said, err := cmd.Output()
	if err != nil && len(said) == 0 {
		t.Fatalf("reference.py: %v\n%s", err, &stderr)
	}
	return strings.TrimSpace(string(said))
}

func TestRecomputed(t *testing.T) {
	for name, s := range map[string]synthetic{
		"margins":     {sentences: 120, seed: 3, margins: true, measures: true},
		"plain":       {sentences: 30, seed: 4, measures: true},
		"no measures": {sentences: 30, seed: 5},
		"not judged":  {sentences: 30, seed: 6, measures: true, unjudged: true},
	} {
		t.Run(name, func(t *testing.T) {
			st := s.write(t)
			dir, _ := makeReport(t, st, 1000)
			if said := recompute(t, st.String(), dir); said != "" {
				t.Error(said)
			}
		})
	}
}

// TestRecomputedSeesDamage makes sure that the script compares every table: those
// of another job differ.
func TestRecomputedSeesDamage(t *testing.T) {
	s := synthetic{sentences: 20, seed: 7, measures: true}
	st := s.write(t)
	s.seed++
	dir, _ := makeReport(t, s.write(t), 50)
	said := recompute(t, st.String(), dir)
	for _, what := range []string{"tokens", "rates all", "status", "mismatch-class", "mismatch-position", "divergence-position", "divergence-class", "small_au no length-cut",
		"AUC reference_eu", "AP small_entropy", "curve of small_eu", "lengths small", "finish reference", "confidence votes", "reference_entropy from"} {
		if !strings.Contains(said, what) {
			t.Errorf("no word of %s, though the report is another job's", what)
		}
	}
}
