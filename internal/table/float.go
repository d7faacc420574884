package table

import (
	"math"
	"math/big"
	"math/bits"
)

// Exponents of ten that rounded knows.
const (
	leastTen = -120
	mostTen  = 100
)

// significands are the first 128 bits of the powers of ten, high word first.
var significands = func() (all [mostTen - leastTen + 1][2]uint64) {
	for i := range all {
		e := leastTen + i
		n := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(max(e, -e))), nil)
		if e < 0 {
			n.Quo(new(big.Int).Lsh(big.NewInt(1), 1024), n)
		} else {
			n.Lsh(n, 128)
		}
		n.Rsh(n, uint(n.BitLen()-128))
		all[i] = [2]uint64{new(big.Int).Rsh(n, 64).Uint64(), n.Uint64()}
	}
	return all
}()

// rounded is m times ten to the e, correctly rounded; ok is false where 128 bits
// of the product do not decide it. After D. Lemire, "Number parsing at a gigabyte
// per second", Software: Practice and Experience 51 (2021), section 5.
func rounded(m uint64, e int) (f float64, ok bool) {
	if m == 0 {
		return 0, true
	}
	if e < leastTen || e > mostTen {
		return 0, false
	}
	shift := bits.LeadingZeros64(m)
	m <<= shift
	ten := &significands[e-leastTen]
	high, low := bits.Mul64(m, ten[0])
	const below = 1<<9 - 1                  // what is cut off a product of 64 bits
	if high&below == below && low+m < low { // the rest of ten may carry up to here
		more, least := bits.Mul64(m, ten[1])
		var carry uint64
		low, carry = bits.Add64(low, more, 0)
		high += carry
		if high&below == below && low == math.MaxUint64 && least+m < least {
			return 0, false
		}
	}
	top := high >> 63
	if low == 0 && high&below == 0 && high>>(top+9)&3 == 1 {
		return 0, false // half-way, as far as can be seen
	}
	mantissa := high >> (top + 9)
	mantissa = (mantissa + mantissa&1) >> 1
	exponent := e*217706>>16 + 64 + 1023 - shift - int(1-top) // 217706/2^16 is log2 of 10
	if mantissa>>53 > 0 {
		mantissa >>= 1
		exponent++
	}
	return math.Float64frombits(uint64(exponent)<<52 | mantissa&(1<<52-1)), true
}
