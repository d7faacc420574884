package report

import (
	"io"
	"testing"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/job/jobtest"
	"tokenfork/internal/store"
	"tokenfork/judge/merge"
)

// TestReadsWhatTheSummaryNames has results in one file, in parts, and in both, as a
// merge leaves them that ends before it removes an earlier one's.
func TestReadsWhatTheSummaryNames(t *testing.T) {
	st := jobtest.Large(t, 3, 2)
	run := func(parts int, formats ...string) {
		t.Helper()
		accept := func(*job.Text, *job.Result, *job.Verdict) error { return nil }
		_, err := merge.Merge(t.Context(), merge.Options{Jobs: []merge.Source{{Store: st, Judging: jobtest.Judging, Accept: accept}}, Out: st, Parts: parts, Formats: formats, TempDir: t.TempDir(), Console: io.Discard})
		if err != nil {
			t.Fatal(err)
		}
	}
	object := func(key string) []byte {
		t.Helper()
		b, err := store.ReadAll(t.Context(), st, key)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	run(2, "parquet")
	if _, about := makeReport(t, st, 10); about.Mismatches != 3*jobtest.LargePerText {
		t.Errorf("%d mismatches in the parts", about.Mismatches)
	}
	part := object("results/part-00001.parquet")
	run(0)
	if err := store.ReplaceBytes(t.Context(), st, "results/part-00001.parquet", part); err != nil {
		t.Fatal(err)
	}
	if _, about := makeReport(t, st, 10); about.ResultsSHA256 != job.Sum(object(ResultsKey)) || about.Mismatches != 3*jobtest.LargePerText {
		t.Errorf("not the one file's results: %+v", about)
	}
	refused := func(what string) {
		t.Helper()
		_, err := Make(t.Context(), Options{Store: st, Out: openStore(t, t.TempDir()), Resamples: 10, TempDir: t.TempDir(), Console: io.Discard})
		if failure.Code(err) != failure.Refused {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := st.Remove(t.Context(), merge.SummaryKey); err != nil {
		t.Fatal(err)
	}
	refused("a part, the one file and no summary")
	run(0, "csv")
	refused("results as CSV only")
}
