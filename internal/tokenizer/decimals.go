package tokenizer

// decimals is what it takes to tell the point of a decimal number from a full stop
// without the tokenizer. Digits are 0 to 9.
type decimals struct {
	// Dot are the ends spelled ".": the character before is in the previous token.
	Dot idSet `json:"dot"`
	// DigitDot are the ends with a digit before the final ".", as "3.".
	DigitDot idSet `json:"digit_dot"`
	// EndsDigit and StartsDigit are all tokens that end or begin with a digit.
	EndsDigit   idSet `json:"ends_digit"`
	StartsDigit idSet `json:"starts_digit"`
}

// newDecimals sorts the tokens of t and its ends by where they have dots and digits.
// Bytes are enough to look at, since all characters concerned are ASCII.
func newDecimals(t *Tokenizer, ends []int32) *decimals {
	var dot, digitDot, endsDigit, startsDigit []int32
	for id := range int32(t.Size()) {
		b := t.Bytes(id)
		if len(b) == 0 {
			continue
		}
		if isDigit(b[0]) {
			startsDigit = append(startsDigit, id)
		}
		if isDigit(b[len(b)-1]) {
			endsDigit = append(endsDigit, id)
		}
	}
	for _, id := range ends {
		b := t.Bytes(id)
		switch n := len(b); {
		case b[n-1] != '.':
		case n == 1:
			dot = append(dot, id)
		case isDigit(b[n-2]):
			digitDot = append(digitDot, id)
		}
	}
	return &decimals{newIDSet(dot), newIDSet(digitDot), newIDSet(endsDigit), newIDSet(startsDigit)}
}

func isDigit(b byte) bool { return b >= '0' && b <= '9' }

// End says whether a sentence ends with id, where prev is the token before it (-1 for
// none), and whether that is so only if no decimal goes on: then the next token must
// be looked at with ContinuesDecimal. Without decimals there is never a look ahead,
// nor at an eos. A prev without a token, from the padding, is no digit.
func (e *Ends) End(prev, id int32) (isEnd, needsLookahead bool) {
	if !e.IsEnd(id) {
		return false, false
	}
	d := e.decimals
	if d == nil || e.IsEOS(id) {
		return true, false
	}
	return true, d.DigitDot.has(id) || d.Dot.has(id) && d.EndsDigit.has(prev)
}

// ContinuesDecimal says whether id, the token after a "." that needed a look ahead,
// begins with a digit, so that the sentence goes on.
func (e *Ends) ContinuesDecimal(id int32) bool {
	return e.decimals != nil && e.decimals.StartsDigit.has(id)
}
