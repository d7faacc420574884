package agreement

import (
	"math/rand/v2"
	"testing"
)

// cases of a first judge that errs with the probability it admits, drawn by the seed.
func cases(seed uint64, n int, honest float64) (all []Case) {
	r := rand.New(rand.NewPCG(seed, 1))
	for range n {
		strong := r.IntN(2) == 0
		p := 0.5 + r.Float64()/2
		first := strong
		if r.Float64() > 1-(1-p)*honest {
			first = !strong
		}
		all = append(all, Case{Cluster: "c", Human: strong, Strong: &strong, First: &first, Probability: p})
	}
	return all
}

// What is found must hold on other cases, but for a twentieth of the times at most.
func TestCalibrateHolds(t *testing.T) {
	w := Wanted{Agreement: 0.8, Confidence: 0.95}
	broken, found := 0, 0
	const trials = 200
	for seed := range uint64(trials) {
		c := Calibration{Wanted: w}
		c.search(cases(seed, 400, 1), w)
		if c.Kept > 0 {
			found++
		}
		if risk := (1 - c.Below) / 2; risk > 0.2+1e-9 { // of probabilities even from Below to 1
			broken++
		}
	}
	if broken > trials/20+6 || found < trials*9/10 { // 6: two standard deviations above 10
		t.Errorf("found %d times in %d trials, and broken %d times", found, trials, broken)
	}
}

func TestCalibrate(t *testing.T) {
	w := Wanted{Agreement: 0.9, Confidence: 0.95}
	if c := Calibrate(cases(1, 400, 1), 3, w); c.Kept == 0 || c.Below < 0.55 || c.Below > 0.95 || c.Risk > 0.1 || c.Missing != 3 ||
		c.WithStrong.Accuracy < c.First.Accuracy || c.WithStrong.Accuracy < 0.9 || c.Strong.Accuracy != 1 {
		t.Errorf("got %s", c.String())
	}
	if c := Calibrate(cases(1, 400, 6), 0, w); c.Kept != 0 && c.Below < 0.97 {
		t.Errorf("a first judge that errs where it is sure: %s", c.String())
	}
	if c := Calibrate(cases(1, 20, 0), 0, w); c.Kept != 0 || c.Below <= 1 || c.Escalated() != 1 || c.WithStrong.Accuracy != 1 {
		t.Errorf("20 labels cannot show it: %s", c.String())
	}
	all := cases(2, 400, 0)
	for i := range all {
		all[i].Human = i%2 == 0 // the labels are others than the judge's verdicts
	}
	if c := Calibrate(all, 0, w); c.Kept != 400 || c.Below != 0.5 {
		t.Errorf("a first judge that never errs: %s", c.String())
	}
	w.Labels = true
	if c := Calibrate(all, 0, w); c.Kept != 0 {
		t.Errorf("against other labels: %s", c.String())
	}
}
