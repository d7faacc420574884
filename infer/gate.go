package infer

import (
	"context"
	"sync"
)

// gate bounds how many requests are in flight. The bound may change at any
// time, and one holder may ask to be alone.
type gate struct {
	mu    sync.Mutex
	moved *sync.Cond
	limit int
	inUse int
	alone bool
}

func newGate(limit int) *gate {
	g := &gate{limit: limit}
	g.moved = sync.NewCond(&g.mu)
	return g
}

// acquire waits for a free place, or for the end of ctx.
func (g *gate) acquire(ctx context.Context) error {
	return g.wait(ctx, func() bool { return !g.alone && g.inUse < g.limit }, func() { g.inUse++ })
}

// reacquire takes back a place given up for a while, over the limit if need be.
func (g *gate) reacquire() {
	g.mu.Lock()
	g.inUse++
	g.mu.Unlock()
}

func (g *gate) release() {
	g.mu.Lock()
	g.inUse--
	g.moved.Broadcast()
	g.mu.Unlock()
}

// acquireAlone waits until nothing else is in flight and keeps it so.
func (g *gate) acquireAlone(ctx context.Context) error {
	if err := g.wait(ctx, func() bool { return !g.alone }, func() { g.alone = true }); err != nil {
		return err
	}
	if err := g.wait(ctx, func() bool { return g.inUse == 0 }, func() { g.inUse++ }); err != nil {
		g.endAlone()
		return err
	}
	return nil
}

func (g *gate) releaseAlone() {
	g.endAlone()
	g.release()
}

func (g *gate) endAlone() {
	g.mu.Lock()
	g.alone = false
	g.moved.Broadcast()
	g.mu.Unlock()
}

// full says whether the bound is what holds the callers back. A place or two
// may be free at the moment of asking.
func (g *gate) full() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.inUse >= g.limit*9/10
}

func (g *gate) setLimit(n int) {
	g.mu.Lock()
	g.limit = n
	g.moved.Broadcast()
	g.mu.Unlock()
}

func (g *gate) wait(ctx context.Context, free func() bool, take func()) error {
	stop := context.AfterFunc(ctx, func() {
		g.mu.Lock()
		g.moved.Broadcast()
		g.mu.Unlock()
	})
	defer stop()
	g.mu.Lock()
	defer g.mu.Unlock()
	for !free() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		g.moved.Wait()
	}
	take()
	return nil
}
