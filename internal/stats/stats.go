// Package stats holds the statistics of the whole program: near ties, intervals
// of shares, quantiles, the bootstrap over clusters, ROC curves.
package stats

import (
	"math"
	"slices"
)

// NearTieGap is the gap between the two best log probabilities up to which a
// greedy choice may flip with the batch: bfloat16 logits between 16 and 32, where
// the best ones lie, are that far apart.
const NearTieGap = 0.125

// NearTie says whether a gap is a near tie; NaN, an unknown gap, is none.
func NearTie(gap float64) bool { return gap <= NearTieGap }

// Interval is a 95 % confidence interval.
type Interval struct {
	Low  float64 `json:"low"`
	High float64 `json:"high"`
}

// Estimate is a value with its interval; low and high are NaN where there is none.
type Estimate struct {
	Value float64
	Interval
}

// Point is an estimate without an interval.
func Point(v float64) Estimate { return Estimate{v, Interval{math.NaN(), math.NaN()}} }

const z95 = 1.959963984540054 // of the normal distribution

// Wilson is the score interval of k successes in n independent trials; [0, 1] for none.
func Wilson(k, n int64) Interval {
	if n <= 0 {
		return Interval{0, 1}
	}
	p, z2, m := float64(k)/float64(n), z95*z95, float64(n)
	middle := (p + z2/(2*m)) / (1 + z2/m)
	half := z95 * math.Sqrt(p*(1-p)/m+z2/(4*m*m)) / (1 + z2/m)
	return Interval{max(0, middle-half), min(1, middle+half)}
}

// Quantile of sorted values, linear between them.
func Quantile[F float32 | float64](sorted []F, q float64) float64 {
	at := q * float64(len(sorted)-1)
	i := int(at)
	if i+1 >= len(sorted) {
		return float64(sorted[len(sorted)-1])
	}
	part := at - float64(i)
	return float64(sorted[i])*(1-part) + float64(sorted[i+1])*part
}

// Percentiles are the 2.5th and the 97.5th of resampled values. Those that are
// NaN, undefined, are left out; both are NaN if no value remains. It sorts values.
func Percentiles(values []float64) Interval {
	values = slices.DeleteFunc(values, math.IsNaN)
	if len(values) == 0 {
		return Interval{math.NaN(), math.NaN()}
	}
	slices.Sort(values)
	return Interval{Quantile(values, 0.025), Quantile(values, 0.975)}
}

// BinomialUpper is the exact upper bound of a share of which k of n were seen, at
// the one-sided confidence (Clopper and Pearson): the largest share that still
// gives at most k of n with a probability of 1 - confidence. It is 1 for n = 0.
func BinomialUpper(k, n int, confidence float64) float64 {
	if k >= n {
		return 1
	}
	low, high := float64(k)/float64(n), 1.0
	for range 50 {
		if p := (low + high) / 2; BinomialAtMost(k, n, p) > 1-confidence {
			low = p
		} else {
			high = p
		}
	}
	return high
}

// BinomialAtMost is the probability of at most k of n at the share p, above 0 and below 1.
func BinomialAtMost(k, n int, p float64) float64 {
	odds, sum := math.Log(p)-math.Log1p(-p), 0.0
	term := float64(n) * math.Log1p(-p) // logarithm of the probability of exactly i
	for i := 0; i <= k && i <= n; i++ {
		sum += math.Exp(term)
		term += math.Log(float64(n-i)) - math.Log(float64(i+1)) + odds
	}
	return min(sum, 1)
}
