package infer

import (
	"math/rand/v2"
	"testing"
)

// curve is a simulated server: the answers a second at a number in flight.
type curve func(inFlight int) float64

// tuned is where the tuner stands after so many windows. Rates scatter; above
// holds the server throws requests out, above takes it lets them wait.
func tuned(rate curve, scatter float64, holds, takes int, seed uint64, windows int) int {
	r := rand.New(rand.NewPCG(seed, 1))
	t := newTuner()
	for range windows {
		t.next(window{rate: rate(t.limit) * (1 + scatter*r.NormFloat64()), full: true, preempted: t.limit > holds, waiting: max(0, t.limit-takes)})
	}
	return t.limit
}

func TestTunerFindsTheBest(t *testing.T) {
	saturating := func(half float64) curve {
		return func(n int) float64 { return float64(n) / (half + float64(n)) }
	}
	peaked := func(n int) float64 { return float64(n) / (100 + float64(n) + float64(n*n)/600) } // best at 245
	for _, c := range []struct {
		name         string
		rate         curve
		holds, takes int // in the KV cache, at once
		windows      int
		least, most  int
	}{
		{"a large model, fast at 256 already", saturating(60), 1 << 20, 1 << 20, 4, 256, 1024},
		{"a small one, that gains up to 1024", saturating(600), 1 << 20, 1 << 20, 8, 576, 1024},
		{"worse above the best", peaked, 1 << 20, 1 << 20, 8, 150, 400},
		{"a KV cache for 200", saturating(100), 200, 1 << 20, 8, 100, 200},
		{"a KV cache for 40", saturating(20), 40, 1 << 20, 12, 20, 40},
		{"a server that runs 256 at once", saturating(60), 1 << 20, 256, 8, 256, 384},
	} {
		const runs = 200
		good := 0
		for seed := range uint64(runs) {
			if n := tuned(c.rate, 0.03, c.holds, c.takes, seed, c.windows); n >= c.least && n <= c.most {
				good++
			}
		}
		if good < runs*9/10 {
			t.Errorf("%s: between %d and %d in %d of %d runs", c.name, c.least, c.most, good, runs)
		}
	}
}

func TestTunerIgnoresIdleWindows(t *testing.T) {
	tu := newTuner()
	for range 10 {
		if n := tu.next(window{rate: 1}); n != startInFlight {
			t.Fatalf("limit %d from windows that did not reach it", n)
		}
	}
}
