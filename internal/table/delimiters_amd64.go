package table

import "golang.org/x/sys/cpu"

// delimitersAVX2 is delimitersGeneric for whole blocks, at least one.
//
//go:noescape
func delimitersAVX2(b *byte, out *uint64, blocks int)

// delimiters writes a bit for each byte of b: set for commas and newlines. The
// length of b is 64 times that of out.
func delimiters(b []byte, out []uint64) {
	if len(out) > 0 && cpu.X86.HasAVX2 {
		delimitersAVX2(&b[:64*len(out)][0], &out[0], len(out))
		return
	}
	delimitersGeneric(b, out)
}
