package predict

import (
	"math"

	"tokenfork/internal/stats"
)

// evidence is how many of the largest logits AU and EU are made of, as the study has it.
const evidence = 10

// uncertainty gives AU and EU of a position's largest K logits (LogTokU, arXiv
// 2502.00290, as R2R's compute_logu): they are the evidence a_1..a_K of a Dirichlet
// distribution, negative ones as none, with S their sum and psi the digamma function:
//
//	AU = -sum_i a_i/S · (psi(a_i + 1) - psi(S + 1))
//	EU = K / (S + K)
//
// AU is NaN where there is no evidence.
func uncertainty(logits []float64) (au, eu float64) {
	sum := 0.0
	for _, a := range logits {
		sum += max(a, 0)
	}
	for _, a := range logits {
		a = max(a, 0)
		au -= a / sum * (stats.Digamma(a+1) - stats.Digamma(sum+1))
	}
	k := float64(len(logits))
	return au, k / (sum + k)
}

// Of a server that computes in float32: rounding is more than its probabilities are off by, all
// together, and logprobRounding more than its log-probabilities change an entropy or a
// divergence: 0.00004 was seen.
const (
	rounding        = 1e-6
	logprobRounding = 1e-4
)

// entropy gives the entropy in nats of a distribution over vocab tokens of which the
// largest log-probabilities are known, descending, and how far it may be off. What the
// others have together is least spread where each is as probable as the last known one,
// and most where all are equal.
func entropy(logprobs []float64, vocab int) (h, within float64) {
	left := 1.0
	for _, lp := range logprobs {
		p := math.Exp(lp)
		h -= p * lp
		left -= p
	}
	others := float64(vocab - len(logprobs))
	if others <= 0 {
		return h, logprobRounding
	}
	last := math.Exp(logprobs[len(logprobs)-1])
	left = min(max(left, 0), others*last)
	least := max(left-rounding, 0) * -logprobs[len(logprobs)-1]
	most := left + rounding
	most *= math.Log(others / most)
	most = max(most, least)
	return h + (least+most)/2, (most-least)/2 + logprobRounding
}
