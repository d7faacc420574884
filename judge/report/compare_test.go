package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/stats"
	"tokenfork/internal/store"
)

// pairOfJobs are results and, of the same mismatches, what another engine and judge might have
// made of them: the second lacks the first text and has one of its own.
func pairOfJobs(margins bool) (a, b [][]job.Result) {
	r := rand.New(rand.NewPCG(3, 1))
	for i := range 21 {
		rows := synthetic{seed: 3, margins: margins}.rows(i, r)
		other := slices.Clone(rows)
		for k := range other {
			o := &other[k]
			if r.IntN(6) == 0 {
				o.ContinuationSmallIDs = append(slices.Clone(o.ContinuationSmallIDs), 7)
			}
			if r.IntN(20) == 0 {
				o.ContinuationReferenceIDs = nil
			}
			if o.MeaningMatch != nil && r.IntN(5) == 0 {
				o.MeaningMatch = ptr(!*o.MeaningMatch)
			}
			if r.IntN(30) == 0 {
				o.MeaningMatch = nil
			}
			if margins && r.IntN(10) == 0 {
				o.MarginSmall = ptr(0.01)
			}
		}
		if i < 20 {
			a = append(a, rows)
		}
		if i > 0 {
			b = append(b, other)
		}
	}
	return a, b
}

func compare(t *testing.T, a, b store.Store) (*Comparison, error) {
	t.Helper()
	return Compare(t.Context(), CompareOptions{Stores: [2]store.Store{a, b}, TempDir: t.TempDir(), Seed: 1, Resamples: 100, Console: io.Discard})
}

// recounted counts again, by the definition.
func recounted(a, b [][]job.Result, ties bool) map[string][2]int64 {
	counts := map[string][2]int64{}
	at := map[string]*job.Result{}
	for _, rows := range a {
		for i := range rows {
			at[fmt.Sprint(rows[i].SentenceID, " ", rows[i].MismatchPosition)] = &rows[i]
		}
	}
	count := func(what string, flipped bool, rows ...string) {
		for _, r := range rows {
			c := counts[what+" "+r]
			c[0]++
			if flipped {
				c[1]++
			}
			counts[what+" "+r] = c
		}
	}
	near := func(x, y *float64) bool {
		return x != nil && *x <= stats.NearTieGap || y != nil && *y <= stats.NearTieGap
	}
	tie := func(is bool) string { return map[bool]string{true: "near ties", false: "no near ties"}[is] }
	for _, rows := range b {
		for i := range rows {
			y := &rows[i]
			x := at[fmt.Sprint(y.SentenceID, " ", y.MismatchPosition)]
			if x == nil {
				continue
			}
			nearS, nearR := near(x.MarginSmall, y.MarginSmall), near(x.MarginReference, y.MarginReference)
			sameS, sameR := slices.Equal(x.ContinuationSmallIDs, y.ContinuationSmallIDs), slices.Equal(x.ContinuationReferenceIDs, y.ContinuationReferenceIDs)
			count("continuation_small", !sameS, "all", tie(nearS))
			there := x.ContinuationReferenceIDs != nil && y.ContinuationReferenceIDs != nil
			if there {
				count("continuation_reference", !sameR, "all", tie(nearR))
			}
			if x.MeaningMatch == nil || y.MeaningMatch == nil {
				continue
			}
			flip := *x.MeaningMatch != *y.MeaningMatch
			count("meaning_match", flip, "all", tie(nearS || nearR))
			switch {
			case there && sameS && sameR:
				count("meaning_match", flip, "same continuations")
			case there:
				count("meaning_match", flip, "other continuations")
			}
			counts[fmt.Sprint(*x.MeaningMatch, *y.MeaningMatch)] = [2]int64{counts[fmt.Sprint(*x.MeaningMatch, *y.MeaningMatch)][0] + 1}
		}
	}
	for key := range counts {
		if !ties && strings.HasSuffix(key, "near ties") {
			delete(counts, key)
		}
	}
	return counts
}

