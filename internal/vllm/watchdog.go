package vllm

import (
	"context"
	"fmt"
	"time"
)

// HangError says that a server took requests and gave no token.
type HangError struct {
	Stall    time.Duration
	InFlight int
	Probe    error // why the one-token request failed
}

func (e *HangError) Error() string {
	return fmt.Sprintf("no token for %s with %d in flight, and a request for one token failed: %v", e.Stall, e.InFlight, e.Probe)
}

func (e *HangError) Unwrap() error { return e.Probe }

// Watchdog finds servers that hang, /health 200 or not.
type Watchdog struct {
	Stall    time.Duration // without a token that make a server suspect, and that a probe may take
	InFlight func() int    // requests that wait for an answer
	// Progress is any number that changes when the server makes headway; an
	// error counts as none.
	Progress func(context.Context) (int64, error)
	Probe    func(context.Context) error // asks for one token
}

// NewWatchdog watches c by the server's own token counters.
func NewWatchdog(c *Client, stall time.Duration, inFlight func() int) *Watchdog {
	progress := func(ctx context.Context) (int64, error) {
		m, err := c.Metrics(ctx)
		return m.PromptTokens + m.GeneratedTokens, err
	}
	return &Watchdog{Stall: stall, InFlight: inFlight, Progress: progress, Probe: c.Probe}
}

// Watch returns a *HangError once the server hangs, or nil when ctx ends.
func (w *Watchdog) Watch(ctx context.Context) error {
	tick := time.NewTicker(max(w.Stall/10, time.Millisecond))
	defer tick.Stop()
	last, since := int64(-1), time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now, err := w.progress(ctx)
		if w.InFlight() == 0 || err == nil && now != last {
			last, since = now, time.Now()
			continue
		}
		if time.Since(since) < w.Stall {
			continue
		}
		if err := w.suspect(ctx, last); err != nil {
			return err
		}
		since = time.Now()
	}
}

func (w *Watchdog) progress(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, max(w.Stall/2, time.Millisecond))
	defer cancel()
	return w.Progress(ctx)
}

// suspect probes the server. A probe that waits its turn behind others is no
// proof of a hang while the counter moves.
func (w *Watchdog) suspect(ctx context.Context, last int64) error {
	probeCtx, cancel := context.WithTimeout(ctx, w.Stall)
	defer cancel()
	err := w.Probe(probeCtx)
	if err == nil || ctx.Err() != nil || w.InFlight() == 0 {
		return nil
	}
	if now, progressErr := w.progress(ctx); progressErr == nil && now != last {
		return nil
	}
	return &HangError{Stall: w.Stall, InFlight: w.InFlight(), Probe: err}
}
