package columnar

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/parquet-go/parquet-go/format"
)

var le = binary.LittleEndian

// decoder turns the values of a column's pages into cells.
type decoder struct {
	leaf   *parquetNode
	padded bool // pages may end with 8 zeros, as fastparquet writes them
	// width is the bytes of a value, 0 where each has a length of its own, and
	// values appends values of that width, or the one value that there is.
	width  int
	values func(dst *cells, b []byte) error

	entries  cells // the row group's dictionary
	has      bool  // there is one
	min, max cells // of the row group's cells by the footer, or none
}

func newDecoder(l *parquetNode, writer string) decoder {
	d := decoder{leaf: l, padded: strings.HasPrefix(writer, "fastparquet")}
	scale, _ := decimalScale(l.element)
	switch l.element.Type.V {
	case format.Int32, format.Float:
		d.width = 4
	case format.Int64, format.Double:
		d.width = 8
	case format.FixedLenByteArray:
		d.width = int(l.element.TypeLength.V)
	}
	switch t := l.element.Type.V; {
	case l.Kind == Single:
		d.values = appendFloats32
	case l.Kind == Double:
		d.values = appendFloats64
	case l.Kind == Half:
		d.values = appendFloats16
	case l.Kind == Whole && (t == format.Int32 || t == format.Int64):
		d.values = integers(d.width, isUnsigned(l.element))
	case t == format.Int32 || t == format.Int64:
		d.values = decimals(l.Kind, d.width, scale, false)
	default:
		d.values = decimals(l.Kind, d.width, scale, true)
	}
	return d
}

// begin forgets the row group before.
func (d *decoder) begin(chunk *format.ColumnMetaData) error {
	d.entries.reset()
	d.has = false
	d.min.reset()
	d.max.reset()
	s := &chunk.Statistics
	low, high := s.MinValue, s.MaxValue
	if low == nil && !isUnsigned(d.leaf.element) {
		low, high = s.Min, s.Max // as older writers do, ordered as signed numbers
	}
	if k := d.leaf.Kind; d.width == 0 || len(low) != d.width || len(high) != d.width || k == Fraction || k == Half {
		return nil
	}
	if err := d.values(&d.min, low); err != nil {
		return err
	}
	return d.values(&d.max, high)
}

// dictionary reads the row group's dictionary.
func (d *decoder) dictionary(b []byte, n int) error {
	d.has = true
	d.entries.reset()
	if err := d.plain(&d.entries, b, n); err != nil {
		return fmt.Errorf("dictionary: %w", err)
	}
	return nil
}

// decode appends the n values of a page.
func (d *decoder) decode(dst *cells, s *scratch, encoding format.Encoding, b []byte, n int) (err error) {
	switch t := d.leaf.element.Type.V; {
	case n == 0:
		return nil
	case encoding == format.Plain:
		err = d.plain(dst, d.unpadded(b, n*d.width), n)
	//lint:ignore SA1019 older writers name data pages so
	case encoding == format.PlainDictionary || encoding == format.RLEDictionary:
		err = d.look(dst, s, b, n)
	case encoding == format.ByteStreamSplit && d.width > 0:
		err = d.plain(dst, joined(b, d.width), n)
	case encoding == format.DeltaBinaryPacked && (t == format.Int32 || t == format.Int64):
		err = d.deltas(dst, b, n)
	case encoding == format.DeltaLengthByteArray && d.leaf.Kind == Text:
		err = deltaTexts(dst, b, n)
	case encoding == format.DeltaByteArray && d.leaf.Kind == Text:
		err = deltaPrefixed(dst, b, n)
	default:
		err = notRead("the encoding %s of %s", encoding, d.leaf.Type)
	}
	if err != nil {
		return err
	}
	return d.checkBounds(dst)
}

// plain appends n values that follow each other.
func (d *decoder) plain(dst *cells, b []byte, n int) error {
	if d.width > 0 {
		if len(b) != n*d.width {
			return fmt.Errorf("%d bytes for %d values of %d", len(b), n, d.width)
		}
		return d.values(dst, b)
	}
	all := ""
	if d.leaf.Kind == Text {
		all = string(b) // what b lies in is used again
	}
	at := 0
	for range n {
		if len(b)-at < 4 {
			return io.ErrUnexpectedEOF
		}
		from := at + 4
		size := uint64(le.Uint32(b[at:]))
		if size > uint64(len(b)-from) || size == 0 && d.leaf.Kind != Text {
			return io.ErrUnexpectedEOF
		}
		at = from + int(size)
		if d.leaf.Kind == Text {
			dst.text = append(dst.text, all[from:at])
		} else if err := d.values(dst, b[from:at]); err != nil {
			return err
		}
	}
	if len(d.unpadded(b, at)) != at {
		return errLeftOver
	}
	return nil
}

// unpadded is b without the zeros after the size that its values take, where they may be.
func (d *decoder) unpadded(b []byte, size int) []byte {
	if d.padded && len(b) == size+8 && le.Uint64(b[size:]) == 0 {
		return b[:size]
	}
	return b
}

var errLeftOver = fmt.Errorf("there are bytes after the last value")

// look appends the n values that a page has as indexes of the dictionary.
func (d *decoder) look(dst *cells, s *scratch, b []byte, n int) error {
	if !d.has {
		return fmt.Errorf("there is no dictionary")
	}
	if len(b) == 0 || b[0] > 32 {
		return fmt.Errorf("the indexes of the dictionary are damaged")
	}
	s.indexes = sized(s.indexes, n)
	if err := hybrid(s.indexes, b[1:], uint(b[0])); err != nil && !(err == errLeftOver && d.padded) {
		return err
	}
	switch d.leaf.Kind {
	case Whole:
		return lookUp(&dst.whole, d.entries.whole, s.indexes)
	case Text:
		return lookUp(&dst.text, d.entries.text, s.indexes)
	}
	return lookUp(&dst.float, d.entries.float, s.indexes)
}

func lookUp[T any](dst *[]T, entries []T, indexes []uint32) error {
	for _, i := range indexes {
		if uint(i) >= uint(len(entries)) {
			return fmt.Errorf("the index %d is beyond the dictionary's %d entries", i, len(entries))
		}
		*dst = append(*dst, entries[i])
	}
	return nil
}

// joined undoes BYTE_STREAM_SPLIT: all first bytes, all second bytes, and so on.
func joined(b []byte, width int) []byte {
	out := make([]byte, len(b))
	n := len(b) / width
	for k := range width {
		for i, v := range b[k*n : (k+1)*n] {
			out[i*width+k] = v
		}
	}
	return out
}

// checkBounds compares the cells of a page with the least and the largest that
// the footer names: a value outside of them is damaged.
func (d *decoder) checkBounds(dst *cells) error {
	if d.leaf.Kind == Whole {
		low, high := int64(math.MaxInt64), int64(math.MinInt64)
		for _, v := range dst.whole {
			low, high = min(low, v), max(high, v)
		}
		if low == Null {
			return fmt.Errorf("%d is not read: it stands for an empty cell", low)
		}
		if len(d.min.whole) > 0 && (low < d.min.whole[0] || high > d.max.whole[0]) {
			return fmt.Errorf("it has values from %d to %d, the footer says %d to %d", low, high, d.min.whole[0], d.max.whole[0])
		}
		return nil
	}
	if len(d.min.float) == 0 || len(d.max.float) == 0 {
		return nil
	}
	low, high := d.min.float[0], d.max.float[0]
	for _, v := range dst.float {
		if v < low || v > high {
			return fmt.Errorf("it has the value %g, the footer says from %g to %g", v, low, high)
		}
	}
	return nil
}
