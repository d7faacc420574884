package table

import (
	"encoding/binary"
	"math/bits"
)

const (
	ones     = 0x0101010101010101
	newlines = ones * '\n'
	low      = 0x7f7f7f7f7f7f7f7f
	high     = 0x8080808080808080
)

// delimiters writes a bit for each byte of b: set for delimiters of cells and
// newlines. The length of b is 64 times that of out.
func delimiters(b []byte, delimiter byte, out []uint64) {
	cells := ones * uint64(delimiter)
	for i := range out {
		var mask uint64
		for k := range 8 {
			x := binary.LittleEndian.Uint64(b[64*i+8*k:])
			mask |= (zeroBytes(x^cells) | zeroBytes(x^newlines)) << (8 * k)
		}
		out[i] = mask
	}
}

// zeroBytes has a bit for each of the eight bytes, set if it is 0.
func zeroBytes(x uint64) uint64 {
	found := ^((x&low + low) | x | low) // the high bit of each
	return found >> 7 * 0x0102040810204080 >> 56
}

// group is how many positions are written at once.
const group = 8

// positions appends where bits are set to dst, which needs spare entries for a group
// more: writing in groups it mostly goes on without a choice.
func positions(masks []uint64, dst []uint32) []uint32 {
	for i, mask := range masks {
		base := uint32(64 * i)
		n, count := len(dst), bits.OnesCount64(mask)
		for done := 0; done < count; done += group {
			at := dst[n+done : n+done+group : n+done+group]
			at[0] = base + uint32(bits.TrailingZeros64(mask))
			mask &= mask - 1
			at[1] = base + uint32(bits.TrailingZeros64(mask))
			mask &= mask - 1
			at[2] = base + uint32(bits.TrailingZeros64(mask))
			mask &= mask - 1
			at[3] = base + uint32(bits.TrailingZeros64(mask))
			mask &= mask - 1
			at[4] = base + uint32(bits.TrailingZeros64(mask))
			mask &= mask - 1
			at[5] = base + uint32(bits.TrailingZeros64(mask))
			mask &= mask - 1
			at[6] = base + uint32(bits.TrailingZeros64(mask))
			mask &= mask - 1
			at[7] = base + uint32(bits.TrailingZeros64(mask))
			mask &= mask - 1
		}
		dst = dst[:n+count]
	}
	return dst
}
