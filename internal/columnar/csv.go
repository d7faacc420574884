package columnar

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// csvBatch is how many rows are encoded at once.
const csvBatch = 1024

// NewCSVWriter writes CSV with a header: null is an empty cell, a list a JSON array.
func NewCSVWriter[T any](w io.Writer, opts ...Option) (Writer[T], error) {
	cw := &csvWriter[T]{w: w, columns: NewColumns[T](opts...), safe: newOptions(opts).csvSafe}
	for i, c := range cw.columns.cols {
		if i > 0 {
			cw.buf = append(cw.buf, ',')
		}
		cw.buf = AppendCell(cw.buf, []byte(c.name))
	}
	cw.buf = append(cw.buf, '\n')
	return cw, cw.flush()
}

// formulaStarts are what spreadsheets take for the start of a formula, the wide forms in
// East Asian settings, and what they drop before one.
const formulaStarts = "=+-@＝＋－＠\t\r\n"

type csvWriter[T any] struct {
	w       io.Writer
	columns *Columns[T] // of Write
	safe    bool        // formulas are quoted
	buf     []byte
	scratch []byte
}

func (w *csvWriter[T]) Write(row *T) error {
	if err := w.columns.Append([]T{*row}); err != nil {
		return err
	}
	if w.columns.Len() < csvBatch {
		return nil
	}
	return w.writeRows()
}

func (w *csvWriter[T]) writeRows() error {
	err := w.WriteColumns(w.columns)
	w.columns.Reset()
	return err
}

// WriteColumns encodes the columns that the file has.
func (w *csvWriter[T]) WriteColumns(c *Columns[T]) error {
	at := make([]int, len(w.columns.cols))
	same := make([][]byte, len(at)) // the cell of a column that has the same text in all rows
	for i, col := range w.columns.cols {
		at[i] = c.at(col.name)
		if v := &c.values[at[i]]; c.cols[at[i]].isText() && v.nulls() == nil && v.allEqual() {
			same[i] = w.appendValue(nil, c.cols[at[i]].codec, v, 0)
		}
	}
	for row := range c.rows {
		buf := w.buf
		for i, k := range at {
			if i > 0 {
				buf = append(buf, ',')
			}
			if len(same[i]) > 0 {
				buf = append(buf, same[i]...)
			} else if v := &c.values[k]; v.isValid(row) {
				buf = w.appendValue(buf, c.cols[k].codec, v, row)
			}
		}
		w.buf = append(buf, '\n')
		if len(w.buf) >= 1<<20 {
			if err := w.flush(); err != nil {
				return err
			}
		}
	}
	return w.flush()
}

func (w *csvWriter[T]) flush() error {
	_, err := w.w.Write(w.buf)
	w.buf = w.buf[:0]
	return err
}

// Close encodes what is left.
func (w *csvWriter[T]) Close() error { return w.writeRows() }

// appendValue appends a cell.
func (w *csvWriter[T]) appendValue(dst []byte, c codec, v *values, row int) []byte {
	switch {
	case c.list && (c.of == int32Kind || c.of == int64Kind):
		return appendWholeNumbers(dst, c, v, int(v.offsets[row]), int(v.offsets[row+1]))
	case c.list:
		w.scratch = appendList(w.scratch[:0], c, v, int(v.offsets[row]), int(v.offsets[row+1]))
		return AppendCell(dst, w.scratch)
	case c.isText():
		cell := v.data[v.offsets[row]:v.offsets[row+1]]
		if w.safe {
			if first, _ := utf8.DecodeRune(cell); strings.ContainsRune(formulaStarts, first) {
				w.scratch = append(append(w.scratch[:0], '\''), cell...)
				cell = w.scratch
			}
		}
		return AppendCell(dst, cell)
	case c.number:
		return appendNumber(dst, int64Kind, v.data, row)
	}
	return appendNumber(dst, c.of, v.data, row)
}

// appendWholeNumbers appends a cell of the elements from to to as JSON: of its
// characters, only a comma asks for quotes.
func appendWholeNumbers(dst []byte, c codec, v *values, from, to int) []byte {
	if to-from < 2 {
		return appendList(dst, c, v, from, to)
	}
	return append(appendList(append(dst, '"'), c, v, from, to), '"')
}

