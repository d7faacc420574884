package report

import (
	"bytes"
	"encoding/json"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tokenfork/internal/columnar"
	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/stats"
	"tokenfork/internal/store"
	"tokenfork/internal/store/storetest"
)

// contents reads a store's objects.
func contents(t *testing.T, s store.Store) map[string]string {
	t.Helper()
	files := map[string]string{}
	for o, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		b, err := store.ReadAll(t.Context(), s, o.Key)
		if err != nil {
			t.Fatal(err)
		}
		files[o.Key] = string(b)
	}
	return files
}

// TestS3 makes the report of a job in S3, in S3: it is the one of the same job in a folder.
func TestS3(t *testing.T) {
	local := synthetic{texts: 12, seed: 1, measures: true}.write(t)
	proxy := storetest.StartS3(t)
	options := store.Options{S3Endpoint: proxy.URL, S3PathStyle: true}
	remote, err := store.Open(t.Context(), "s3://"+proxy.Bucket+"/job", options)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{ResultsKey, job.RatesKey} {
		b, err := store.ReadAll(t.Context(), local, key)
		if err != nil {
			t.Fatal(err)
		}
		if err := store.CreateBytes(t.Context(), remote, key, b); err != nil {
			t.Fatal(err)
		}
	}
	out, err := store.Open(t.Context(), "s3://"+proxy.Bucket+"/job/report", options)
	if err != nil {
		t.Fatal(err)
	}
	temp := t.TempDir()
	if _, err := Make(t.Context(), Options{Store: remote, Out: out, TempDir: temp, Seed: 1, Resamples: 20, Console: io.Discard}); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	dir, _ := makeReport(t, local, 20)
	got, want := contents(t, out), contents(t, openStore(t, dir))
	for key := range want {
		if got[key] != want[key] {
			t.Errorf("%s differs: %d bytes, want %d", key, len(got[key]), len(want[key]))
		}
	}
	if len(got) != len(want) || len(want) < 40 {
		t.Errorf("%d files, want %d", len(got), len(want))
	}
}

// TestRemade replaces a report of judged results by one without verdicts: no
// figure of the first may stay.
func TestRemade(t *testing.T) {
	out := openStore(t, t.TempDir())
	for _, unjudged := range []bool{false, true} {
		st := synthetic{texts: 12, seed: 1, measures: true, unjudged: unjudged}.write(t)
		if _, err := Make(t.Context(), Options{Store: st, Out: out, Seed: 1, Resamples: 20, Console: io.Discard}); err != nil {
			t.Fatal(err)
		}
	}
	files := contents(t, out)
	for _, key := range []string{"figures/roc.pdf", "figures/divergence-position.png", "tables/auc.csv", "tables/examples.tex", "figures/confidence-votes.svg"} {
		if _, there := files[key]; there {
			t.Errorf("%s is still there", key)
		}
	}
	for _, key := range []string{"figures/mismatch-position.pdf", "figures/mismatch-quantile.png", "figures/lengths.svg", "tables/rates.csv", "tables/rates.tex"} {
		if len(files[key]) == 0 {
			t.Errorf("no %s", key)
		}
	}
	var about About
	if err := json.Unmarshal([]byte(files[AboutKey]), &about); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"roc", "auc", "divergence-class", "confidence", "examples"} {
		if why := about.NotDrawn[name]; !strings.Contains(why, "not_judged") || !strings.Contains(files[PageKey], why) {
			t.Errorf("%s: %q is no reason, or not on the page", name, why)
		}
	}
}

func TestWithoutResults(t *testing.T) {
	_, err := Make(t.Context(), Options{Store: openStore(t, t.TempDir()), Out: openStore(t, t.TempDir()), Resamples: 10, Console: io.Discard})
	if failure.Code(err) != failure.Refused || !strings.Contains(failure.Hint(err), "merge") {
		t.Errorf("got %v, hint %q", err, failure.Hint(err))
	}
}

