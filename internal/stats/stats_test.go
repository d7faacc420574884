package stats_test

import (
	"bytes"
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"tokenfork/internal/stats"
)

// reference has scipy and scikit-learn compute the same.
func reference(t *testing.T, ask, into any) {
	t.Helper()
	venv := os.Getenv("TOKENFORK_VENV")
	if venv == "" {
		venv = "../../.venv"
	}
	in, err := json.Marshal(ask)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(venv, "bin", "python"), "testdata/reference.py")
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("reference.py: %v (make the Python environment with scripts/setup-vllm, or name one by TOKENFORK_VENV)", err)
	}
	if err := json.Unmarshal(out, into); err != nil {
		t.Fatal(err)
	}
}

// rows are a ranking's, as the reference takes them.
type rows struct {
	Values  []float32 `json:"values"`
	Cluster []int     `json:"cluster"`
	Hit     []bool    `json:"hit"`
}

func randomRows(r *rand.Rand, clusters, each, distinct int) rows {
	var x rows
	for c := range clusters {
		bias := r.NormFloat64()
		for range each {
			v := r.NormFloat64()
			if distinct > 0 {
				v = math.Round(v*float64(distinct)) / float64(distinct)
			}
			x.Values = append(x.Values, float32(v))
			x.Cluster = append(x.Cluster, c)
			x.Hit = append(x.Hit, v+bias+2*r.NormFloat64() > 0.5)
		}
	}
	return x
}

func (x rows) ranking() *stats.Ranking {
	return stats.NewRanking(stats.Falling(x.Values), x.Values, x.Cluster[len(x.Cluster)-1]+1, func(i int32) (bool, bool, int) {
		return true, x.Hit[i], x.Cluster[i]
	})
}

func (x rows) shares(b stats.Bootstrap) []stats.Share {
	g := stats.NewGrouping()
	for i, hit := range x.Hit {
		if i > 0 && x.Cluster[i] != x.Cluster[i-1] {
			g.Next()
		}
		n := int64(0)
		if hit {
			n = 1
		}
		g.Add(int32(i%3), 1, n)
	}
	g.Next()
	return g.Shares(b)
}

func TestAgainstSciPyAndScikitLearn(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	type quantiles struct {
		Values []float64 `json:"values"`
		At     float64   `json:"at"`
	}
	var ask struct {
		Wilson    [][2]int64  `json:"wilson"`
		Digamma   []float64   `json:"digamma"`
		Quantiles []quantiles `json:"quantiles"`
		Rankings  []rows      `json:"rankings"`
	}
	ask.Wilson = [][2]int64{{0, 1}, {1, 1}, {3, 7}, {50, 100}, {0, 10_000_000}, {9_999_999, 10_000_000}, {123, 456_789}}
	for range 200 {
		ask.Digamma = append(ask.Digamma, math.Exp(r.Float64()*20-10))
	}
	for _, n := range []int{1, 2, 3, 10, 101} {
		q := quantiles{At: r.Float64()}
		for range n {
			q.Values = append(q.Values, r.NormFloat64())
		}
		slices.Sort(q.Values)
		ask.Quantiles = append(ask.Quantiles, q)
	}
	ask.Rankings = []rows{randomRows(r, 40, 20, 0), randomRows(r, 40, 30, 2), randomRows(r, 3, 20, 0)}

	type bounds struct{ Value, Low, High float64 }
	var want struct {
		Wilson    [][2]float64
		Digamma   []float64
		Quantiles []float64
		Rankings  []struct {
			AUC, AP bounds
			Shares  []bounds
		}
	}
	reference(t, ask, &want)
	for i, x := range ask.Digamma {
		if got := stats.Digamma(x); math.Abs(got-want.Digamma[i]) > 1e-13*max(1, math.Abs(got)) {
			t.Errorf("Digamma(%g) is %g, SciPy's %g", x, got, want.Digamma[i])
		}
	}
	for i, k := range ask.Wilson {
		if got := stats.Wilson(k[0], k[1]); !near(got.Low, want.Wilson[i][0], 1e-12) || !near(got.High, want.Wilson[i][1], 1e-12) {
			t.Errorf("Wilson of %v: got %v, want %v", k, got, want.Wilson[i])
		}
	}
	for i, q := range ask.Quantiles {
		if got := stats.Quantile(q.Values, q.At); !near(got, want.Quantiles[i], 1e-12) {
			t.Errorf("quantile %v of %d: got %v, want %v", q.At, len(q.Values), got, want.Quantiles[i])
		}
	}
	compare := func(what string, got stats.Estimate, want bounds, few bool) {
		if !near(got.Value, want.Value, 1e-12) {
			t.Errorf("%s: got %v, want %v", what, got.Value, want.Value)
		}
		if few {
			if !math.IsNaN(got.Low) || !math.IsNaN(got.High) {
				t.Errorf("%s: an interval of too few clusters: %v", what, got)
			}
			return
		}
		// Other random numbers: the ends vary by a tenth of a standard error or so.
		if e := (want.High - want.Low) / 3.92 / 2; !near(got.Low, want.Low, e) || !near(got.High, want.High, e) {
			t.Errorf("%s: got %v, want about %v", what, got, want)
		}
	}
	b := stats.Bootstrap{Seed: 7, Times: 2000}
	for i, x := range ask.Rankings {
		few := x.Cluster[len(x.Cluster)-1]+1 < stats.MinClusters
		auc, ap := x.ranking().Areas(b)
		compare("AUC", auc, want.Rankings[i].AUC, few)
		compare("AP", ap, want.Rankings[i].AP, few)
		for k, s := range x.shares(b) {
			compare("share", s.Estimate, want.Rankings[i].Shares[k], few)
		}
	}
}

