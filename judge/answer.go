package judge

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"tokenfork/judge/endpoint"
)

// Sources of a confidence. They measure different things: never pool them.
const (
	LogprobMasked = "logprob_masked" // the verdict's token, under a JSON grammar
	LogprobFree   = "logprob_free"   // the verdict's token, nothing forced
	ByVotes       = "votes"          // share of the askings that say so
	Self          = "self"           // the judge's own word
	Identical     = "identical"      // nobody was asked
)

// answer is what a judge said.
type answer struct {
	match       bool
	explanation *string
	differences []string
	confidence  *float64
	source      *string
}

// members are an object's values with the places of their first bytes in the text.
type members struct {
	value map[string]json.RawMessage
	at    map[string]int
}

// read finds the verdict in a reply. It never guesses: what can be read in two
// ways, or not at all, is an error.
func (f form) read(r *endpoint.Reply) (answer, error) {
	if f.schema == nil {
		return f.readWord(r)
	}
	m, err := f.find(r.Text, r.Masked)
	if err != nil {
		return answer{}, err
	}
	if m == nil {
		return f.readLines(r)
	}
	a := answer{}
	value := strings.ToLower(strings.Trim(string(m.value[f.property]), `"`))
	if a.match, err = f.verdict(value); err != nil {
		return answer{}, err
	}
	a.explanation = stringOf(m.value["explanation"])
	a.differences = listOf(m.value["key_differences"])
	a.measure(f, r, m.at[f.property])
	if a.source == nil && len(r.Tokens) == 0 {
		a.ownConfidence(m.value["confidence"])
	}
	return a, nil
}

func (f form) verdict(value string) (bool, error) {
	switch value {
	case f.match:
		return true, nil
	case f.differ:
		return false, nil
	}
	return false, fmt.Errorf("%s is %s, neither %s nor %s", f.property, value, f.match, f.differ)
}

func (a *answer) ownConfidence(raw json.RawMessage) {
	var c float64
	if json.Unmarshal(raw, &c) == nil && c >= 0 && c <= 1 { // 90 may mean 0.9, or may not
		a.confidence, a.source = &c, ptr(Self)
	}
}

func ptr[T any](v T) *T { return &v }

func stringOf(raw json.RawMessage) *string {
	var s *string
	if json.Unmarshal(raw, &s) != nil {
		return nil
	}
	return s
}

func listOf(raw json.RawMessage) []string {
	var l []string
	if json.Unmarshal(raw, &l) == nil {
		return l
	}
	if s := stringOf(raw); s != nil {
		return []string{*s}
	}
	return nil
}

// find gives the object that holds the verdict, nil if there is none. Without
// a grammar it may stand in other text and be written as Python would.
func (f form) find(text string, strict bool) (*members, error) {
	if !strict {
		text = repair(text)
	}
	var found *members
	for at := 0; ; {
		next := strings.IndexByte(text[at:], '{')
		if next < 0 {
			return found, nil
		}
		at += next
		m, n, err := object(text[at:], at)
		if err != nil {
			if strict {
				return nil, fmt.Errorf("not a JSON object: %w", err)
			}
			at++
			continue
		}
		at += n
		if _, ok := m.value[f.property]; !ok {
			continue
		}
		if found != nil && string(found.value[f.property]) != string(m.value[f.property]) {
			return nil, errors.New("two verdicts that differ")
		}
		found = m
	}
}

// object reads the JSON object that text starts with, n bytes long.
func object(text string, base int) (m *members, n int, err error) {
	d := json.NewDecoder(strings.NewReader(text))
	if _, err := d.Token(); err != nil {
		return nil, 0, err
	}
	m = &members{map[string]json.RawMessage{}, map[string]int{}}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, 0, err
		}
		var v json.RawMessage
		if err := d.Decode(&v); err != nil {
			return nil, 0, err
		}
		name := key.(string)
		if _, twice := m.value[name]; twice {
			return nil, 0, fmt.Errorf("%q is there twice", name)
		}
		m.value[name], m.at[name] = v, base+int(d.InputOffset())-len(v)
	}
	if _, err := d.Token(); err != nil {
		return nil, 0, err
	}
	return m, int(d.InputOffset()), nil
}

// repair mends what models write in place of JSON, byte for byte, so that all
// places stay: Python's True, False and None, and commas before a closing bracket.
func repair(text string) string {
	b := []byte(text)
	inString := false
	for i := 0; i < len(b); i++ {
		switch {
		case inString && b[i] == '\\':
			i++
		case b[i] == '"':
			inString = !inString
		case inString:
		case b[i] == ',' && closes(b[i+1:]):
			b[i] = ' '
		default:
			for _, w := range [][2]string{{"True", "true"}, {"False", "false"}, {"None", "null"}} {
				if strings.HasPrefix(string(b[i:min(len(b), i+5)]), w[0]) {
					copy(b[i:], w[1])
				}
			}
		}
	}
	return string(b)
}

