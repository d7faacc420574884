package table

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strconv"

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

func (c *converter) convert(p piece) *Batch {
	b := newBatch(c.name)
	v := &b.vectors
	v.first, v.lines, v.byRow, v.rows = p.first, nil, true, p.Rows
	for r := range firstMeasure {
		v.ints[r] = grow(v.ints[r], p.Rows)
		switch {
		case c.schema.fields[r] < 0:
		case isSentence(r) && c.req.SentenceIDType == String:
			c.texts(b, r, p)
		default:
			c.numbers(b, r, p)
		}
	}
	for i := range b.Measures {
		b.Measures[i] = nil
		if r := firstMeasure + role(i); c.schema.fields[r] >= 0 {
			b.Measures[i] = make([]float64, p.Rows)
			c.measure(b.Measures[i], r, p)
		}
	}
	ck := &checker{Batch: b, schema: c.schema, vocab: c.req.VocabSize, text: c.req.SentenceIDType == String}
	ck.check()
	p.Release()
	return b
}

func (c *converter) numbers(b *Batch, r role, p piece) {
	dst := b.vectors.ints[r]
	if c.kinds[r] == columnar.Whole {
		p.Wholes(c.at[r], dst, blank)
		for i, n := range dst {
			if n != blank && (n < 0 && !isSentence(r) || n >= tooLarge) {
				c.bad(b, i, r, strconv.FormatInt(n, 10), wholeProblem(float64(n), false))
			}
		}
		return
	}
	floats := make([]float64, p.Rows)
	p.Floats(c.at[r], floats)
	for i, f := range floats {
		if f != f {
			dst[i] = blank
			continue
		}
		dst[i] = int64(f)
		if err := wholeProblem(f, c.kinds[r] == columnar.Narrow); err != nil && !(isSentence(r) && errors.Is(err, errNegative)) {
			c.bad(b, i, r, strconv.FormatFloat(f, 'g', -1, 64), err)
		}
	}
}

func (c *converter) bad(b *Batch, row int, r role, value string, reason error) {
	b.problem(row, c.schema.names[r], value, reason).Lost = isSentence(r)
	b.vectors.ints[r][row] = blank
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
	case narrow && f > 1<<24:
		return errFloat32
	}
	return nil
}

// texts reads sentence ids as text, numbers too.
func (c *converter) texts(b *Batch, r role, p piece) {
	side := 0
	if r == referenceSentence {
		side = 1
	}
	b.vectors.texts[side] = grow(b.vectors.texts[side], p.Rows)
	if c.kinds[r] == columnar.Text {
		p.Texts(c.at[r], b.vectors.texts[side])
		return
	}
	c.numbers(b, r, p)
	for i, n := range b.vectors.ints[r] {
		if b.vectors.texts[side][i] = ""; n != blank {
			b.vectors.texts[side][i] = formatID(n)
		}
	}
}

func (c *converter) measure(dst []float64, r role, p piece) {
	if c.kinds[r] != columnar.Whole {
		p.Floats(c.at[r], dst)
		return
	}
	whole := make([]int64, p.Rows)
	p.Wholes(c.at[r], whole, blank)
	for i, n := range whole {
		if dst[i] = float64(n); n == blank {
			dst[i] = math.NaN()
		}
	}
}
