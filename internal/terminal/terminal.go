// Package terminal makes text that came from a job, a table, a server or a file
// harmless to the terminal or log that shows it, and as short as people want it.
package terminal

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Safe replaces what a terminal would act on by a visible escape such as \x1b or
// \u202e: control characters except newline and tab, characters that change the
// direction of text, and bytes that are not UTF-8. The escapes of characters are
// JSON's too, so that safe JSON stays the same JSON.
func Safe(s string) string {
	if isSafe(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case r < ' ' && acts(r): // JSON has escaped these already
			fmt.Fprintf(&b, `\x%02x`, r)
		case acts(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}

// Clip cuts a text that has more bytes than most, and says so by a "…".
func Clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// Grouped writes a number with its thousands apart.
func Grouped(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func isSafe(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, acts)
}

// acts says whether a terminal may do something else with r than show it.
func acts(r rune) bool {
	return r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r))
}

// Writer writes to another writer what Safe makes of the text. Each Write must
// hold whole characters.
type Writer struct{ to io.Writer }

// NewWriter gives the Writer to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w} }

// Unwrap gives the writer behind: for a progress bar, which moves the cursor.
func (w *Writer) Unwrap() io.Writer { return w.to }

func (w *Writer) Write(p []byte) (int, error) {
	if _, err := io.WriteString(w.to, Safe(string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}
