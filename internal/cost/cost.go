// Package cost says how the work of a server grows with the position in a text: attention reads
// all that stands before a token.
package cost

// Tokens cost twice the base at these positions. A stated decode rate holds at decodeAt. The figures
// come from forks of texts of 2,000 to 8,000 tokens on one H200, see docs/plan.md.
const (
	decodeDoubles  = 2400
	decodeAt       = 2500
	prefillDoubles = 50_000
)

// Block is how many tokens the prefix cache shares at a time.
const Block = 16

// Decoded is the work of n tokens generated at a position, in tokens at the position of a decode rate.
func Decoded(n, at int32) float64 {
	return float64(n) * (decodeDoubles + float64(at)) / (decodeDoubles + decodeAt)
}

// Prefilled is the work of prompt tokens computed up to a position, in tokens at the beginning of a text.
func Prefilled(tokens int64, last int32) float64 {
	return float64(tokens) * (1 + float64(last)/2/prefillDoubles)
}
