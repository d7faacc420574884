package columnar

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
	"math"

	"github.com/apache/arrow/go/v15/parquet"
)

// memo numbers distinct values in the order in which they first come: a
// Parquet dictionary.
type memo struct {
	cells   []cell // a power of two, at most half of them taken
	texts   []parquet.ByteArray
	numbers []uint64 // bits of numbers
	n       int
	last    uint32 // text
}

type cell struct {
	hash  uint32
	index int32 // from 1; 0: free
}

var memoSeed = maphash.MakeSeed()

func (m *memo) reset() {
	if m.cells == nil {
		m.cells = make([]cell, 64)
	}
	clear(m.cells)
	m.texts, m.numbers, m.n = m.texts[:0], m.numbers[:0], 0
}

// text numbers a text, which must stay as it is until reset. Equal ones mostly follow each other.
func (m *memo) text(b []byte) uint32 {
	if m.n > 0 && bytes.Equal(m.texts[m.last], b) {
		return m.last
	}
	m.last = m.find(b)
	return m.last
}

func (m *memo) find(b []byte) uint32 {
	h := uint32(maphash.Bytes(memoSeed, b))
	for i := h; ; i++ {
		s := &m.cells[i&uint32(len(m.cells)-1)]
		if s.index == 0 {
			m.texts = append(m.texts, b)
			return m.take(s, h)
		}
		if s.hash == h && bytes.Equal(m.texts[s.index-1], b) {
			return uint32(s.index - 1)
		}
	}
}

// number numbers a number by its bits.
func (m *memo) number(bits uint64) uint32 {
	h := uint32(bits * 0x9e3779b97f4a7c15 >> 32)
	for i := h; ; i++ {
		s := &m.cells[i&uint32(len(m.cells)-1)]
		if s.index == 0 {
			m.numbers = append(m.numbers, bits)
			return m.take(s, h)
		}
		if s.hash == h && m.numbers[s.index-1] == bits {
			return uint32(s.index - 1)
		}
	}
}

func (m *memo) take(s *cell, hash uint32) uint32 {
	m.n++
	*s = cell{hash, int32(m.n)}
	if 2*m.n > len(m.cells) {
		old := m.cells
		m.cells = make([]cell, 4*len(old))
		for _, t := range old {
			if t.index == 0 {
				continue
			}
			i := t.hash
			for m.cells[i&uint32(len(m.cells)-1)].index != 0 {
				i++
			}
			m.cells[i&uint32(len(m.cells)-1)] = t
		}
	}
	return uint32(m.n - 1)
}

// appendPlain appends the values as a dictionary page holds them.
func (m *memo) appendPlain(dst []byte, of kind) []byte {
	for _, b := range m.texts {
		dst = append(binary.LittleEndian.AppendUint32(dst, uint32(len(b))), b...)
	}
	for _, bits := range m.numbers {
		if of == int32Kind {
			dst = binary.LittleEndian.AppendUint32(dst, uint32(bits))
		} else {
			dst = binary.LittleEndian.AppendUint64(dst, bits)
		}
	}
	return dst
}

// floatBits are a number's bits, the same for all that are not a number.
func floatBits(f float64) uint64 {
	if math.IsNaN(f) {
		f = math.NaN()
	}
	return math.Float64bits(f)
}
