package job

import (
	"unicode"
	"unicode/utf8"
)

// Token classes, by the text of the real token at the position.
const (
	ClassContinuation = iota // letters that continue a word
	ClassNumber
	ClassOther // symbols, mixtures, parts of characters, added tokens, padding
	ClassPunctuation
	ClassSpace     // blanks and newlines only
	ClassWordStart // begins with a space, or is the first letters after one
)

// TokenClasses are the names of the token classes.
var TokenClasses = [...]string{"word_continuation", "number", "other", "punctuation", "space", "word_start"}

// TokenClass is the class of a token's bytes, as an index of TokenClasses: what it
// consists of, leading blanks aside. Whole characters only; the rest is other.
func TokenClass(b []byte) uint8 {
	if len(b) == 0 || !utf8.Valid(b) {
		return ClassOther
	}
	spaced := false
	kind := uint8(ClassSpace)
	for i, c := range string(b) {
		k := uint8(ClassOther)
		switch {
		case unicode.IsSpace(c):
			if kind == ClassSpace {
				spaced = true
				continue
			}
		case unicode.IsLetter(c) || unicode.IsMark(c) || c == '\'' && kind == ClassContinuation:
			k = ClassContinuation
		case unicode.IsDigit(c):
			k = ClassNumber
		case unicode.IsPunct(c):
			k = ClassPunctuation
		}
		if kind == ClassSpace && (i == 0 || spaced) {
			kind = k
		} else if kind != k {
			return ClassOther
		}
	}
	if kind == ClassContinuation && spaced {
		return ClassWordStart
	}
	return kind
}
