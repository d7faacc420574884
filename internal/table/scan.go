package table

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/bits"

	"tokenfork/internal/job"
)

// The scanner reads rows of plain numbers, eight bytes at a time, without
// looking for the columns between. Whatever else it meets, blanks included, it
// leaves to records: no cell is understood here that is not understood there,
// and a test compares the two.

// step is a column that is read.
type step struct {
	skip int // columns before it that are not
	role role
	last bool // column of the row
}

func stepsOf(roleAt []role) []step {
	var steps []step
	skip := 0
	for i, r := range roleAt {
		if r == roles {
			skip++
			continue
		}
		steps = append(steps, step{skip, r, i == len(roleAt)-1})
		skip = 0
	}
	return steps
}

// slack is how far the scanner may look beyond the data.
const slack = 32

type scanner struct {
	*records
	b      []byte // the chunk and slack, which holds no digit, comma or newline
	size   int    // of the chunk
	exact  bool   // measures of every row are wanted exactly
	texts  bool   // sentence ids are text
	unread int    // columns after the last one that is read
	v      values
	cells  [6]span // the row's measures
}

// span is a measure's cell: a digit, a point, digits and maybe an exponent. What
// is written in another way has been read already.
type span struct {
	from, to, end int // to is the digits' end
	exponent      int
	known         bool // by value
	value         float64
}

// scan parses a chunk without quotes. It gives nil if lines and rows do not
// tally: then a row broke off and went on in another.
func (p *parser) scan(c *chunk) *Batch {
	lines := bytes.Count(c.data, newline)
	if c.data[len(c.data)-1] != '\n' {
		lines++
	}
	s := &scanner{records: &records{builder: newBuilder(p.name, p.schema, p.req, lines), parser: p}, size: len(c.data),
		exact: p.req.ExactMeasures || !p.schema.HasReference, texts: p.req.SentenceIDType == String, unread: p.schema.width, b: padded(c)}
	for _, st := range p.steps {
		s.unread -= st.skip + 1
	}
	for at, line := 0, c.line; at < len(c.data); line++ {
		s.v.line = line
		end := s.row(at)
		if end > 0 {
			s.take()
		} else {
			end = at + bytes.IndexByte(s.b[at:], '\n') + 1
			s.record(s.b[at:end-1], line)
		}
		at = end
		lines--
	}
	if lines != 0 {
		s.Release()
		return nil
	}
	return s.done()
}

// padded gives the chunk with a newline at its end, whether it had one or not, and slack.
func padded(c *chunk) []byte {
	n := len(c.data)
	b := c.data
	if cap(b) < n+1+slack {
		b = append(make([]byte, 0, n+1+slack), b...)
	}
	b = b[:n+1+slack]
	clear(b[n:])
	if b[n-1] != '\n' {
		b[n] = '\n'
	}
	return b
}

// row reads the row at p into s.v and s.cells and gives the place after it, or
// 0 if it is not a row of plain numbers.
func (s *scanner) row(p int) int {
	for i := range s.steps {
		st := &s.steps[i]
		if st.skip > 0 {
			if p = skip(s.b, p, s.size, st.skip); p == 0 {
				return 0
			}
		}
		if p = s.cell(st.role, p); p == 0 {
			return 0
		}
		if s.b[p] == ',' && !st.last {
			p++
		} else if p = s.rowEnd(p); p == 0 || !st.last {
			return 0
		}
	}
	if s.unread == 0 {
		return p
	}
	if p = skip(s.b, p, s.size, s.unread-1); p == 0 {
		return 0
	}
	for ; s.b[p] != '\n'; p++ {
		if s.b[p] == ',' || p >= s.size {
			return 0
		}
	}
	return p + 1
}

// rowEnd is the place after the line's end at p.
func (s *scanner) rowEnd(p int) int {
	switch {
	case s.b[p] == '\n':
		return p + 1
	case s.b[p] == '\r' && s.b[p+1] == '\n':
		return p + 2
	}
	return 0
}

