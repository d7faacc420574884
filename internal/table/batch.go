// Package table reads tables of token predictions, one row per token of a
// text: CSV, plain or compressed, Parquet and Arrow, as batches of checked
// columns in the table's order.
package table

import (
	"fmt"
	"math"
	"strconv"
	"sync"
)

// NoPrediction stands for a blank prediction.
const NoPrediction = int32(-1)

// Batch is consecutive rows of one file. Slices have Rows elements, or are nil
// where the table lacks the columns.
type Batch struct {
	Source string
	Rows   int

	RowID     []int64
	Real      []int32
	Small     []int32 // predictions
	Reference []int32
	Type      []int32
	// Measures are exact where the predictions differ, or everywhere if the request
	// says so; elsewhere they are in the bin that job.ValueBin gives the exact value. NaN is a blank.
	Measures [6][]float64

	Runs     []Run     // where sentences begin or go on
	Problems []Problem // ascending by row; the first of each run at least

	LastPosition int64 // of the last row

	vectors vectors
}

// Run is rows of one sentence within a batch.
type Run struct {
	Row      int // the first
	ID       string
	Line     int64
	Position int64 // of the first row
}

// Problem is a row that cannot be used as it is.
type Problem struct {
	Row    int
	Place  string // file and line or row
	Line   int64
	Column string
	Value  string
	Reason string
	Lost   bool // it cannot be told to which sentence the row belongs
}

func (p *Problem) Error() string {
	switch {
	case p.Column == "":
		return p.Place + ": " + p.Reason
	case p.Value == "":
		return fmt.Sprintf("%s: column %s: %s", p.Place, p.Column, p.Reason)
	}
	return fmt.Sprintf("%s: column %s: %q %s", p.Place, p.Column, p.Value, p.Reason)
}

// vectors are a batch's cells as read, before they are compared and checked.
type vectors struct {
	rows  int
	ints  [firstMeasure][]int64 // by role; blank where there is no number
	texts [2][]string           // sentence ids that are text, by side
	lines []int32               // line of each row, relative to the batch's first; nil if they are consecutive
	first int64                 // line of the first row
	byRow bool                  // lines are rows, from 1
}

var batches = sync.Pool{New: func() any { return new(Batch) }}

// Release gives the batch's memory back. The caller must not use it any more.
func (b *Batch) Release() { batches.Put(b) }

func newBatch(source string) *Batch {
	b := batches.Get().(*Batch)
	b.Source, b.Rows = source, 0
	b.Runs, b.Problems = b.Runs[:0], b.Problems[:0]
	return b
}

func (b *Batch) line(row int) int64 {
	if b.vectors.lines != nil {
		return b.vectors.first + int64(b.vectors.lines[row])
	}
	return b.vectors.first + int64(row)
}

// Place names a line of the batch's file, or a row where it has no lines.
func (b *Batch) Place(line int64) string {
	if b.vectors.byRow {
		return fmt.Sprintf("%s row %d", b.Source, line)
	}
	return fmt.Sprintf("%s:%d", b.Source, line)
}

func (b *Batch) problem(row int, column, value string, reason error) *Problem {
	line := b.line(row)
	b.Problems = append(b.Problems, Problem{Row: row, Place: b.Place(line), Line: line, Column: column, Value: value, Reason: reason.Error()})
	return &b.Problems[len(b.Problems)-1]
}

// grow makes a slice of n elements, reusing s.
func grow[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n, n+n/4)
	}
	return s[:n]
}

func formatID(n int64) string { return strconv.FormatInt(n, 10) }

var nan = math.NaN()

// Clone gives a problem that outlives its batch.
func (p *Problem) Clone() *Problem {
	c := *p
	return &c
}
