// Package fork says what a continuation is: where it ends and why, worked out
// from token ids alone, and how much of it the table already tells.
package fork

import (
	"slices"

	"tokenfork/internal/job"
)

// Ends says where sentences end. internal/tokenizer's Ends is one.
type Ends interface {
	// End says whether a sentence ends with id after prev (-1: nothing before).
	// With lookahead, only if the next token does not continue a decimal number.
	End(prev, id int32) (end, lookahead bool)
	// ContinuesDecimal says whether id begins with a digit.
	ContinuesDecimal(id int32) bool
	// IsEOS says whether id is the model's end of text.
	IsEOS(id int32) bool
}

// None stands for a token that is not there: a prediction the table lacks, a
// rest with nothing forced.
const None = int32(-1)

// Tail builds one continuation token by token and knows when it is done.
type Tail struct {
	IDs    []int32
	Finish string // a finish reason; "" while open

	ends    Ends
	left    int    // tokens that may still come
	prev    int32  // the last token
	pending string // the finish if the next token does not continue the decimal at the end
}

// Start begins the continuation of a predicted token after prev, with at most
// limit tokens to come. The predicted token is always kept.
func Start(ends Ends, prev, predicted int32, limit int) *Tail {
	t := &Tail{IDs: []int32{predicted}, ends: ends, left: limit, prev: predicted}
	end, lookahead := ends.End(prev, predicted)
	switch {
	case ends.IsEOS(predicted), end && (!lookahead || limit == 0):
		t.Finish = job.FinishPredicted
	case end:
		t.pending = job.FinishPredicted
	case limit == 0:
		t.Finish = job.FinishLength
	}
	return t
}

// Done says whether the continuation has ended.
func (t *Tail) Done() bool { return t.Finish != "" }

// Undecided says whether the end hangs on the next token: a decimal number may go on.
func (t *Tail) Undecided() bool { return t.pending != "" && !t.Done() }

// Left is how many tokens may still come.
func (t *Tail) Left() int { return t.left }

// Take goes on by the next token and says whether the continuation is done.
func (t *Tail) Take(id int32) bool {
	if t.Done() {
		return true
	}
	if t.pending != "" {
		if !t.ends.ContinuesDecimal(id) {
			t.Finish = t.pending // id is dropped and not counted
			return true
		}
		t.pending = ""
	}
	if t.ends.IsEOS(id) {
		t.Finish = job.FinishEOS
		return true
	}
	t.IDs = append(t.IDs, id)
	t.left--
	end, lookahead := t.ends.End(t.prev, id)
	t.prev = id
	switch {
	case end && lookahead && t.left > 0:
		t.pending = job.FinishStop
	case end:
		t.Finish = job.FinishStop
	case t.left == 0:
		t.Finish = job.FinishLength
	}
	return t.Done()
}

// EndOfText ends a continuation whose text has no more tokens.
func (t *Tail) EndOfText() {
	switch {
	case t.Done():
	case t.pending != "":
		t.Finish = t.pending
	default:
		t.Finish = job.FinishEndOfText
	}
}

// Rest is what a model has yet to generate: after the real tokens before At
// and, unless it is None, the Token. Forks with equal rests share it.
type Rest struct {
	At    int32
	Token int32
}

// Walk follows the fork (p, token) of a model along the real text as far as
// the model's recorded predictions go with it (greedy decoding would do the
// same), and gives the continuation so far and the rest to generate; nil if
// the table tells all. recorded[q] is the prediction for position q, q ≤ len(real).
func Walk(ends Ends, real, recorded []int32, p int, token int32, limit int) (*Tail, *Rest) {
	t := Start(ends, Before(real, p), token, limit)
	if t.Done() {
		return t, nil
	}
	if token != real[p] {
		return t, &Rest{int32(p), token}
	}
	for q := p + 1; ; q++ {
		if q >= len(recorded) || recorded[q] == None {
			return t, &Rest{int32(q), None}
		}
		if q == len(real) || recorded[q] != real[q] {
			if t.Take(recorded[q]) {
				return t, nil
			}
			return t, &Rest{int32(q), recorded[q]}
		}
		if t.Take(real[q]) {
			return t, nil
		}
	}
}

// Direct is the fork with nothing replayed: its rest is itself.
func Direct(ends Ends, real []int32, p int, token int32, limit int) (*Tail, *Rest) {
	t := Start(ends, Before(real, p), token, limit)
	if t.Done() {
		return t, nil
	}
	return t, &Rest{int32(p), token}
}

// ReadOff continues along the real text itself (the reference side of
// trajectories real). An end of text that stands there is kept: only a
// generated one is not.
func ReadOff(ends Ends, real []int32, p, limit int) *Tail {
	t := Start(ends, Before(real, p), real[p], limit)
	for _, id := range real[p+1:] {
		if t.Take(id) {
			if t.Finish == job.FinishEOS {
				t.IDs = append(t.IDs, id)
			}
			return t
		}
	}
	t.EndOfText()
	return t
}

// Before is the real token before a position, None at the first.
func Before(real []int32, p int) int32 {
	if p == 0 {
		return None
	}
	return real[p-1]
}

// EndsAt says whether the text ends a sentence with the token at the position.
func EndsAt(ends Ends, real []int32, p int) bool {
	end, lookahead := ends.End(Before(real, p), real[p])
	return end && !(lookahead && p+1 < len(real) && ends.ContinuesDecimal(real[p+1]))
}

// SentenceEnds gives, for each position of a text and the one behind it, the first from
// there on at which the text ends a sentence; the text's length if none does. It uses dst.
func SentenceEnds(ends Ends, real, dst []int32) []int32 {
	n := len(real)
	dst = slices.Grow(dst[:0], n+1)[:n+1]
	dst[n] = int32(n)
	for q := n - 1; q >= 0; q-- {
		dst[q] = dst[q+1]
		if EndsAt(ends, real, q) {
			dst[q] = int32(q)
		}
	}
	return dst
}

// Expected is how many tokens a rest at q is expected to take of the left: as many as the
// real text to the end of its sentence. ends are SentenceEnds.
func Expected(ends []int32, q, left int32) int32 { return min(max(1, ends[q]-q), left) }
