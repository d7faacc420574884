package shard

import (
	"tokenfork/internal/cost"
	"tokenfork/internal/fork"
	"tokenfork/internal/job"
)

// Throughput is what one GPU of a side's server does: tokens per second, but for End.
type Throughput struct {
	Prefill float64 // prompt tokens that are not in the prefix cache
	Decode  float64 // generated tokens of forks, as internal/cost counts them
	End     float64 // GPU seconds that a shard takes beyond its work, while its last requests are in flight
}

const leastCost = 1e-6 // GPU seconds of a text, so that even texts without work are spread evenly

// Work is what a side's server has to do, in tokens.
type Work struct {
	Prefill   int64 // prompt tokens computed, the rest being cached
	Generated int64 // expected
	Replayed  int64 // taken from the table instead
	Shared    int64 // expected, generated once for several forks
	Requests  int64
}

func (w *Work) add(b Work) {
	w.Prefill += b.Prefill
	w.Generated += b.Generated
	w.Replayed += b.Replayed
	w.Shared += b.Shared
	w.Requests += b.Requests
}

// walker follows forks along the real text as fork.Walk does, but in constant
// time each: it looks up where the text's sentence ends and where a model's
// predictions leave the text.
type walker struct {
	ends   fork.Ends
	limit  int
	replay bool

	real   []int32
	end    []int32 // fork.SentenceEnds
	leave  []int32 // by position: the first one from here at which the recorded prediction is not the real token
	budget []int32 // by position: most tokens asked of the rest that begins there with the recorded prediction
	cost   float64
	work   Work
	rate   Throughput
	last   int32 // furthest position of a prompt
}

// text prepares for the real tokens of a text.
func (w *walker) text(real []int32) {
	w.real = real
	w.end = fork.SentenceEnds(w.ends, real, w.end)
}

// model prepares for a model's recorded predictions, n+1 of them.
func (w *walker) model(recorded []int32, rate Throughput) {
	n := len(w.real)
	w.leave = resize(w.leave, n+2)
	w.budget = resize(w.budget, n+2)
	w.leave[n], w.leave[n+1] = int32(n), int32(n)
	clear(w.budget)
	for q := n - 1; q >= 0; q-- {
		w.leave[q] = w.leave[q+1]
		if recorded[q] != w.real[q] {
			w.leave[q] = int32(q)
		}
	}
	w.work, w.cost, w.rate, w.last = Work{}, 0, rate, 0
}

func resize(s []int32, n int) []int32 {
	if cap(s) < n {
		return make([]int32, n, n+n/4)
	}
	return s[:n]
}

// follow counts what the fork (p, token) costs the model that continues it.
// recorded are that model's predictions.
func (w *walker) follow(recorded []int32, p int32, token int32) {
	left := int32(w.limit)
	if end, _ := w.ends.End(fork.Before(w.real, int(p)), token); end || left == 0 {
		return
	}
	if !w.replay {
		w.generate(p, left)
		return
	}
	if token != w.real[p] {
		if token == recorded[p] {
			w.share(p, left)
		} else {
			w.generate(p, left)
		}
		return
	}
	end, leave := w.end[p+1], w.leave[p+1]
	if end < leave && end-p <= left {
		w.work.Replayed += int64(end-p) - w.eos(w.real[end])
		return
	}
	if leave-(p+1) >= left {
		w.work.Replayed += int64(left)
		return
	}
	w.work.Replayed += int64(leave - (p + 1))
	left -= leave - (p + 1)
	if recorded[leave] != fork.None {
		left--
		w.work.Replayed += 1 - w.eos(recorded[leave])
		if end, _ := w.ends.End(fork.Before(w.real, int(leave)), recorded[leave]); end || left == 0 {
			return
		}
	}
	w.share(leave, left)
}

// eos is 1 for the end of a text, which continuations do not keep.
func (w *walker) eos(id int32) int64 {
	if w.ends.IsEOS(id) {
		return 1
	}
	return 0
}

// share generates a rest that begins with what is recorded at q, or goes on a shared one.
func (w *walker) share(q, left int32) {
	had := w.budget[q]
	if had == 0 {
		w.budget[q] = left
		w.generate(q, left)
		return
	}
	w.work.Shared += int64(fork.Expected(w.end, q, min(had, left)))
	if left > had {
		w.budget[q] = left
		w.tokens(q, fork.Expected(w.end, q, left)-fork.Expected(w.end, q, had))
	}
}

func (w *walker) generate(q, left int32) {
	w.work.Requests++
	w.work.Prefill += int64(q%cost.Block + 1)
	w.last = max(w.last, q)
	w.tokens(q, fork.Expected(w.end, q, left))
}

func (w *walker) tokens(q, n int32) {
	w.work.Generated += int64(n)
	w.cost += cost.Decoded(n, q) / w.rate.Decode
}

// done gives the model's work and its cost in seconds of one GPU.
func (w *walker) done() (Work, float64) {
	if w.work.Requests > 0 {
		w.work.Prefill += int64(w.last)
	}
	prefill := cost.Prefilled(w.work.Prefill, w.last) / w.rate.Prefill
	return w.work, w.cost + prefill
}

// serverOf is the side whose model continues the fork of a side.
func serverOf(trajectories string, forked job.Side) job.Side {
	if trajectories == job.Own {
		return forked
	}
	return job.Reference
}
