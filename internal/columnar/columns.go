package columnar

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"unsafe"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
)

// Columns holds rows of T by columns, in Arrow's layout: writers take it as it
// is, and it can be kept as bytes. It belongs to one goroutine until Seal.
type Columns[T any] struct {
	schema *arrow.Schema
	cols   []column
	values []values
	rows   int
	record arrow.Record // of Seal
}

// NewColumns has no rows yet. Of the options, those that choose and type columns count.
func NewColumns[T any](opts ...Option) *Columns[T] {
	o := newOptions(opts)
	return columnsLike[T](o.apply(columnsOf[T]()), o)
}

func columnsLike[T any](cols []column, o *options) *Columns[T] {
	c := &Columns[T]{cols: cols, schema: o.schema(cols), values: make([]values, len(cols))}
	c.Reset()
	return c
}

// Len is the number of rows.
func (c *Columns[T]) Len() int { return c.rows }

// Reset drops the rows and makes place for as many others. Sealed rows stay as
// they are for those who have them: some writers look back at the last batch.
func (c *Columns[T]) Reset() {
	for i := range c.values {
		v := &c.values[i]
		if c.record != nil {
			*v = values{make([]byte, 0, cap(v.valid)), make([]byte, 0, cap(v.data)), make([]int32, 0, cap(v.offsets)), make([]int32, 0, cap(v.inner))}
		}
		*v = values{v.valid[:0], v.data[:0], append(v.offsets[:0], 0), append(v.inner[:0], 0)}
	}
	c.rows, c.record = 0, nil
}

// Another is empty, with the same columns and place for as many rows.
func (c *Columns[T]) Another() *Columns[T] {
	d := *c
	d.values = slices.Clone(c.values)
	d.Reset()
	return &d
}

// Append copies rows.
func (c *Columns[T]) Append(rows []T) error {
	for i := range c.cols {
		col, v := &c.cols[i], &c.values[i]
		if !col.list && !col.number {
			if err := v.appendAll(col.codec, unsafe.Add(unsafe.Pointer(unsafe.SliceData(rows)), col.offset), unsafe.Sizeof(*new(T)), len(rows)); err != nil {
				return fmt.Errorf("column %s: %w", col.name, err)
			}
			continue
		}
		for k := range rows {
			if err := v.append(col.codec, unsafe.Add(unsafe.Pointer(&rows[k]), col.offset)); err != nil {
				return fmt.Errorf("column %s: %w", col.name, err)
			}
		}
	}
	c.rows += len(rows)
	return nil
}

// appendRow copies a row whose fields, which are no lists, lie at these places, by column.
func (c *Columns[T]) appendRow(fields []unsafe.Pointer) error {
	for i, p := range fields {
		if err := c.values[i].appendAll(c.cols[i].codec, p, 0, 1); err != nil {
			return fmt.Errorf("column %s: %w", c.cols[i].name, err)
		}
	}
	c.rows++
	return nil
}

// AppendColumns copies rows from to to of columns made with the same options.
func (c *Columns[T]) AppendColumns(of *Columns[T], from, to int) error {
	for i := range c.cols {
		if err := c.values[i].appendValues(c.cols[i].codec, &of.values[i], from, to); err != nil {
			return fmt.Errorf("column %s: %w", c.cols[i].name, err)
		}
	}
	c.rows += to - from
	return nil
}

// Equal compares all columns but some. A NaN equals itself.
func (c *Columns[T]) Equal(d *Columns[T], but ...string) bool {
	if c.rows != d.rows {
		return false
	}
	for i := range c.cols {
		if slices.Contains(but, c.cols[i].name) {
			continue
		}
		a, b := c.values[i].sections(c.cols[i].isText()), d.values[i].sections(c.cols[i].isText())
		for k := range a {
			if !bytes.Equal(a[k], b[k]) {
				return false
			}
		}
	}
	return true
}

// Encode appends the rows to dst as bytes that View reads. A text that all rows have is there once.
func (c *Columns[T]) Encode(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, uint64(c.rows))
	size := len(dst) // of the next section, to be filled in
	dst = append(dst, make([]byte, 4*4*len(c.values))...)
	for i := range c.values {
		for _, s := range c.values[i].sections(c.cols[i].isText()) {
			binary.LittleEndian.PutUint32(dst[size:], uint32(len(s)))
			size += 4
			dst = append(dst, s...)
			dst = append(dst, make([]byte, -len(s)&7)...)
		}
	}
	return dst
}

