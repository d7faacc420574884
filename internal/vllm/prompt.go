package vllm

import "strconv"

// Sequence is a list of token ids, encoded for the wire once. Prompts that
// share a prefix of it share its bytes. It is safe for concurrent use.
type Sequence struct {
	wire []byte   // "12,7,901"
	ends []uint32 // ends[i] is where the digits of id i end
}

// NewSequence encodes ids, which must not be negative.
func NewSequence(ids []int32) *Sequence {
	s := &Sequence{wire: make([]byte, 0, 6*len(ids)), ends: make([]uint32, len(ids))}
	for i, id := range ids {
		s.wire = appendID(s.wire, id, i > 0)
		s.ends[i] = uint32(len(s.wire))
	}
	return s
}

// Prompt is the first n ids of the sequence and then tail. Neither is copied.
func (s *Sequence) Prompt(n int, tail ...int32) Prompt {
	p := Prompt{n: n, tail: tail}
	if n > 0 {
		p.prefix = s.wire[:s.ends[n-1]]
	}
	return p
}

// Prompt is a list of token ids to continue.
type Prompt struct {
	prefix []byte
	n      int
	tail   []int32
}

// Tokens is the prompt of just these ids.
func Tokens(ids ...int32) Prompt { return Prompt{tail: ids} }

// Len is the number of ids.
func (p Prompt) Len() int { return p.n + len(p.tail) }

func (p Prompt) appendWire(b []byte) []byte {
	b = append(b, '[')
	b = append(b, p.prefix...)
	for i, id := range p.tail {
		b = appendID(b, id, i > 0 || p.n > 0)
	}
	return append(b, ']')
}

func appendID(b []byte, id int32, comma bool) []byte {
	if comma {
		b = append(b, ',')
	}
	return strconv.AppendInt(b, int64(id), 10)
}
