package predict

import "math"

// divergence is a lower bound, in nats, of the Kullback-Leibler divergence from the distribution p to q, of
// each of which the largest log-probabilities are known: all tokens that one of them does not name are
// taken together, and by the log-sum inequality no joining of outcomes makes a divergence larger. There is
// no upper bound: what q gives to tokens that it does not name may be as little as one likes.
func divergence(pIDs []int32, p []float64, qIDs []int32, q []float64) float64 {
	known := make(map[int32]float64, len(q))
	for i, id := range qIDs {
		known[id] = q[i]
	}
	sum, pLeft, qLeft := 0.0, 1.0, 1.0
	for i, id := range pIDs {
		other, is := known[id]
		if !is {
			continue
		}
		mass := math.Exp(p[i])
		sum += mass * (p[i] - other)
		pLeft, qLeft = pLeft-mass, qLeft-math.Exp(other)
	}
	if pLeft > rounding {
		sum += pLeft * math.Log(pLeft/(max(qLeft, 0)+rounding))
	} else {
		sum -= rounding // the least that so small a rest can come to is nearly nothing
	}
	return max(sum-logprobRounding, 0)
}

// logprobOf is a token's log-probability, nil if it is not among those known.
func logprobOf(id int32, ids []int32, logprobs []float64) *float64 {
	for i, other := range ids {
		if other == id {
			return &logprobs[i]
		}
	}
	return nil
}