// View makes the rows those of encoded bytes, without copying: they must stay as
// they are. Columns were made with the options of those that were encoded. Only Equal and
// AppendColumns take them.
func (c *Columns[T]) View(b []byte) {
	c.rows, c.record = int(binary.LittleEndian.Uint64(b)), nil
	sizes := b[8:]
	b = sizes[16*len(c.values):]
	for i := range c.values {
		var s [4][]byte
		for k := range s {
			n := int(binary.LittleEndian.Uint32(sizes))
			sizes, s[k], b = sizes[4:], b[:n:n], b[n+-n&7:]
		}
		c.values[i] = values{s[0], s[1], cast[int32](s[2]), cast[int32](s[3])}
	}
}

// Seal makes the rows ready to be read and written by many goroutines at once.
func (c *Columns[T]) Seal() {
	arrays := make([]arrow.Array, len(c.cols))
	for i := range c.cols {
		arrays[i] = c.values[i].array(c.cols[i].codec, c.rows)
	}
	c.record = array.NewRecord(c.schema, arrays, int64(c.rows))
}

// Rows gives the rows of sealed columns, newly allocated; the fields of columns
// that were left out are zero.
func (c *Columns[T]) Rows() ([]T, error) {
	r := &Reader[T]{cols: c.cols}
	for i := range c.cols {
		r.fields = append(r.fields, i)
	}
	return r.rows(c.record)
}

// Text gives access to a column of texts: false for null.
func (c *Columns[T]) Text(name string) func(row int) ([]byte, bool) {
	v := &c.values[c.at(name)]
	return func(row int) ([]byte, bool) {
		return v.data[v.offsets[row]:v.offsets[row+1]], v.isValid(row)
	}
}

// Flag gives access to a column of truth values: false for null.
func (c *Columns[T]) Flag(name string) func(row int) (value, valid bool) {
	v := &c.values[c.at(name)]
	return func(row int) (bool, bool) { return v.data[row] == 1, v.isValid(row) }
}

func (c *Columns[T]) at(name string) int {
	return slices.IndexFunc(c.cols, func(x column) bool { return x.name == name })
}

// values are one column's.
type values struct {
	valid   []byte  // 1, or 0 for null, by row; none where null is not possible, or all are valid
	data    []byte  // a number's bytes, a truth value as one byte, texts, elements of lists
	offsets []int32 // of texts and lists: n+1, in bytes of a text and elements of a list
	inner   []int32 // of lists of texts: the elements' offsets in data
}

func (v *values) isValid(row int) bool { return len(v.valid) == 0 || v.valid[row] == 1 }

// nulls is valid, or none if there are no nulls.
func (v *values) nulls() []byte {
	if bytes.IndexByte(v.valid, 0) < 0 {
		return nil
	}
	return v.valid
}

func (v *values) sections(text bool) [4][]byte {
	if text && v.allEqual() {
		return [4][]byte{v.nulls(), v.data[:v.offsets[1]], raw(v.offsets[:2]), nil}
	}
	return [4][]byte{v.nulls(), v.data, raw(v.offsets), raw(v.inner)}
}

// allEqual says whether all rows of a text column have the same bytes.
func (v *values) allEqual() bool {
	if len(v.offsets) < 3 {
		return false
	}
	first := v.data[:v.offsets[1]]
	for row := 1; row+1 < len(v.offsets); row++ {
		if !bytes.Equal(v.data[v.offsets[row]:v.offsets[row+1]], first) {
			return false
		}
	}
	return true
}

func raw[V any](s []V) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))), len(s)*int(unsafe.Sizeof(*new(V))))
}

func cast[V any](b []byte) []V {
	return unsafe.Slice((*V)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/int(unsafe.Sizeof(*new(V))))
}

// appendAll copies n fields, one size after the other, that are no lists.
func (v *values) appendAll(c codec, p unsafe.Pointer, size uintptr, n int) error {
	width := c.of.size()
	v.data = slices.Grow(v.data, n*width)
	for i := range n {
		field := unsafe.Add(p, uintptr(i)*size)
		if c.pointer {
			if field = *(*unsafe.Pointer)(field); field == nil {
				v.appendNull(c)
				continue
			}
			v.valid = append(v.valid, 1)
		}
		switch width {
		case 0:
			v.data = append(v.data, *(*string)(field)...)
			v.offsets = append(v.offsets, int32(len(v.data)))
		case 4:
			v.data = binary.NativeEndian.AppendUint32(v.data, *(*uint32)(field))
		case 8:
			v.data = binary.NativeEndian.AppendUint64(v.data, *(*uint64)(field))
		default:
			v.data = append(v.data, *(*byte)(field))
		}
	}
	return v.fits()
}

// append copies the field at p: a list, or a text that is a number in the column.
func (v *values) append(c codec, p unsafe.Pointer) error {
	if c.list {
		return v.appendList(c, p)
	}
	if c.pointer {
		if p = *(*unsafe.Pointer)(p); p == nil {
			v.appendNull(c)
			return nil
		}
		v.valid = append(v.valid, 1)
	}
	n, err := strconv.ParseInt(*(*string)(p), 10, 64)
	v.data = binary.NativeEndian.AppendUint64(v.data, uint64(n))
	return err
}

