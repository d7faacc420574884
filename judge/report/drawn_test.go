package report

import (
	"cmp"
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tokenfork/internal/job"
	"tokenfork/internal/stats"
)

// finished is a job whose results are drawn from as well, by hand: docs/report.md has what came of it.
var finished = flag.String("report.job", "", "TestSampleCovers: a finished job to draw samples of")

// TestSampleCovers draws 500 samples of several sizes, by SampleRank as plan does, from a job whose
// answer is known: the intervals hold it in 93 to 97 % of them, and the mean estimate is off by
// less than a tenth of their width.
//
//	go test ./judge/report -run TestSampleCovers -v -report.job JOB
func TestSampleCovers(t *testing.T) {
	const texts = 200
	whole := newSample(0)
	from := synthetic{texts: texts, seed: 6}
	r := rand.New(rand.NewPCG(6, 1))
	for i := range texts {
		whole.starts = append(whole.starts, int32(len(whole.marks)))
		for _, x := range from.rows(i, r) {
			whole.marks = append(whole.marks, marksOf(&row{MeaningMatch: x.MeaningMatch}))
		}
	}
	covers(t, whole, 20, 120)
	if *finished == "" {
		return
	}
	b, _, err := gather(t.Context(), Options{Store: openStore(t, *finished), Resamples: 1, Console: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	n := len(b.sample.starts)
	covers(t, b.sample, n/2, n*3/4)
}

// covers draws samples of so many texts each.
func covers(t *testing.T, whole *sample, sizes ...int) {
	t.Helper()
	const draws = 500
	divergent, judgedAll := 0, 0
	for _, m := range whole.marks {
		divergent += int(m & diverged / diverged)
		judgedAll += int(m & judged / judged)
	}
	rate, texts := float64(divergent)/float64(judgedAll), len(whole.starts)
	for _, n := range sizes {
		covered, sum, width := 0, 0.0, 0.0
		for draw := range draws {
			b := &builder{sample: whole.drawn(n, fmt.Sprint(draw)), drawn: &job.Sample{OfMismatches: int64(len(whole.marks))}, Bootstrap: stats.Bootstrap{Seed: uint64(draw), Times: 200}}
			share, total := b.estimates(n, texts)
			truth := rate * float64(len(whole.marks))
			if total.Low <= truth && truth <= total.High {
				covered++
			}
			sum += share.Value / draws
			width += (total.High - total.Low) / float64(len(whole.marks)) / draws
		}
		if covered < draws*93/100 || covered > draws*97/100 || math.Abs(sum-rate) > width/10 {
			t.Errorf("samples of %d of %d texts: %d of %d intervals hold the rate %.4f; mean estimate %.4f, mean width %.4f", n, texts, covered, draws, rate, sum, width)
		}
		t.Logf("samples of %d of %d texts: %.1f %% of the intervals hold the rate %.4f; mean estimate %.4f, mean width %.4f", n, texts, 100*float64(covered)/draws, rate, sum, width)
	}
}

// drawn is a sample of n texts, by ids of which draw is a part.
func (s *sample) drawn(n int, draw string) *sample {
	order := make([]int, len(s.starts))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		return cmp.Compare(job.SampleRank(fmt.Sprint(draw, " ", a)), job.SampleRank(fmt.Sprint(draw, " ", b)))
	})
	d := newSample(0)
	for _, i := range slices.Sorted(slices.Values(order[:n])) {
		to := len(s.marks)
		if i+1 < len(s.starts) {
			to = int(s.starts[i+1])
		}
		d.starts = append(d.starts, int32(len(d.marks)))
		d.marks = append(d.marks, s.marks[s.starts[i]:to]...)
	}
	return d
}

// TestWidthOfOtherSamples compares the width that one sample expects of a larger one with the
// width that the larger one has.
func TestWidthOfOtherSamples(t *testing.T) {
	e := stats.Estimate{Value: 0.5, Interval: stats.Interval{Low: 0.4, High: 0.6}}
	if got := e.HalfWidthAt(400, 100, 400); got != 0 {
		t.Errorf("all texts leave %g", got)
	}
	here := e.InPopulation(100, 400)
	if got := e.HalfWidthAt(100, 100, 400); math.Abs(got-(here.High-here.Low)/2) > 1e-12 {
		t.Errorf("the sample itself: %g, its interval is %+v", got, here)
	}
	// √(1-1/4) √(100/99) t₉₉/z, from tables: t₉₉ = 1.98422
	if want := 0.1 * math.Sqrt(0.75*100/99) * 1.98422 / 1.95996; math.Abs((here.High-0.5)-want) > 1e-5 {
		t.Errorf("100 of 400: ± %g, want %g", here.High-0.5, want)
	}
}

// TestReportOfSeveralSamples is refused: their texts do not stand for the same number of texts.
func TestReportOfSeveralSamples(t *testing.T) {
	dir := t.TempDir()
	b, err := job.SealJSON(map[string]any{"jobs": []map[string]any{{"job": "a", "sample": map[string]any{"texts": 1, "of_texts": 2}}, {"job": "b"}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "summary.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	s := openStore(t, dir)
	_, err = Make(t.Context(), Options{Store: s, Out: s, Resamples: 10, Console: io.Discard})
	if err == nil || !strings.Contains(err.Error(), "samples of their tables") {
		t.Errorf("%v", err)
	}
}
