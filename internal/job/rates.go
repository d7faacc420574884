package job

import "math"

// Measures are the uncertainty measures a table may carry, in the order of
// Text's fields, by side.
var Measures = [6]string{
	"small_entropy", "small_au", "small_eu",
	"reference_entropy", "reference_au", "reference_eu",
}

// MeasurePosition is the Rate.Measure of the counts by place in the text.
const MeasurePosition = "position"

// Rate is one count of rates.parquet: how many positions there were, and how
// many of them are mismatches. Positions count if they could have been a
// mismatch: they have a real token and the predictions that are compared.
// Rows of measure "position" are by text and place; those of another
// measure are bins of its histogram over the whole table.
type Rate struct {
	Measure    string  `col:"measure"`
	SentenceID *string `col:"sentence_id"` // nil in histograms
	TokenType  *int32  `col:"token_type"`  // nil in histograms and where the table has none
	TokenClass *string `col:"token_class"` // nil in histograms
	Bin        int32   `col:"bin"`
	From       float64 `col:"from"` // of the bin, inclusive
	To         float64 `col:"to"`   // exclusive
	Positions  int64   `col:"positions"`
	Mismatches int64   `col:"mismatches"`
}

// PositionBinWidth is how many positions a bin holds.
const PositionBinWidth = 512

// Histogram bins: eight to an octave, between 2^firstExponent and 2^lastExponent.
// Below is bin 0, negative values are bin NegativeBin, above is the last bin.
const (
	firstExponent = -20
	lastExponent  = 10
	binsPerOctave = 8
	// BinShift leaves of a float64's bits what decides its bin.
	BinShift = 52 - 3

	lastBin     = (lastExponent-firstExponent)*binsPerOctave + 1
	NegativeBin = lastBin + 1
	// ValueBins is the number of bins of a histogram.
	ValueBins = lastBin + 2
)

const firstBits = (1023 + firstExponent) * binsPerOctave // of 2^firstExponent, shifted

// ValueBin is the bin of a measure's value; NaN has none and must not be asked for.
func ValueBin(v float64) int {
	b := math.Float64bits(v) // for positive numbers the order of the bits is theirs
	if b>>63 != 0 {
		if v == 0 {
			return 0
		}
		return NegativeBin
	}
	return int(min(max(int64(b>>BinShift)-firstBits+1, 0), lastBin))
}

// ValueBinEdges are the values between which the bin lies, the first inclusive.
func ValueBinEdges(bin int) (from, to float64) {
	switch bin {
	case NegativeBin:
		return math.Inf(-1), 0
	case 0:
		return 0, math.Ldexp(1, firstExponent)
	case lastBin:
		return math.Ldexp(1, lastExponent), math.Inf(1)
	}
	edge := func(k int) float64 { return math.Float64frombits(uint64(k-1+firstBits) << BinShift) }
	return edge(bin), edge(bin + 1)
}