func near(a, b, tolerance float64) bool { return math.Abs(a-b) <= tolerance }

func TestNearTie(t *testing.T) {
	for gap, want := range map[float64]bool{0: true, 0.125: true, math.Nextafter(0.125, 1): false, 0.15: false, math.NaN(): false} {
		if stats.NearTie(gap) != want {
			t.Errorf("a gap of %v: near tie %v", gap, !want)
		}
	}
}

func TestFalling(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	got := stats.Falling([]float32{0, 3, nan, -1, float32(math.Copysign(0, -1)), 3, -inf, inf})
	if want := []int32{7, 1, 5, 0, 4, 3, 6}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestPercentilesOfNothing(t *testing.T) {
	if in := stats.Percentiles([]float64{math.NaN()}); !math.IsNaN(in.Low) || !math.IsNaN(in.High) {
		t.Errorf("got %v", in)
	}
	if in := stats.Wilson(0, 0); in != (stats.Interval{Low: 0, High: 1}) {
		t.Errorf("got %v", in)
	}
}

// TestCurve: the points hold the counts at their thresholds.
func TestCurve(t *testing.T) {
	x := randomRows(rand.New(rand.NewPCG(3, 4)), 20, 50, 10)
	curve := x.ranking().Curve(100)
	if len(curve) < 40 || len(curve) > 202 {
		t.Errorf("%d points", len(curve))
	}
	for _, o := range curve {
		called, hits, all := 0, 0, 0
		for i, v := range x.Values {
			if x.Hit[i] {
				all++
			}
			if float64(v) >= o.Threshold {
				called++
				if x.Hit[i] {
					hits++
				}
			}
		}
		if o.Called != called || !near(o.Recall, float64(hits)/float64(all), 1e-12) ||
			!near(o.FalsePositiveRate, float64(called-hits)/float64(len(x.Values)-all), 1e-12) || called > 0 && !near(o.Precision, float64(hits)/float64(called), 1e-12) {
			t.Errorf("got %+v, counted %d called, %d hits of %d", o, called, hits, all)
		}
	}
	if last := curve[len(curve)-1]; last.Recall != 1 || last.FalsePositiveRate != 1 {
		t.Errorf("ends at %+v", last)
	}
}

// Bounds from SciPy's beta.ppf(confidence, k+1, n-k).
func TestBinomialUpper(t *testing.T) {
	for _, c := range []struct {
		k, n             int
		confidence, want float64
	}{{0, 59, 0.95, 0.04950760988822693}, {3, 100, 0.95, 0.07571079374983004}, {12, 200, 0.9, 0.08761788029993338}, {50, 1000, 0.99, 0.06840489369563105}, {7, 7, 0.95, 1}, {0, 0, 0.95, 1}} {
		if got := stats.BinomialUpper(c.k, c.n, c.confidence); !near(got, c.want, 1e-9) {
			t.Errorf("%d of %d at %v: %v, want %v", c.k, c.n, c.confidence, got, c.want)
		}
	}
}
