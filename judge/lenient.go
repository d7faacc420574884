package judge

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

// object is a JSON object as a judge wrote it: its values as JSON, and where
// each begins in the text. Names are in lower case, with _ between words.
type object struct {
	value map[string]json.RawMessage
	at    map[string]int
	inner []*object // objects among its values
	start int
	end   int
}

// parser reads JSON and what models write in its place: Python's literals and
// single quotes, commas before a closing bracket, names and words without quotes, line
// breaks, quotes and unknown escapes in strings, comments, and no brace at the very end. Libraries that repair JSON complete
// and reorder what they cannot read; here that is an error, for a verdict must
// not come of a guess.
type parser struct {
	text  string
	at    int
	depth int
	begun int // objects and lists
}

// deepest is more than any answer nests: a text of braces must not be read
// again from each of them to its end.
const deepest = 16

// parseObject reads the object that begins at the place in the text.
func parseObject(text string, at int) (*object, error) {
	o, _, err := parseCounted(text, at)
	return o, err
}

// parseCounted also gives the work that it was, in bytes read.
func parseCounted(text string, at int) (*object, int, error) {
	p := parser{text: text, at: at}
	o, err := p.object()
	work := p.at - at + p.begun*beginning
	if err != nil {
		return nil, work, fmt.Errorf("at byte %d: %w", p.at, err)
	}
	return o, work, nil
}

// beginning an object or a list is as much work as reading so many bytes.
const beginning = 64

var errEnds = errors.New("it ends too early")

// comment is how many bytes one takes that begins the text, 0 for none.
func comment(text string) int {
	if within, found := strings.CutPrefix(text, "/*"); found {
		if end := strings.Index(within[:min(len(within), 500)], "*/"); end >= 0 {
			return end + 4
		}
		return 0
	}
	if !strings.HasPrefix(text, "//") && !strings.HasPrefix(text, "#") {
		return 0
	}
	line, _, _ := strings.Cut(text, "\n")
	return len(line)
}

// space goes over white space and comments.
func (p *parser) space() {
	for p.at < len(p.text) {
		if strings.IndexByte(" \t\r\n", p.text[p.at]) >= 0 {
			p.at++
		} else if n := comment(p.text[p.at:]); n > 0 {
			p.at += n
		} else {
			return
		}
	}
}

// next is the first byte after white space, 0 at the end.
func (p *parser) next() byte {
	p.space()
	if p.at == len(p.text) {
		return 0
	}
	return p.text[p.at]
}

func (p *parser) object() (*object, error) {
	o := &object{value: map[string]json.RawMessage{}, at: map[string]int{}, start: p.at}
	err := p.list('}', func() error { return p.member(o) })
	o.end = p.at
	return o, err
}

// list reads what stands between brackets, with commas between and perhaps one at the end.
func (p *parser) list(closing byte, one func() error) error {
	if p.depth++; p.depth > deepest {
		return errors.New("it is nested too deep")
	}
	defer func() { p.depth-- }()
	p.at++
	p.begun++
	for {
		if p.next() == closing {
			p.at++
			return nil
		}
		if err := one(); err != nil {
			return err
		}
		switch p.next() {
		case ',':
			p.at++
		case closing:
		case 0:
			if p.depth == 1 && closing == '}' { // the verdict is whole
				return nil
			}
			return errEnds
		default:
			return fmt.Errorf("%q where a comma should be", p.text[p.at])
		}
	}
}

func (p *parser) member(o *object) error {
	var name string
	var err error
	if c := p.next(); c == '"' || c == '\'' {
		name, err = p.str(c, ":")
	} else {
		name = p.word()
	}
	switch {
	case err != nil:
		return err
	case name == "" || p.next() != ':':
		return errors.New("no name and colon")
	}
	p.at++
	p.space()
	from := p.at
	v, inner, err := p.value()
	if err != nil {
		return err
	}
	if found := decimals.FindString(p.text[p.at:]); found != "" { // 0,9
		p.at += len(found) - 1
		v = quoted(p.text[from:p.at])
	}
	name = strings.NewReplacer(" ", "_", "-", "_").Replace(strings.ToLower(humps.ReplaceAllString(strings.TrimSpace(name), "${1}_$2")))
	if other, twice := o.value[name]; twice && string(other) != string(v) {
		return fmt.Errorf("field %q appears twice", name)
	}
	o.value[name], o.at[name], o.inner = v, from, append(o.inner, inner...)
	return nil
}

