package columnar

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The encodings of Parquet that pack bits. The library's decoders take the
// number of values from the data, which may be damaged; these are told it.

var errRuns = errors.New("its runs are not those of its number of values")

// hybrid decodes the mix of runs and packed bits that levels and indexes are
// stored as: len(dst) values of a width of at most 32 bits, and nothing else.
func hybrid(dst []uint32, b []byte, width uint) error {
	for len(dst) > 0 {
		header, size := binary.Uvarint(b)
		if size <= 0 {
			return io.ErrUnexpectedEOF
		}
		b = b[size:]
		if header&1 == 1 { // groups of 8 packed values, of which the last may be padded
			groups := header >> 1
			if groups > uint64(len(dst)+7)/8+64 || groups == 0 {
				return errRuns
			}
			n := min(int(groups)*8, len(dst))
			bytes := int(groups) * int(width)
			if bytes > len(b) {
				return io.ErrUnexpectedEOF
			}
			for i := range dst[:n] {
				dst[i] = uint32(bitsAt(b[:bytes], uint(i)*width, width))
			}
			dst, b = dst[n:], b[bytes:]
			continue
		}
		n := header >> 1
		bytes := int(width+7) / 8
		if n > uint64(len(dst)) || n == 0 {
			return errRuns
		}
		if bytes > len(b) {
			return io.ErrUnexpectedEOF
		}
		var word [4]byte
		copy(word[:], b[:bytes])
		v := le.Uint32(word[:])
		for i := range dst[:n] {
			dst[i] = v
		}
		dst, b = dst[n:], b[bytes:]
	}
	if len(b) > 0 {
		return errLeftOver
	}
	return nil
}

// bitsAt gives width bits, at most 64, from the bit at on.
func bitsAt(b []byte, at, width uint) uint64 {
	if width == 0 {
		return 0
	}
	i, shift := at/8, at%8
	var x, more uint64
	if i+9 <= uint(len(b)) {
		x, more = le.Uint64(b[i:]), uint64(b[i+8])
	} else {
		var last [9]byte
		copy(last[:], b[i:])
		x, more = le.Uint64(last[:]), uint64(last[8])
	}
	return (x>>shift | more<<(64-shift)) & (^uint64(0) >> (64 - width))
}

var errDelta = errors.New("its deltas are damaged")

// deltaBinary decodes n values of DELTA_BINARY_PACKED, and gives what is after them.
func deltaBinary(b []byte, n int) (values []int64, rest []byte, err error) {
	var header [3]uint64 // values of a block, its parts, values in all
	for i := range header {
		v, size := binary.Uvarint(b)
		if size <= 0 {
			return nil, nil, io.ErrUnexpectedEOF
		}
		header[i], b = v, b[size:]
	}
	last, size := binary.Varint(b)
	if size <= 0 {
		return nil, nil, io.ErrUnexpectedEOF
	}
	b = b[size:]
	block, parts, total := header[0], header[1], header[2]
	if total != uint64(n) {
		return nil, nil, fmt.Errorf("it has %d values, the header says %d", total, n)
	}
	if block == 0 || block > 1<<20 || parts == 0 || parts > block || block%parts != 0 || block/parts%8 != 0 {
		return nil, nil, errDelta
	}
	values = make([]int64, 0, n)
	if n > 0 {
		values = append(values, last)
	}
	for len(values) < n {
		least, size := binary.Varint(b)
		if size <= 0 || uint64(len(b)-size) < parts {
			return nil, nil, io.ErrUnexpectedEOF
		}
		widths := b[size : size+int(parts)]
		b = b[size+int(parts):]
		for _, w := range widths {
			if len(values) == n {
				break
			}
			width, count := uint(w), int(block/parts)
			if width > 64 {
				return nil, nil, errDelta
			}
			bytes := count * int(width) / 8
			if bytes > len(b) {
				return nil, nil, io.ErrUnexpectedEOF
			}
			for i := range min(count, n-len(values)) {
				last += least + int64(bitsAt(b[:bytes], uint(i)*width, width))
				values = append(values, last)
			}
			b = b[bytes:]
		}
	}
	return values, b, nil
}

// deltas appends n integers of DELTA_BINARY_PACKED.
func (d *decoder) deltas(dst *cells, b []byte, n int) error {
	values, rest, err := deltaBinary(b, n)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return errLeftOver
	}
	plain := make([]byte, 0, n*d.width)
	for _, v := range values {
		if d.width == 4 {
			plain = le.AppendUint32(plain, uint32(v)) // its sums wrap
		} else {
			plain = le.AppendUint64(plain, uint64(v))
		}
	}
	return d.values(dst, plain)
}

// deltaTexts appends n strings of DELTA_LENGTH_BYTE_ARRAY.
func deltaTexts(dst *cells, b []byte, n int) error {
	lengths, rest, err := deltaBinary(b, n)
	if err != nil {
		return err
	}
	all := string(rest)
	for _, l := range lengths {
		if l < 0 || l > int64(len(all)) {
			return io.ErrUnexpectedEOF
		}
		dst.text = append(dst.text, all[:l])
		all = all[l:]
	}
	if len(all) > 0 {
		return errLeftOver
	}
	return nil
}

// deltaPrefixed appends n strings of DELTA_BYTE_ARRAY: each begins as the one before.
func deltaPrefixed(dst *cells, b []byte, n int) error {
	shared, rest, err := deltaBinary(b, n)
	if err != nil {
		return err
	}
	var suffixes cells
	if err := deltaTexts(&suffixes, rest, n); err != nil {
		return err
	}
	last, size := "", 0
	for i, suffix := range suffixes.text {
		if shared[i] < 0 || shared[i] > int64(len(last)) {
			return errDelta
		}
		if shared[i] < int64(len(last)) || suffix != "" {
			last = last[:shared[i]] + suffix
			size += len(last)
		}
		if size > maxPage {
			return notRead("more than %d MiB of text in a page", maxPage>>20)
		}
		dst.text = append(dst.text, last)
	}
	return nil
}
