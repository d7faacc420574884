package table

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strconv"
	"sync"

	"tokenfork/internal/columnar"
	"tokenfork/internal/failure"
)

// columnFile is a Parquet or Arrow file.
type columnFile struct {
	name   string
	in     *columnar.Input
	schema *Schema
	wanted []int       // columns, ascending
	at     [roles]int  // each role's index in wanted
	kinds  [roles]kind // of each role's column
}

type kind = columnar.Kind

func openColumns(name string, in *columnar.Input, req Request) (*columnFile, error) {
	header := make([]string, len(in.Columns))
	for i, c := range in.Columns {
		header[i] = c.Name
	}
	s, err := resolve(header, req)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	f := &columnFile{name: name, in: in, schema: s}
	for r, c := range s.fields {
		if c < 0 {
			continue
		}
		f.wanted = append(f.wanted, c)
		f.kinds[r] = in.Columns[c].Kind
		if err := wantKind(role(r), in.Columns[c], req.SentenceIDType); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	slices.Sort(f.wanted)
	for r, c := range s.fields {
		f.at[r] = slices.Index(f.wanted, c)
	}
	return f, nil
}

func wantKind(r role, c columnar.InputColumn, idType string) error {
	ok, want := c.Kind != columnar.Unread && c.Kind != columnar.Text, "whole numbers"
	switch {
	case r >= firstMeasure:
		want = "numbers"
	case isSentence(r):
		ok, want = c.Kind != columnar.Unread, "whole numbers or strings"
		if idType == Int64 && c.Kind == columnar.Text {
			return failure.New(failure.Refused, "--sentence-id-type string", "column %s is %s, want whole numbers", c.Name, c.Type)
		}
	}
	if !ok {
		return failure.New(failure.Refused, "write the table with a column of that type", "column %s is %s, want %s", c.Name, c.Type, want)
	}
	return nil
}

func isSentence(r role) bool { return r == smallSentence || r == referenceSentence }

// idType is int64 if the sentence ids are numbers.
func (f *columnFile) idType() string {
	if f.kinds[smallSentence] == columnar.Text {
		return String
	}
	return Int64
}

// piece is a batch as it comes from the file.
type piece struct {
	*columnar.InputBatch
	first int64 // number of its first row, from 1
}

func (f *columnFile) pieces() iter.Seq2[piece, error] {
	return func(yield func(piece, error) bool) {
		first := int64(1)
		for b, err := range f.in.Batches(f.wanted) {
			if err != nil {
				yield(piece{}, readError(f.name, err))
				return
			}
			if !yield(piece{b, first}, nil) {
				return
			}
			first += int64(b.Rows)
		}
	}
}

// converter makes batches of pieces. It is used by many goroutines.
type converter struct {
	*columnFile
	req Request
}

// vectors are a piece's cells.
type vectors struct {
	*builder
	*converter
	piece
	ints   [firstMeasure][]int64 // by role; blank where there is no number
	texts  [2][]string           // sentence ids that are text, by side
	floats []float64
	bad    map[int][]Problem // by row
}

var pool = sync.Pool{New: func() any { return new(vectors) }}

func (c *converter) convert(p piece) *Batch {
	v := pool.Get().(*vectors)
	defer pool.Put(v)
	v.builder, v.converter, v.piece, v.bad = newBuilder(c.name, c.schema, c.req, p.rows()), c, p, nil
	v.byRow = true
	for r := range firstMeasure {
		v.ints[r] = grow(v.ints[r], p.rows())
		switch {
		case c.schema.fields[r] < 0:
			clear(v.ints[r])
		case isSentence(r) && c.req.SentenceIDType == String:
			v.strings(r)
		default:
			v.numbers(r)
		}
	}
	for i, m := range v.Measures {
		if m != nil {
			v.measure(m, firstMeasure+role(i))
		}
	}
	for i := range p.rows() {
		v.row(i)
	}
	p.Release()
	return v.done()
}

// row hands the i-th row to the builder.
func (v *vectors) row(i int) {
	x := values{line: v.first + int64(i), rowID: v.ints[rowID][i], position: v.ints[smallPosition][i], sentence: v.ints[smallSentence][i], real: v.ints[smallReal][i],
		small: v.ints[smallPrediction][i], reference: v.ints[referencePrediction][i], kind: v.ints[tokenType][i]}
	for _, p := range v.bad[i] {
		v.problem(x.line, p.Column, p.Value, errors.New(p.Reason)).Lost = p.Lost
	}
	if v.converter.req.SentenceIDType == String {
		x.sentence, x.text = 0, v.texts[0][i]
	}
	if v.converter.schema.fields[referencePosition] >= 0 {
		v.merge(x.line, smallPosition, &x.position, v.ints[referencePosition][i])
		v.merge(x.line, smallReal, &x.real, v.ints[referenceReal][i])
		if v.converter.req.SentenceIDType == String {
			v.mergeText(x.line, &x.text, v.texts[1][i])
		} else {
			v.merge(x.line, smallSentence, &x.sentence, v.ints[referenceSentence][i])
		}
	}
	v.add(&x)
}

func (p piece) rows() int { return p.Rows }

func (v *vectors) numbers(r role) {
	dst := v.ints[r]
	if v.kinds[r] == columnar.Whole {
		v.Wholes(v.at[r], dst, blank)
		if isSentence(r) {
			return
		}
		for i, n := range dst {
			if uint64(n) >= tooLarge && n != blank {
				v.spoil(i, r, strconv.FormatInt(n, 10), wholeProblem(float64(n), false))
			}
		}
		return
	}
	v.floats = grow(v.floats, v.rows())
	v.Floats(v.at[r], v.floats)
	for i, f := range v.floats {
		if f != f {
			dst[i] = blank
			continue
		}
		dst[i] = int64(f)
		if err := wholeProblem(f, v.kinds[r] == columnar.Narrow); err != nil && !(isSentence(r) && errors.Is(err, errNegative)) {
			v.spoil(i, r, strconv.FormatFloat(f, 'g', -1, 64), err)
		}
	}
}

// spoil notes a cell that cannot be used.
func (v *vectors) spoil(row int, r role, value string, reason error) {
	if v.bad == nil {
		v.bad = map[int][]Problem{}
	}
	v.bad[row] = append(v.bad[row], Problem{Column: v.converter.schema.names[r], Value: value, Reason: reason.Error(), Lost: isSentence(r)})
	v.ints[r][row] = blank
}

// wholeProblem says why a number is no id, or nil.
func wholeProblem(f float64, narrow bool) error {
	switch {
	case f >= tooLarge:
		return errLarge
	case f != math.Trunc(f):
		return errWhole
	case f < 0:
		return errNegative
	case narrow && f >= 1<<24:
		return errFloat32
	}
	return nil
}

// strings reads sentence ids as text, numbers too.
func (v *vectors) strings(r role) {
	side := 0
	if r == referenceSentence {
		side = 1
	}
	v.texts[side] = grow(v.texts[side], v.rows())
	if v.kinds[r] == columnar.Text {
		v.Texts(v.at[r], v.texts[side])
		return
	}
	v.numbers(r)
	for i, n := range v.ints[r] {
		if v.texts[side][i] = ""; n != blank {
			v.texts[side][i] = strconv.FormatInt(n, 10)
		}
	}
}

func (v *vectors) measure(dst []float64, r role) {
	if v.kinds[r] != columnar.Whole {
		v.Floats(v.at[r], dst)
		return
	}
	whole := make([]int64, v.rows())
	v.Wholes(v.at[r], whole, blank)
	for i, n := range whole {
		if dst[i] = float64(n); n == blank {
			dst[i] = math.NaN()
		}
	}
}
