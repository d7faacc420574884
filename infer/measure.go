package infer

import (
	"cmp"
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"tokenfork/internal/failure"
	"tokenfork/internal/vllm"
)

// Bounds of a measurement.
const (
	firstRound   = 4 // of prompts
	largestRound = 512
	atEnd        = 8 // requests that are left of a shard
	stepPoll     = 50 * time.Millisecond
)

// atOnce are the numbers of requests in flight that are tried.
var atOnce = []int{32, 128, 512}

// engine is a server that is measured.
type engine interface {
	Complete(context.Context, vllm.CompletionRequest) (vllm.Completion, error)
	Metrics(context.Context) (vllm.Metrics, error)
}

// measure finds both rates: up to half of the time goes to prompts, the rest to continuations at
// some numbers in flight. block is the server's, in tokens.
func (c *Calibration) measure(ctx context.Context, s engine, l []sample, block int, m *Measured) error {
	start := time.Now()
	prefill, n, err := read(ctx, s, l, c.Time/2)
	if err != nil {
		return err
	}
	most := 0
	var all []*request
	var done answered
	for i, x := range l {
		if most += len(x.continuations); i < n {
			all = append(all, x.continuations...)
		}
	}
	rand.New(rand.NewPCG(1, 1)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] }) // the first ones stand for all
	numbers, each := tried(most, c.Time-time.Since(start), float64(block)/2/prefill)
	if last := numbers[len(numbers)-1]; last < min(most, slices.Max(atOnce)) {
		c.Log.Warn("too slow a server to try more requests in flight in the time: more may be faster than what is measured; give a longer --time", "model", m.Model, "in flight", last)
	}
	windows, err := c.watch(ctx, s, m.Model, all, numbers, each, &done)
	if err != nil {
		return err
	}
	begin := done.read / float64(done.requests) / prefill
	best := slices.MinFunc(windows, func(a, b watched) int { return cmp.Compare(a.token(begin), b.token(begin)) })
	token := best.token(begin)
	decode := done.work / (done.generated*token + done.more/prefill)
	if m.Texts, m.Requests = n, n+done.requests; !(prefill > 0 && decode > 0) || math.IsInf(prefill+decode, 0) {
		return failure.New(failure.Refused, "give it more --time", "%d requests were too few for a rate", m.Requests)
	}
	m.Prefill, m.Decode, m.InFlight = prefill/float64(m.GPUs), decode/float64(m.GPUs), best.inFlight
	if m.Model != "judge" { // whose estimate has no end
		beyond, err := end(ctx, s, all, func(a *answered) float64 { return a.generated*token + a.read/prefill })
		if err != nil {
			return err
		}
		m.End = beyond * float64(m.GPUs)
	}
	c.Log.Info("measured", "model", m.Model, "prefill tokens a second", math.Round(m.Prefill), "decode", math.Round(m.Decode), "in flight", m.InFlight, "seconds for the end", math.Round(m.End*10)/10, "requests", m.Requests)
	return nil
}

// read sends prompts for d, in rounds that grow as the time allows, and gives the work a second of
// the largest round, and how many prompts it sent: all at once cost a fast server less than a few do.
func read(ctx context.Context, s engine, l []sample, d time.Duration) (rate float64, sent int, err error) {
	most, start := 0.0, time.Now()
	for n := min(firstRound, len(l)); n > 0; {
		var round []*request
		for _, x := range l[sent : sent+n] {
			round = append(round, x.prompt)
		}
		var done answered
		took, err := done.once(ctx, s, round)
		if err != nil {
			return 0, 0, err
		}
		if sent += n; done.work >= most {
			most, rate = done.work, done.work/took
		}
		n = min(2*n, largestRound, len(l)-sent, int(float64(n)*(d-time.Since(start)).Seconds()/took))
	}
	return rate, sent, nil
}

// tried gives numbers of requests in flight, most at most, and the time of each: up to the largest of
// which all can begin in its time, and of the smaller ones those that leave it this
// time. begin is the seconds that a request takes to begin.
func tried(most int, d time.Duration, begin float64) ([]int, time.Duration) {
	var all []int
	for _, n := range atOnce {
		if all = append(all, min(n, most)); n >= most {
			break
		}
	}
	for to := len(all); to > 0; to-- {
		for from := range to {
			each := d / time.Duration(to-from)
			if float64(all[to-1])*begin <= each.Seconds() {
				return all[from:to], each
			}
		}
	}
	return all[:1], d
}

