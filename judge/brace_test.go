package judge

import (
	"errors"
	"strings"
	"testing"

	"tokenfork/judge/endpoint"
)

// A reply of braces costs a few readings of at most longest bytes. Read from each
// brace to the end, any of these would outlast the test's time limit.
func TestRepliesOfBraces(t *testing.T) {
	f, err := loadForm("match", false)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"{", `{"a":`, "[{", `{"a":1} `, `{"a":1}` + "\n", "```{", "{'", "{'a':", `{"`, "{a:", "Verdict: \n{", "{}", `\{"`, `[[`, `{"a":[`, "{/*", "{#", "{//", "{\"a\":\"b\"/*", `{"a":"b"`, "{\"a\":0,9", "<answer>", `{\"`} {
		if a, err := f.read(&endpoint.Reply{Text: strings.Repeat(s, 600_000/len(s))}); !errors.Is(err, errTooLong) {
			t.Errorf("600 kB of %s: got %+v, %v", s, a, err)
		}
		if a, err := f.read(&endpoint.Reply{Text: strings.Repeat(s, longest/len(s))}); err == nil {
			t.Errorf("%s: got %+v", s, a)
		}
	}
	if a, err := f.read(&endpoint.Reply{Text: strings.Repeat("</think>{", 600_000/9)}); err == nil {
		t.Errorf("thoughts and a brace: got %+v", a)
	}
}

// What is long for a reason is read: thoughts, and an answer with formulas.
func TestLongReplies(t *testing.T) {
	f, err := loadForm("match", false)
	if err != nil {
		t.Fatal(err)
	}
	verdict := "\n" + `{"explanation": "same", "key_differences": [], "meaning_match": true}`
	formulas := strings.Repeat(`Then \frac{a}{b} is {c: d}, so {"x" is 1. `, 400)
	for name, text := range map[string]string{
		"thoughts": "<think>" + strings.Repeat(formulas, 40) + "</think>" + verdict,
		"formulas": formulas + verdict,
	} {
		if a, err := f.read(&endpoint.Reply{Text: text}); err != nil || !a.match {
			t.Errorf("%s of %d bytes: got %+v, %v", name, len(text), a, err)
		}
	}
}
