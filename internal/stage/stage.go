// Package stage runs a stage over shards: it opens each shard while the one
// before is worked on, hands the stage the texts that are not done, keeps their
// rows, commits, and says what was finished. What is done to a text is the stage's.
package stage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/progress"
	"tokenfork/internal/store"
)

// Text is a text of a manifest: the unit of work.
type Text interface{ TextOrdinal() int64 }

// Stage is a stage's way through its shards, for one side, model or judging. X are the
// manifests' texts, T the rows that come of them.
type Stage[X Text, T job.Row] struct {
	Store     store.Store
	Manifest  func(ctx context.Context, s store.Store, k int) (*job.Manifest, error)
	Texts     func(m *job.Manifest) iter.Seq2[X, error]
	Task      func(m *job.Manifest) job.Task
	Open      func(ctx context.Context, sh *Shard[X, T]) (Work[X], error) // prepares a shard, while the one before is worked on
	Rows      func(x X) int                                               // that come of a text
	Work      func(x X) float64                                           // of a text, as Lane measures it; nil: rows count alike
	Retry     func(k int) bool                                            // open a finished shard again if rows failed or parts are damaged
	PartEvery time.Duration                                               // a finished text waits no longer for its part
	Who       job.Attempt
	Log       *slog.Logger
	Lane      *progress.Lane // counts rows
	Summary   *Summary
	Fed       func() // called once no text is left to be taken; may be nil
	Settles   bool   // texts come to an end even after ctx has: Run waits for them
}

// Work is what a stage does on one shard.
type Work[X Text] interface {
	// Begin is called before the first text.
	Begin(admit, ctx context.Context) error
	// Text starts the work on a text, for whose end it calls the shard's Done or
	// Drop once, now or later. It waits while there is too much in flight, and
	// gives false once admit is done.
	Text(admit, ctx context.Context, x X) (bool, error)
	// End is called once the shard's log is closed. c is its commit, nil if the
	// shard is not finished.
	End(c *job.Commit) error
}

// Shard is a shard on its way.
type Shard[X Text, T job.Row] struct {
	Manifest *job.Manifest
	Log      *job.Log[T]
	Before   *job.Committed[T] // the commit that a retry replaces, or nil

	stage    *Stage[X, T]
	task     job.Task
	work     Work[X]
	ordinals []int64        // all texts
	rows     int            // of all texts
	open     sync.WaitGroup // texts without an end
	dropped  atomic.Bool
	refused  bool // its manifest makes no sense
}

// Done keeps the rows of a finished text.
func (sh *Shard[X, T]) Done(rows []T) error {
	defer sh.open.Done()
	return sh.Log.Add(rows)
}

// Drop gives a text up for this time: the shard stays unfinished.
func (sh *Shard[X, T]) Drop() {
	sh.dropped.Store(true)
	sh.open.Done()
}

// Run works through the shards. It takes no new text once admit is done, and
// gives up what is in flight once ctx is.
func (s *Stage[X, T]) Run(admit, ctx context.Context, shards []int) error {
	g, ctx := errgroup.WithContext(ctx)
	opened := make(chan *Shard[X, T]) // one ahead of the one that is fed
	g.Go(func() error {
		defer close(opened)
		return s.openAll(admit, ctx, shards, opened)
	})
	g.Go(func() error {
		if s.Fed != nil {
			defer s.Fed()
		}
		for sh := range opened {
			complete, err := sh.feed(admit, ctx)
			if err != nil {
				return errors.Join(err, sh.close())
			}
			g.Go(func() error { return sh.finish(ctx, complete) }) // beside the next shard's first texts
		}
		return nil
	})
	return g.Wait()
}

func (s *Stage[X, T]) openAll(admit, ctx context.Context, shards []int, opened chan<- *Shard[X, T]) error {
	for _, k := range shards {
		if admit.Err() != nil {
			s.Summary.Stop(s.Task(&job.Manifest{Header: job.Header{Index: k}}))
			continue
		}
		sh, err := s.open(ctx, k)
		if err != nil && ctx.Err() != nil {
			return context.Cause(ctx) // the end of the grace, not of the store
		}
		if errors.Is(err, ErrManifest) {
			s.refuse(k, err)
			continue
		}
		if err != nil {
			return err
		}
		if sh == nil {
			continue
		}
		select {
		case opened <- sh:
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), sh.close())
		}
	}
	return nil
}

// ErrManifest marks what is wrong with one shard's manifest: the other shards go on.
var ErrManifest = errors.New("this shard's manifest cannot be used")

// Unusable gives the error of a damaged or missing manifest its mark, ErrManifest.
func Unusable(err error) error {
	if err == nil {
		return nil
	}
	if failure.Code(err) != failure.Refused && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrManifest, err)
}