// cell reads the cell at p and gives its end.
func (s *scanner) cell(r role, p int) int {
	if r >= firstMeasure {
		return s.cells[r-firstMeasure].find(s.b, p)
	}
	if s.texts && isSentence(r) {
		return s.text(r, p)
	}
	n, end := number(s.b, p)
	switch r {
	case rowID:
		s.v.rowID = n
	case smallSentence:
		s.v.sentence = n
	case smallPosition:
		s.v.position = n
	case smallReal:
		s.v.real = n
	case smallPrediction:
		s.v.small = n
	case referencePrediction:
		s.v.reference = n
	case tokenType:
		s.v.kind = n
	case referenceSentence:
		return same(n, s.v.sentence, end)
	case referencePosition:
		return same(n, s.v.position, end)
	case referenceReal:
		return same(n, s.v.real, end)
	}
	return end
}

// same is end if the reference's copy of a cell is as the small model's.
func same(n, small int64, end int) int {
	if n != small {
		return 0
	}
	return end
}

// text reads a sentence id that is text.
func (s *scanner) text(r role, p int) int {
	end := p
	for s.b[end] != ',' && s.b[end] != '\n' && s.b[end] != '\r' {
		if end++; end >= s.size {
			return 0
		}
	}
	id := text(s.b[p:end])
	if r == referenceSentence {
		if id != s.v.text {
			return 0
		}
		return end
	}
	if s.v.text = id; isBlank(s.b[p:end]) {
		return 0
	}
	return end
}

// take adds the row.
func (s *scanner) take() {
	if s.Measures[0] != nil {
		exact := s.exact || s.v.small != s.v.reference
		for k := range s.cells {
			s.Measures[k][s.n] = s.measure(&s.cells[k], exact)
		}
	}
	s.add(&s.v)
}

// measure gives a measure exactly, or just so that it is in the right bin.
func (s *scanner) measure(c *span, exact bool) float64 {
	if c.known {
		return c.value
	}
	if !exact {
		if f, ok := roughly(s.b, c); ok {
			return f
		}
	}
	if c.exponent == 0 && c.to-c.from <= 20 {
		return fraction(s.b, c.from, c.to)
	}
	f, _ := parseMeasure(s.b[c.from:c.end]) // find has seen to it that it is a number
	return f
}

const (
	zeros  = 0x3030303030303030
	commas = 0x2c2c2c2c2c2c2c2c
	low    = 0x7f7f7f7f7f7f7f7f
	high   = 0x8080808080808080
)

// skip gives the place after the n-th comma from p, or 0. It may run over a
// line's end; scan counts the lines.
func skip(b []byte, p, size, n int) int {
	for n > 0 {
		if p >= size {
			return 0
		}
		x := binary.LittleEndian.Uint64(b[p:]) ^ commas
		found := ^((x&low + low) | x | low) // the high bit of each byte that is a comma
		if c := bits.OnesCount64(found); c < n {
			n -= c
			p += 8
			continue
		}
		for ; n > 1; n-- {
			found &= found - 1
		}
		return p + bits.TrailingZeros64(found)/8 + 1
	}
	return p
}

// digits gives the numerical values of eight characters and how many of them,
// from the first, are digits.
func digits(b []byte, p int) (values uint64, n int) {
	x := binary.LittleEndian.Uint64(b[p:]) ^ zeros
	// The carry of a byte that is no digit can spoil those after it, which do not matter.
	return x, bits.TrailingZeros64((x+0x7676767676767676|x)&high) / 8
}

// eight is the number that eight digits spell.
func eight(x uint64) uint64 {
	x = x*10 + x>>8
	return ((x&0x000000ff000000ff)*0x000f424000000064 + (x>>16&0x000000ff000000ff)*0x0000271000000001) >> 32
}

// number reads up to 15 digits; the place after them is 0 if there are none or more.
func number(b []byte, p int) (int64, int) {
	x, n := digits(b, p)
	if n < 8 {
		if n == 0 {
			return 0, 0
		}
		return int64(eight(x << (64 - 8*uint(n)))), p + n
	}
	y, m := digits(b, p+8)
	if m == 8 {
		return 0, 0
	}
	return int64(eight(x)*powers[m] + eight(y<<(64-8*uint(m)))), p + 8 + m
}

