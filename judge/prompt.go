package judge

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"text/template"
	"text/template/parse"
	"unsafe"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/regular"
)

//go:embed prompts
var prompts embed.FS

// builtin are the prompts that come with the program. A changed text is a new version.
var builtin = map[string]struct{ version, form string }{
	"seed": {"seed-2", "match"},
	"r2r":  {"r2r-2", "divergent"},
}

// Prompt turns questions into text and knows what an answer looks like.
type Prompt struct {
	Version string // seed-2, r2r-2 or file:NAME
	Hash    string // sha256 over the text, the form of the answer and its schema
	Text    string
	text    *template.Template
	pieces  []piece // of a text that only puts in what is shown; none for one that does more
	form    form
	raw     bool // shows control tokens as they are spelled, as judgings of format 1 did
	head    atomic.Pointer[head]
}

// shown is what a template may use.
type shown struct {
	Before string // up to the current sentence
	Start  string // of the current sentence
	A, B   shownFork
	Mark   string // begins each section, and is in no text
	blind  bool
	row    *job.Result
	answer string
	placed bool // the template says where the answer's form is told
}

// Context is the real text before the fork: Before and Start together.
func (s *shown) Context() string { return s.Before + s.Start }

// Answer tells the form of the answer. Where a template does not place it, it
// follows at the end.
func (s *shown) Answer() string {
	s.placed = true
	return s.answer
}

type shownFork struct {
	Label  string // "Small model continuation", "Continuation A"
	Text   string // Fork and Rest together
	Fork   string // the predicted token
	Rest   string
	Finish string // predicted, stop, eos, length, end_of_text
}

// Row is the mismatch's row in the results, by the columns' Go names
// (SentenceID, MismatchPosition, SmallEntropy, …). It tells the sides apart.
func (s *shown) Row() (*job.Result, error) {
	if s.blind {
		return nil, fmt.Errorf(".Row would tell the sides apart, which --blind forbids")
	}
	return s.row, nil
}

// LoadPrompt reads the prompt that the settings name.
func LoadPrompt(s Settings) (*Prompt, error) {
	name, path, isFile := strings.Cut(s.Prompt, "=")
	b, isBuiltin := builtin[name]
	switch {
	case isBuiltin && !isFile:
		text, err := prompts.ReadFile("prompts/" + name + ".tmpl")
		if err != nil {
			return nil, fmt.Errorf("read judge prompt: %w", err)
		}
		return newPrompt(judgingFormat, b.version, string(text), s)
	case isFile && name == "file" && path != "":
		text, err := regular.Read(path)
		if err != nil {
			return nil, fmt.Errorf("read judge prompt: %w", err)
		}
		return newPrompt(judgingFormat, "file:"+filepath.Base(path), string(text), s)
	}
	return nil, failure.New(failure.Usage, "it is seed, r2r or file=PATH", "judge prompt %q", s.Prompt)
}

// newPrompt makes a prompt of its text, for a judging of the format. The version
// tells what answers look like.
func newPrompt(format int, version, text string, s Settings) (*Prompt, error) {
	kind := "match"
	if strings.HasPrefix(version, "r2r-") {
		kind = builtin["r2r"].form
	}
	f, err := loadForm(kind, s.VerdictOnly)
	if err != nil {
		return nil, err
	}
	p := &Prompt{Version: version, Text: text, form: f, raw: format < judgingFormat,
		Hash: job.Sum([]byte(strings.Join([]string{text, f.instruction, string(f.schema)}, "\x00")))}
	return p, p.parse(s)
}

// parse compiles the template and tries it, so that a wrong name in it is found
// before the first question.
func (p *Prompt) parse(s Settings) (err error) {
	if p.text, err = template.New(p.Version).Parse(p.Text); err == nil {
		p.pieces = piecesOf(p.text)
		_, err = p.Render(&Question{Row: &job.Result{}}, s, job.Sides)
	}
	if err != nil {
		return failure.New(failure.Usage, "docs/judge.md lists what a template may use", "judge prompt %s: %w", p.Version, err)
	}
	return nil
}

// Render is the question as the judge reads it, with the sides in that order.
func (p *Prompt) Render(q *Question, s Settings, order [2]job.Side) (string, error) {
	head, rest, err := p.render(new(rendering), q, s, order)
	return head + rest, err
}

// rendering is the memory that a question is rendered in.
type rendering struct {
	text bytes.Buffer
	data shown
}

// render gives the question in two: what it has in common with others of its job, and
// the rest, which is good until r is used again: merge and check render a question
// for every verdict.
func (p *Prompt) render(r *rendering, q *Question, s Settings, order [2]job.Side) (head, rest string, err error) {
	b, data := &r.text, &r.data
	*data = shown{Before: q.Before, Start: q.Start, blind: s.Blind, row: q.Row, answer: p.form.instruction}
	for i, to := range []*shownFork{&data.A, &data.B} {
		f := q.Forks[order[i]]
		*to = shownFork{label(s.Blind, i, order[i]), f.Text(), f.Token, f.Rest, f.Finish}
	}
	data.Mark = q.markBeside(data.A.Text, data.B.Text)
	h := p.headOf(data)
	data.placed = h.placed
	b.Reset()
	if err := p.fillIn(b, h.pieces, data); err != nil {
		return "", "", fmt.Errorf("fill in judge prompt: %w", err)
	}
	head, rest = h.text, strings.TrimRight(unsafe.String(unsafe.SliceData(b.Bytes()), b.Len()), "\n")
	if rest == "" {
		head = strings.TrimRight(head, "\n")
	}
	if !data.placed {
		rest += "\n\n" + p.form.instruction
	}
	if !p.raw {
		rest = plain(rest) // of all together: a token may be spelled by the end of one text and the start of the next
	}
	return head, rest, nil
}