func appendNumber(dst []byte, of kind, data []byte, i int) []byte {
	switch of {
	case boolKind:
		return strconv.AppendBool(dst, data[i] == 1)
	case int32Kind:
		return appendWhole(dst, int64(cast[int32](data)[i]))
	case int64Kind:
		return appendWhole(dst, cast[int64](data)[i])
	default:
		return strconv.AppendFloat(dst, cast[float64](data)[i], 'g', -1, 64)
	}
}

// threeDigits are the numbers below 1000, with zeros before them.
var threeDigits = func() (all [1000][3]byte) {
	for i := range all {
		all[i] = [3]byte{'0' + byte(i/100), '0' + byte(i/10%10), '0' + byte(i%10)}
	}
	return all
}()

// appendWhole appends a whole number. Most are token ids, of at most six digits.
func appendWhole(dst []byte, n int64) []byte {
	if n >= 1000 && n < 1_000_000 {
		return append(appendWhole(dst, n/1000), threeDigits[n%1000][:]...)
	}
	if n < 0 || n >= 1000 {
		return strconv.AppendInt(dst, n, 10)
	}
	digits := &threeDigits[n]
	switch {
	case n < 10:
		return append(dst, digits[2])
	case n < 100:
		return append(dst, digits[1], digits[2])
	}
	return append(dst, digits[:]...)
}

// appendList appends elements from to to as JSON.
func appendList(dst []byte, c codec, v *values, from, to int) []byte {
	if c.of == float64Kind {
		return fmt.Append(dst, jsonText(cast[float64](v.data)[from:to]))
	}
	dst = append(dst, '[')
	switch {
	case c.of == textKind:
		for i := from; i < to; i++ {
			dst = append(appendJSON(dst, v.data[v.inner[i]:v.inner[i+1]]), ',')
		}
	case c.of == int32Kind:
		for _, n := range cast[int32](v.data)[from:to] {
			dst = append(appendWhole(dst, int64(n)), ',')
		}
	default:
		for i := from; i < to; i++ {
			dst = append(appendNumber(dst, c.of, v.data, i), ',')
		}
	}
	if to > from {
		dst = dst[:len(dst)-1]
	}
	return append(dst, ']')
}

// appendJSON appends a JSON string.
func appendJSON(dst, text []byte) []byte {
	for _, b := range text {
		if b < ' ' || b >= utf8.RuneSelf || b == '"' || b == '\\' || b == 0x7f {
			return append(dst, jsonText(string(text))...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, text...)
	return append(dst, '"')
}

// AppendCell appends a cell of CSV, in quotes where encoding/csv puts it in quotes:
// readers of all kinds take that.
func AppendCell[S string | []byte](dst []byte, cell S) []byte {
	if !quoted(cell) {
		return append(dst, cell...)
	}
	dst = append(dst, '"')
	for {
		at := indexByte(cell, '"')
		if at < 0 {
			break
		}
		dst = append(dst, cell[:at+1]...)
		dst = append(dst, '"')
		cell = cell[at+1:]
	}
	dst = append(dst, cell...)
	return append(dst, '"')
}

// quotedFor are the characters that put a cell in quotes wherever they are.
const quotedFor = "\",\n\r"

var inQuotes = func() (is [256]bool) {
	for _, b := range []byte(quotedFor) {
		is[b] = true
	}
	return is
}()

func quoted[S string | []byte](cell S) bool {
	if len(cell) == 0 {
		return false
	}
	if string(cell) == `\.` {
		return true
	}
	if len(cell) <= 32 { // most are: four searches take longer than one look at each byte
		for i := range len(cell) {
			if inQuotes[cell[i]] {
				return true
			}
		}
	} else {
		for _, special := range []byte(quotedFor) {
			if indexByte(cell, special) >= 0 {
				return true
			}
		}
	}
	first, _ := utf8.DecodeRuneInString(string(cell[:min(len(cell), utf8.UTFMax)]))
	return unicode.IsSpace(first)
}

func indexByte[S string | []byte](s S, c byte) int {
	switch s := any(s).(type) {
	case string:
		return strings.IndexByte(s, c)
	case []byte:
		return bytes.IndexByte(s, c)
	}
	return -1
}