// watched is what a server did while so many requests were in flight, once they had begun.
type watched struct {
	inFlight         int
	seconds          float64
	generated, begun int64 // tokens, requests
}

// watch keeps so many requests in flight, one number after the other, for d each, and counts what the
// server does in the second half. By the server's own counters, requests that are half done count too.
// The last answers are awaited, since long ones would be missing otherwise.
func (c *Calibration) watch(ctx context.Context, s engine, model string, all []*request, numbers []int, d time.Duration, done *answered) ([]watched, error) {
	last, err := s.Metrics(ctx)
	if err == nil && last.FirstTokens == 0 {
		err = failure.New(failure.Refused, "leave out --disable-log-stats", "the server's /metrics count no tokens")
	}
	if err != nil {
		return nil, err
	}
	g, ctx := errgroup.WithContext(ctx)
	sending, stop := context.WithCancel(ctx)
	var windows []watched
	g.Go(func() error {
		defer stop()
		var sent atomic.Int64
		inFlight := 0
		for _, n := range numbers {
			begun := last.FirstTokens + int64(n-inFlight)
			for ; inFlight < n; inFlight++ {
				g.Go(func() error {
					for {
						if err := done.ask(ctx, s, all[int(sent.Add(1)-1)%len(all)]); err != nil || sending.Err() != nil {
							return err
						}
					}
				})
			}
			before, from, err := step(ctx, s, d/2, begun)
			if err != nil {
				return err
			}
			var to time.Time
			if last, to, err = step(ctx, s, d/2, 0); err != nil {
				return err
			}
			w := watched{n, to.Sub(from).Seconds(), last.GeneratedTokens - before.GeneratedTokens, last.FirstTokens - before.FirstTokens}
			c.Log.Info("tried", "model", model, "in flight", n, "generated tokens a second", math.Round(float64(w.generated)/w.seconds), "requests begun", w.begun)
			windows = append(windows, w)
		}
		return nil
	})
	err = g.Wait()
	return windows, err
}

// step gives the counters after the server's next step, once d has passed and so many requests have
// begun: a step of a slow server takes seconds.
func step(ctx context.Context, s engine, d time.Duration, begun int64) (m vllm.Metrics, at time.Time, err error) {
	for first := int64(-1); ; {
		select {
		case <-ctx.Done():
			return m, at, context.Cause(ctx)
		case <-time.After(d):
		}
		if m, err = s.Metrics(ctx); err != nil {
			return m, at, err
		}
		if at = time.Now(); first < 0 {
			first, d = m.GeneratedTokens, stepPoll
		}
		if m.GeneratedTokens > first && m.FirstTokens >= begun {
			return m, at, nil
		}
	}
}

// token is the seconds that a generated token took, where the prompt of a request takes begin.
func (w *watched) token(begin float64) float64 {
	return max(w.seconds-float64(w.begun)*begin, w.seconds/10) / float64(w.generated)
}

// end sends the longest of the continuations again, as the last ones that are left of a shard, and gives the
// seconds that they take beyond their work.
func end(ctx context.Context, s engine, all []*request, work func(*answered) float64) (float64, error) {
	slices.SortStableFunc(all, func(a, b *request) int { return cmp.Compare(b.generated, a.generated) })
	var done answered
	took, err := done.once(ctx, s, all[:min(atEnd, len(all))])
	return max(took-work(&done), 0), err
}

// answered is what the answers so far come to.
type answered struct {
	mu        sync.Mutex
	requests  int
	work      float64
	generated float64 // tokens
	read      float64 // prompt tokens that were not in the cache
	more      float64 // of them, what the estimates do not count
}

// ask sends a request and counts its answer.
func (a *answered) ask(ctx context.Context, s engine, q *request) error {
	answer, err := s.Complete(ctx, q.CompletionRequest)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	u, read := answer.Usage, q.reads
	if u.CachedTokens >= 0 {
		read = u.PromptTokens - u.CachedTokens
	}
	a.requests++
	q.generated = u.GeneratedTokens
	a.work, a.generated = a.work+q.work(u), a.generated+float64(u.GeneratedTokens)
	a.read, a.more = a.read+float64(read), a.more+float64(max(read-q.reads, 0))
	return nil
}

// once sends each request once, all at the same time, and gives the seconds until all are answered.
func (a *answered) once(ctx context.Context, s engine, all []*request) (float64, error) {
	start := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	for _, q := range all {
		g.Go(func() error { return a.ask(ctx, s, q) })
	}
	err := g.Wait()
	return time.Since(start).Seconds(), err
}
