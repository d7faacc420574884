package shell

import (
	"slices"
	"testing"
)

// FuzzSplit: words written as a command and read again are the same words.
func FuzzSplit(f *testing.F) {
	for _, word := range hostile {
		f.Add(word, "a|b")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		single := func(s string) string { return "'" + s + "'" }
		for _, words := range [][]string{{a}, {a, b}} {
			line := ""
			for _, w := range words {
				if slices.Contains([]byte(w), '\'') || !isPlainText(w) {
					return // Split reads what a user types
				}
				line += single(w) + " "
			}
			if got, err := Split(line); err != nil || !slices.Equal(got, words) {
				t.Errorf("%q is split into %q, %v", line, got, err)
			}
		}
		words, err := Split(a)
		if err == nil && len(words) == 0 && slices.ContainsFunc([]byte(a), func(c byte) bool { return c > ' ' && c < 0x7f }) {
			t.Errorf("%q has no words, and no error says why", a)
		}
	})
}

func isPlainText(s string) bool {
	for _, r := range s {
		if r == '\uFFFD' || r == '\\' {
			return false
		}
	}
	return true
}
