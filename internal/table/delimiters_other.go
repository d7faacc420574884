//go:build !amd64

package table

// delimiters writes a bit for each byte of b: set for commas and newlines. The
// length of b is 64 times that of out.
func delimiters(b []byte, out []uint64) { delimitersGeneric(b, out) }