// head is what questions with the same mark begin with.
type head struct {
	mark   string
	text   string  // whole lines, which is what control tokens never go beyond
	placed bool    // the answer's form is told in it
	pieces []piece // that follow
}

// headOf is the head of a question. That of the last one is kept: most have the same mark.
func (p *Prompt) headOf(q *shown) *head {
	if h := p.head.Load(); h != nil && h.mark == q.Mark {
		return h
	}
	same := &shown{Mark: q.Mark, answer: q.answer}
	var b bytes.Buffer
	n := 0
	for ; n < len(p.pieces) && (p.pieces[n].value == nil || p.pieces[n].same); n++ {
		p.pieces[n].fillIn(&b, same)
	}
	text := b.String()
	end := strings.LastIndexByte(text, '\n') + 1
	h := &head{mark: q.Mark, text: text[:end], placed: same.placed, pieces: append([]piece{{text: text[end:]}}, p.pieces[n:]...)}
	if !p.raw {
		h.text = plain(h.text)
	}
	p.head.Store(h)
	return h
}

// piece of a template: a text of its own, or what is put in.
type piece struct {
	text  string
	value func(*shown) string
	same  bool // for all questions with the same mark
}

var values = map[string]func(*shown) string{
	"Before": func(s *shown) string { return s.Before },
	"Start":  func(s *shown) string { return s.Start }, "Mark": func(s *shown) string { return s.Mark }, "Answer": (*shown).Answer,
	"A.Label": func(s *shown) string { return s.A.Label }, "B.Label": func(s *shown) string { return s.B.Label },
	"A.Text": func(s *shown) string { return s.A.Text }, "B.Text": func(s *shown) string { return s.B.Text },
	"A.Fork": func(s *shown) string { return s.A.Fork }, "B.Fork": func(s *shown) string { return s.B.Fork },
	"A.Rest": func(s *shown) string { return s.A.Rest }, "B.Rest": func(s *shown) string { return s.B.Rest },
	"A.Finish": func(s *shown) string { return s.A.Finish }, "B.Finish": func(s *shown) string { return s.B.Finish },
}

// piecesOf takes a template apart that only puts in texts, as those of the
// program do: merge and check render a question for every verdict, and so it is
// ten times faster. It gives none if the template does anything else.
func piecesOf(t *template.Template) (pieces []piece) {
	for _, n := range t.Root.Nodes {
		switch n := n.(type) {
		case *parse.TextNode:
			pieces = append(pieces, piece{text: string(n.Text)})
		case *parse.ActionNode:
			if len(n.Pipe.Decl) > 0 || len(n.Pipe.Cmds) != 1 || len(n.Pipe.Cmds[0].Args) != 1 {
				return nil
			}
			field, ok := n.Pipe.Cmds[0].Args[0].(*parse.FieldNode)
			if !ok {
				return nil
			}
			names := []string{strings.Join(field.Ident, ".")}
			if names[0] == "Context" {
				names = []string{"Before", "Start"}
			}
			for _, name := range names {
				if values[name] == nil {
					return nil
				}
				pieces = append(pieces, piece{value: values[name], same: name == "Mark" || name == "Answer"})
			}
		default:
			return nil
		}
	}
	return pieces
}

// fillIn puts the pieces together, or, where the template does more, the whole.
func (p *Prompt) fillIn(b *bytes.Buffer, pieces []piece, data *shown) error {
	if p.pieces == nil {
		return p.text.Execute(b, data)
	}
	for _, x := range pieces {
		x.fillIn(b, data)
	}
	return nil
}

func (x piece) fillIn(b *bytes.Buffer, data *shown) {
	if x.value != nil {
		b.WriteString(x.value(data))
	} else {
		b.WriteString(x.text)
	}
}

func label(blind bool, i int, side job.Side) string {
	if blind {
		return "Continuation " + "AB"[i:i+1]
	}
	return [2]string{"Small model continuation", "Reference model continuation"}[side]
}

// form is how an answer is asked for and what it means.
type form struct {
	property    string // of the JSON object that holds the verdict
	match       string // the value that says "same meaning"
	differ      string
	instruction string
	schema      json.RawMessage // nil for one-word answers
	word        json.RawMessage // schema of the verdict alone
}

func loadForm(kind string, verdictOnly bool) (form, error) {
	f := form{property: "meaning_match", match: "true", differ: "false"}
	verdictType := `{"type":"boolean"}`
	if kind == "divergent" {
		f = form{property: "divergent", match: "0", differ: "1"}
		verdictType = `{"type":"integer","enum":[0,1]}`
	}
	f.word = json.RawMessage(verdictType)
	file := "prompts/" + kind + ".answer"
	if verdictOnly {
		file = "prompts/" + kind + "-short.answer"
	} else {
		// Ordered by hand: the analysis comes first, so that the verdict follows from it.
		f.schema = json.RawMessage(`{"type":"object","properties":{"explanation":{"type":"string"},` +
			`"key_differences":{"type":"array","items":{"type":"string"}},"` + f.property + `":` + verdictType + `,"confidence":{"type":"number"}},` +
			`"required":["explanation","key_differences","` + f.property + `","confidence"],"additionalProperties":false}`)
	}
	instruction, err := prompts.ReadFile(file)
	f.instruction = strings.TrimRight(string(instruction), "\n")
	return f, err
}
