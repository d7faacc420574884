package columnar

import (
	"encoding/binary"
	"slices"
)

// rle appends numbers to out as Parquet's hybrid of runs and bit-packed groups of
// eight. It cuts runs and groups where the Arrow library does.
type rle struct {
	out     []byte
	width   int // bits of a number
	group   [8]uint32
	n       int    // in group
	current uint32 // the last number
	run     int    // how often it came
	literal int    // numbers in the open stretch of groups
	at      int    // of that stretch's head in out, -1 for none
}

// begin starts anew, at the end of out.
func (e *rle) begin(out []byte, width int) { *e = rle{out: out, width: width, at: -1} }

func (e *rle) put(v uint32) {
	if v == e.current {
		if e.run++; e.run > 8 {
			return
		}
	} else {
		if e.run >= 8 {
			e.endRun()
		}
		e.current, e.run = v, 1
	}
	e.group[e.n] = v
	if e.n++; e.n == 8 {
		e.endGroup()
	}
}

// putAll puts numbers one after the other.
func (e *rle) putAll(vs []uint32) {
	for len(vs) > 0 {
		if e.n == 0 && e.run == 0 && len(vs) >= 8 && slices.ContainsFunc(vs[1:8], func(v uint32) bool { return v != vs[0] }) { // no run reaches its end
			e.group, e.current = [8]uint32(vs), vs[7]
			e.putGroup()
			e.endFullLiteral()
			vs = vs[8:]
			continue
		}
		e.put(vs[0])
		vs = vs[1:]
	}
}

// repeat puts v n times, if n is positive.
func (e *rle) repeat(v uint32, n int) {
	for ; n > 0 && (e.current != v || e.run <= 8); n-- {
		e.put(v)
	}
	e.run += max(0, n)
}

func (e *rle) endGroup() {
	if e.run >= 8 { // the group is part of the run
		e.n = 0
		if e.literal > 0 {
			e.endLiteral()
		}
		return
	}
	e.putGroup()
	e.endFullLiteral()
	e.run = 0
}

// endFullLiteral ends a stretch that its head, of one byte, can count no further.
func (e *rle) endFullLiteral() {
	if e.literal/8+1 >= 1<<6 {
		e.endLiteral()
	}
}

// putGroup packs the group: its eight numbers take width bytes.
func (e *rle) putGroup() {
	if e.at < 0 {
		e.at = len(e.out)
		e.out = append(e.out, 0)
	}
	e.literal += 8
	var bits uint64
	have := 0
	for _, v := range e.group {
		bits |= uint64(v) << have
		if have += e.width; have >= 32 {
			e.out = binary.LittleEndian.AppendUint32(e.out, uint32(bits))
			bits >>= 32
			have -= 32
		}
	}
	for ; have > 0; have -= 8 {
		e.out = append(e.out, byte(bits))
		bits >>= 8
	}
	e.n = 0
}

func (e *rle) endLiteral() {
	e.out[e.at] = byte(e.literal/8<<1 | 1)
	e.at, e.literal = -1, 0
}

func (e *rle) endRun() {
	e.out = binary.AppendUvarint(e.out, uint64(e.run)<<1)
	for k := 0; k < e.width; k += 8 {
		e.out = append(e.out, byte(e.current>>k))
	}
	e.run, e.n = 0, 0
}

// end completes the numbers.
func (e *rle) end() []byte {
	switch {
	case e.run > 0 && e.literal == 0 && (e.run == e.n || e.n == 0):
		e.endRun()
	case e.n > 0:
		clear(e.group[e.n:])
		e.putGroup()
		e.endLiteral()
	case e.literal > 0:
		e.endLiteral()
	}
	return e.out
}
