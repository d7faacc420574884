package merge

import (
	"bufio"
	"cmp"
	"container/heap"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"os"
	"reflect"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"tokenfork/internal/columnar"
	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/store"
)

// spool is a temporary file of runs: each the results of one shard in order.
type spool struct {
	f     *os.File
	size  int64
	batch int // rows of a run that are in memory while it is read
}

// section is a stretch of the spool: the rows of one of the jobs.
type section struct {
	from, size int64
	input, job int // among those merged
}

// Bounds of what is in memory while runs are merged: of runs read at once, each
// with a decoder's window, and of their rows.
const (
	runsAtOnce   = 64
	rowsInMemory = 1 << 13
)

func newSpool(dir string) (*spool, error) {
	f, err := os.CreateTemp(dir, "tokenfork-merge-*")
	if err != nil {
		return nil, fmt.Errorf("make a temporary file: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil { // it goes with the process, however that ends
		return nil, errors.Join(fmt.Errorf("make a temporary file: %w", err), f.Close())
	}
	return &spool{f: f, batch: rowsInMemory / runsAtOnce}, nil
}

func (s *spool) close() { _ = s.f.Close() } // read-only by now

// Write appends to the file.
func (s *spool) Write(p []byte) (int, error) {
	n, err := s.f.Write(p)
	s.size += int64(n)
	return n, err
}

// run appends one run, whose rows fill writes in order.
func (s *spool) run(fill func(write func(*job.Result) error) error) (section, error) {
	from := s.size
	b := bufio.NewWriterSize(s, 1<<20)
	w, err := columnar.NewStreamWriter[job.Result](b, columnar.BatchRows(s.batch))
	if err != nil {
		return section{}, err
	}
	if err := fill(w.Write); err != nil {
		return section{}, err
	}
	if err := w.Close(); err != nil {
		return section{}, fmt.Errorf("write %s: %w", s.f.Name(), err)
	}
	if err := b.Flush(); err != nil {
		return section{}, fmt.Errorf("write %s: %w (give another folder by --tmp)", s.f.Name(), err)
	}
	return section{from: from, size: s.size - from}, nil
}

// combine merges runs of the same job until there are few enough to be read at
// once, or one for each job.
func (s *spool) combine(runs []section) ([]section, error) {
	for before := len(runs) + 1; len(runs) > runsAtOnce && len(runs) < before; {
		before = len(runs)
		for at := 0; len(runs) > runsAtOnce && at < len(runs); at++ {
			end := at + 1
			for end < len(runs) && end-at < runsAtOnce && runs[end].job == runs[at].job {
				end++
			}
			if end == at+1 {
				continue
			}
			one, err := s.copy(runs[at:end])
			if err != nil {
				return nil, err
			}
			runs = slices.Replace(runs, at, end, one)
		}
	}
	return runs, nil
}

// copy writes several runs of a job as one.
func (s *spool) copy(runs []section) (section, error) {
	one, err := s.run(func(write func(*job.Result) error) error {
		for r, err := range s.ordered(runs, nil) {
			if err == nil {
				err = write(r)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	one.input, one.job = runs[0].input, runs[0].job
	return one, err
}

// ordered yields the rows of all runs by text; of a job, a text is in
// one run. Rows that a further job has too are counted and passed over.
func (s *spool) ordered(runs []section, repeated *int64) iter.Seq2[*job.Result, error] {
	return func(yield func(*job.Result, error) bool) {
		var t twins
		h := &cursors{}
		defer h.stop()
		for _, r := range runs {
			c, err := s.open(r)
			if err != nil {
				yield(nil, err)
				return
			}
			if c.advance(); c.row != nil || c.err != nil {
				*h = append(*h, c)
			}
		}
		heap.Init(h)
		for h.Len() > 0 {
			c := (*h)[0]
			twin, err := false, c.err
			if err == nil {
				twin, err = t.next(c)
			}
			if twin {
				*repeated++
			} else if !yield(c.row, err) || err != nil {
				return
			}
			if c.advance(); c.row == nil && c.err == nil {
				heap.Pop(h)
			} else {
				heap.Fix(h, 0)
			}
		}
		if err := t.complete(); err != nil {
			yield(nil, err)
		}
	}
}

func (s *spool) open(at section) (*cursor, error) {
	r, err := columnar.ReadStream[job.Result](bufio.NewReader(io.NewSectionReader(s.f, at.from, at.size)))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", s.f.Name(), err)
	}
	c := &cursor{input: at.input, job: at.job}
	c.next, c.stop = iter.Pull2(r.Rows())
	return c, nil
}

// cursor is the next row of a run; row is nil at its end.
type cursor struct {
	input, job int
	row        *job.Result
	err        error
	next       func() (*job.Result, error, bool)
	stop       func()
}

func (c *cursor) advance() { c.row, c.err, _ = c.next() }

type cursors []*cursor

func (h cursors) Len() int { return len(h) }
func (h cursors) Less(i, j int) bool {
	if h[i].row == nil || h[j].row == nil {
		return h[i].row == nil && h[j].row != nil // an error comes up at once
	}
	a, b := h[i], h[j]
	return cmp.Or(cmp.Compare(a.input, b.input), cmp.Compare(a.row.Ordinal, b.row.Ordinal), cmp.Compare(a.job, b.job)) < 0
}
func (h cursors) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *cursors) Push(x any)   { *h = append(*h, x.(*cursor)) }
func (h *cursors) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	last.stop()
	return last
}

func (h cursors) stop() {
	for _, c := range h {
		c.stop()
	}
}

// twins finds the rows of a text that several jobs have.
type twins struct {
	of     place
	first  int           // the job whose rows count
	rows   []*job.Result // of it
	second int           // the job whose rows are compared
	same   int           // of its rows so far
}

// next says whether the row repeats one of an earlier job; an error if the two differ.
func (t *twins) next(c *cursor) (bool, error) {
	if of := (place{c.input, c.row.Ordinal}); of != t.of || t.rows == nil {
		if err := t.complete(); err != nil {
			return false, err
		}
		*t = twins{of: of, first: c.job, second: c.job}
	}
	if c.job == t.first {
		t.rows = append(t.rows, c.row)
		return false, nil
	}
	if c.job != t.second {
		if err := t.complete(); err != nil {
			return false, err
		}
		t.second, t.same = c.job, 0
	}
	if t.same == len(t.rows) || !equalRows(t.rows[t.same], c.row) {
		return false, t.differ(c.row.MismatchPosition)
	}
	t.same++
	return true, nil
}

// complete is an error if a later job has fewer rows of the text.
func (t *twins) complete() error {
	if t.second != t.first && t.same < len(t.rows) {
		return t.differ(t.rows[t.same].MismatchPosition)
	}
	return nil
}

func (t *twins) differ(position int64) error {
	return failure.New(failure.Refused, "exclude one of them",
		"jobs %d and %d of those named have text %s both, and differ at position %d", t.first+1, t.second+1, t.rows[0].SentenceID, position)
}

// equalRows compares what results hold. How a failure came about is not that,
// nor is the job's own tag.
func equalRows(a, b *job.Result) bool {
	x, y := *a, *b
	for _, r := range []*job.Result{&x, &y} {
		r.Job, r.Reason, r.Stage, r.Engine = nil, nil, nil, nil
	}
	return reflect.DeepEqual(x, y)
}

// output is one file of the results, fed row by row.
type output struct {
	key  string
	open func(io.Writer) (write func(*job.Result) error, close func() error, err error)
}

// to makes an output of rows of T; pick gives a result's row, nil for none.
func to[T any](key string, open func(io.Writer, ...columnar.Option) (columnar.Writer[T], error), options []columnar.Option, pick func(*job.Result) *T) output {
	return output{key, func(w io.Writer) (func(*job.Result) error, func() error, error) {
		cw, err := open(w, options...)
		if err != nil {
			return nil, nil, err
		}
		write := func(r *job.Result) error {
			if row := pick(r); row != nil {
				return cw.Write(row)
			}
			return nil
		}
		return write, cw.Close, nil
	}}
}

// writeAll writes the rows to every output and puts them all in place once all
// are whole: a full disk leaves the earlier ones as they were.
// It gives their sha256 by key.
func writeAll(ctx context.Context, s store.Store, outs []output, rows iter.Seq2[*job.Result, error]) (map[string]string, error) {
	g, gctx := errgroup.WithContext(ctx)
	sums := make([]hash.Hash, len(outs))
	feeds := make([]chan []*job.Result, len(outs))
	var whole sync.WaitGroup
	whole.Add(len(outs))
	for i, o := range outs {
		feeds[i] = make(chan []*job.Result, 4)
		g.Go(func() error {
			return s.Replace(gctx, o.key, func(w io.Writer) error {
				sums[i] = sha256.New()
				if err := o.copy(gctx, io.MultiWriter(w, sums[i]), feeds[i]); err != nil {
					return fmt.Errorf("write %s: %w", o.key, err)
				}
				whole.Done()
				return waitFor(gctx, &whole)
			})
		})
	}
	g.Go(func() error { return distribute(gctx, rows, feeds) })
	if err := g.Wait(); err != nil {
		return nil, err
	}
	said := map[string]string{}
	for i, o := range outs {
		said[o.key] = hex.EncodeToString(sums[i].Sum(nil))
	}
	return said, nil
}

func (o *output) copy(ctx context.Context, w io.Writer, feed <-chan []*job.Result) error {
	write, closeFile, err := o.open(w)
	if err != nil {
		return err
	}
	for {
		select {
		case rows, open := <-feed:
			if !open {
				return closeFile()
			}
			for _, r := range rows {
				if err := write(r); err != nil {
					return err
				}
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// distribute sends the rows to every feed and closes the feeds if that were all.
func distribute(ctx context.Context, rows iter.Seq2[*job.Result, error], feeds []chan []*job.Result) (err error) {
	var batch []*job.Result
	send := func() bool {
		for _, f := range feeds {
			select {
			case f <- batch:
			case <-ctx.Done():
				err = context.Cause(ctx)
				return false
			}
		}
		batch = nil
		return true
	}
	for r, rerr := range rows {
		if rerr != nil {
			return rerr
		}
		if batch = append(batch, r); len(batch) == 256 && !send() {
			return err
		}
	}
	if send() {
		for _, f := range feeds {
			close(f)
		}
	}
	return err
}

func waitFor(ctx context.Context, wg *sync.WaitGroup) error {
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
