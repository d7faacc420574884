package endpoint

import (
	"errors"
	"math"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// serve runs requests through the pace against a server that answers `good` at
// once in a second each, and everything beyond more slowly in proportion.
func serve(t *testing.T, p *pace, good, requests int) (peak int) {
	t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	under := 0
	for range requests {
		wg.Go(func() {
			if err := p.acquire(t.Context()); err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			under++
			peak = max(peak, under)
			slow := max(1, float64(under)/float64(good))
			mu.Unlock()
			time.Sleep(time.Duration(slow * float64(time.Second)))
			mu.Lock()
			under--
			mu.Unlock()
			p.release(100, time.Duration(slow*float64(time.Second)))
		})
	}
	wg.Wait()
	return peak
}

func TestPaceGrowsWhileItPays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace(firstLimit, 256)
		if peak := serve(t, p, 1000, 600); peak != 256 {
			t.Errorf("a server that bears 1000 got at most %d of 256 at once, in 600 requests", peak)
		}
		p = newPace(firstLimit, 1024)
		if peak := serve(t, p, 40, 3000); peak < 40 || peak > 320 {
			t.Errorf("a server that bears 40 got %d at once", peak)
		}
	})
}

// A server that queues is asked for as much as it answers in time, and no more.
func TestPaceOfAServerThatQueues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct{ good, requests, least, most int }{
			{1000, 1200, 1000, 1024}, // from 64 on at once
			{2, 3000, 200, 320},      // half of them a second: 150 s for 300
		} {
			p := newPace(firstOfVLLM, mostOfVLLM)
			p.inTime = 150 * time.Second
			if peak := serve(t, p, c.good, c.requests); peak < c.least || peak > c.most {
				t.Errorf("a server that bears %d got %d at once", c.good, peak)
			}
		}
	})
}

// A server that queues, behind a gateway that gives up earlier: no leap after a refusal.
func TestPaceAfterARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace(firstOfVLLM, mostOfVLLM)
		p.inTime = 150 * time.Second
		serve(t, p, 1000, 200)
		before := p.now()
		if err := p.acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.failed(&fault{retry: true})
		serve(t, p, 1000, 2*before)
		if after := p.now(); before != mostOfVLLM || after > before*3/4 {
			t.Errorf("%d at once, after a refusal %d", before, after)
		}
	})
}

func TestPaceHalvesOnceForManyRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace(firstLimit, 64)
		p.limit, p.under = 64, 64
		for range 64 {
			p.failed(&fault{retry: true, throttled: true, wait: time.Second})
		}
		if p.limit != 32 || p.under != 0 {
			t.Errorf("limit %v, under %d", p.limit, p.under)
		}
		start := time.Now()
		if err := p.acquire(t.Context()); err != nil || time.Since(start) != time.Second {
			t.Errorf("went on after %s, %v", time.Since(start), err)
		}
		p.release(1, time.Second)
		for range 20 {
			if err := p.acquire(t.Context()); err != nil {
				t.Fatal(err)
			}
			p.failed(&fault{retry: true})
			time.Sleep(2 * time.Second)
		}
		if p.limit != 1 || p.under != 0 {
			t.Errorf("limit %v, want 1; under %d", p.limit, p.under)
		}
	})
}

// Many refusals at once, without a break that is asked for, are one of a row of refusals.
func TestPaceWaitsOnceForManyRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace(firstLimit, 64)
		p.limit, p.under = 64, 64
		start := time.Now()
		for range 64 {
			p.failed(&fault{retry: true, throttled: true})
		}
		if err := p.acquire(t.Context()); err != nil || time.Since(start) > time.Second {
			t.Errorf("went on after %s, %v", time.Since(start), err)
		}
		p.failed(&fault{retry: true, throttled: true})
		if err := p.acquire(t.Context()); err != nil || time.Since(start) > 3*time.Second {
			t.Errorf("went on after %s, %v", time.Since(start), err)
		}
	})
}

func TestPaceLetsInInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace(firstLimit, 1)
		if err := p.acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		var got []int
		for i := range 50 {
			go func() {
				if p.acquire(t.Context()) == nil {
					got = append(got, i)
					p.release(1, 0)
				}
			}()
			synctest.Wait()
		}
		p.release(1, 0)
		synctest.Wait()
		for i, n := range got {
			if i != n || len(got) != 50 {
				t.Fatalf("order %v", got)
			}
		}
	})
}

func TestQuota(t *testing.T) {
	for _, c := range []struct {
		kind, left, reset string
		need              int64
		want              time.Duration
	}{
		{"requests", "0", "6m1.5s", 1, 361500 * time.Millisecond},
		{"requests", "1", "6m", 1, 0},
		{"tokens", "400", "12ms", 500, 12 * time.Millisecond},
		{"tokens", "500", "1s", 500, 0},
		{"tokens", "0", "17", 1, 17 * time.Second},
		{"tokens", "0", "2026-11-23T16:00:00Z", 1, 0},
		{"tokens", "", "1s", math.MaxInt64, 0},
	} {
		h := http.Header{}
		h.Set("x-ratelimit-remaining-"+c.kind, c.left)
		h.Set("x-ratelimit-reset-"+c.kind, c.reset)
		if got := quota(h, c.kind, c.need); got != c.want {
			t.Errorf("%+v: got %s", c, got)
		}
	}
}

func TestQuotaHoldsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeServer{chat: obliging(func(string) (int, string) { return 200, answer("x") })}
		c := open(t, s, nil)
		s.head = http.Header{"X-Ratelimit-Remaining-Tokens": {"300"}, "X-Ratelimit-Reset-Tokens": {"30s"}}
		start := time.Now()
		for range 3 {
			if _, err := c.Ask(t.Context(), question); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took != time.Minute {
			t.Errorf("took %s", took)
		}
	})
}

func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeServer{chat: obliging(func(string) (int, string) { time.Sleep(time.Second); return 200, answer("x") })}
		c := open(t, s, func(c *Config) { c.InFlight = 2 })
		var mu sync.Mutex
		answered, drained := 0, 0
		for range 6 {
			go func() {
				_, err := c.Ask(t.Context(), question)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					answered++
				} else if errors.Is(err, ErrDrained) {
					drained++
				}
			}()
		}
		time.Sleep(500 * time.Millisecond)
		c.Drain()
		c.Drain()
		time.Sleep(time.Second)
		mu.Lock()
		defer mu.Unlock()
		if answered != 2 || drained != 4 {
			t.Errorf("answered %d, drained %d", answered, drained)
		}
		if _, err := c.Ask(t.Context(), question); !errors.Is(err, ErrDrained) {
			t.Errorf("got %v", err)
		}
	})
}
