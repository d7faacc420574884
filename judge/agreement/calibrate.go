package agreement

import (
	"fmt"
	"math"
	"strings"

	"tokenfork/internal/stats"
)

// Case is a labelled mismatch with the verdicts of two judges.
type Case struct {
	Cluster     string
	Human       bool
	Kind        string
	Strong      *bool // nil: no verdict
	First       *bool
	Probability float64 // of the first judge's verdict, 0 if it gave none
}

// Wanted is what a first judge's verdicts must keep to.
type Wanted struct {
	Agreement  float64 // with the strong judge, or with the labels, at least
	Confidence float64 // that it holds, for example 0.95
	Labels     bool    // with the labels
}

// Calibration is the probability from which the first judge's verdict may stand.
type Calibration struct {
	Wanted
	Below     float64 // escalate what is less probable; above 1: everything
	Kept      int     // cases that the first judge decides
	Differing int     // of these, those in which it differs
	Risk      float64 // upper bound of the share that differ
	Cases     int
	Tested    int // thresholds
	Agreeing  int // cases in which both judges say the same
	Missing   int // labels without both verdicts

	// Tokens that the questions about the cases took, of the judge and of the first
	// judge; 0 where not all were asked now.
	Tokens [2]int64

	Strong, First, Both Report // against the labels; Both at Below
	WithStrong          Report // both judges at Below, against the strong judge alone
}

// thresholds are tested from the first on: fixed before the labels are seen.
var thresholds = []float64{0.999, 0.998, 0.995, 0.99, 0.98, 0.97, 0.96, 0.95, 0.925, 0.9, 0.875, 0.85, 0.825, 0.8, 0.775, 0.75, 0.725, 0.7, 0.675, 0.65, 0.625, 0.6, 0.575, 0.55, 0.525, 0.5}

// Calibrate finds the lowest threshold by fixed-sequence testing (Jung, Brahman and
// Choi, Trust or Escalate, arXiv 2407.18370): thresholds are tested in descending
// order, each by an exact binomial bound of the risk at level 1 - confidence, and
// the last before the first that fails is taken. So the confidence holds for the
// threshold that is found. Testing starts at the first threshold that keeps so many
// cases that some may differ and it still passes, which depends on no verdict: where few
// are kept, one chance error would end the search.
func Calibrate(cases []Case, missing int, w Wanted) Calibration {
	c := Calibration{Wanted: w, Cases: len(cases), Missing: missing}
	c.search(cases, w)
	c.measure(cases)
	return c
}

// search tests the thresholds.
func (c *Calibration) search(cases []Case, w Wanted) {
	c.Below = math.Nextafter(1, 2)
	least := startAt(cases, w)
	for _, below := range thresholds {
		kept, differing := 0, 0
		for _, k := range cases {
			if k.Probability < below {
				continue
			}
			kept++
			if *k.First != k.target(w) {
				differing++
			}
		}
		if kept < least {
			continue
		}
		c.Tested++
		if !w.holds(differing, kept) {
			break
		}
		c.Below, c.Kept, c.Differing = below, kept, differing
	}
	c.Risk = stats.BinomialUpper(c.Differing, c.Kept, w.Confidence)
}

// holds says whether so many of n differ that a share above the one allowed is ruled
// out at the confidence: whether the exact upper bound of the share is within it.
func (w Wanted) holds(differing, n int) bool {
	return differing < n && stats.BinomialAtMost(differing, n, 1-w.Agreement) <= 1-w.Confidence
}

// startAt is how many cases the first threshold must keep: enough to pass with three
// that differ or, where there are not so many, with fewer.
func startAt(cases []Case, w Wanted) int {
	all := 0
	for _, k := range cases {
		if k.Probability >= thresholds[len(thresholds)-1] {
			all++
		}
	}
	for differing := 3; ; differing-- {
		n := differing + 1
		for !w.holds(differing, n) {
			n++
		}
		if n <= all || differing == 0 {
			return n
		}
	}
}

func (k *Case) target(w Wanted) bool {
	if w.Labels {
		return k.Human
	}
	return *k.Strong
}

func (c *Calibration) measure(cases []Case) {
	var strong, first, both, with []Pair
	for _, k := range cases {
		decided := *k.Strong
		if k.Probability >= c.Below {
			decided = *k.First
		}
		if *k.First == *k.Strong {
			c.Agreeing++
		}
		strong = append(strong, Pair{k.Cluster, k.Human, *k.Strong, k.Kind})
		first = append(first, Pair{k.Cluster, k.Human, *k.First, k.Kind})
		both = append(both, Pair{k.Cluster, k.Human, decided, k.Kind})
		with = append(with, Pair{k.Cluster, *k.Strong, decided, k.Kind})
	}
	for _, one := range []struct {
		to    *Report
		pairs []Pair
	}{{&c.Strong, strong}, {&c.First, first}, {&c.Both, both}, {&c.WithStrong, with}} {
		*one.to = Measure(one.pairs, c.Missing, Rounds, Seed)
	}
}

// Escalated is the share of the cases that the first judge leaves to the strong one.
func (c *Calibration) Escalated() float64 { return 1 - float64(c.Kept)/float64(c.Cases) }

// String is the calibration for people.
func (c *Calibration) String() string {
	var b strings.Builder
	target := "the judge"
	if c.Labels {
		target = "the labels"
	}
	fmt.Fprintf(&b, "wanted: the first judge's verdicts agree with %s in at least %.3g of the cases that it decides, at confidence %.3g\n", target, c.Agreement, c.Confidence)
	if c.Kept == 0 {
		fmt.Fprintf(&b, "found: none of %d thresholds holds on these %d labels: use the judge alone, or label more\n", max(c.Tested, 1), c.Cases)
	} else {
		fmt.Fprintf(&b, "found: --escalate-below %g: it decides %d of %d, %d of them otherwise than %s; at most %.3f at that confidence\n", c.Below, c.Kept, c.Cases, c.Differing, target, c.Risk)
	}
	kappa := func(r *Report) string {
		if r.Kappa == nil {
			return "-"
		}
		return fmt.Sprintf("%.3f", *r.Kappa)
	}
	escalated := fmt.Sprintf("%.1f %%", 100*c.Escalated())
	row := func(name string, cells ...string) {
		fmt.Fprintf(&b, "%-28s %14s %14s %14s\n", name, cells[0], cells[1], cells[2])
	}
	row("", "judge alone", "first alone", "both")
	row("accuracy against labels", fmt.Sprintf("%.3f", c.Strong.Accuracy), fmt.Sprintf("%.3f", c.First.Accuracy), fmt.Sprintf("%.3f", c.Both.Accuracy))
	row("Cohen's kappa", kappa(&c.Strong), kappa(&c.First), kappa(&c.Both))
	row("agreement with the judge", "1.000", fmt.Sprintf("%.3f", c.firstWithStrong()), fmt.Sprintf("%.3f", c.WithStrong.Accuracy))
	row("asked of the judge", "100.0 %", "0.0 %", escalated)
	if c.Tokens[0] > 0 && c.Tokens[1] > 0 {
		row("its tokens", fmt.Sprint(c.Tokens[0]), "0", fmt.Sprintf("%.0f", c.Escalated()*float64(c.Tokens[0])))
		row("the first judge's tokens", "0", fmt.Sprint(c.Tokens[1]), fmt.Sprint(c.Tokens[1]))
	}
	return b.String()
}

// firstWithStrong is the share of the cases in which both judges say the same.
func (c *Calibration) firstWithStrong() float64 { return float64(c.Agreeing) / float64(c.Cases) }
