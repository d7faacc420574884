package columnar

import (
	"fmt"
	"io"
	"iter"
	"math"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"tokenfork/internal/failure"
)

// Kind is what the cells of an input's column can be read as.
type Kind int

// Kinds of columns.
const (
	Unread   Kind = iota // a type that has no use in a table of tokens
	Whole                // integers of any width, decimals of scale 0
	Half                 // float16
	Single               // float32
	Double               // float64
	Fraction             // decimals with digits after the point
	Text                 // strings
	Nested               // lists, maps and structs, as JSON; null is ""
)

// Null stands for an empty cell of a column of kind Whole. It is NaN in the
// kinds of floats and "" in Text.
const Null = math.MinInt64

// InputColumn is a column of a file that was not written by this program.
type InputColumn struct {
	Name string
	Kind Kind
	Type string // as the file's format names it, for messages
}

// Input is such a file.
type Input struct {
	Columns  []InputColumn
	Rows     int64
	Unended  bool // a stream without the marker of its end: it may be cut off between two batches
	open     func(column int) (columnReader, error)
	unsummed func() bool // nil: never
}

// Unsummed says, once rows were read, that they had no checksum: damage within
// a page may have changed values without a sign.
func (in *Input) Unsummed() bool { return in.unsummed != nil && in.unsummed() }

// File is an opened local file.
type File interface {
	io.Seeker
	io.ReaderAt
}

// columnReader gives the cells of a column in the order of the rows.
type columnReader interface {
	// read appends the next n cells to dst.
	read(dst *cells, n int) error
	// end checks what can be checked only after the last row.
	end() error
}

// cells are consecutive cells of a column: one of the slices, by the column's kind.
type cells struct {
	whole []int64
	float []float64 // of the kinds Half, Single, Double and Fraction
	text  []string
}

func (c *cells) reset() { c.whole, c.float, c.text = c.whole[:0], c.float[:0], c.text[:0] }

// appendRange appends the cells from src[from:to].
func (c *cells) appendRange(src *cells, kind Kind, from, to int) {
	switch kind {
	case Whole:
		c.whole = append(c.whole, src.whole[from:to]...)
	case Text, Nested:
		c.text = append(c.text, src.text[from:to]...)
	default:
		c.float = append(c.float, src.float[from:to]...)
	}
}

// appendNulls appends n empty cells.
func (c *cells) appendNulls(kind Kind, n int) {
	for range n {
		switch kind {
		case Whole:
			c.whole = append(c.whole, Null)
		case Text, Nested:
			c.text = append(c.text, "")
		default:
			c.float = append(c.float, math.NaN())
		}
	}
}

// spread moves the first cells, which are those that are not null, to where
// they belong among all rows: where defined is 1.
func (c *cells) spread(kind Kind, defined []byte) {
	switch kind {
	case Whole:
		c.whole = spread(c.whole, defined, Null)
	case Text:
		c.text = spread(c.text, defined, "")
	default:
		c.float = spread(c.float, defined, math.NaN())
	}
}

func spread[T any](present []T, defined []byte, null T) []T {
	all := append(present, make([]T, len(defined)-len(present))...)
	from := len(present)
	for to := len(defined) - 1; to >= from && to >= 0; to-- {
		if defined[to] == 0 {
			all[to] = null
			continue
		}
		from--
		all[to] = all[from]
	}
	return all
}

// InputBatch is consecutive rows of the columns that were asked for. It may be
// read by another goroutine while the next one is fetched.
type InputBatch struct {
	Rows    int
	columns []cells
}

// Whole is the k-th column asked for, of kind Whole.
func (b *InputBatch) Whole(k int) []int64 { return b.columns[k].whole }

// Floats is the k-th column, of one of the kinds of floats.
func (b *InputBatch) Floats(k int) []float64 { return b.columns[k].float }

// Text is the k-th column, of kind Text or Nested.
func (b *InputBatch) Text(k int) []string { return b.columns[k].text }

var inputBatches = sync.Pool{New: func() any { return new(InputBatch) }}

// Release gives the batch's memory back. Its slices must not be used any more.
func (b *InputBatch) Release() { inputBatches.Put(b) }

// InputRows is how many rows of numbers are read at once.
const InputRows = 16 << 10

// Batches yields the rows of the columns, given by their index in Columns, at
// most so many rows at once: all their text is in memory. The receiver releases
// each batch. Damage is an error of the exit code Refused, sometimes only after
// the rows that it is about.
func (in *Input) Batches(columns []int, rows int64) iter.Seq2[*InputBatch, error] {
	return func(yield func(*InputBatch, error) bool) {
		readers := make([]columnReader, len(columns))
		for k, c := range columns {
			var err error
			if readers[k], err = in.open(c); err != nil {
				yield(nil, err)
				return
			}
		}
		for left := in.Rows; left > 0; {
			b := inputBatches.Get().(*InputBatch)
			b.Rows = int(min(left, rows))
			b.columns = slices.Grow(b.columns[:0], len(columns))[:len(columns)] // with the memory that its columns had
			if err := b.read(readers); err != nil {
				yield(nil, err)
				return
			}
			left -= int64(b.Rows)
			if !yield(b, nil) {
				return
			}
		}
		for _, r := range readers {
			if err := r.end(); err != nil {
				yield(nil, err)
				return
			}
		}
	}
}

// read fills the batch, several columns at once.
func (b *InputBatch) read(readers []columnReader) error {
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for k, r := range readers {
		g.Go(func() (err error) {
			defer recovered(&err)
			b.columns[k].reset()
			return r.read(&b.columns[k], b.Rows)
		})
	}
	return g.Wait()
}

const writeAgain = "fetch or write the file again"

// recovered turns a panic over damaged data, in a library or here, into an error.
func recovered(err *error) {
	r := recover()
	if r == nil {
		return
	}
	if cause, ok := r.(error); ok {
		*err = failure.New(failure.Refused, writeAgain, "the file is damaged: %w", cause)
	} else {
		*err = failure.New(failure.Refused, writeAgain, "the file is damaged: %v", r)
	}
}

// readAt reads n bytes of a file of which no more than that are needed.
func readAt(r io.ReaderAt, at, n int64) ([]byte, error) {
	if at < 0 || n < 0 || n > maxMetadata {
		return nil, fmt.Errorf("its metadata is damaged: %d bytes at byte %d", n, at)
	}
	b := make([]byte, n)
	_, err := io.ReadFull(io.NewSectionReader(r, at, n), b)
	return b, err // io.EOF if the file ends at
}

// maxMetadata bounds what is read of a file's own description, so that damage cannot fill the memory.
const maxMetadata = 64 << 20