var (
	decimals = regexp.MustCompile(`^,\d+[\s,}]`)
	humps    = regexp.MustCompile(`([a-z])([A-Z])`)
)

// word reads letters, digits and what numbers and shares have.
func (p *parser) word() string {
	from := p.at
	for p.at < len(p.text) {
		c := p.text[p.at]
		if strings.IndexByte("_.+-~%/", c) < 0 && (c < '0' || c > '9') && (c|32 < 'a' || c|32 > 'z') {
			break
		}
		p.at++
	}
	return p.text[from:p.at]
}

var literals = map[string]string{"true": "true", "false": "false", "null": "null", "none": "null",
	"yes": `"yes"`, "no": `"no"`, "nan": "null", "infinity": "null", "-infinity": "null", "undefined": "null", "high": "null", "medium": "null", "low": "null"}

// value reads a value and gives it as JSON, with the objects in it.
func (p *parser) value() (json.RawMessage, []*object, error) {
	switch c := p.next(); c {
	case 0:
		return nil, nil, errEnds
	case '"', '\'':
		s, err := p.str(c, ",}]")
		return quoted(s), nil, err
	case '{':
		o, err := p.object()
		return json.RawMessage("{}"), []*object{o}, err
	case '[':
		return p.array()
	}
	w := p.word()
	if l, ok := literals[strings.ToLower(w)]; ok {
		return json.RawMessage(l), nil, nil
	}
	if !json.Valid([]byte(w)) {
		if w == "" || strings.IndexByte(".+-~0123456789", w[0]) < 0 {
			return nil, nil, fmt.Errorf("%q is no value", w)
		}
		return quoted(w), nil, nil // 90%, .9
	}
	return json.RawMessage(w), nil, nil
}

func (p *parser) array() (json.RawMessage, []*object, error) {
	items, inner := []json.RawMessage{}, []*object(nil)
	err := p.list(']', func() error {
		v, in, err := p.value()
		items, inner = append(items, v), append(inner, in...)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	b, err := json.Marshal(items)
	return b, inner, err
}

func quoted(s string) json.RawMessage {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings always encode
	}
	return b
}

var escapes = map[byte]string{'"': `"`, '\'': "'", '\\': `\`, '/': "/", 'b': "\b", 'f': "\f", 'n': "\n", 'r': "\r", 't': "\t"}

// str reads a string. Quotes end it only before one of those bytes: elsewhere
// they are apostrophes, or quote a word of a line. A name's double quotes always end it.
func (p *parser) str(quote byte, before string) (string, error) {
	var b strings.Builder
	inner := false
	for p.at++; p.at < len(p.text); {
		c := p.text[p.at]
		switch {
		case c == quote && (quote == '"' && before == ":" || p.endsBefore(before)):
			p.at++
			return b.String(), nil
		case inner && c == '\n':
			return "", errEnds
		case c == '\\' && p.at+1 < len(p.text):
			b.WriteString(p.escape())
		default:
			inner = inner || c == '"' && quote == '"'
			_, n := utf8.DecodeRuneInString(p.text[p.at:])
			b.WriteString(p.text[p.at : p.at+n])
			p.at += n
		}
	}
	return "", errEnds
}

func (p *parser) endsBefore(closers string) bool {
	after := strings.TrimLeft(p.text[p.at+1:], " \t\r\n")
	return after != "" && strings.IndexByte(closers, after[0]) >= 0
}

// escape reads a backslash and what follows. LaTeX's \( and \alpha stay as they are.
func (p *parser) escape() string {
	next := p.text[p.at+1]
	if next == 'u' && p.at+6 <= len(p.text) {
		end := p.at + 6
		if strings.HasPrefix(p.text[end:], `\u`) && end+6 <= len(p.text) { // perhaps a surrogate pair
			end += 6
		}
		for ; end > p.at; end -= 6 {
			var s string
			if json.Unmarshal([]byte(`"`+p.text[p.at:end]+`"`), &s) == nil {
				p.at = end
				return s
			}
		}
	}
	p.at += 2
	if e, ok := escapes[next]; ok {
		return e
	}
	return `\` + string(next)
}
