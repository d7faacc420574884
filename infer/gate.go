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

// change changes what the callers wait for.
func (g *gate) change(do func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	do()
	g.moved.Broadcast()
}

// reacquire takes back a place given up for a while, over the limit if need be.
func (g *gate) reacquire() { g.change(func() { g.inUse++ }) }

func (g *gate) release() { g.change(func() { g.inUse-- }) }

// acquireAlone waits until nothing else is in flight and keeps it so.
func (g *gate) acquireAlone(ctx context.Context) error {
	if err := g.wait(ctx, func() bool { return !g.alone }, func() { g.alone = true }); err != nil {
		return err
	}
	if err := g.wait(ctx, func() bool { return g.inUse == 0 }, func() { g.inUse++ }); err != nil {
		g.change(func() { g.alone = false })
		return err
	}
	return nil
}

func (g *gate) releaseAlone() { g.change(func() { g.alone, g.inUse = false, g.inUse-1 }) }

// full says whether the bound is what holds the callers back. A place or two
// may be free at the moment of asking.
func (g *gate) full() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.inUse >= g.limit*9/10
}

func (g *gate) setLimit(n int) { g.change(func() { g.limit = n }) }

func (g *gate) wait(ctx context.Context, free func() bool, take func()) error {
	defer context.AfterFunc(ctx, func() { g.change(func() {}) })()
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