func closes(b []byte) bool {
	rest := strings.TrimLeft(string(b[:min(len(b), 64)]), " \t\r\n")
	return strings.HasPrefix(rest, "}") || strings.HasPrefix(rest, "]")
}

var (
	verdictLine     = regexp.MustCompile(`(?im)^[\s*#>_-]*(?:verdict|meaning_match|divergent|answer)\b[^:\n]{0,40}:[\s*_"<]*(true|false|0|1)\b`)
	explanationLine = regexp.MustCompile(`(?is)\b(?:explanation|reasons?)[\s*_]*:[\s*_]*(\S.*)$`)
)

// readLines reads "Verdict: True" and "Explanation: …" of a server that holds
// answers to no format.
func (f form) readLines(r *endpoint.Reply) (answer, error) {
	found := verdictLine.FindAllStringSubmatchIndex(r.Text, -1)
	if r.Masked || len(found) == 0 {
		return answer{}, errors.New("no verdict in it")
	}
	var a answer
	for i, at := range found {
		match, err := f.verdict(strings.ToLower(r.Text[at[2]:at[3]]))
		if err != nil {
			return answer{}, err
		}
		if i > 0 && match != a.match {
			return answer{}, errors.New("two verdicts that differ")
		}
		a.match = match
	}
	if e := explanationLine.FindStringSubmatch(r.Text); e != nil {
		a.explanation = ptr(strings.TrimSpace(e[1]))
	}
	a.measure(f, r, found[len(found)-1][2])
	return a, nil
}

// readWord reads an answer of one word.
func (f form) readWord(r *endpoint.Reply) (answer, error) {
	const around = " \t\r\n.,:;*_\"'`"
	word := strings.ToLower(strings.Trim(r.Text, around))
	match, err := f.verdict(word)
	if err != nil {
		return answer{}, err
	}
	a := answer{match: match}
	a.measure(f, r, strings.Index(strings.ToLower(r.Text), word))
	return a, nil
}

// measure sets the confidence by the probabilities at the verdict's first token.
func (a *answer) measure(f form, r *endpoint.Reply, at int) {
	given, other := f.match, f.differ
	if !a.match {
		given, other = other, given
	}
	p := probability(r, at, given, other)
	if p == nil {
		return
	}
	a.confidence, a.source = p, ptr(LogprobFree)
	if r.Masked {
		a.source = ptr(LogprobMasked)
	}
}

// probability is P(given) / (P(given) + P(other)) over the likeliest tokens at
// the place of the verdict in the text; nil if neither begins any of them.
func probability(r *endpoint.Reply, at int, given, other string) *float64 {
	t := tokenAt(r, at)
	if t == nil {
		return nil
	}
	alternatives := t.Top
	listed := false
	for _, alt := range t.Top {
		listed = listed || alt.Text == t.Text
	}
	if !listed {
		alternatives = append([]endpoint.Token{*t}, alternatives...)
	}
	var sum [2]float64
	for _, alt := range alternatives {
		for i, literal := range []string{given, other} {
			if begins(alt.Text, literal, r.Masked) {
				sum[i] += alt.Probability()
			}
		}
	}
	if sum[0]+sum[1] == 0 {
		return nil
	}
	return ptr(sum[0] / (sum[0] + sum[1]))
}

// begins says whether a token may start the literal. Under a grammar "t" can
// only go on to "true"; in free text it may become any word.
func begins(token, literal string, masked bool) bool {
	word := strings.ToLower(strings.TrimLeft(token, " \t\r\n\":*_'`<"))
	return word != "" && (strings.HasPrefix(word, literal) || masked && strings.HasPrefix(literal, word))
}

// tokenAt is the token that holds byte at of the text. Servers may list more
// tokens than the text has, of a thinking part before it for instance.
func tokenAt(r *endpoint.Reply, at int) *endpoint.Token {
	var all strings.Builder
	for _, t := range r.Tokens {
		all.WriteString(t.Text)
	}
	base := strings.LastIndex(all.String(), r.Text)
	if base < 0 {
		return nil
	}
	at += base
	for i, t := range r.Tokens {
		if at < len(t.Text) {
			return &r.Tokens[i]
		}
		at -= len(t.Text)
	}
	return nil
}