// TestCompare compares what Compare counts with a count by the definition, with margins and without.
func TestCompare(t *testing.T) {
	for _, margins := range []bool{true, false} {
		a, b := pairOfJobs(margins)
		first, second := openStore(t, t.TempDir()), openStore(t, t.TempDir())
		writeResults(t, first, margins, a)
		writeResults(t, second, margins, b)
		c, err := compare(t, first, second)
		if err != nil {
			t.Fatal(err)
		}
		want := recounted(a, b, margins)
		if c.Texts != 19 || c.Only != [2]int64{int64(len(a[0])), int64(len(b[19]))} {
			t.Errorf("%d texts, only in one: %v; want 19, %d and %d", c.Texts, c.Only, len(a[0]), len(b[19]))
		}
		flipped := int64(0)
		for _, f := range c.Flips {
			key := f.Of + " " + f.Rows
			if got := [2]int64{f.N, f.Flipped}; got != want[key] {
				t.Errorf("%s: %v, want %v", key, got, want[key])
			}
			if f.N > 0 && (f.Interval == nil || *f.Share < f.Interval.Low || *f.Share > f.Interval.High) {
				t.Errorf("%s: the interval of %v is %v", key, *f.Share, f.Interval)
			}
			flipped += f.Flipped
		}
		if rows := map[bool]int{true: 11, false: 5}[margins]; len(c.Flips) != rows || flipped < 100 {
			t.Errorf("%d rows with %d flips, want %d rows", len(c.Flips), flipped, rows)
		}
		var n [4]float64
		for i, k := range []string{"truetrue", "truefalse", "falsetrue", "falsefalse"} {
			n[i] = float64(want[k][0])
		}
		all := n[0] + n[1] + n[2] + n[3]
		chance := ((n[0]+n[1])*(n[0]+n[2]) + (n[2]+n[3])*(n[1]+n[3])) / all / all
		verdicts := []float64{n[1] / all, n[2] / all, (n[2] + n[3]) / all, (n[1] + n[3]) / all, (n[1] - n[2]) / all, ((n[0]+n[3])/all - chance) / (1 - chance)}
		for i, v := range c.Verdicts {
			if math.Abs(*v.Value-verdicts[i]) > 1e-12 || v.Interval.Low > *v.Value || v.Interval.High < *v.Value {
				t.Errorf("%s: %v %v, want %v", v.Name, *v.Value, v.Interval, verdicts[i])
			}
		}
		shown(t, c, margins)
	}
}

// shown looks at what is written and printed of a comparison.
func shown(t *testing.T, c *Comparison, margins bool) {
	t.Helper()
	out := openStore(t, t.TempDir())
	if err := c.Write(t.Context(), out); err != nil {
		t.Fatal(err)
	}
	files := contents(t, out)
	for _, key := range []string{"figures/compare.pdf", "figures/compare.svg", "figures/compare.png", "tables/compare.csv", "tables/compare.tex", "tables/compare-verdicts.csv", CompareKey} {
		if len(files[key]) < 50 {
			t.Errorf("%s has %d bytes", key, len(files[key]))
		}
	}
	var again Comparison
	if err := json.Unmarshal([]byte(files[CompareKey]), &again); err != nil || again.Mismatches != c.Mismatches || len(again.Flips) != len(c.Flips) || *again.Flips[0].Share != *c.Flips[0].Share {
		t.Errorf("%s: %+v, %v", CompareKey, again, err)
	}
	var text bytes.Buffer
	if err := c.Print(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{fmt.Sprintf("%d mismatches in 19 texts are in both jobs", c.Mismatches), "Cohen's kappa", "other continuations"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("%q is not in\n%s", want, &text)
		}
	}
	if strings.Contains(text.String(), "near ties are not known") == margins {
		t.Errorf("margins %t:\n%s", margins, &text)
	}
}

// TestCompareRefuses names jobs that are not of the same mismatches.
func TestCompareRefuses(t *testing.T) {
	a, b := pairOfJobs(false)
	first := openStore(t, t.TempDir())
	writeResults(t, first, false, a)
	summary := func(s store.Store, fingerprint string) {
		sealed, err := job.SealJSON(map[string]any{"jobs": []any{map[string]any{"input": map[string]any{"fingerprint": fingerprint, "sources": []string{fingerprint + ".csv"}}}}, "formats": []string{"parquet"}})
		if err != nil {
			t.Fatal(err)
		}
		if err := store.ReplaceBytes(t.Context(), s, "summary.json", sealed); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		want   string
		change func(rows [][]job.Result, s store.Store) [][]job.Result
	}{
		{"the predictions are 0 and 0 in", func(rows [][]job.Result, _ store.Store) [][]job.Result { rows[2][3].PredSmallID = 5; return rows }},
		{"have no mismatch in common", func(rows [][]job.Result, _ store.Store) [][]job.Result { return rows[19:] }},
		{"planned from different tables: x.csv", func(rows [][]job.Result, s store.Store) [][]job.Result {
			summary(first, "x")
			summary(s, "y")
			return rows
		}},
	} {
		second := openStore(t, t.TempDir())
		writeResults(t, second, false, c.change(slices.Clone(b), second))
		if _, err := compare(t, first, second); failure.Code(err) != failure.Refused || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
	if _, err := compare(t, first, openStore(t, t.TempDir())); failure.Code(err) != failure.Refused || !strings.Contains(failure.Hint(err), "merge") {
		t.Errorf("a job that is not merged: %v", err)
	}
}
