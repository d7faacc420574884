package table

import (
	"encoding/binary"
	"math"
	"math/bits"
	"sync"

	"tokenfork/internal/job"
)

// The scanner reads chunks whose rows all have the header's number of fields and
// none is quoted: it finds all delimiters and newlines at once and then goes through
// the wanted columns one by one. Other chunks it leaves to records, and cells
// that are not plain numbers to the same functions that records use.

// slack is how far the scanner may look beyond the data.
const slack = 64 + 8

type scanner struct {
	vectors
	b     []byte   // the chunk and slack
	masks []uint64 // a bit for each byte: a delimiter or newline
	at    []uint32 // where they are; cell i is between the i-th, which is before the chunk for i = 0, and the next
}

var scanners = sync.Pool{New: func() any { return new(scanner) }}

// scan parses a chunk without quotes, or gives nil.
func (p *parser) scan(c *chunk) *Batch {
	s := scanners.Get().(*scanner)
	defer scanners.Put(s)
	if !s.index(c, p) {
		return nil
	}
	s.start(p.name, p.schema, p.req, c.line, c.lines)
	for from := 0; from < c.lines; from += blockRows {
		s.columns(from, min(from+blockRows, c.lines))
	}
	return s.batch()
}

// blockRows is how many rows are read column by column: they stay in the fastest cache.
const blockRows = 64

// columns reads the columns of some rows.
func (s *scanner) columns(from, to int) {
	for r := range firstMeasure {
		switch {
		case s.schema.fields[r] < 0:
		case s.isText(r):
			s.strings(r, from, to)
		default:
			s.numbers(r, from, to)
		}
	}
	for k, m := range s.Measures {
		if m != nil {
			s.measures(m, firstMeasure+role(k), from, to)
		}
	}
}

// index finds the cells; false if the rows are not all of one width.
func (s *scanner) index(c *chunk, p *parser) bool {
	width := p.schema.width
	s.b = padded(c)
	s.masks = grow(s.masks, (len(c.data)+64)/64) // a newline may have been added
	delimiters(s.b, p.delimiter, s.masks)
	found := 0
	for _, m := range s.masks {
		found += bits.OnesCount64(m)
	}
	if found != c.lines*width {
		return false
	}
	s.at = grow(s.at, 1+found+group)[:1]
	s.at[0] = math.MaxUint32 // one before 0
	s.at = positions(s.masks, s.at)
	for row := range c.lines {
		if s.b[s.at[(row+1)*width]] != '\n' {
			return false
		}
	}
	return true
}

// padded gives the chunk with a newline at its end, whether it had one or not, and slack.
func padded(c *chunk) []byte {
	n := len(c.data)
	b := c.data
	if cap(b) < n+slack {
		b = append(make([]byte, 0, n+slack), b...)
	}
	b = b[:n+slack]
	clear(b[n:])
	if b[n-1] != '\n' {
		b[n] = '\n'
	}
	return b
}

// cell is a cell without the carriage return that a line may end with.
func (s *scanner) cell(row int, r role) []byte {
	i := row*s.schema.width + s.schema.fields[r]
	b := s.b[s.at[i]+1 : s.at[i+1]]
	if n := len(b); n > 0 && b[n-1] == '\r' && s.schema.fields[r] == s.schema.width-1 {
		return b[:n-1]
	}
	return b
}

// numbers reads a column of ids of up to 16 digits; the others are left to parseNumber.
func (s *scanner) numbers(r role, first, end int) {
	b, at, width, dst := s.b, s.at[s.schema.fields[r]:], s.schema.width, s.ints[r][:end]
	for row, i := first, first*width; row < len(dst); row, i = row+1, i+width {
		from, to := at[i]+1, at[i+1]
		n := uint(to - from)
		x := load(b, from) ^ zeros
		switch {
		case n-1 < 8:
			if x <<= 64 - 8*n; allDigits(x) {
				dst[row] = int64(eight(x))
				continue
			}
		case n-1 < 15:
			y := (load(b, from+8) ^ zeros) << (128 - 8*n)
			if allDigits(x) && allDigits(y) {
				dst[row] = int64(eight(x)*powers[n-8] + eight(y))
				continue
			}
		}
		dst[row] = s.parseNumber(row, r, s.cell(row, r))
	}
}

// strings reads a column of sentence ids that are text.
func (s *scanner) strings(r role, first, end int) {
	before := ""
	for row := first; row < end; row++ {
		if cell := s.cell(row, r); string(cell) != before { // rows of a text follow one another
			before = string(cell)
		}
		s.texts[sideOf(r)][row] = before
	}
}

// measures reads a column of measures: where they are not wanted exactly, the
// first digits will do.
func (s *scanner) measures(dst []float64, r role, first, end int) {
	dst = dst[:end]
	b, at, width := s.b, s.at[s.schema.fields[r]:], s.schema.width
	small, reference := s.ints[smallPrediction][:len(dst)], s.ints[referencePrediction][:len(dst)]
	all := s.req.ExactMeasures || !s.schema.HasReference
	var d decimal
	for row, i := first, first*width; row < len(dst); row, i = row+1, i+width {
		from, to := at[i]+1, at[i+1]
		exact := all || small[row] != reference[row]
		if !exact {
			if f, ok := roughly(b, from, to); ok {
				dst[row] = f
				continue
			}
		}
		dst[row] = s.measure(&d, row, r, int(from), int(to), exact)
	}
}

