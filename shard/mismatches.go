package shard

import (
	"slices"
	"strconv"
	"sync/atomic"
	"unicode/utf8"

	"tokenfork/internal/columnar"
	"tokenfork/internal/job"
)

// The rows of mismatches.csv are written here, not by internal/columnar: there
// may be 10^8 of them, and this takes a tenth of the time. A test compares the two.

const mismatchHeader = "sentence_id,position,token_id,real_token,pred_small,pred_reference,pred_small_token_id,pred_reference_token_id,context,row_id\n"

// texts are the texts of single tokens, each made when it is first asked for,
// and the bytes of all of them.
type texts struct {
	tokenizer Tokenizer
	known     []atomic.Pointer[tokenText]
	bytes     []byte   // one token after the other, and a stride more
	at        []uint32 // where each begins, and where the last ends
}

type tokenText struct {
	text string
	cell string // of CSV
}

func newTexts(t Tokenizer, size int) *texts {
	x := &texts{tokenizer: t, known: make([]atomic.Pointer[tokenText], size), at: make([]uint32, size+1)}
	for id := range size {
		x.bytes = append(x.bytes, t.Bytes(int32(id))...)
		x.at[id+1] = uint32(len(x.bytes))
	}
	x.bytes = append(x.bytes, make([]byte, stride)...)
	return x
}

// stride is how many bytes are copied at once: few tokens are longer, and what
// is too much is overwritten by the next.
const stride = 16

// append writes the bytes of tokens.
func (t *texts) append(b []byte, ids []int32) []byte {
	for _, id := range ids {
		from, to, n := t.at[id], t.at[id+1], len(b)
		if to-from > stride || cap(b)-n < stride {
			b = append(b, t.bytes[from:to]...)
			continue
		}
		*(*[stride]byte)(b[n : n+stride]) = *(*[stride]byte)(t.bytes[from : from+stride])
		b = b[:n+int(to-from)]
	}
	return b
}

func (t *texts) of(id int32) *tokenText {
	if known := t.known[id].Load(); known != nil {
		return known
	}
	s := t.tokenizer.Decode([]int32{id})
	known := &tokenText{s, string(columnar.AppendCell(nil, s))}
	t.known[id].Store(known)
	return known
}

// describe makes the rows of the text's mismatches.
func (a *analyst) describe(s *text, out *worked) {
	w := &a.whole
	contexts := a.contexts()
	out.mismatches = slices.Grow(out.mismatches, len(w.Mismatches))[:len(w.Mismatches)]
	id := columnar.AppendCell(nil, w.ID)
	b := slices.Grow(out.csv, 100*len(w.Mismatches)+2*len(contexts))
	from := 0
	for i, p := range w.Mismatches {
		small, against := a.compared(int(p))
		realText, smallText, againstText := a.texts.of(w.Real[p]), a.texts.of(small), a.texts.of(against)
		m := &out.mismatches[i]
		*m = job.Mismatch{SentenceID: w.ID, Position: int64(p) + int64(a.settings.FirstPosition), TokenID: w.Real[p],
			RealToken: realText.text, PredSmall: smallText.text, PredReference: againstText.text,
			PredSmallTokenID: small, PredReferenceTokenID: against, Context: contexts[from:a.contextEnds[i]], RowID: s.rowID[int(p)-a.offset]}
		from = a.contextEnds[i]
		b = append(append(b, id...), ',')
		b = append(strconv.AppendInt(b, m.Position, 10), ',')
		b = append(strconv.AppendInt(b, int64(m.TokenID), 10), ',')
		b = append(append(b, realText.cell...), ',')
		b = append(append(b, smallText.cell...), ',')
		b = append(append(b, againstText.cell...), ',')
		b = append(strconv.AppendInt(b, int64(small), 10), ',')
		b = append(strconv.AppendInt(b, int64(against), 10), ',')
		b = append(columnar.AppendCell(b, m.Context), ',')
		b = append(strconv.AppendInt(b, m.RowID, 10), '\n')
	}
	out.csv = b
}

// contexts are the texts between the mismatches, one after the other;
// a.contextEnds says where each ends.
func (a *analyst) contexts() string {
	w := &a.whole
	a.contextEnds = a.contextEnds[:0]
	size := stride
	for _, id := range w.Real[:w.Mismatches[len(w.Mismatches)-1]] {
		size += int(a.texts.at[id+1] - a.texts.at[id])
	}
	b := make([]byte, 0, size)
	from := int32(0)
	for _, p := range w.Mismatches {
		start := len(b)
		b = a.texts.append(b, w.Real[from:p])
		if !utf8.Valid(b[start:]) {
			b = append(b[:start], a.texts.tokenizer.Decode(w.Real[from:p])...)
		}
		a.contextEnds = append(a.contextEnds, len(b))
		from = p
	}
	return string(b)
}
