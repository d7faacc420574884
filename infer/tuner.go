package infer

import (
	"context"
	"log/slog"
	"time"
)

// The search for the number of requests in flight, by measuring.
const (
	startInFlight = 64
	leastInFlight = 16
	mostInFlight  = 1024
	tuneEvery     = 5 * time.Second
	worthwhile    = 1.05 // a rate that counts as better
	retryAfter    = 24   // windows before a settled number is questioned
)

// tuner climbs towards the number of requests in flight that gives the most
// answers a second, and steps back when the server throws requests out of its
// KV cache.
type tuner struct {
	limit   int
	ceiling int     // found too high
	best    float64 // answers a second at bestAt
	bestAt  int
	settled int // windows since the search ended; 0 while it runs
}

func newTuner() *tuner { return &tuner{limit: startInFlight, ceiling: mostInFlight} }

// next gives the limit for the coming window, from the last one's rate. A
// window in which the limit was not reached says nothing of it.
func (t *tuner) next(rate float64, full, preempted bool) int {
	switch {
	case preempted:
		t.ceiling = max(leastInFlight, t.limit*7/10)
		t.limit, t.best, t.settled = t.ceiling, 0, 0
	case !full:
	case t.settled > 0 && t.settled < retryAfter:
		t.settled++
	case t.settled == retryAfter: // the load may have changed
		t.settled, t.best, t.bestAt = 0, rate, t.limit
		t.limit = t.above()
	case rate >= t.best*worthwhile:
		t.best, t.bestAt = rate, t.limit
		if t.limit = t.above(); t.limit == t.bestAt {
			t.settled = 1
		}
	default:
		t.limit, t.settled = t.bestAt, 1
	}
	return t.limit
}

func (t *tuner) above() int { return min(t.ceiling, t.limit*3/2) }

// tune adjusts the replica's gate until ctx ends.
func (r *replica) tune(ctx context.Context, log *slog.Logger) {
	t := newTuner()
	tick := time.NewTicker(tuneEvery)
	defer tick.Stop()
	last, preempted := r.answers.Load(), int64(-1)
	since := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		n := r.answers.Load()
		if n-last < int64(2*t.limit) { // too few to tell one number from another
			continue
		}
		now := r.preemptions(ctx)
		before := t.limit
		r.gate.setLimit(t.next(float64(n-last)/time.Since(since).Seconds(), r.gate.full(), preempted >= 0 && now > preempted))
		if t.limit != before {
			log.Info("requests in flight", "from", before, "to", t.limit, "best_answers_per_s", t.best)
		}
		last, preempted, since = n, now, time.Now()
	}
}

// preemptions is the server's counter, -1 if it does not tell.
func (r *replica) preemptions(ctx context.Context) int64 {
	client, _, err := r.server.Client(ctx)
	if err != nil {
		return -1
	}
	m, err := client.Metrics(ctx)
	if err != nil {
		return -1
	}
	return m.Preemptions
}
