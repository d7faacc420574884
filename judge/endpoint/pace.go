package endpoint

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// pace decides how many requests may be under way. It starts low, doubles
// while that brings more tokens a second, then climbs slowly. vLLM, which queues
// and refuses nothing, gets as many as it answers in time. A server that
// says "too many" or breaks halves it, and is left alone for as long as it
// asks. Those who wait are let in in the order in which they came, so that
// neighbouring questions share the server's prefix cache.
type pace struct {
	most   int
	inTime time.Duration // an answer's, of a server that queues; 0: find the limit by measuring

	closed chan struct{}

	mu       sync.Mutex
	why      error // closed
	limit    float64
	under    int
	waiting  list.List // of chan struct{}
	until    time.Time // no request starts before
	timer    *time.Timer
	doubling bool
	settled  int       // rounds left without growth, since growth did not pay
	round    round     // what is being counted
	before   float64   // tokens a second of the round before the last growth
	halved   time.Time // start of the limit's last cut
	cuts     int       // throttles in a row, those at once counted once
}

// round is a stretch of as many answers as there may be requests under way. Its
// time counts from a request on, not from an answer: answers of one length come
// in bursts, and from the first to the last of a burst no time passes.
type round struct {
	start   time.Time // zero while nothing is under way
	slowest time.Duration
	answers int
	tokens  int
}

const (
	firstLimit   = 8
	mostInFlight = 256
	// vLLM refuses nothing and queues what it cannot take yet; on a large GPU it has 1,024 under way.
	firstOfVLLM  = 64
	mostOfVLLM   = 1024
	restRounds   = 20   // after growth did not pay
	worthGrowing = 1.02 // times the tokens a second before
)

func newPace(first, most int) *pace {
	return &pace{most: most, closed: make(chan struct{}), limit: float64(min(first, most)), doubling: true}
}

// ErrDrained is for questions that were not sent since nothing new is asked.
var ErrDrained = errors.New("nothing new is asked of the judge")

// Drain lets the requests under way end and sends no others.
func (c *Client) Drain() { c.pace.close() }

func (p *pace) close() { p.fail(ErrDrained) }

// fail lets no request start any more, for the reason given first.
func (p *pace) fail(why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.closed:
	default:
		p.why = why
		close(p.closed)
	}
}

// acquire waits for a place. Each is to be given back by release or failed.
func (p *pace) acquire(ctx context.Context) error {
	p.mu.Lock()
	select {
	case <-p.closed:
		defer p.mu.Unlock()
		return p.why
	default:
	}
	ready := make(chan struct{})
	e := p.waiting.PushBack(ready)
	p.admit()
	p.mu.Unlock()
	select {
	case <-ready:
		return nil
	case <-p.closed:
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-ready: // admitted at the same moment
		p.under--
		p.admit()
	default:
		p.waiting.Remove(e)
	}
	if ctx.Err() == nil {
		return p.why
	}
	return fmt.Errorf("ask the judge: %w", context.Cause(ctx))
}

// admit lets in whom the limit and the break allow. The lock is held.
func (p *pace) admit() {
	if pause := time.Until(p.until); pause > 0 {
		if p.timer == nil && p.waiting.Len() > 0 {
			p.timer = time.AfterFunc(pause, func() {
				p.mu.Lock()
				defer p.mu.Unlock()
				p.timer = nil
				p.admit()
			})
		}
		return
	}
	for p.waiting.Len() > 0 && p.under < int(p.limit) {
		close(p.waiting.Remove(p.waiting.Front()).(chan struct{}))
		if p.round.start.IsZero() {
			p.round.start = time.Now()
		}
		p.under++
	}
}

// release gives a place back after an answer of so many tokens that took so long.
func (p *pace) release(tokens int, took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.under--
	p.cuts = 0
	p.answered(tokens, took)
	p.admit()
	if p.under == 0 {
		p.round = round{}
	}
}

func (p *pace) answered(tokens int, took time.Duration) {
	p.round.answers++
	p.round.slowest = max(p.round.slowest, took)
	p.round.tokens += tokens
	if p.round.answers < int(p.limit) {
		return
	}
	ended := p.round
	full := p.under+1 >= int(p.limit) || p.waiting.Len() > 0
	p.round = round{start: time.Now()}
	switch {
	case p.inTime > 0 && (full || ended.slowest > p.inTime):
		// An answer takes at most so many times longer as there are more of them under way.
		p.limit = min(max(1, p.limit*float64(p.inTime)/float64(max(ended.slowest, time.Millisecond))), float64(p.most))
	case p.inTime == 0 && full:
		p.grow(float64(ended.tokens) / max(time.Since(ended.start).Seconds(), 1e-9))
	}
}

// grow raises the limit if the last raise paid, else rests for some rounds.
func (p *pace) grow(rate float64) {
	if p.settled > 0 {
		p.settled--
		p.before = 0 // the next raise is compared with the round before it
		return
	}
	if rate < p.before*worthGrowing {
		p.doubling, p.settled = false, restRounds
		return
	}
	p.before = rate
	step := max(1, p.limit/10)
	if p.doubling {
		step = p.limit
	}
	p.limit = min(p.limit+step, float64(p.most))
}

// failed gives a place back after a request without an answer.
func (p *pace) failed(f *fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.under--
	if f.retry && p.cut() {
		p.cuts++
	}
	if f.throttled || f.wait > 0 || f.retry && p.limit == 1 { // the last: a server in trouble fails on all
		wait := f.wait
		if wait == 0 {
			wait = backoff(min(max(p.cuts, 1), 5))
		}
		if time.Until(p.until) < wait {
			p.until = time.Now().Add(wait)
		}
	}
	p.admit()
}

// underWay is how many requests are under way.
func (p *pace) underWay() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return int64(p.under)
}

// now is how many requests may be under way.
func (p *pace) now() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return int(p.limit)
}

// cut halves the limit, once for all requests that were under way together: it says whether now.
func (p *pace) cut() bool {
	p.doubling, p.before, p.settled = false, 0, 0
	p.inTime = 0 // something refuses, a gateway for instance: climb step by step from here
	if time.Since(p.halved) < time.Second && !p.halved.IsZero() {
		return false
	}
	p.halved = time.Now()
	p.limit = max(1, p.limit/2)
	p.round = round{start: time.Now()}
	return true
}

// pause lets no request start for this long.
func (p *pace) pause(wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if until := time.Now().Add(wait); until.After(p.until) {
		p.until = until
	}
}

// quota is the time until the server's quota of kind is filled up again, 0
// while at least need is left of it.
func quota(h http.Header, kind string, need int64) time.Duration {
	left, err := strconv.ParseInt(h.Get("X-Ratelimit-Remaining-"+kind), 10, 64)
	if err != nil || left >= need {
		return 0
	}
	reset := h.Get("X-Ratelimit-Reset-" + kind)
	if d, err := time.ParseDuration(reset); err == nil {
		return max(0, d)
	}
	if s, err := strconv.ParseFloat(reset, 64); err == nil && s < 48*3600 { // larger: a date, in some dialects
		return seconds(s)
	}
	return 0
}