func (v *values) appendNull(c codec) {
	v.valid = append(v.valid, 0)
	switch {
	case c.list || c.isText():
		v.offsets = append(v.offsets, v.offsets[len(v.offsets)-1])
	default:
		v.data = append(v.data, make([]byte, c.width())...)
	}
}

// appendList copies a slice; a nil one is null.
func (v *values) appendList(c codec, p unsafe.Pointer) error {
	if *(*unsafe.Pointer)(p) == nil {
		v.appendNull(c)
		return nil
	}
	v.valid = append(v.valid, 1)
	if c.of == textKind {
		for _, s := range *(*[]string)(p) {
			v.data = append(v.data, s...)
			v.inner = append(v.inner, int32(len(v.data)))
		}
		v.offsets = append(v.offsets, int32(len(v.inner)-1))
		return v.fits()
	}
	n := len(*(*[]byte)(p)) // a slice's length stands at the same place whatever its elements are
	v.data = append(v.data, unsafe.Slice(*(**byte)(p), n*c.of.size())...)
	v.offsets = append(v.offsets, int32(len(v.data)/c.of.size()))
	return v.fits()
}

// fits refuses what 32-bit offsets cannot say.
func (v *values) fits() error {
	if len(v.data) > math.MaxInt32 {
		return fmt.Errorf("%d bytes in a batch, at most %d are possible", len(v.data), math.MaxInt32)
	}
	return nil
}

// appendValues copies rows from to to of another's values.
func (v *values) appendValues(c codec, of *values, from, to int) error {
	switch {
	case !c.nullable():
	case len(of.valid) > 0:
		v.valid = append(v.valid, of.valid[from:to]...)
	default:
		for range to - from {
			v.valid = append(v.valid, 1)
		}
	}
	if !c.list && !c.isText() {
		v.data = append(v.data, of.data[from*c.width():to*c.width()]...)
		return nil
	}
	if c.isText() && len(of.offsets) == 2 { // one that all rows have, see Encode
		for range to - from {
			v.data = append(v.data, of.data...)
			v.offsets = append(v.offsets, int32(len(v.data)))
		}
		return v.fits()
	}
	first, last := of.offsets[from], of.offsets[to]
	v.offsets = appendShifted(v.offsets, of.offsets[from+1:to+1], first)
	size := int32(1)
	if c.list && c.of == textKind {
		inner := of.inner[first : last+1]
		v.inner = appendShifted(v.inner, inner[1:], inner[0])
		first, last = inner[0], inner[len(inner)-1]
	} else if c.list {
		size = int32(c.of.size())
	}
	v.data = append(v.data, of.data[first*size:last*size]...)
	return v.fits()
}

// appendShifted appends offsets that counted from first.
func appendShifted(dst, offsets []int32, first int32) []int32 {
	shift := dst[len(dst)-1] - first
	dst = slices.Grow(dst, len(offsets))
	for _, o := range offsets {
		dst = append(dst, o+shift)
	}
	return dst
}

// array is the column in Arrow's form; it shares the values' memory.
func (v *values) array(c codec, rows int) arrow.Array {
	nulls, bitmap := 0, (*memory.Buffer)(nil)
	if valid := v.nulls(); valid != nil {
		nulls = bytes.Count(valid, []byte{0})
		bitmap = packed(valid, builtBits(c, len(valid)))
	}
	buffers := []*memory.Buffer{bitmap, memory.NewBufferBytes(v.data)}
	var children []arrow.ArrayData
	switch {
	case c.list:
		buffers[1] = memory.NewBufferBytes(raw(v.offsets))
		elements := values{data: v.data, offsets: v.inner}
		children = []arrow.ArrayData{elements.array(codec{of: c.of}, int(v.offsets[len(v.offsets)-1])).Data()}
	case c.isText():
		buffers = []*memory.Buffer{bitmap, memory.NewBufferBytes(raw(v.offsets)), buffers[1]}
	case c.of == boolKind:
		buffers[1] = packed(v.data, len(v.data))
	}
	return array.MakeFromData(array.NewData(c.arrow(), rows, buffers, children, nulls, 0))
}

// builtBits is the size that the library's builders give the bitmap of n rows'
// nulls: it shows in files.
func builtBits(c codec, n int) int {
	if n <= 32 && !c.isText() {
		return 32
	}
	return 1 << bits.Len(uint(n-1))
}

// packed makes a bitmap of bytes.
func packed(of []byte, size int) *memory.Buffer {
	b := make([]byte, (size+7)/8)
	for i, x := range of {
		b[i/8] |= x << (i % 8)
	}
	return memory.NewBufferBytes(b)
}
