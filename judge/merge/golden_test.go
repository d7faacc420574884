package merge_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"testing"

	"tokenfork/internal/failure"
	"tokenfork/internal/job/jobtest"
	"tokenfork/internal/store"
	"tokenfork/judge/merge"
)

// golden are hashes of what the program wrote that merged row by row. Those of
// results.parquet are newer: its pages have checksums since.
var golden = map[string]string{
	"few results.arrow":        "74a563082f2bf8b7",
	"few results.parquet":      "6a75cfdc17ce1f1f",
	"few results.csv":          "3b85d878c81e180b",
	"few failures.csv":         "0a610ffb74738c41",
	"few summary.json":         "809c38457c854f35",
	"few r2r.csv":              "883c9562d1787724",
	"large results.arrow":      "3cc8351fc89f2822",
	"large results.parquet":    "a741006939858f09", // with dictionaries of any size
	"large results.csv":        "617b2b3091169fe5",
	"large failures.csv":       "872cda10824ce93b",
	"large summary.json":       "4be600c731023fd0",
	"large r2r.csv":            "4125ae5a2f9413f2",
	"one by one summary.json":  "82705bb1e86ad10a", // it has no r2r.csv
	"missing results.arrow":    "74a563082f2bf8b7",
	"missing results.parquet":  "6a75cfdc17ce1f1f",
	"missing results.csv":      "3b85d878c81e180b",
	"missing failures.csv":     "0a610ffb74738c41",
	"missing summary.json":     "1a40db9440935522",
	"missing r2r.csv":          "883c9562d1787724",
	"repeated results.arrow":   "5a641c64c3fb76b1",
	"repeated results.parquet": "836a1dec72339e62",
	"repeated results.csv":     "670ce6150781d237",
	"repeated failures.csv":    "0a610ffb74738c41",
	"repeated summary.json":    "681e9a151ed7e83c",
}

// TestSameBytesAsRowByRow merges jobs of several kinds: with failures, with
// verdicts, more rows than a batch, two jobs with texts in common and not.
func TestSameBytesAsRowByRow(t *testing.T) {
	few, otherwise, large := jobtest.Make(t, 7, 2), jobtest.Make(t, 7, 3), jobtest.Large(t, 60, 7)
	source := func(s store.Store, place, judging, tag string) merge.Source {
		return merge.Source{Store: s, Retry: &merge.Retry{Place: place}, Judging: judging, Tag: tag, Accept: accepted}
	}
	for _, c := range []struct {
		name string
		merge.Options
	}{
		{"few", merge.Options{Jobs: []merge.Source{source(few, "./few", "", "")}, R2R: true}},
		{"large", merge.Options{Jobs: []merge.Source{source(large, "./large", jobtest.Judging, "")}, R2R: true}},
		{"one by one", merge.Options{Jobs: []merge.Source{source(large, "./large", jobtest.Judging, "")}}},
		{"missing", merge.Options{Jobs: []merge.Source{source(few, "./few", jobtest.Judging, "")}, AllowMissing: true, R2R: true}},
		{"repeated", merge.Options{Jobs: []merge.Source{source(few, "./few", "", "a"), source(otherwise, "./otherwise", "", "b")}}},
	} {
		before := runtime.GOMAXPROCS(0)
		if c.name == "one by one" {
			runtime.GOMAXPROCS(1)
		}
		c.Out, c.Console = few, io.Discard
		if len(c.Jobs) > 1 || c.Jobs[0].Store != few {
			var err error
			if c.Out, err = store.Open(t.Context(), t.TempDir(), store.Options{}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := merge.Merge(t.Context(), c.Options); err != nil && failure.Code(err) != failure.Partial {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		runtime.GOMAXPROCS(before)
		files := []string{merge.ArrowKey, merge.ParquetKey, merge.CSVKey, merge.FailuresKey, merge.SummaryKey}
		if c.R2R {
			files = append(files, merge.R2RKey)
		}
		for _, key := range files {
			b, err := store.ReadAll(t.Context(), c.Out, key)
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
				continue
			}
			name := c.name
			if name == "one by one" && key != merge.SummaryKey {
				name = "large"
			}
			if key == merge.SummaryKey {
				b = withoutRun(t, b)
			}
			got := fmt.Sprintf("%x", sha256.Sum256(b))[:16]
			if want := golden[name+" "+key]; got != want {
				t.Errorf("%q: %q, // want %q", name+" "+key, got, want)
			}
		}
	}
}

// withoutRun is a summary without what the run and the files' own bytes make of it.
func withoutRun(t *testing.T, summary []byte) []byte {
	t.Helper()
	var said map[string]any
	if err := json.Unmarshal(summary, &said); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"run", "files_sha256", "sha256"} {
		delete(said, key)
	}
	b, err := json.Marshal(said)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
