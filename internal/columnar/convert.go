package columnar

import (
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"

	"github.com/apache/arrow/go/v15/arrow/float16"

	"tokenfork/internal/failure"
)

// Conversions of little-endian values, as Parquet and Arrow store them, to cells.

// integers appends integers of a width of 1, 2, 4 or 8 bytes.
func integers(width int, unsigned bool) func(dst *cells, b []byte) error {
	return func(dst *cells, b []byte) error {
		out := slices.Grow(dst.whole, len(b)/width)
		switch {
		case width == 8 && unsigned:
			for ; len(b) >= 8; b = b[8:] {
				v := le.Uint64(b)
				if v > math.MaxInt64 {
					return failure.New(failure.Refused, "write such ids as strings", "%d is 2^63 or more", v)
				}
				out = append(out, int64(v))
			}
		case width == 8:
			for ; len(b) >= 8; b = b[8:] {
				out = append(out, int64(le.Uint64(b)))
			}
		case width == 4 && unsigned:
			for ; len(b) >= 4; b = b[4:] {
				out = append(out, int64(le.Uint32(b)))
			}
		case width == 4:
			for ; len(b) >= 4; b = b[4:] {
				out = append(out, int64(int32(le.Uint32(b))))
			}
		case width == 2 && unsigned:
			for ; len(b) >= 2; b = b[2:] {
				out = append(out, int64(le.Uint16(b)))
			}
		case width == 2:
			for ; len(b) >= 2; b = b[2:] {
				out = append(out, int64(int16(le.Uint16(b))))
			}
		case unsigned:
			for _, v := range b {
				out = append(out, int64(v))
			}
		default:
			for _, v := range b {
				out = append(out, int64(int8(v)))
			}
		}
		dst.whole = out
		return nil
	}
}

func appendFloats64(dst *cells, b []byte) error {
	out := slices.Grow(dst.float, len(b)/8)
	for ; len(b) >= 8; b = b[8:] {
		out = append(out, math.Float64frombits(le.Uint64(b)))
	}
	dst.float = out
	return nil
}

func appendFloats32(dst *cells, b []byte) error {
	for ; len(b) >= 4; b = b[4:] {
		dst.float = append(dst.float, float64(math.Float32frombits(le.Uint32(b))))
	}
	return nil
}

func appendFloats16(dst *cells, b []byte) error {
	for ; len(b) >= 2; b = b[2:] {
		dst.float = append(dst.float, float64(float16.FromBits(le.Uint16(b)).Float32()))
	}
	return nil
}

// decimals appends decimals of a width, 0 for a single one of any, whose digits
// are a two's complement of either byte order.
func decimals(kind Kind, width, scale int, bigEndian bool) func(dst *cells, b []byte) error {
	return func(dst *cells, b []byte) error {
		size := width
		if size == 0 {
			size = max(len(b), 1)
		}
		for ; len(b) >= size; b = b[size:] {
			digits := slices.Clone(b[:size])
			if !bigEndian {
				slices.Reverse(digits)
			}
			if err := appendDecimal(dst, kind, digits, scale); err != nil {
				return err
			}
		}
		return nil
	}
}

// appendDecimal appends one decimal, as a whole number or as the nearest float64.
func appendDecimal(dst *cells, kind Kind, bigEndian []byte, scale int) error {
	n := new(big.Int).SetBytes(bigEndian)
	if len(bigEndian) > 0 && bigEndian[0] >= 0x80 {
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(bigEndian))))
	}
	if kind == Whole {
		if !n.IsInt64() {
			return failure.New(failure.Refused, "write such ids as strings", "%s is 2^63 or more", n)
		}
		dst.whole = append(dst.whole, n.Int64())
		return nil
	}
	f, err := strconv.ParseFloat(fmt.Sprintf("%se-%d", n, scale), 64)
	dst.float = append(dst.float, f)
	return err
}
