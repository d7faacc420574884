package job

import (
	"unicode"
	"unicode/utf8"
)

// TokenClasses are the token classes by number, in the order they are written.
var TokenClasses = [...]string{ClassContinuation, ClassNumber, ClassOther, ClassPunctuation, ClassSpace, ClassWordStart}

const (
	continuation = iota
	number
	// OtherClass is the number of ClassOther.
	OtherClass
	punctuation
	space
	wordStart
)

// TokenClass is the class of a token's bytes, as an index of TokenClasses: what it
// consists of, leading blanks aside. Whole characters only; the rest is other.
func TokenClass(b []byte) uint8 {
	if len(b) == 0 || !utf8.Valid(b) {
		return OtherClass
	}
	spaced := false
	kind := uint8(space)
	for i, c := range string(b) {
		k := uint8(OtherClass)
		switch {
		case unicode.IsSpace(c):
			if kind == space {
				spaced = true
				continue
			}
		case unicode.IsLetter(c) || unicode.IsMark(c) || c == '\'' && kind == continuation:
			k = continuation
		case unicode.IsDigit(c):
			k = number
		case unicode.IsPunct(c):
			k = punctuation
		}
		if kind == space && (i == 0 || spaced) {
			kind = k
		} else if kind != k {
			return OtherClass
		}
	}
	if kind == continuation && spaced {
		return wordStart
	}
	return kind
}