// TestWithoutRates is the case of merged jobs.
func TestWithoutRates(t *testing.T) {
	st := synthetic{texts: 12, seed: 1}.write(t)
	if err := st.Remove(t.Context(), job.RatesKey); err != nil {
		t.Fatal(err)
	}
	dir, about := makeReport(t, st, 10)
	if !strings.Contains(about.NotDrawn["mismatch-position"], job.RatesKey) || !slices.Contains(about.Figures, "divergence-position") {
		t.Errorf("got %+v", about)
	}
	if _, err := os.Stat(filepath.Join(dir, "figures", "mismatch-position.pdf")); err == nil {
		t.Error("a figure of nothing")
	}
}

func TestRatesOfAnotherPlan(t *testing.T) {
	st := synthetic{texts: 3, seed: 1}.write(t)
	b, err := store.ReadAll(t.Context(), synthetic{texts: 3, seed: 2}.write(t), job.RatesKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.ReplaceBytes(t.Context(), st, job.RatesKey, b); err != nil {
		t.Fatal(err)
	}
	if _, err := Make(t.Context(), Options{Store: st, Out: openStore(t, t.TempDir()), Resamples: 10, Console: io.Discard}); failure.Code(err) != failure.Refused {
		t.Errorf("got %v", err)
	}
}

func TestDamagedResults(t *testing.T) {
	st := synthetic{texts: 3, seed: 1}.write(t)
	b, err := store.ReadAll(t.Context(), st, ResultsKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.ReplaceBytes(t.Context(), st, ResultsKey, b[:len(b)-9]); err != nil {
		t.Fatal(err)
	}
	if _, err := Make(t.Context(), Options{Store: st, Out: openStore(t, t.TempDir()), Resamples: 10, Console: io.Discard}); err == nil || !strings.Contains(err.Error(), ResultsKey) {
		t.Errorf("got %v", err)
	}
}

// TestEmpty is a job without a mismatch.
func TestEmpty(t *testing.T) {
	st := openStore(t, t.TempDir())
	create(t, st, ResultsKey, func(w io.Writer) error {
		return writeRows(w, columnar.NewParquetWriter[job.Result], nil, func(func(*job.Result) error) error { return nil })
	})
	_, about := makeReport(t, st, 10)
	if about.Mismatches != 0 || !strings.Contains(about.NotDrawn["divergence-class"], "no mismatches") {
		t.Errorf("got %+v", about)
	}
}

// TestFewRows wants a warning, and no interval from one or two texts.
func TestFewRows(t *testing.T) {
	dir, _ := makeReport(t, synthetic{texts: 2, seed: 1, measures: true}.write(t), 50)
	page, err := os.ReadFile(filepath.Join(dir, PageKey))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(page, []byte("FEW ROWS")) {
		t.Error("no warning")
	}
	b, err := os.ReadFile(filepath.Join(dir, "tables", "auc.csv"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if !strings.HasPrefix(line, "rows,") && !strings.HasSuffix(line, ",,\n") {
			t.Errorf("an interval from two texts: %s", line)
		}
	}
}

// TestIntervalsOverTexts: rows that repeat each other within a text say
// no more than one of them, so that the interval must not get narrower.
func TestIntervalsOverTexts(t *testing.T) {
	width := func(copies int64) float64 {
		g := stats.NewGrouping()
		for s := range 40 {
			g.Add(0, copies, copies*int64(s%4/3))
			g.Next()
		}
		r := g.Shares(stats.Bootstrap{Seed: 1, Times: 1000})[0]
		if r.Value != 0.25 || r.Low >= 0.25 || r.High <= 0.25 {
			t.Errorf("got %+v", r)
		}
		return r.High - r.Low
	}
	one, many := width(1), width(100)
	if one != many {
		t.Errorf("%v wide with one row a text, %v with a hundred", one, many)
	}
	if want := 2 * 1.96 * math.Sqrt(0.25*0.75/40); math.Abs(one-want) > 0.2*want {
		t.Errorf("%v wide, want about %v", one, want)
	}
}
