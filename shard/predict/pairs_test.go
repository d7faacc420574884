package predict

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestDivergence compares the bound with the divergence of whole distributions: never more, the same where
// all tokens are named, and closer the more are.
func TestDivergence(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	const vocab = 200
	distribution := func(spread float64) []float64 {
		lp, sum := make([]float64, vocab), 0.0
		for i := range lp {
			lp[i] = spread * r.NormFloat64()
			sum += math.Exp(lp[i])
		}
		for i := range lp {
			lp[i] -= math.Log(sum)
		}
		return lp
	}
	top := func(lp []float64, k int) (ids []int32, largest []float64) {
		for i := range lp {
			ids = append(ids, int32(i))
		}
		slices.SortFunc(ids, func(a, b int32) int { return cmp.Compare(lp[b], lp[a]) })
		for _, id := range ids[:k] {
			largest = append(largest, lp[id])
		}
		return ids[:k], largest
	}
	for range 300 {
		p, q := distribution(1+4*r.Float64()), distribution(1+4*r.Float64())
		if r.IntN(2) == 0 { // alike, as two models mostly are
			for i := range q {
				q[i] = p[i]
			}
			q[3], q[5] = q[5], q[3]
		}
		exact := 0.0
		for i := range p {
			exact += math.Exp(p[i]) * (p[i] - q[i])
		}
		last := -1.0
		for _, k := range []int{1, 5, 20, 100, vocab} {
			pIDs, pTop := top(p, k)
			qIDs, qTop := top(q, k)
			bound := divergence(pIDs, pTop, qIDs, qTop)
			if bound > exact || bound < 0 || bound < last-logprobRounding {
				t.Fatalf("of the %d largest: %g, of fewer %g, exact is %g", k, bound, last, exact)
			}
			if k == vocab && bound < exact-2*logprobRounding {
				t.Errorf("of all: %g, exact is %g", bound, exact)
			}
			last = bound
		}
	}
}
