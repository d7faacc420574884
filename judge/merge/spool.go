package merge

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"sync"

	"tokenfork/internal/columnar"
	"tokenfork/internal/failure"
	"tokenfork/internal/job"
)

// spool is a temporary file of texts: each the columns of its results. Shards
// write theirs side by side and in any order; what is kept of a text is where it is.
type spool struct {
	f     *os.File
	mu    sync.Mutex
	size  int64
	texts []stretch
	pens  sync.Pool // that were given back
}

// stretch is where the results of one text of one of the jobs are.
type stretch struct {
	place
	job        int32 // among those merged
	rows, size int32
	at         int64
}

// place is a text's in the order of the results.
type place struct {
	input   int32 // among those merged
	ordinal int64
}

func (p place) compare(q place) int {
	return cmp.Or(cmp.Compare(p.input, q.input), cmp.Compare(p.ordinal, q.ordinal))
}

func newSpool(dir string) (*spool, error) {
	f, err := os.CreateTemp(dir, "tokenfork-merge-*")
	if err != nil {
		return nil, fmt.Errorf("make a temporary file: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil { // it goes with the process, however that ends
		return nil, errors.Join(fmt.Errorf("make a temporary file: %w", err), f.Close())
	}
	return &spool{f: f}, nil
}

func (s *spool) close() { _ = s.f.Close() } // read-only by now

// spoolBuffer is how much a shard writes at once.
const spoolBuffer = 1 << 20

// pen adds texts to the spool, for one goroutine.
type pen struct {
	spool   *spool
	columns *columnar.Columns[job.Result]
	buf     []byte
	texts   []stretch // in buf, at places in it
}

// pen takes texts; give it back when it is flushed.
func (s *spool) pen(options []columnar.Option) *pen {
	if p, _ := s.pens.Get().(*pen); p != nil {
		return p
	}
	return &pen{spool: s, columns: columnar.NewColumns[job.Result](options...)}
}

// add takes the rows of a text.
func (p *pen) add(at place, number int, rows []job.Result) error {
	p.columns.Reset()
	if err := p.columns.Append(rows); err != nil {
		return fmt.Errorf("text %s: %w", rows[0].SentenceID, err)
	}
	from := len(p.buf)
	p.buf = p.columns.Encode(p.buf)
	p.texts = append(p.texts, stretch{place: at, job: int32(number), rows: int32(len(rows)), size: int32(len(p.buf) - from), at: int64(from)})
	if len(p.buf) < spoolBuffer {
		return nil
	}
	return p.flush()
}

func (p *pen) flush() error {
	s := p.spool
	s.mu.Lock()
	from := s.size
	s.size += int64(len(p.buf))
	for _, t := range p.texts {
		t.at += from
		s.texts = append(s.texts, t)
	}
	s.mu.Unlock()
	_, err := s.f.WriteAt(p.buf, from)
	p.buf, p.texts = p.buf[:0], p.texts[:0]
	if err != nil {
		return fmt.Errorf("write %s: %w (give another folder by --tmp)", s.f.Name(), err)
	}
	return nil
}

// sort puts the texts in the order of the results.
func (s *spool) sort() {
	slices.SortFunc(s.texts, func(a, b stretch) int { return cmp.Or(a.compare(b.place), cmp.Compare(a.job, b.job)) })
}

// distinct leaves out texts that an earlier job has too, with the same rows, and
// says how many rows that were.
func (s *spool) distinct(options []columnar.Option) (repeated int64, err error) {
	kept := s.texts[:0]
	a, b := s.lens(options), s.lens(options)
	for _, t := range s.texts {
		if len(kept) == 0 || kept[len(kept)-1].place != t.place {
			kept = append(kept, t)
			continue
		}
		if err := s.same(kept[len(kept)-1], t, a, b); err != nil {
			return 0, err
		}
		repeated += int64(t.rows)
	}
	s.texts = kept
	return repeated, nil
}

// lens reads texts of the spool, one at a time.
type lens struct {
	spool   *spool
	options []columnar.Option
	columns *columnar.Columns[job.Result]
	buf     []byte
}

func (s *spool) lens(options []columnar.Option) *lens {
	return &lens{spool: s, options: options, columns: columnar.NewColumns[job.Result](options...)}
}

// rows copies what read showed.
func (l *lens) rows(shown *columnar.Columns[job.Result]) ([]job.Result, error) {
	c := columnar.NewColumns[job.Result](l.options...)
	if err := c.AppendColumns(shown, 0, shown.Len()); err != nil {
		return nil, err
	}
	c.Seal()
	return c.Rows()
}

// read shows a text's results until the next is read.
func (l *lens) read(t stretch) (*columnar.Columns[job.Result], error) {
	l.buf = slices.Grow(l.buf[:0], int(t.size))[:t.size]
	if _, err := l.spool.f.ReadAt(l.buf, t.at); err != nil {
		return nil, fmt.Errorf("read %s: %w", l.spool.f.Name(), err)
	}
	l.columns.View(l.buf)
	return l.columns, nil
}

// same is an error if two jobs' results of a text differ. How a failure came
// about is no result, nor is the job's own tag.
func (s *spool) same(a, b stretch, left, right *lens) error {
	x, err := left.read(a)
	if err != nil {
		return err
	}
	y, err := right.read(b)
	if err != nil || x.Equal(y, "job", "reason", "stage", "engine") {
		return err
	}
	xs, err := left.rows(x)
	if err != nil {
		return err
	}
	ys, err := right.rows(y)
	if err != nil {
		return err
	}
	longer := xs
	if len(ys) > len(xs) {
		longer = ys
	}
	at := min(len(xs), len(ys))
	for i := range at {
		if !equalRows(&xs[i], &ys[i]) {
			at, longer = i, ys
			break
		}
	}
	return failure.New(failure.Refused, "the jobs contain different results for this text; exclude one of them",
		"jobs %d and %d of those named have text %s both, and differ at position %d", a.job+1, b.job+1, longer[at].SentenceID, longer[at].MismatchPosition)
}

func equalRows(a, b *job.Result) bool {
	x, y := *a, *b
	for _, r := range []*job.Result{&x, &y} {
		r.Job, r.Reason, r.Stage, r.Engine = nil, nil, nil, nil
	}
	return reflect.DeepEqual(x, y)
}

// batch is results in order.
type batch = columnar.Columns[job.Result]

// batches sends the texts' results, in batches of the same size but for the last.
func (s *spool) batches(texts []stretch, options []columnar.Option, send func(*batch) error) error {
	l, b := s.lens(options), columnar.NewColumns[job.Result](options...)
	for _, t := range texts {
		columns, err := l.read(t)
		if err != nil {
			return err
		}
		for from := 0; from < columns.Len(); {
			to := min(columns.Len(), from+columnar.BatchSize-b.Len())
			if err := b.AppendColumns(columns, from, to); err != nil {
				return fmt.Errorf("put results together: %w", err)
			}
			from = to
			if b.Len() == columnar.BatchSize {
				if err := send(b); err != nil {
					return err
				}
				b = b.Another()
			}
		}
	}
	if b.Len() > 0 {
		return send(b)
	}
	return nil
}
