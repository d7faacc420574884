package infer

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/errgroup"

	"tokenfork/internal/cost"
	"tokenfork/internal/vllm"
)

// fakePace is a server of a known pace. It computes one token of each running request in a step,
// and with the first one the prompt beyond its last full block. The test's clock is the bubble's.
type fakePace struct {
	step, read, token time.Duration // of a step, and more for each prompt token and each generated one
	silent            bool          // counts nothing
	fails             int           // from so many requests on; 0: none

	mu      sync.Mutex
	came    []*running
	metrics vllm.Metrics
	asked   int
}

type running struct {
	computed, left int // tokens
	done           chan struct{}
}

const paceBlock = 32

func (p *fakePace) Metrics(context.Context) (vllm.Metrics, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.metrics, nil
}

// Complete generates all the tokens that are asked for. A prompt of which one token is wanted is new.
func (p *fakePace) Complete(ctx context.Context, q vllm.CompletionRequest) (vllm.Completion, error) {
	u := vllm.Usage{PromptTokens: q.Prompt.Len(), GeneratedTokens: q.MaxTokens}
	if q.MaxTokens > 1 {
		u.CachedTokens = (u.PromptTokens - 1) / paceBlock * paceBlock
	}
	r := &running{u.PromptTokens - u.CachedTokens, q.MaxTokens, make(chan struct{})}
	p.mu.Lock()
	p.asked++
	failed := p.fails > 0 && p.asked >= p.fails
	p.came = append(p.came, r)
	p.mu.Unlock()
	if failed {
		return vllm.Completion{}, errors.New("the server failed")
	}
	select {
	case <-r.done:
		return vllm.Completion{Usage: u}, nil
	case <-ctx.Done():
		return vllm.Completion{}, context.Cause(ctx)
	}
}

// run steps until ctx ends.
func (p *fakePace) run(ctx context.Context) {
	var all []*running
	for ctx.Err() == nil {
		p.mu.Lock()
		begun := p.came
		all, p.came = append(all, begun...), nil
		p.mu.Unlock()
		took := p.step + time.Duration(len(all))*p.token
		for _, r := range begun {
			took += time.Duration(r.computed) * p.read
		}
		time.Sleep(max(took, time.Millisecond))
		p.mu.Lock()
		if !p.silent {
			p.metrics.GeneratedTokens += int64(len(all))
			p.metrics.FirstTokens += int64(len(begun))
		}
		p.mu.Unlock()
		all = slices.DeleteFunc(all, func(r *running) bool {
			if r.left--; r.left == 0 {
				close(r.done)
			}
			return r.left == 0
		})
	}
}

// samples are texts of 200 tokens with ten continuations each, of which one in 25 is long.
func samples(texts int) (l []sample) {
	r := rand.New(rand.NewPCG(3, 4))
	for range texts {
		x := sample{prompt: &request{CompletionRequest: vllm.CompletionRequest{Prompt: vllm.Tokens(make([]int32, 200)...), MaxTokens: 1},
			work: func(u vllm.Usage) float64 { return float64(u.PromptTokens) }}}
		for range 10 {
			at, long, expected := 1+r.IntN(200), 2+r.IntN(20), 1+r.IntN(10)
			if r.IntN(25) == 0 {
				long = 128
			}
			x.continuations = append(x.continuations, &request{CompletionRequest: vllm.CompletionRequest{Prompt: vllm.Tokens(make([]int32, at)...), MaxTokens: long},
				work: func(vllm.Usage) float64 { return float64(expected) }, reads: (at-1)%cost.Block + 1})
		}
		l = append(l, x)
	}
	return l
}

// predicted is what plan makes of the measured rates, in seconds.
func predicted(l []sample, m *Measured) float64 {
	seconds := m.End
	for _, x := range l {
		seconds += x.prompt.work(vllm.Usage{PromptTokens: x.prompt.Prompt.Len()}) / m.Prefill
		for _, q := range x.continuations {
			seconds += float64(q.reads)/m.Prefill + q.work(vllm.Usage{})/m.Decode
		}
	}
	return seconds
}

// worked is how long the server takes for all of it with so many requests in flight.
func worked(ctx context.Context, t *testing.T, p *fakePace, l []sample, inFlight int) float64 {
	start := time.Now()
	g := new(errgroup.Group)
	g.SetLimit(inFlight)
	for _, x := range l {
		for _, q := range append([]*request{x.prompt}, x.continuations...) {
			g.Go(func() error { _, err := p.Complete(ctx, q.CompletionRequest); return err })
		}
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	return time.Since(start).Seconds()
}

// paced measures the server for so long.
func paced(t *testing.T, p *fakePace, d time.Duration, l []sample, then func(ctx context.Context, m *Measured)) (err error) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() { p.run(ctx) })
		c, m := Calibration{Time: d}, Measured{GPUs: 1}
		c.Log = slog.New(slog.DiscardHandler)
		if err = c.measure(ctx, p, l, paceBlock, &m); err == nil {
			then(ctx, &m)
		}
		stop()
		all.Wait()
	})
	return err
}

// TestMeasuredPace: the rates predict how long the server takes for a job, also where one round of answers is all
// that the time allows, and though its blocks are larger than those that plan counts.
func TestMeasuredPace(t *testing.T) {
	slow := func() *fakePace {
		return &fakePace{step: 10 * time.Millisecond, read: 4 * time.Millisecond, token: 5 * time.Millisecond}
	}
	fast := func() *fakePace {
		return &fakePace{step: 20 * time.Millisecond, read: 20 * time.Microsecond, token: 50 * time.Microsecond}
	}
	for _, c := range []struct {
		name            string
		pace            *fakePace
		time            time.Duration
		texts, inFlight int // 0: any, they are as fast
	}{
		{"slow, one round", slow(), 20 * time.Second, 100, 128},
		{"slow, some rounds", slow(), time.Minute, 100, 128},
		{"slow, a small job", slow(), time.Minute, 20, 0},
		{"fast", fast(), time.Minute, 1000, 512},
		{"fast, in little time", fast(), 5 * time.Second, 1000, 512},
	} {
		l := samples(c.texts)
		err := paced(t, c.pace, c.time, l, func(ctx context.Context, m *Measured) {
			got, want := predicted(l, m), worked(ctx, t, c.pace, l, 512)
			if math.Abs(got/want-1) > 0.15 || c.inFlight > 0 && m.InFlight != c.inFlight {
				t.Errorf("%s: %.1f s predicted, %.1f s taken; %+v", c.name, got, want, *m)
			}
		})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestMeasureRefuses a server that does not count, and gives up one that fails.
func TestMeasureRefuses(t *testing.T) {
	for _, c := range []struct {
		pace *fakePace
		want string
	}{
		{&fakePace{token: time.Millisecond, silent: true}, "/metrics count no tokens"},
		{&fakePace{token: time.Millisecond, fails: 1}, "the server failed"},
		{&fakePace{token: time.Millisecond, fails: 300}, "the server failed"},
	} {
		if err := paced(t, c.pace, 10*time.Second, samples(100), func(context.Context, *Measured) {}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
}
