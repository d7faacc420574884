package table

import (
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"

	"tokenfork/internal/columnar"
)

// blank stands for a cell without a number.
const blank = columnar.Null

// values are a row's cells.
type values struct {
	line      int64
	rowID     int64
	position  int64
	sentence  int64
	text      string // the sentence's id where ids are text; a view
	real      int64
	small     int64 // predictions
	reference int64
	kind      int64 // token type
}

// builder puts rows into a batch and checks each by itself and against the one before.
type builder struct {
	*Batch
	req    Request
	limits values // ids must be below

	n    int    // rows so far
	last values // the row before; text is a copy
}

// newBuilder starts a batch of at most size rows.
func newBuilder(source string, s *Schema, req Request, size int) *builder {
	b := batches.Get().(*Batch)
	b.Source, b.schema, b.byRow, b.Rows = source, s, false, 0
	b.Runs, b.Problems = b.Runs[:0], b.Problems[:0]
	b.RowID, b.Real, b.Small = grow(b.RowID, size), grow(b.Real, size), grow(b.Small, size)
	b.Reference, b.Type, b.Measures = nil, nil, [6][]float64{}
	if s.HasReference {
		b.kept.ids[0] = grow(b.kept.ids[0], size)
		b.Reference = b.kept.ids[0]
	}
	if s.HasTypes {
		b.kept.ids[1] = grow(b.kept.ids[1], size)
		b.Type = b.kept.ids[1]
	}
	if s.HasMeasures {
		for i := range b.Measures {
			b.kept.measures[i] = grow(b.kept.measures[i], size)
			b.Measures[i] = b.kept.measures[i]
		}
	}
	small, reference := int64(req.VocabSize[0]), int64(req.VocabSize[1])
	return &builder{Batch: b, req: req, limits: values{real: min(small, reference), small: small, reference: reference, kind: math.MaxInt32}}
}

// done cuts the batch to the rows there are.
func (b *builder) done() *Batch {
	b.Rows = b.n
	b.RowID, b.Real, b.Small = b.RowID[:b.n], b.Real[:b.n], b.Small[:b.n]
	if b.Reference != nil {
		b.Reference = b.Reference[:b.n]
	}
	if b.Type != nil {
		b.Type = b.Type[:b.n]
	}
	for i, m := range b.Measures {
		if m != nil {
			b.Measures[i] = m[:b.n]
		}
	}
	b.LastPosition = b.last.position
	return b.Batch
}

// problem notes what is wrong with the row at hand.
func (b *builder) problem(line int64, column, value, reason string) *Problem {
	b.Problems = append(b.Problems, Problem{Row: b.n, Place: b.Place(line), Line: line, Column: column, Value: value, Reason: reason})
	return &b.Problems[len(b.Problems)-1]
}

// add takes the next row. Measures are written by the caller, at b.n.
func (b *builder) add(v *values) {
	l := &b.limits
	if uint64(v.real) >= uint64(l.real) || uint64(v.small) >= uint64(l.small) || uint64(v.reference) >= uint64(l.reference) ||
		uint64(v.kind) >= uint64(l.kind) || v.rowID < 0 || uint64(v.position) >= math.MaxInt32 {
		b.odd(v)
	}
	n := b.n
	b.RowID[n], b.Real[n], b.Small[n] = v.rowID, int32(v.real), int32(v.small)
	if b.Reference != nil {
		b.Reference[n] = int32(v.reference)
	}
	if b.Type != nil {
		b.Type[n] = int32(v.kind)
	}
	if n > 0 && v.sentence == b.last.sentence && v.text == b.last.text {
		if v.position != b.last.position+1 || v.rowID <= b.last.rowID {
			b.disorder(v)
		}
	} else {
		b.run(v)
	}
	b.last.rowID, b.last.position = v.rowID, v.position
	b.n++
}

