package stats

import "math"

// Digamma is the logarithmic derivative of the gamma function at x > 0: by its
// recurrence up to where the asymptotic series is exact to about 1e-15
// (Abramowitz and Stegun, 6.3.5 and 6.3.18).
func Digamma(x float64) float64 {
	shift := 0.0
	for ; x < 10; x++ {
		shift -= 1 / x
	}
	r := 1 / (x * x)
	series := r * (1.0/12 - r*(1.0/120-r*(1.0/252-r*(1.0/240-r*(1.0/132-r*691.0/32760)))))
	return shift + math.Log(x) - 0.5/x - series
}