// powers of ten that a uint64 holds.
var powers = func() (p [20]uint64) {
	p[0] = 1
	for i := range p[1:] {
		p[i+1] = p[i] * 10
	}
	return p
}()

// find looks for the end of the number at p; 0 if there is none.
func (c *span) find(b []byte, p int) int {
	if !isDigit(b[p]) || b[p+1] != '.' {
		return c.other(b, p)
	}
	end := p + 2
	for {
		_, n := digits(b, end)
		if end += n; n < 8 {
			break
		}
		if end > len(b)-slack/2 {
			return 0
		}
	}
	c.from, c.to, c.exponent, c.known = p, end, 0, false
	if end == p+2 {
		return c.other(b, p)
	}
	if b[end] == 'e' {
		return c.power(b, end+1)
	}
	c.end = end
	return end
}

// power reads an exponent of two digits with its sign, as everybody writes them.
func (c *span) power(b []byte, p int) int {
	if b[p] != '-' && b[p] != '+' || !isDigit(b[p+1]) || !isDigit(b[p+2]) || isDigit(b[p+3]) {
		return c.other(b, c.from)
	}
	c.exponent = int(b[p+1]-'0')*10 + int(b[p+2]-'0')
	if b[p] == '-' {
		c.exponent = -c.exponent
	}
	c.end = p + 3
	return c.end
}

// other reads a number that is written in another way.
func (c *span) other(b []byte, p int) int {
	end := p
	for numeric[b[end]] {
		if end++; end > len(b)-slack/2 {
			return 0
		}
	}
	f, err := parseMeasure(b[p:end])
	if err != nil || end == p {
		return 0
	}
	c.known, c.value = true, f
	return end
}

// numeric are the characters of numbers.
var numeric = func() (is [256]bool) {
	for _, c := range "0123456789.eE+-" {
		is[c] = true
	}
	return is
}()

// tens are the powers of ten from -99 to 99.
var tens = func() (p [199]float64) {
	for i := range p {
		p[i] = math.Pow10(i - 99)
	}
	return p
}()

// roughly reads the first nine digits; ok if all numbers that begin so are in
// one bin, with room for the rounding here.
func roughly(b []byte, c *span) (f float64, ok bool) {
	x, n := digits(b, c.from+2)
	if n < 8 {
		x <<= 64 - 8*uint(n) // fewer digits: as if zeros stood before them
		x = eight(x) * powers[8-n]
	} else {
		x = eight(x)
	}
	m := float64(uint64(b[c.from]-'0')*100_000_000 + x)
	ten := tens[c.exponent+99-8]
	f = m * ten
	const ulps = 8
	low, high := math.Float64bits(f)-ulps, math.Float64bits((m+1)*ten)+ulps
	return f, low>>job.BinShift == high>>job.BinShift && m > 0
}

// fraction reads a simple number of at most 19 digits, correctly rounded.
func fraction(b []byte, from, to int) float64 {
	m := uint64(b[from] - '0')
	for _, c := range b[from+2 : to] {
		m = m*10 + uint64(c-'0')
	}
	return quotient(m, powers[to-from-2])
}

// quotient is m/d, correctly rounded: 64 bits of the quotient and whether
// anything is left decide it.
func quotient(m, d uint64) float64 {
	if m == 0 {
		return 0
	}
	shiftM, shiftD := bits.LeadingZeros64(m), bits.LeadingZeros64(d)
	hi, lo := m<<shiftM, uint64(0)
	d <<= shiftD
	exponent := shiftD - shiftM - 64
	if hi >= d {
		hi, lo = hi>>1, hi<<63
		exponent++
	}
	q, r := bits.Div64(hi, lo, d)
	if r != 0 {
		q |= 1 // too far down to matter but for ties
	}
	return float64(q) * math.Float64frombits(uint64(1023+exponent)<<52)
}