// odd looks at what is blank or out of range.
func (b *builder) odd(v *values) {
	b.id(v, &v.real, b.limits.real, smallReal, true)
	b.id(v, &v.small, b.limits.small, smallPrediction, false)
	if b.Reference != nil {
		b.id(v, &v.reference, b.limits.reference, referencePrediction, false)
	}
	if b.Type != nil {
		b.id(v, &v.kind, b.limits.kind, tokenType, true)
	}
	if v.rowID == blank {
		b.problem(v.line, b.schema.names[rowID], "", isBlankReason)
		v.rowID = b.last.rowID + 1
	}
	if v.position == blank {
		b.problem(v.line, b.schema.names[smallPosition], "", isBlankReason)
	} else if uint64(v.position) >= math.MaxInt32 {
		b.problem(v.line, b.schema.names[smallPosition], strconv.FormatInt(v.position, 10), "is no position in a text")
	}
}

const isBlankReason = "is blank"

// id checks one id; blanks become NoPrediction.
func (b *builder) id(v *values, id *int64, limit int64, r role, required bool) {
	switch {
	case *id == blank:
		if required {
			b.problem(v.line, b.schema.names[r], "", isBlankReason)
		}
	case *id >= limit:
		b.problem(v.line, b.schema.names[r], strconv.FormatInt(*id, 10), fmt.Sprintf("is outside the vocabulary of %d ids", limit))
	default:
		return
	}
	*id = int64(NoPrediction)
}

// disorder says what is wrong between the row before and this one.
func (b *builder) disorder(v *values) {
	if v.position != b.last.position+1 {
		b.problem(v.line, b.schema.names[smallPosition], "", positionProblem(b.last.position, v.position))
	}
	if v.rowID <= b.last.rowID {
		b.problem(v.line, b.schema.names[rowID], "", rowProblem(b.last.rowID, v.rowID))
	}
}

func positionProblem(before, now int64) string {
	switch {
	case now == before:
		return fmt.Sprintf("duplicate position %d", now)
	case now < before:
		return fmt.Sprintf("position %d comes after %d", now, before)
	}
	return fmt.Sprintf("position %d follows %d: %d missing", now, before, now-before-1)
}

func rowProblem(before, now int64) string {
	return fmt.Sprintf("row_id %d comes after %d: it must rise within a text", now, before)
}

// run notes that a text begins, or goes on from the batch before.
func (b *builder) run(v *values) {
	r := Run{Row: b.n, Line: v.line, Position: v.position}
	b.last.sentence = v.sentence
	if b.req.SentenceIDType == String {
		r.ID = string([]byte(v.text)) // a copy
		b.last.text = r.ID
		switch {
		case isBlank([]byte(v.text)):
			b.problem(v.line, b.schema.names[smallSentence], "", isBlankReason).Lost = true
		case !utf8.ValidString(v.text):
			b.problem(v.line, b.schema.names[smallSentence], v.text, "is not UTF-8").Lost = true
		}
	} else {
		r.ID = strconv.FormatInt(v.sentence, 10)
		if v.sentence == blank {
			b.problem(v.line, b.schema.names[smallSentence], "", isBlankReason).Lost = true
		}
	}
	b.Runs = append(b.Runs, r)
}

// merge takes the reference's copy of a cell where the small model's is blank;
// where both are there they must be equal.
func (b *builder) merge(line int64, r role, small *int64, reference int64) {
	if reference == *small || reference == blank {
		return
	}
	if *small == blank {
		*small = reference
		return
	}
	p := b.problem(line, b.schema.names[r.ofReference()], strconv.FormatInt(reference, 10), b.differs(r, strconv.FormatInt(*small, 10)))
	p.Lost = isSentence(r)
}

// mergeText does the same for sentence ids that are text.
func (b *builder) mergeText(line int64, small *string, reference string) {
	if reference == *small || isBlank([]byte(reference)) {
		return
	}
	if isBlank([]byte(*small)) {
		*small = reference
		return
	}
	b.problem(line, b.schema.names[referenceSentence], reference, b.differs(smallSentence, *small)).Lost = true
}

func (b *builder) differs(r role, small string) string {
	return fmt.Sprintf("differs between the two models: column %s has %q", b.schema.names[r], small)
}

// lost notes a row that cannot be read at all.
func (b *builder) lost(line int64, reason string) {
	b.problem(line, "", "", reason).Lost = true
	b.Runs = append(b.Runs, Run{Row: b.n, Line: line})
	b.last = values{sentence: blank}
	b.RowID[b.n], b.Real[b.n], b.Small[b.n] = 0, NoPrediction, NoPrediction
	b.n++
}
