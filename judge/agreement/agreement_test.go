package agreement

import (
	"math"
	"strings"
	"testing"

	"tokenfork/internal/stats"
)

// pairs makes the pairs of a confusion matrix, in clusters of the given size.
func pairs(c Confusion, size int) []Pair {
	var all []Pair
	for _, k := range []struct {
		n            int
		human, judge bool
	}{{c.SameSame, true, true}, {c.SameDifferent, true, false}, {c.DifferentSame, false, true}, {c.DifferentDifferent, false, false}} {
		for range k.n {
			all = append(all, Pair{Cluster: string(rune('a' + len(all)/size)), Human: k.human, Judge: k.judge})
		}
	}
	return all
}

// Kappa from scikit-learn's cohen_kappa_score, intervals from the score formula worked by hand.
func TestMeasure(t *testing.T) {
	for _, c := range []struct {
		confusion                  Confusion
		accuracy, kappa, low, high float64
	}{
		{Confusion{20, 5, 10, 15}, 0.7, 0.4, 0.5624965, 0.8089645},
		{Confusion{45, 15, 25, 15}, 0.6, 0.1304348, 0.5020026, 0.6905987},
		{Confusion{0, 10, 10, 0}, 0, -1, 0, 0.1611252},
		{Confusion{7, 0, 0, 3}, 1, 1, 0.7224672, 1},
	} {
		r := Measure(pairs(c.confusion, 5), 3, 400, 1)
		if r.Confusion != c.confusion || !near(r.Accuracy, c.accuracy) || !near(*r.Kappa, c.kappa) || !near(r.Wilson.Low, c.low) || !near(r.Wilson.High, c.high) {
			t.Errorf("%+v: got %+v, kappa %v", c.confusion, r, *r.Kappa)
		}
		if r.Bootstrap.Low > r.Accuracy || r.Bootstrap.High < r.Accuracy || r.KappaRange.Low > *r.Kappa+1e-9 || r.KappaRange.High < *r.Kappa-1e-9 {
			t.Errorf("%+v: bootstrap %+v, %+v", c.confusion, r.Bootstrap, *r.KappaRange)
		}
		if r.Missing != 3 || r.Pairs != c.confusion.N() || r.Clusters != (r.Pairs+4)/5 {
			t.Errorf("got %+v", r)
		}
	}
}

func near(a, b float64) bool { return math.Abs(a-b) < 1e-6 }

func TestKappaUndefined(t *testing.T) {
	r := Measure(pairs(Confusion{SameSame: 10}, 2), 0, 50, 1)
	if r.Kappa != nil || r.KappaRange != nil || r.Accuracy != 1 || !strings.Contains(r.String(), "undefined") {
		t.Errorf("got %+v", r)
	}
	if r := Measure(nil, 4, 50, 1); r.Pairs != 0 || r.Kappa != nil || r.Wilson != (stats.Interval{Low: 0, High: 1}) {
		t.Errorf("got %+v", r)
	}
}

// Labels that come in texts that are all right or all wrong say less than as
// many independent ones.
func TestBootstrapDrawsClusters(t *testing.T) {
	var alone, together []Pair
	for i := range 200 {
		right := i%2 == 0
		alone = append(alone, Pair{Cluster: string(rune(i)), Human: true, Judge: right})
		together = append(together, Pair{Cluster: string(rune(i % 10)), Human: true, Judge: right})
	}
	a, b := Measure(alone, 0, 1000, 1), Measure(together, 0, 1000, 1)
	wide, narrow := b.Bootstrap.High-b.Bootstrap.Low, a.Bootstrap.High-a.Bootstrap.Low
	if wide < 3*narrow || narrow < 0.1 || narrow > 0.18 { // 2 × 1.96 × √(0.25/200) = 0.139
		t.Errorf("clusters %v, independent %v", wide, narrow)
	}
	if again := Measure(together, 0, 1000, 1); again.Bootstrap != b.Bootstrap {
		t.Error("the same seed gives another interval")
	}
}

func TestString(t *testing.T) {
	got := Measure(pairs(Confusion{20, 5, 10, 15}, 5), 2, 200, 1).String()
	for _, want := range []string{"50 labels from 10 texts (and 2 without a verdict)", "accuracy 0.700, 95% 0.562 to 0.809 (Wilson)", "kappa 0.400",
		"same                       20            5", "different                  10           15"} {
		if !strings.Contains(got, want) {
			t.Errorf("lacks %q:\n%s", want, got)
		}
	}
}
