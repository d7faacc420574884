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
	wanted []int       // columns
	at     [roles]int  // each role's index in wanted
	kinds  [roles]kind // of each role's column
}

type kind = columnar.Kind

func openColumns(name string, in *columnar.Input, req Request) (*columnFile, error) {
	header := make([]string, len(in.Columns))
	for i, c := range in.Columns {
		header[i] = c.Name
	}
	if err := checkPartitions(name, header); err != nil {
		return nil, err
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
	for r, c := range s.fields {
		f.at[r] = slices.Index(f.wanted, c)
	}
	return f, nil
}

func wantKind(r role, c columnar.InputColumn, idType string) error {
	number := c.Kind != columnar.Unread && c.Kind != columnar.Text && c.Kind != columnar.Nested
	ok, want := number && c.Kind != columnar.Fraction, "whole numbers"
	switch {
	case r >= firstMeasure:
		ok, want = number, "numbers"
	case isSentence(r):
		ok, want = ok || c.Kind == columnar.Text, "whole numbers or strings"
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
		for b, err := range f.in.Batches(f.wanted, columnar.InputRows) {
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

// cells are a piece's.
type cells struct {
	vectors
	*converter
	piece
}

var pool = sync.Pool{New: func() any { return new(cells) }}

func (c *converter) convert(p piece) *Batch {
	v := pool.Get().(*cells)
	defer pool.Put(v)
	v.converter, v.piece = c, p
	v.start(c.name, c.columnFile.schema, c.req, p.first, p.Rows)
	v.byRow = true
	for r := range firstMeasure {
		switch {
		case c.columnFile.schema.fields[r] < 0:
		case v.isText(r):
			v.strings(r)
		default:
			v.numbers(r, v.ints[r])
		}
	}
	for i, m := range v.Measures {
		if m != nil {
			v.measure(m, firstMeasure+role(i))
		}
	}
	p.Release()
	return v.batch()
}

func (v *cells) numbers(r role, dst []int64) {
	if v.kinds[r] == columnar.Whole {
		copy(dst, v.Whole(v.at[r]))
		if isSentence(r) {
			return
		}
		for i, n := range dst {
			if uint64(n) >= tooLarge && n != blank {
				v.spoil(i, r, strconv.FormatInt(n, 10), wholeProblem(float64(n), columnar.Double))
				dst[i] = blank
			}
		}
		return
	}
	for i, f := range v.Floats(v.at[r]) {
		dst[i] = blank
		if f != f {
			continue
		}
		if err := wholeProblem(f, v.kinds[r]); err != nil && !(isSentence(r) && errors.Is(err, errNegative)) {
			v.spoil(i, r, strconv.FormatFloat(f, 'g', -1, 64), err)
			continue
		}
		dst[i] = int64(f)
	}
}

// wholeProblem says why a number is no id, or nil.
func wholeProblem(f float64, k kind) error {
	switch {
	case k == columnar.Half && math.Abs(f) >= 1<<11:
		return errFloat16
	case k == columnar.Single && math.Abs(f) >= 1<<24:
		return errFloat32
	case math.Abs(f) >= tooLarge:
		return errLarge
	case f != math.Trunc(f):
		return errWhole
	case f < 0:
		return errNegative
	}
	return nil
}

// strings reads sentence ids as text, numbers too.
func (v *cells) strings(r role) {
	dst := v.texts[sideOf(r)]
	if v.kinds[r] == columnar.Text {
		copy(dst, v.Text(v.at[r]))
		return
	}
	numbers := make([]int64, len(dst))
	v.numbers(r, numbers)
	for i, n := range numbers {
		if dst[i] = ""; n != blank {
			dst[i] = strconv.FormatInt(n, 10)
		}
	}
}

func (v *cells) measure(dst []float64, r role) {
	if v.kinds[r] != columnar.Whole {
		copy(dst, v.Floats(v.at[r]))
		return
	}
	for i, n := range v.Whole(v.at[r]) {
		if dst[i] = float64(n); n == blank {
			dst[i] = math.NaN()
		}
	}
}
