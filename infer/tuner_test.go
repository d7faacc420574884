package infer

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tokenfork/internal/fleet"
	"tokenfork/internal/vllm"
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

// silent is a server without metrics.
type silent struct{ fleet.Server }

func (silent) Client(context.Context) (*vllm.Client, int, error) {
	return nil, 0, errors.New("no metrics")
}

// The loop sets the gate by what it measures: a server that answers a request in a
// second, and more than 700 of them later, gets 700 and not much more than 1,000. The
// clock is the bubble's, so that minutes pass at once.
func TestTunerMovesTheGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &replica{server: silent{}, gate: newGate(startInFlight)}
		ctx, stop := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for range 8 { // texts, each of which sends its requests in order
			all.Go(func() {
				for r.gate.acquire(ctx) == nil {
					n := r.inFlight.Add(1)
					all.Go(func() {
						time.Sleep(max(time.Second, time.Duration(n)*time.Second/700))
						r.inFlight.Add(-1)
						r.answers.Add(1)
						r.gate.release()
					})
				}
			})
		}
		all.Go(func() { r.tune(ctx, slog.New(slog.DiscardHandler)) })
		time.Sleep(3 * time.Minute)
		r.gate.mu.Lock()
		limit := r.gate.limit
		r.gate.mu.Unlock()
		if limit < 700 || limit > mostInFlight {
			t.Errorf("%d in flight", limit)
		}
		if err := r.gate.acquireAlone(ctx); err != nil || r.inFlight.Load() != 0 {
			t.Errorf("alone beside %d requests, %v", r.inFlight.Load(), err)
		}
		r.gate.releaseAlone()
		stop()
		all.Wait()
		if err := r.gate.acquire(ctx); err != nil {
			t.Errorf("a place is free, but: %v", err)
		}
		if err := r.gate.acquireAlone(ctx); !errors.Is(err, context.Canceled) || r.gate.alone {
			t.Errorf("alone beside a request, after the end: %v", err)
		}
	})
}