// measure reads any number, or notes what is wrong with it.
func (s *scanner) measure(d *decimal, row int, r role, from, to int, exact bool) float64 {
	if d.read(s.b, from, to) {
		if f, ok := d.roughly(); ok && !exact {
			return f
		}
		if f, ok := d.exactly(); ok {
			return f
		}
	}
	return s.parseMeasure(row, r, s.cell(row, r))
}

// roughly reads a digit, a point, 8 to 24 digits and maybe a negative exponent as
// decimal does, which is what nearly all measures are.
func roughly(b []byte, from, to uint32) (float64, bool) {
	n, ten := to-from-2, tens[99]
	if n-8 > 20 {
		return 0, false
	}
	if e := uint32(load(b, to-4)); e&0xffff == 'e'|'-'<<8 {
		high, low := e>>16&0xff-'0', e>>24-'0'
		if high > 9 || low > 9 {
			return 0, false
		}
		n, to, ten = n-4, to-4, tens[99-(high*10+low)]
	}
	if n-8 > 16 {
		return 0, false
	}
	first := load(b, from) // the digit, the point and six more
	x := load(b, from+2) ^ zeros
	y := load(b, min(from+10, to-8)) ^ zeros // may overlap, so that there is no choice
	z := load(b, to-8) ^ zeros
	odd := ((x + nines) | x | (y + nines) | y | (z + nines) | z) & high
	whole := first&0xff - '0'
	if odd != 0 || whole > 9 || first>>8&0xff != '.' {
		return 0, false
	}
	return inOneBin(float64(whole*100_000_000+eight(x)), ten)
}

// load gives eight bytes of a buffer that has them, be they slack.
func load(b []byte, at uint32) uint64 { return binary.LittleEndian.Uint64(b[at:]) }

// inOneBin is m times ten; ok if all numbers from there up to m+1 times ten are
// in one bin, with room for the rounding here.
func inOneBin(m, ten float64) (f float64, ok bool) {
	f = m * ten
	const ulps = 8
	low, high := math.Float64bits(f)-ulps, math.Float64bits((m+1)*ten)+ulps
	return f, (low^high)>>job.BinShift == 0 && m > 0
}

const (
	zeros = 0x3030303030303030
	nines = 0x7676767676767676 // added to more than 9, it sets the high bit
)

// allDigits says whether all eight bytes are 0 to 9.
func allDigits(x uint64) bool { return ((x+nines)|x)&high == 0 }

// eight is the number that eight digits spell, the first in the lowest byte.
func eight(x uint64) uint64 {
	x = x*10 + x>>8
	return ((x&0x000000ff000000ff)*0x000f424000000064 + (x>>16&0x000000ff000000ff)*0x0000271000000001) >> 32
}

// powers of ten that a uint64 holds.
var powers = func() (p [20]uint64) {
	p[0] = 1
	for i := range p[1:] {
		p[i+1] = p[i] * 10
	}
	return p
}()

// tens are the powers of ten from -107 to 91: 8 less than exponents of two digits.
var tens = func() (p [199]float64) {
	for i := range p {
		p[i] = math.Pow10(i - 107)
	}
	return p
}()

// decimal is a number as it is mostly written: a digit, a point, up to 24
// digits, and maybe an exponent of two digits.
type decimal struct {
	whole    uint64    // the digit before the point
	words    [3]uint64 // the digits after it, eight in each, zeros after the last
	digits   int       // after the point
	exponent int
}

// read takes the cell apart; false if it is written in another way.
func (d *decimal) read(b []byte, from, to int) bool {
	if b[from+1] != '.' || !isDigit(b[from]) {
		return false
	}
	d.exponent = 0
	if to-from > 6 && b[to-4] == 'e' {
		if !isDigit(b[to-1]) || !isDigit(b[to-2]) || b[to-3] != '-' && b[to-3] != '+' {
			return false
		}
		d.exponent = int(b[to-2]-'0')*10 + int(b[to-1]-'0')
		if b[to-3] == '-' {
			d.exponent = -d.exponent
		}
		to -= 4
	}
	n := to - from - 2
	if n <= 0 || n > 24 {
		return false
	}
	d.whole, d.digits = uint64(b[from]-'0'), n
	ok := true
	for k := range d.words {
		left := n - 8*k
		if left <= 0 {
			d.words[k] = 0
			continue
		}
		x := binary.LittleEndian.Uint64(b[from+2+8*k:]) ^ zeros
		if left < 8 {
			x &= 1<<(8*uint(left)) - 1
		}
		ok = ok && allDigits(x)
		d.words[k] = x
	}
	return ok
}

// roughly uses nine digits; ok if all numbers that begin so are in one bin.
func (d *decimal) roughly() (f float64, ok bool) {
	return inOneBin(float64(d.whole*100_000_000+eight(d.words[0])), tens[d.exponent+99])
}

// exactly rounds correctly; ok if there are no more than 19 digits, zeros before them not counted.
func (d *decimal) exactly() (f float64, ok bool) {
	m := (d.whole*100_000_000+eight(d.words[0]))*100_000_000 + eight(d.words[1])
	more := max(0, d.digits-16)
	if m >= powers[19-more] {
		return 0, false
	}
	return rounded(m*powers[more]+eight(d.words[2])/powers[8-more], d.exponent-16-more)
}
