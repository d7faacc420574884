package shard

import (
	"cmp"
	"fmt"
	"iter"
	"strings"
	"sync"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/table"
)

// text is the rows of a text, put together from batches.
type text struct {
	ordinal int64
	id      string
	problem *table.Problem

	rowID     []int64
	real      []int32
	small     []int32 // predictions by row
	reference []int32 // nil without a reference column
	types     []int32 // nil without token types
	measures  [6][]float64
}

var textPool = sync.Pool{New: func() any { return new(text) }}

// stitcher puts texts together.
type stitcher struct {
	skipBad       bool
	firstPosition int64 // -1 until a text begins at 0 or 1
	starts        starts
	rowIDs        rowIDs
	seen          seen
	skipped       []job.Skipped
	rows          int64
	source        string // of the last row
	next          int64  // ordinal

	open         *text
	lastPosition int64
	lastRowID    int64
}

// texts yields whole texts in order. The receiver gives them back to the pool.
func (st *stitcher) texts(batches iter.Seq2[*table.Batch, error]) iter.Seq2[*text, error] {
	return func(yield func(*text, error) bool) {
		for b, err := range batches {
			if err != nil {
				yield(nil, err)
				return
			}
			err = st.batch(b, yield)
			b.Release()
			if err == errStopped {
				return
			}
			if err != nil {
				yield(nil, err)
				return
			}
		}
		st.close(yield)
	}
}

var errStopped = fmt.Errorf("the receiver stopped")

func (st *stitcher) batch(b *table.Batch, yield func(*text, error) bool) error {
	st.rows += int64(b.Rows)
	if b.Source != st.source {
		st.seen.files = append(st.seen.files, strings.TrimSuffix(b.Place(0), "0"))
	}
	problems := b.Problems
	for k := range b.Runs {
		from, to := b.Runs[k].Row, b.Rows
		if k+1 < len(b.Runs) {
			to = b.Runs[k+1].Row
		}
		for i := range problems {
			if problems[i].Row == from && problems[i].Lost {
				return st.bad(&problems[i])
			}
		}
		if err := st.place(b, k, yield); err != nil {
			return err
		}
		for ; len(problems) > 0 && problems[0].Row < to; problems = problems[1:] {
			if err := st.bad(&problems[0]); err != nil {
				return err
			}
		}
		st.append(b, from, to)
	}
	st.source = b.Source
	return nil
}

// problem reads batches that are not to be planned, and says what is wrong with the first bad text.
func (st *stitcher) problem(batches []*table.Batch) error {
	none := func() (*table.Batch, error, bool) { return nil, nil, false }
	for _, err := range st.texts(follow(batches, none)) {
		if err != nil {
			return err
		}
	}
	if len(st.skipped) > 0 {
		return failure.New(failure.Refused, "correct the table", "%d texts at the head of the table are bad; the first: %s", len(st.skipped), st.skipped[0].Reason)
	}
	return nil
}

// otherFile is the way out where rows do not follow those of the file before.
const otherFile = "are the files in the order of their rows? They are read as they are named, those of a pattern in alphabetical order"

func (st *stitcher) orderHint(b *table.Batch, run *table.Run, otherwise string) string {
	if run.Row == 0 && st.source != "" && st.source != b.Source {
		return otherFile
	}
	return otherwise
}

// place finds or opens the text of a run.
func (st *stitcher) place(b *table.Batch, k int, yield func(*text, error) bool) error {
	run := &b.Runs[k]
	if st.open != nil && run.ID == st.open.id {
		if k > 0 {
			return nil
		}
		if p := b.Follows(st.lastPosition, st.lastRowID); p != nil {
			p.Hint = st.orderHint(b, run, "")
			return st.bad(p)
		}
		return nil
	}
	if !st.close(yield) {
		return errStopped
	}
	if before, ok := st.seen.add(run.ID, run.Line); !ok {
		if run.Position == st.firstPosition {
			return failure.New(failure.Refused, "give each text an id of its own, or remove the copy",
				"%s: a second text %s begins here; the first began at %s", b.Place(run.Line), run.ID, before)
		}
		return failure.New(failure.Refused, st.orderHint(b, run, "sort the table by sentence_id and position"),
			"%s: text %s goes on here, after other texts; it began at %s", b.Place(run.Line), run.ID, before)
	}
	st.open = textPool.Get().(*text)
	s := st.open
	s.ordinal, s.id, s.problem = st.next, run.ID, nil
	s.rowID, s.real, s.small = s.rowID[:0], s.real[:0], s.small[:0]
	s.reference, s.types = s.reference[:0], s.types[:0]
	for i := range s.measures {
		s.measures[i] = s.measures[i][:0]
	}
	st.next++
	return st.checkFirst(b, run)
}

// checkFirst wants every text to begin at 0, or every one at 1.
func (st *stitcher) checkFirst(b *table.Batch, run *table.Run) error {
	st.starts.count(run.Position)
	if st.firstPosition < 0 && (run.Position == 0 || run.Position == 1) {
		st.firstPosition = run.Position
	}
	if run.Position == st.firstPosition || run.Position < 0 { // below 0 it is no number, which is a problem of the row
		return nil
	}
	reason := fmt.Sprintf("text %s begins at position %d, want 0 or 1", run.ID, run.Position)
	if st.firstPosition >= 0 {
		reason = fmt.Sprintf("text %s begins at position %d, most others at %d", run.ID, run.Position, st.firstPosition)
	}
	return st.bad(&table.Problem{Place: b.Place(run.Line), Line: run.Line, Reason: reason, Hint: st.orderHint(b, run, "sort the table by sentence_id and position, or leave such texts out with --on-bad-text skip")})
}

// bad stops at a problem or notes it with the text.
func (st *stitcher) bad(p *table.Problem) error {
	switch {
	case p.Lost && p.Column == "":
		return failure.New(failure.Refused, "correct the row, or write the table again", "%w", p)
	case p.Lost:
		return failure.New(failure.Refused, cmp.Or(p.Hint, "correct the row"), "%w", p)
	case !st.skipBad:
		return failure.New(failure.Refused, cmp.Or(p.Hint, "correct the table, or leave such texts out with --on-bad-text skip"), "%w", p)
	case st.open.problem == nil:
		st.open.problem = p.Clone()
	}
	return nil
}

func (st *stitcher) append(b *table.Batch, from, to int) {
	s := st.open
	s.rowID = append(s.rowID, b.RowID[from:to]...)
	s.real = append(s.real, b.Real[from:to]...)
	s.small = append(s.small, b.Small[from:to]...)
	if b.Reference != nil {
		s.reference = append(s.reference, b.Reference[from:to]...)
	}
	if b.Type != nil {
		s.types = append(s.types, b.Type[from:to]...)
	}
	for i, m := range b.Measures {
		if m != nil {
			s.measures[i] = append(s.measures[i], m[from:to]...)
		}
	}
	st.lastPosition, st.lastRowID = b.LastPosition, b.RowID[to-1]
}

// close hands the open text on, or lists it if it is bad.
func (st *stitcher) close(yield func(*text, error) bool) bool {
	s := st.open
	st.open = nil
	if s == nil {
		return true
	}
	if s.problem != nil {
		st.skipped = append(st.skipped, job.Skipped{SentenceID: s.id, Line: s.problem.Line, Reason: s.problem.Error()})
		textPool.Put(s)
		return true
	}
	st.rowIDs.add(s)
	return yield(s, nil)
}
