package infer

import (
	"context"
	"log/slog"
	"time"

	"tokenfork/internal/vllm"
)

// The search for the number of requests in flight, by measuring.
const (
	startInFlight = 512 // where large models and small ones are about as fast as they get
	leastInFlight = 16
	mostInFlight  = 1024
	tuneEvery     = 5 * time.Second
	noise         = 0.95 // rates of two windows that differ by less may be the same
	retryAfter    = 24   // windows before a settled number is questioned
)

// tuner climbs towards the number of requests in flight that gives the most
// answers a second, or descends where more is worse. More cost nothing as long as the KV cache holds them, too
// few cost throughput: so of two numbers that measure alike it takes the
// larger. It steps back when the server throws requests out of its KV cache,
// or lets them wait.
type tuner struct {
	limit   int
	ceiling int     // found too high
	best    float64 // answers a second, the most so far
	bestAt  int     // the largest limit that came near it
	settled int     // windows since the search ended; 0 while it runs
	from    int     // where the search began
	down    bool    // more than that was worse: fewer are tried
}

func newTuner() *tuner {
	return &tuner{limit: startInFlight, ceiling: mostInFlight, bestAt: startInFlight, from: startInFlight}
}

// window is what was measured while the limit held.
type window struct {
	rate      float64 // answers a second
	full      bool    // the limit was reached; else the rate says nothing of it
	preempted bool
	waiting   int // requests that the server has not begun
}

// next gives the limit for the coming window.
func (t *tuner) next(w window) int {
	switch {
	case w.preempted:
		t.ceiling = max(leastInFlight, t.limit*7/10)
		t.limit, t.settled = t.ceiling, 0
		t.begin()
	case !w.full:
	case t.settled > 0 && t.settled < retryAfter:
		t.settled++
	case t.settled == retryAfter: // the load may have changed
		t.settled = 0
		t.begin()
		t.climb(w)
	case t.down && w.rate*(1+noise)/2 > t.best: // fewer is the safer side
		t.best, t.bestAt = w.rate, t.limit
		t.limit = max(leastInFlight, t.limit*2/3)
	case !t.down && w.rate >= t.best*noise:
		t.climb(w)
	case !t.down && t.bestAt == t.from:
		t.down, t.limit = true, max(leastInFlight, t.from*2/3)
	default:
		t.limit, t.settled = t.bestAt, 1
	}
	return t.limit
}

// begin starts the search anew at the limit.
func (t *tuner) begin() { t.from, t.bestAt, t.best, t.down = t.limit, t.limit, 0, false }

func (t *tuner) climb(w window) {
	t.best, t.bestAt = max(t.best, w.rate), t.limit
	if w.waiting > t.limit/4 { // what waits in the server gains nothing
		t.bestAt = max(leastInFlight, (t.limit-w.waiting)*5/4)
		t.limit = t.bestAt
	} else {
		t.limit = min(t.ceiling, t.limit*3/2)
	}
	if t.limit == t.bestAt {
		t.settled = 1
	}
}

// tune adjusts the replica's gate until ctx ends.
func (r *replica) tune(ctx context.Context, log *slog.Logger) {
	t := newTuner()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last, since, preemptions := r.answers.Load(), time.Now(), r.metrics(ctx).Preemptions
	settling := int64(t.limit) // answers still to come of what was sent before the limit changed
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		n := r.answers.Load()
		if settling > 0 {
			settling -= n - last
			last, since = n, time.Now()
			continue
		}
		passed := time.Since(since)
		if n-last < int64(2*t.limit) || passed < tuneEvery { // too few to tell one number from another
			continue
		}
		m := r.metrics(ctx)
		before := t.limit
		r.gate.setLimit(t.next(window{rate: float64(n-last) / passed.Seconds(), full: r.gate.full(),
			preempted: m.Preemptions > preemptions, waiting: m.Waiting}))
		if t.limit != before {
			log.Info("requests in flight", "from", before, "to", t.limit, "best_answers_per_s", t.best)
			settling = int64(max(t.limit, before))
		}
		last, since, preemptions = n, time.Now(), max(preemptions, m.Preemptions)
	}
}

// metrics are the server's, zero if it does not tell.
func (r *replica) metrics(ctx context.Context) vllm.Metrics {
	client, _, err := r.server.Client(ctx)
	if err != nil {
		return vllm.Metrics{}
	}
	m, _ := client.Metrics(ctx)
	return m
}
