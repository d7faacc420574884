package judge

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"text/template"

	"tokenfork/internal/job"
)

// TestQuestionHash compares with the hash of what encoding/json makes of a question.
func TestQuestionHash(t *testing.T) {
	j := Judging{PromptHash: "a <hash>", Model: "model \"m\" é"}
	h := &hasher{judging: j}
	head := "Compare é & <these>.\u2028 #1234\n"
	for i, c := range [][2]string{{head, "a dog"}, {head, "a cat"}, {head, "a cat"}, {head, "ö"}, {head, ""}, {}, {head, "a cow \xff\n\""}, {"", "Compare ü"}, {head, "\U0001f98a"},
		{"Compare é & <these>.\u2028 #1235\n", "of another mark"}, {head, "\u0301 combines"}, {"\xff\n", "\x80"}} {
		shown := c[0] + c[1]
		q := &Question{Forks: [2]Fork{{IDs: []int32{1, -2, int32(i)}}, {IDs: []int32{}}}}
		if i%3 == 0 {
			q.Forks[job.Reference].IDs = nil
		}
		b, err := json.Marshal([]any{j.PromptHash, j.Model, shown, q.Forks[job.Small].IDs, q.Forks[job.Reference].IDs})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := h.hash(q, c[0], c[1]); err != nil || got != job.Sum(b) {
			t.Errorf("%q: %s, %v, want %s", shown, got, err, job.Sum(b))
		}
	}
}

// TestFillIn renders by pieces and by the template: the same.
func TestFillIn(t *testing.T) {
	for _, name := range []string{"seed", "r2r"} {
		s := Defaults()
		s.Prompt = name
		p, err := LoadPrompt(s)
		if err != nil {
			t.Fatal(err)
		}
		fast, err := p.Render(example(), s, job.Sides)
		if err != nil || p.pieces == nil {
			t.Fatalf("%s: %d pieces, %v", name, len(p.pieces), err)
		}
		p.pieces = nil
		p.head.Store(nil)
		if slow, err := p.Render(example(), s, job.Sides); err != nil || slow != fast {
			t.Errorf("%s: %v, got\n%s\nand\n%s", name, err, slow, fast)
		}
	}
	for text, simple := range map[string]bool{
		"{{.Mark}} {{- .A.Text -}} \n{{/* why */}}{{.Answer}}": true, "{{if .Mark}}x{{end}}": false, "{{.Row.SentenceID}}": false, "{{.Mark | printf}}": false,
		"{{$x := .Mark}}{{$x}}": false, "{{len .Mark}}": false, "{{.}}": false, "{{.A}}": false, "{{template \"x\"}}": false,
	} {
		if pieces := piecesOf(template.Must(template.New("").Parse(text))); (pieces != nil) != simple {
			t.Errorf("%s: %d pieces", text, len(pieces))
		}
	}
}

// TestPlainAsOneExpression finds the same tokens as a search with the expression.
func TestPlainAsOneExpression(t *testing.T) {
	whole := regexp.MustCompile(strings.TrimPrefix(controlToken.String(), "^"))
	pieces := append(strings.Fields("< <| [ [/ ] ]~ ]~! ◁ ◁/ ▷ > |> a think INST \xe2\x97 é"), " ", "\n")
	r := uint32(1)
	next := func(n int) int {
		r = r*1664525 + 1013904223
		return int(r>>8) % n
	}
	replaced := 0
	for range 3000 {
		var b strings.Builder
		for range next(12) {
			if next(3) == 0 {
				fmt.Fprint(&b, spellings[next(len(spellings))])
			} else {
				fmt.Fprint(&b, pieces[next(len(pieces))])
			}
		}
		want := whole.ReplaceAllStringFunc(b.String(), controlWords)
		if got := plain(b.String()); got != want {
			t.Fatalf("%q: %q, want %q", b.String(), got, want)
		}
		if want != b.String() {
			replaced++
		}
	}
	if replaced < 1000 {
		t.Errorf("only %d texts held a token", replaced)
	}
}

func BenchmarkQuestionHash(b *testing.B) {
	s := Defaults()
	p, err := LoadPrompt(s)
	if err != nil {
		b.Fatal(err)
	}
	h, q, text := &hasher{}, example(), new(rendering)
	q.Before, q.Start = strings.Repeat("The dog saw a cat [1] then. ", 10), "Now a hen"
	for b.Loop() {
		head, rest, err := p.render(text, q, s, job.Sides)
		if err == nil {
			_, err = h.hash(q, head, rest)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// TestAppendJSON escapes each byte, and two characters of several bytes, at every place of a word.
func TestAppendJSON(t *testing.T) {
	odd := []string{"é", "\u2028"}
	for c := range 256 {
		odd = append(odd, string([]byte{byte(c)}))
	}
	for _, c := range odd {
		for at := range 17 {
			s := strings.Repeat("a", at) + c + strings.Repeat("~", 17-at)
			b, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			if got := `"` + string(appendJSON(nil, s)) + `"`; got != string(b) {
				t.Fatalf("%q: %s, want %s", s, got, b)
			}
		}
	}
}
