package endpoint

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"tokenfork/internal/failure"
)

// Budget bounds what a run may use: tokens, or money at prices per million
// tokens. Zero means no bound.
type Budget struct {
	Tokens   int64
	Dollars  float64
	PriceIn  float64
	PriceOut float64
}

// Price of so many tokens in dollars.
func (b Budget) Price(prompt, completion int64) float64 {
	return (float64(prompt)*b.PriceIn + float64(completion)*b.PriceOut) / 1e6
}

// ErrBudget ends a run whose next question might exceed the budget.
var ErrBudget = errors.New("the budget is used up")

// cost is tokens that were or may be used, and their price.
type cost struct {
	prompt, completion int64
	dollars            float64
}

// cost of so many tokens.
func (b Budget) cost(prompt, completion int64) cost {
	return cost{prompt, completion, b.Price(prompt, completion)}
}

func (c cost) tokens() int64 { return c.prompt + c.completion }

func (c cost) plus(d cost) cost {
	return cost{c.prompt + d.prompt, c.completion + d.completion, c.dollars + d.dollars}
}

func (c cost) minus(d cost) cost {
	return cost{c.prompt - d.prompt, c.completion - d.completion, c.dollars - d.dollars}
}

// ledger holds what was spent and what the requests under way may still cost, of
// one client or of several with prices of their own.
type ledger struct {
	budget Budget // its bounds

	mu      sync.Mutex
	spent   cost
	held    cost
	holders int
	change  chan struct{} // closed when held shrinks
}

func newLedger(b Budget) *ledger { return &ledger{budget: b, change: make(chan struct{})} }

// templateTokens is more than a chat template puts around a question.
const templateTokens = 256

// bound is the most that a request can cost: no token is shorter than a byte.
func (b Budget) bound(r Request) cost {
	return b.cost(int64(len(r.Prompt)+templateTokens), int64(r.MaxTokens))
}

func (l *ledger) exceeded(c cost) bool {
	b := l.budget
	return b.Tokens > 0 && c.tokens() > b.Tokens || b.Dollars > 0 && c.dollars > b.Dollars
}

// reserve sets need aside. While requests under way hold too much it waits for
// them, for they mostly use less; if there are none the budget is used up.
func (l *ledger) reserve(ctx context.Context, need cost) (cost, error) {
	for {
		l.mu.Lock()
		if !l.exceeded(l.spent.plus(l.held).plus(need)) {
			l.held = l.held.plus(need)
			l.holders++
			l.mu.Unlock()
			return need, nil
		}
		holders, change := l.holders, l.change
		l.mu.Unlock()
		if holders == 0 {
			return cost{}, failure.New(failure.Stopped, "start it again with a higher --budget: what is judged is kept", "%w: %s", ErrBudget, l)
		}
		select {
		case <-change:
		case <-ctx.Done():
			return cost{}, fmt.Errorf("ask the judge: %w", context.Cause(ctx))
		}
	}
}

// try sets need aside if nothing stands against it, and never waits.
func (l *ledger) try(need cost) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.exceeded(l.spent.plus(l.held).plus(need)) {
		return false
	}
	l.held = l.held.plus(need)
	l.holders++
	return true
}

// spend counts what was not set aside.
func (l *ledger) spend(c cost) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.spent = l.spent.plus(c)
}

// used is what a reservation came to: the reservation itself where that can't be known.
func (b Budget) used(hold cost, u usage, f *fault) cost {
	if f != nil && !f.unknown {
		u = usage{max(u.prompt, 0), max(u.completion, 0), 0}
	}
	prompt, completion := hold.prompt, hold.completion
	if u.prompt != unknown {
		prompt = u.prompt
	}
	if u.completion != unknown {
		completion = u.completion
	}
	return b.cost(prompt, completion)
}

// settle replaces a reservation by what was used.
func (l *ledger) settle(hold, used cost) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.spent = l.spent.plus(used)
	l.held = l.held.minus(hold)
	if l.holders--; l.holders == 0 {
		l.held = cost{} // sums of dollars are not exact
	}
	close(l.change)
	l.change = make(chan struct{})
}

func (l *ledger) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := fmt.Sprintf("%d tokens in, %d out", l.spent.prompt, l.spent.completion)
	if l.spent.dollars > 0 {
		s += fmt.Sprintf(", $%.4f", l.spent.dollars)
	}
	return s
}

// Usage is what was asked and used so far.
type Usage struct {
	Requests         int64 // that were answered
	PromptTokens     int64
	CachedTokens     int64 // of the prompt tokens
	CompletionTokens int64
	Retries          int64
	Throttled        int64 // answers "too many requests"
	Dollars          float64
}

type counts struct{ requests, prompt, cached, completion, retries, throttled atomic.Int64 }

func (c *counts) add(u usage) {
	c.requests.Add(1)
	c.prompt.Add(max(u.prompt, 0))
	c.completion.Add(max(u.completion, 0))
	c.cached.Add(max(u.cached, 0))
}

// Usage sums up this client's requests.
func (c *Client) Usage() Usage {
	n := &c.count
	prompt, completion := n.prompt.Load(), n.completion.Load()
	return Usage{n.requests.Load(), prompt, n.cached.Load(), completion, n.retries.Load(), n.throttled.Load(), c.cfg.Budget.Price(prompt, completion)}
}
