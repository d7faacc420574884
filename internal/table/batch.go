package table

import (
	"fmt"
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

	Runs     []Run     // where texts begin or go on
	Problems []Problem // ascending by row

	LastPosition int64 // of the last row

	schema *Schema
	byRow  bool // there are no lines, but rows
	// kept are Reference, Type and Measures, for tables that have them.
	kept struct {
		ids      [2][]int32
		measures [6][]float64
	}
}

// Run is rows of one text within a batch.
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
	Lost   bool   // it cannot be told to which text the row belongs
	Hint   string // the way out; empty for the usual one
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

// Clone gives a problem that outlives its batch.
func (p *Problem) Clone() *Problem { return new(*p) }

// Place names a line of the batch's file, or a row where it has no lines.
func (b *Batch) Place(line int64) string {
	if b.byRow {
		return fmt.Sprintf("%s row %d", b.Source, line)
	}
	return fmt.Sprintf("%s:%d", b.Source, line)
}

// Follows checks that the batch's first row goes on a text whose last row
// had this position and row id.
func (b *Batch) Follows(position, row int64) *Problem {
	r, reason := rowID, ""
	switch {
	case b.Runs[0].Position != position+1:
		r, reason = smallPosition, positionProblem(position, b.Runs[0].Position)
	case b.RowID[0] <= row:
		reason = rowProblem(row, b.RowID[0])
	default:
		return nil
	}
	return &Problem{Place: b.Place(b.Runs[0].Line), Line: b.Runs[0].Line, Column: b.schema.names[r], Reason: reason}
}

var batches = sync.Pool{New: func() any { return new(Batch) }}

// Release gives the batch's memory back. The caller must not use it any more.
func (b *Batch) Release() { batches.Put(b) }

// grow makes a slice of n elements, reusing s.
func grow[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n, n+n/4)
	}
	return s[:n]
}
