// Package ordered runs a function over a sequence on several goroutines and
// hands the results on in the sequence's order, with bounded memory.
package ordered

import (
	"context"
	"iter"
	"sync"
)

type task[I, O any] struct {
	in   I
	err  error // of the sequence, which it ends
	done chan O
}

// Map calls f for each item on the given number of goroutines, and out, from
// the caller's goroutine, for each result in the items' order. At most three
// items per goroutine and two more are under way. The first error by order, of
// the sequence or of out, ends it all and is returned; f's own errors belong
// into its result.
func Map[I, O any](ctx context.Context, workers int, in iter.Seq2[I, error], f func(I) O, out func(O) error) error {
	ctx, cancel := context.WithCancel(ctx)
	tasks := make(chan task[I, O])
	queue := make(chan task[I, O], 2*workers)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		defer close(queue)
		defer close(tasks)
		feed(ctx, in, tasks, queue)
	})
	for range workers {
		wg.Go(func() {
			for t := range tasks {
				t.done <- f(t.in)
			}
		})
	}
	return drain(ctx, queue, out)
}

// Upto is the sequence of the numbers from 0 to below n.
func Upto(n int) iter.Seq2[int, error] {
	return func(yield func(int, error) bool) {
		for i := range n {
			if !yield(i, nil) {
				return
			}
		}
	}
}

func feed[I, O any](ctx context.Context, in iter.Seq2[I, error], tasks, queue chan<- task[I, O]) {
	for v, err := range in {
		t := task[I, O]{v, err, make(chan O, 1)}
		select {
		case queue <- t:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
		select {
		case tasks <- t:
		case <-ctx.Done():
			return
		}
	}
}

func drain[I, O any](ctx context.Context, queue <-chan task[I, O], out func(O) error) error {
	for t := range queue {
		if t.err != nil {
			return t.err
		}
		select {
		case o := <-t.done:
			if err := out(o); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return context.Cause(ctx) // nil unless cancelled: the queue may have closed early
}
