package judge

import (
	"strings"
	"testing"

	"tokenfork/judge/endpoint"
)

// A reply of braces costs no more than a few readings of it. Read from each
// brace to the end, any of these would outlast the test's time limit.
func TestRepliesOfBraces(t *testing.T) {
	f, err := loadForm("match", false)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"{", `{"a":`, "[{", `{"a":1} `, `{"a":1}` + "\n", "```{", "{'", "{'a':", `{"`, "{a:", "</think>{", "Verdict: \n{", "{}", `\{"`, `[[`, `{"a":[`} {
		if a, err := f.read(&endpoint.Reply{Text: strings.Repeat(s, 600_000/len(s))}); err == nil {
			t.Errorf("%s: got %+v", s, a)
		}
	}
}
