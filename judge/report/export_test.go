package report

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/job/jobtest"
	"tokenfork/internal/store"
	"tokenfork/judge/merge"
)

func exportTo(t *testing.T, st store.Store, dir string) error {
	t.Helper()
	_, err := Export(t.Context(), Options{Store: st, Out: openStore(t, dir), TempDir: t.TempDir(), Seed: 1, Resamples: 10, Console: io.Discard})
	return err
}

// TestExport writes folders of one file and of parts, and has sha256sum, pyarrow and a
// reader of YAML compare what they say with what they hold.
func TestExport(t *testing.T) {
	st := jobtest.Large(t, 3, 2)
	accept := func(*job.Text, *job.Result, *job.Verdict) error { return nil }
	for parts, want := range map[int]string{0: "data/train-00000-of-00001.parquet", 2: "data/train-00001-of-00002.parquet"} {
		if _, err := merge.Merge(t.Context(), merge.Options{Jobs: []merge.Source{{Store: st, Judging: jobtest.Judging, Accept: accept}}, Out: st, Parts: parts, TempDir: t.TempDir(), Console: io.Discard}); err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		if err := exportTo(t, st, dir); err != nil {
			t.Fatal(err)
		}
		sums := exec.Command("sha256sum", "--check", "--strict", ChecksumsKey)
		sums.Dir = dir
		if said, err := sums.CombinedOutput(); err != nil || !strings.Contains(string(said), want+": OK") || strings.Count(string(said), ": OK") != max(1, parts)+3 {
			t.Errorf("%d parts: sha256sum: %v\n%s", parts, err, said)
		}
		python := exec.Command(findPython(t), "testdata/dataset.py", dir, "divergent of judged mismatches")
		if said, err := python.CombinedOutput(); err != nil || !strings.HasSuffix(string(said), "rows\n") {
			t.Errorf("%d parts: %v\n%s", parts, err, said)
		}
		card, err := os.ReadFile(filepath.Join(dir, CardKey))
		if err != nil {
			t.Fatal(err)
		}
		if err := exportTo(t, st, dir); failure.Code(err) != failure.Refused {
			t.Errorf("a second export to the folder: %v", err)
		}
		if again, err := os.ReadFile(filepath.Join(dir, CardKey)); err != nil || string(again) != string(card) {
			t.Errorf("a refused export changed the card: %v", err)
		}
	}
	if err := st.Remove(t.Context(), merge.SummaryKey); err != nil {
		t.Fatal(err)
	}
	if err := exportTo(t, st, t.TempDir()); failure.Code(err) != failure.Refused {
		t.Errorf("no summary: %v", err)
	}
}

// TestCardSaysNoFolders: a card is public, and what a job says may be hostile.
func TestCardSaysNoFolders(t *testing.T) {
	for name, want := range map[string]string{"/scratch/me/model-7b": "model-7b", "../models/small": "small", "~/m": "m", "org/model": "org/model", "s3://bucket/table.csv": "s3://bucket/table.csv"} {
		if got := publicName(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if got, want := code("a`b|c\n<x>"), "`a'b¦c\\n<x>`"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
