package shard

import (
	"unicode"
	"unicode/utf8"

	"tokenfork/internal/job"
)

// Classes by number, in the order they are written.
var classNames = [...]string{job.ClassContinuation, job.ClassNumber, job.ClassOther, job.ClassPunctuation, job.ClassSpace, job.ClassWordStart}

const (
	continuation = iota
	number
	other
	punctuation
	space
	wordStart
	classCount

	padding = classCount // ids without a token; counted as other
)

// classes sorts the vocabulary by what its tokens look like.
func classes(t Tokenizer, size int) []uint8 {
	all := make([]uint8, size)
	for id := range all {
		if b := t.Bytes(int32(id)); b == nil {
			all[id] = padding
		} else {
			all[id] = classOf(b)
		}
	}
	return all
}

// classOf is the class of a token's bytes: what it consists of, leading blanks
// aside. Whole characters only; the rest is other.
func classOf(b []byte) uint8 {
	if len(b) == 0 || !utf8.Valid(b) {
		return other
	}
	spaced := false
	kind := uint8(space)
	for i, c := range string(b) {
		k := uint8(other)
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
			return other
		}
	}
	if kind == continuation && spaced {
		return wordStart
	}
	return kind
}
