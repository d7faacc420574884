// Package shell reads and writes words and commands as a shell does.
package shell

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/mattn/go-shellwords"

	"tokenfork/internal/terminal"
)

var plain = regexp.MustCompile(`^[\w@%+=:,./-]+$`)

// Quote makes s one word. What a terminal would act on is written as $'\x1b', so
// that the word can be printed and pasted.
func Quote(s string) string {
	if plain.MatchString(s) {
		return s
	}
	if strings.Contains(s, "\t") || terminal.Safe(s) != s { // a pasted tab completes
		return ansiC(s)
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// Join writes words as a command.
func Join(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = Quote(w)
	}
	return strings.Join(quoted, " ")
}

// Split gives the words of a command line. An operator outside quotes ( | & ; < > )
// is an error with its position: nothing here runs a shell, and words are never dropped.
func Split(line string) ([]string, error) {
	p := shellwords.NewParser()
	words, err := p.Parse(line)
	if err != nil {
		return nil, err
	}
	if p.Position < 0 {
		return words, nil
	}
	runes, at := []rune(line), p.Position
	for runes[at] >= '0' && runes[at] <= '9' { // of 2> the parser names the 2
		at++
	}
	return nil, &OperatorError{Operator: runes[at], Position: at + 1}
}

// OperatorError says where a command line needs a shell.
type OperatorError struct {
	Operator rune
	Position int // in characters, from 1
}

func (e *OperatorError) Error() string {
	return fmt.Sprintf("%q at character %d needs a shell, and none reads this", e.Operator, e.Position)
}

// ansiC writes s as bash, ksh and zsh read $'…'.
func ansiC(s string) string {
	var b strings.Builder
	b.WriteString("$'")
	for i := range len(s) {
		switch c := s[i]; {
		case c == '\'' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < ' ' && c != '\n' || c >= 0x7f:
			fmt.Fprintf(&b, `\x%02x`, c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String() + "'"
}