func (s *Stage[X, T]) refuse(k int, err error) {
	s.Summary.Refuse(s.Log, s.Task(&job.Manifest{Header: job.Header{Index: k}}), err)
}

// open prepares a shard; nil if it is finished.
func (s *Stage[X, T]) open(ctx context.Context, k int) (*Shard[X, T], error) {
	m, err := s.Manifest(ctx, s.Store, k)
	if err != nil {
		return nil, Unusable(err)
	}
	sh := &Shard[X, T]{Manifest: m, stage: s, task: s.Task(m)}
	sh.Log, sh.Before, err = job.OpenTask[T](ctx, s.Store, m.ID, sh.task, s.Who, s.PartEvery, s.Retry(k))
	if err != nil {
		return nil, err
	}
	if sh.Log == nil {
		by := sh.Before.Commit().Attempt
		s.Lane.Resumed(int64(sh.Before.Commit().Rows), m.Shard.Cost)
		s.Log.Info("already committed, nothing to do", "task", sh.task.String(), "by", by.Slurm, "host", by.Host)
		return nil, nil
	}
	if sh.work, err = s.Open(ctx, sh); err != nil {
		return nil, errors.Join(err, sh.Log.Close())
	}
	return sh, nil
}

// feed hands the open texts to the work and says whether it got through.
func (sh *Shard[X, T]) feed(admit, ctx context.Context) (bool, error) {
	if err := sh.work.Begin(admit, ctx); err != nil {
		return false, err
	}
	for x, err := range sh.stage.Texts(sh.Manifest) {
		if err = Unusable(err); errors.Is(err, ErrManifest) {
			sh.refused = true
			sh.stage.refuse(sh.Manifest.Index, err)
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("read manifest of shard %d: %w", sh.Manifest.Index, err)
		}
		sh.ordinals = append(sh.ordinals, x.TextOrdinal())
		rows := sh.stage.Rows(x)
		sh.rows += rows
		if sh.Log.Has(x.TextOrdinal()) {
			sh.stage.resumed(x)
			continue
		}
		sh.open.Add(1)
		if taken, err := sh.work.Text(admit, ctx, x); err != nil || !taken {
			return false, err
		}
	}
	return true, nil
}

// resumed counts a text that an earlier run finished.
func (s *Stage[X, T]) resumed(x X) {
	work := 0.0
	if s.Work != nil {
		work = s.Work(x)
	}
	s.Lane.Resumed(int64(s.Rows(x)), work)
}

// finish waits for the shard's texts and declares it finished, or closes it
// with what there is.
func (sh *Shard[X, T]) finish(ctx context.Context, complete bool) error {
	if !sh.settled(ctx) {
		return errors.Join(context.Cause(ctx), sh.close())
	}
	if !complete || sh.dropped.Load() {
		if !sh.refused {
			sh.stage.Summary.Stop(sh.task)
		}
		return sh.close()
	}
	c, err := sh.Log.Commit(ctx, sh.ordinals)
	if errors.Is(err, fs.ErrExist) {
		sh.stage.Log.Warn("another attempt committed first; its result counts", "task", sh.task.String(),
			"attempt", sh.Log.Attempt().ID, "first", c.Attempt.ID, "host", c.Attempt.Host)
		err = nil
	}
	if err != nil {
		return errors.Join(err, sh.work.End(nil))
	}
	sh.stage.Summary.commit(c, sh.rows)
	sh.stage.Log.Info("shard done", "task", sh.task.String(), "rows", sh.rows, "failed", c.Failed)
	return sh.work.End(c)
}

// settled waits for the texts; false if ctx ended before they did.
func (sh *Shard[X, T]) settled(ctx context.Context) bool {
	done := make(chan struct{})
	go func() { sh.open.Wait(); close(done) }()
	select {
	case <-done:
		return true
	case <-ctx.Done():
	}
	if sh.stage.Settles {
		<-done
	}
	return false
}

// close keeps what there is for the next attempt.
func (sh *Shard[X, T]) close() error {
	if sh.stage.Settles {
		sh.open.Wait()
	}
	return errors.Join(sh.Log.Close(), sh.work.End(nil))
}

// errStopped is the cause when the grace is over.
var errStopped = failure.New(failure.Stopped, "start it again: what is finished is kept", "stopped on request with work in flight")

// Graceful is a context that ends grace after ctx does.
func Graceful(ctx context.Context, grace time.Duration) (context.Context, context.CancelCauseFunc) {
	work, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		time.AfterFunc(grace, func() { cancel(errStopped) })
	})
	return work, func(err error) { stop(); cancel(err) }
}
