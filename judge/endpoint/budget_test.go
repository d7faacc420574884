package endpoint

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tokenfork/internal/failure"
)

// Many askers at once: whatever the answers cost, the budget holds, and what
// stops the run is the budget.
func TestBudgetIsNeverExceeded(t *testing.T) {
	for name, c := range map[string]struct {
		budget Budget
		most   float64 // in the budget's unit
		bound  float64 // of the longest question
	}{
		"tokens":  {Budget{Tokens: 20_000}, 20_000, 40 + templateTokens + 100},
		"dollars": {Budget{Dollars: 0.05, PriceIn: 1, PriceOut: 10}, 0.05, (40 + templateTokens + 100*10) / 1e6},
	} {
		synctest.Test(t, func(t *testing.T) {
			var prompt, completion atomic.Int64
			s := &fakeServer{chat: obliging(func(body string) (int, string) {
				n := int64(len(body)) % 90
				time.Sleep(time.Duration(n) * time.Millisecond)
				prompt.Add(50)
				completion.Add(10 + n)
				return 200, fmt.Sprintf(`{"choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":50,"completion_tokens":%d,"total_tokens":%d}}`, 10+n, 60+n)
			})}
			client := open(t, s, func(cfg *Config) { cfg.Budget = c.budget })
			var wg sync.WaitGroup
			var stopped atomic.Int64
			for i := range 500 {
				wg.Go(func() {
					r := question
					r.Prompt = strings.Repeat("x", i%40)
					if _, err := client.Ask(t.Context(), r); err != nil {
						if !errors.Is(err, ErrBudget) || failure.Code(err) != failure.Stopped {
							t.Error(err)
						}
						stopped.Add(1)
					}
				})
			}
			wg.Wait()
			in, out := prompt.Load()+10, completion.Load()+5 // and the probe
			used := float64(in + out)
			if c.budget.Dollars > 0 {
				used = c.budget.Price(in, out)
			}
			if used > c.most || used < c.most-c.bound || stopped.Load() == 0 {
				t.Errorf("%s: used %v of %v, %d questions stopped", name, used, c.most, stopped.Load())
			}
		})
	}
}

// What was sent and never answered may have been billed.
func TestUnansweredRequestCountsInFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeServer{chat: obliging(func(string) (int, string) { return -1, "" })}
		c := open(t, s, func(cfg *Config) { cfg.Budget.Tokens = 1200; cfg.Patience = time.Hour })
		_, err := c.Ask(t.Context(), question)
		bound := c.cfg.Budget.bound(question).tokens() // 361: fits three times beside the probe
		if n := int64(len(s.bodies) - 1); !errors.Is(err, ErrBudget) || n != (1200-15)/bound {
			t.Errorf("got %v after %d requests of at most %d tokens", err, n, bound)
		}
	})
}

func TestUsage(t *testing.T) {
	s := &fakeServer{chat: obliging(func(string) (int, string) { return 200, answer("x") })}
	c := open(t, s, func(cfg *Config) { cfg.Budget = Budget{PriceIn: 1e6, PriceOut: 2e6} })
	if _, err := c.Ask(t.Context(), question); err != nil {
		t.Fatal(err)
	}
	want := Usage{Requests: 2, PromptTokens: 20, CachedTokens: 8, CompletionTokens: 10, Dollars: 40}
	if got := c.Usage(); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestParseBudget(t *testing.T) {
	for s, want := range map[string]Budget{"": {}, "2000000": {Tokens: 2e6}, "2M": {Tokens: 2e6}, "1.5k": {Tokens: 1500}} {
		if got, err := ParseBudget(s, 0, 0); err != nil || got != want {
			t.Errorf("%q: got %+v, %v", s, got, err)
		}
	}
	if got, err := ParseBudget("$2.5", 1, 4); err != nil || got != (Budget{Dollars: 2.5, PriceIn: 1, PriceOut: 4}) {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, s := range []string{"0", "-1", "x", "$", "$-2", "$5", "1e30", "NaN", "$NaN"} {
		if b, err := ParseBudget(s, 0, 0); failure.Code(err) != failure.Usage || failure.Hint(err) == "" {
			t.Errorf("%q: got %+v, %v", s, b, err)
		}
	}
}
