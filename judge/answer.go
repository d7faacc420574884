package judge

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"tokenfork/judge/endpoint"
)

// Sources of a confidence. They measure different things: never pool them.
const (
	LogprobMasked = "logprob_masked" // the verdict's token, under a JSON grammar
	LogprobFree   = "logprob_free"   // the verdict's token, nothing forced
	ByVotes       = "votes"          // share of the askings that say so
	Self          = "self"           // the judge's own word
	Identical     = "identical"      // the judge was not asked
)

// answer is what a judge said.
type answer struct {
	match       bool
	explanation *string
	differences []string
	confidence  *float64
	source      *string
}

// read finds the verdict in a reply. It never guesses: what can be read in two
// ways, or not at all, is an error.
func (f form) read(r *endpoint.Reply) (answer, error) {
	a, err := f.readAs(r)
	if !errors.Is(err, errNoVerdict) {
		return a, err
	}
	again := *r
	if again.Text = narrow.Replace(r.Text); again.Text == r.Text {
		again.Text = unescaped(r.Text)
	}
	if again.Text == r.Text {
		return a, err
	}
	return f.read(&again)
}

// narrow replaces what models write for JSON's quotes and punctuation, by as many bytes.
var narrow = strings.NewReplacer("“", `  "`, "”", `"  `, "：", ":  ", "，", ",  ", "｛", "{  ", "｝", "}  ")

// unescaped is the text of an object that stands in a JSON string, with or without its quotes; else the text.
func unescaped(text string) string {
	s := strings.TrimSpace(blank(text))
	if strings.HasPrefix(s, `{\"`) {
		s = `"` + s + `"`
	}
	var inner string
	if json.Unmarshal([]byte(s), &inner) != nil || !strings.Contains(inner, "{") {
		return text
	}
	return inner
}

func (f form) readAs(r *endpoint.Reply) (answer, error) {
	from, err := spoken(r.Text)
	if err != nil {
		return answer{}, err
	}
	if r.Masked && !json.Valid([]byte(r.Text[from:])) { // by a server that passes over the grammar
		free := *r
		free.Masked, r = false, &free
	}
	o, rest, err := f.find(r, from)
	if err != nil {
		return answer{}, err
	}
	if f.schema == nil && o == nil { // else a judge that answers in JSON whatever it is asked
		return f.readWord(r, from)
	}
	a := answer{}
	if o == nil {
		return f.readLines(r, from, rest)
	}
	value := strings.ToLower(strings.Trim(string(o.value[f.property]), `" .*`))
	if a.match, err = f.verdict(f.literal(value)); err != nil {
		return answer{}, err
	}
	if line, err := f.readLines(r, from, rest); err == nil && line.match != a.match || err != nil && !errors.Is(err, errNoVerdict) {
		return answer{}, errors.New("two verdicts that differ")
	}
	a.explanation = stringOf(o.value["explanation"])
	a.differences = listOf(o.value["key_differences"])
	a.measure(f, r, o.at[f.property])
	if a.source == nil && len(r.Tokens) == 0 {
		a.ownConfidence(o.value["confidence"])
	}
	return a, nil
}

// longest is how many bytes an answer may have behind its thoughts. Reading it
// costs milliseconds whatever it holds.
const longest = 64 << 10

var errTooLong = fmt.Errorf("it is longer than %d KiB", longest>>10)

// spoken is where the answer begins: behind the last thought, which may hold
// drafts of the verdict.
func spoken(text string) (int, error) {
	if at := strings.IndexByte(text, '{'); at >= 0 && strings.TrimSpace(text[:at]) == "" {
		if len(text) > longest {
			return 0, errTooLong
		}
		if o, err := parseObject(text, at); err == nil && strings.TrimSpace(text[o.end:]) == "" {
			return 0, nil // the end of a thought is quoted in it
		}
	}
	from, ok := endpoint.Spoken(text)
	switch {
	case len(text)-from > longest:
		return 0, errTooLong
	case !ok:
		return 0, errors.New("it ends before its thoughts do")
	}
	return from, nil
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
	var c *float64
	if json.Unmarshal(raw, &c) == nil && c != nil && *c >= 0 && *c <= 1 { // 90 may mean 0.9, or may not
		a.confidence, a.source = c, new(Self)
	}
}

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

var (
	aside = regexp.MustCompile("^(?:[\\s*_>#`~.:,;{}|\\[\\]\x01$-]|\\\\boxed)*(?:[0-9]+[.)]\\s*)?(?:```)?(?:json|JSON)?\\s*$")
	lead  = regexp.MustCompile(`(?i)^\W*(?:(?:sure|certainly|of course|okay)\W+)?(?:(?:here is|here's|this is) )?(?:(?:the|my|your) )?(?:final |json |requested )*` +
		`(?:answer|json|object|output|response|verdict|result|reply|analysis|assistant)(?: (?:in|as) (?:a )?json(?: format| object)?)?\W*$`)
	// What servers and models put around an answer: control tokens, tags, invisible characters.
	marks = regexp.MustCompile(`(?i)<\|[\w ]{1,40}\|>|</?s>|<eos>|<(?:start|end)_of_turn>|\[/?INST\]|\[TOOL_CALLS\]|\[e~\[|` +
		`</?(?:(?:final[_ ]?)?answer|verdict|output|json|response|result|solution|tool_call|meaning_match|divergent|function(?:=\w+)?)>|` +
		`[\x00\x{A0}\x{200B}-\x{200F}\x{202A}-\x{202E}\x{2060}\x{FEFF}]`)
)

// blank puts spaces in place of marks, as many as they have bytes.
func blank(text string) string {
	return marks.ReplaceAllStringFunc(text, func(m string) string { return strings.Repeat(" ", len(m)) })
}

// find gives the object that holds the verdict, nil if there is none, and the
// text from there on without the objects that it considered. An object counts where it stands
// by itself: one in the middle of a sentence is mostly a quotation.
func (f form) find(r *endpoint.Reply, from int) (*object, string, error) {
	text := r.Text
	rest := []byte(blank(text[from:]))
	var found *object
	var failed error
	work := readings * (len(text) - from + beginnings*beginning)
	for at := from; ; at++ {
		next := strings.IndexByte(text[at:], '{')
		if next < 0 {
			break
		}
		at += next
		o, took, err := parseCounted(text, at)
		if work -= took; work < 0 {
			return nil, "", errors.New("too many braces to find a verdict among them")
		}
		if err != nil {
			failed = err
			continue
		}
		at = o.end - 1
		work -= lineAround(text, o.start, o.end)
		if !alone(rest, o.start-from, o.end-from) {
			continue
		}
		copy(rest[o.start-from:o.end-from], bytes.Repeat([]byte{considered}, o.end-o.start))
		for _, o := range f.holders(o) {
			if found != nil && string(found.value[f.property]) != string(o.value[f.property]) {
				return nil, "", errors.New("two verdicts that differ")
			}
			found = o
		}
	}
	if found == nil && failed != nil && strings.Contains(failed.Error(), "twice") {
		return nil, "", fmt.Errorf("not a JSON object: %w", failed)
	}
	return found, fence.ReplaceAllStringFunc(string(rest), func(f string) string { return strings.Repeat(" ", len(f)) }), nil
}

// These bound the work for one reply: it is read that often in all, and may have
// a few thousand braces that begin no object.
const (
	readings   = 4
	beginnings = 1024
)

// lineAround is the length of the lines that text[from:to] stands on.
func lineAround(text string, from, to int) int {
	end := strings.IndexByte(text[to:], '\n')
	if end < 0 {
		end = len(text) - to
	}
	return from - strings.LastIndexByte(text[:from], '\n') + end
}

// considered takes an object's place in what is left of a reply.
const considered = '\x01'

var fence = regexp.MustCompile("```[a-zA-Z]*")

// holders are the objects with the verdict, the object itself or some inside,
// also as JSON in a string.
func (f form) holders(o *object) []*object {
	if _, ok := o.value[f.property]; ok {
		return []*object{o}
	}
	all := []*object(nil)
	for _, name := range []string{"answer", "response", "output", "result", "content", "arguments", "parameters"} {
		if s := stringOf(o.value[name]); s != nil && strings.HasPrefix(strings.TrimSpace(*s), "{") {
			if in, err := parseObject(strings.TrimSpace(*s), 0); err == nil && in.end == len(strings.TrimSpace(*s)) {
				in.at[f.property] = elsewhere
				o.inner = append(o.inner, in)
			}
		}
	}
	for _, in := range o.inner {
		all = append(all, f.holders(in)...)
	}
	return all
}

// elsewhere is the place of what does not stand in a reply as it is.
const elsewhere = -1

// alone says whether nothing else stands on the lines of text[from:to], but for
// a fence, list marks, another object, or a word such as "Answer:".
func alone(text []byte, from, to int) bool {
	before := text[bytes.LastIndexByte(text[:from], '\n')+1 : from]
	after, _, _ := bytes.Cut(text[to:], []byte("\n"))
	if next := bytes.IndexByte(after, '{'); next >= 0 {
		after = after[:next]
	}
	return (aside.Match(before) || lead.Match(before)) && aside.Match(after)
}

var (
	verdictLine   = regexp.MustCompile(`(?im)^[\s*#>_•"'-]*(?:\d+[.)]\s*)?[*_]*(?:(?:final|my|the)\s+)*(?:verdict|meaning[_ ]match|divergent|answer)\b[^:\n]{0,40}:(.*)$`)
	said          = regexp.MustCompile(`(?is)^[\s*_"'<` + "`" + `(]*(true|false|yes|no|0|1|same|different)\b[*_"'>` + "`" + `)]*(.*)$`)
	doubt         = regexp.MustCompile(`(?i)\b(?:true|false|wait|actually|correction|rather)\b|\?|^\s*no\b`)
	doubtInClause = regexp.MustCompile(`(?i)\b(?:yes|no|not|or|but|however|although|though|unless|maybe|perhaps|partly|0|1)\b|/|n't`)
	// A line that says nothing else.
	bareLine = regexp.MustCompile(`(?im)^[\s*#>_"'(\[•-]*(?:(?:so|thus|therefore|hence)\W+)?(?:(?:the|my|final)\s+)*((?:verdict|answer|semantic equivalence)[\s*_:=→–—>-]{1,4}(?:is[\s*_:]+)?)?` +
		`[\s*_"'(]*(?:\$?\\boxed\{(?:\\text\w*\{)?)?(true|false)[\s*_"'.!)}$` + "`" + `]*$`)
	afterthought    = regexp.MustCompile(`(?i)\b(?:wait|actually|correction|however|but|although|though|unless|except)\b|\?`)
	anyWord         = regexp.MustCompile(`(?i)\b(?:true|false)\b`)
	explanationLine = regexp.MustCompile(`(?is)\b(?:explanation|reasons?)[\s*_]*:[\s*_]*(\S.*)$`)
)

var errNoVerdict = errors.New("no verdict in it")

// readLines reads "Verdict: True" and "Explanation: …" in text, which is the
// reply's from there on without its objects, of a server that holds answers to no
// format.
func (f form) readLines(r *endpoint.Reply, from int, text string) (answer, error) {
	var a answer
	at, lines := 0, 0
	for _, place := range verdictLine.FindAllStringSubmatchIndex(text, -1) {
		line := strings.TrimLeft(text[place[2]:], " \t\r\n*_") // perhaps on the next line
		start := len(text) - len(line)
		if line == "" || line[0] == considered {
			continue
		}
		line, _, _ = strings.Cut(line, "\n")
		m := said.FindStringSubmatchIndex(line)
		if m == nil || doubtful(line[m[4]:m[5]]) {
			return answer{}, fmt.Errorf("its verdict %q can be read in several ways or in none", strings.TrimSpace(line))
		}
		match, err := f.verdict(f.spelled(line[m[2]:m[3]]))
		if err != nil {
			return answer{}, err
		}
		if lines > 0 && match != a.match {
			return answer{}, errors.New("two verdicts that differ")
		}
		a.match, at, lines = match, from+start+m[2], lines+1
	}
	if lines == 0 {
		return f.readBare(r, from, text)
	}
	if e := explanationLine.FindStringSubmatch(text); e != nil {
		a.explanation = new(strings.TrimSpace(e[1]))
	}
	a.measure(f, r, at)
	return a, nil
}

// doubtful says whether what follows a verdict on its line may take it back.
func doubtful(after string) bool {
	after = strings.TrimSpace(after)
	if after == "" {
		return false
	}
	if doubt.MatchString(after) {
		return true
	}
	if after[0] == '.' { // a sentence of its own
		return false
	}
	clause, _, _ := strings.Cut(after, ". ")
	begins := strings.HasPrefix(after, "because") || strings.HasPrefix(after, "since") || strings.ContainsRune(",;:(!–—-", []rune(after)[0])
	return !begins || doubtInClause.MatchString(clause)
}

// readBare reads a line of one word, the first or last, or one that names a verdict,
// where the text has neither of both words anywhere else.
func (f form) readBare(r *endpoint.Reply, from int, text string) (answer, error) {
	lines := bareLine.FindAllStringSubmatchIndex(text, -1)
	if len(lines) == 0 || len(lines) != len(anyWord.FindAllStringIndex(text, -1)) {
		return answer{}, errNoVerdict
	}
	if afterthought.MatchString(text[lines[len(lines)-1][1]:]) {
		return answer{}, errNoVerdict
	}
	var a answer
	for i, place := range lines {
		named, apart := place[2] >= 0, strings.TrimSpace(text[:place[0]]) != "" && strings.TrimSpace(text[place[1]:]) != ""
		match, err := f.verdict(f.spelled(text[place[4]:place[5]]))
		if !named && apart { // it may be quoted
			return answer{}, errNoVerdict
		}
		if err != nil || i > 0 && match != a.match {
			return answer{}, errNoVerdict
		}
		a.match = match
	}
	a.measure(f, r, from+lines[0][4])
	return a, nil
}

// literal is a verdict in the words of the form.
func (f form) literal(word string) string {
	yes, no := f.match, f.differ
	if f.property == "divergent" {
		yes, no = no, yes
	}
	return cmp.Or(map[string]string{"yes": yes, "true": yes, "1": yes, "1.0": yes, "no": no, "false": no, "0": no, "0.0": no, "same": f.match, "different": f.differ}[word], word)
}

// spelled is a verdict in the words of the form that was written by itself: a digit may count something.
func (f form) spelled(s string) string {
	if s = strings.ToLower(s); s == "0" || s == "1" {
		return s
	}
	return f.literal(s)
}

// readWord reads an answer of one word, which begins there in the reply.
func (f form) readWord(r *endpoint.Reply, from int) (answer, error) {
	const around = " \t\r\n.,:;!?*_\"'`()[]<>{}$“”。"
	text := blank(r.Text[from:])
	word := strings.Trim(text, around)
	match, err := f.verdict(f.spelled(word))
	if err != nil {
		if a, bare := f.readLines(r, from, text); bare == nil {
			return a, nil
		}
		return answer{}, err
	}
	a := answer{match: match}
	a.measure(f, r, from+strings.Index(text, word))
	return a, nil
}

// measure sets the confidence by the probabilities at the verdict's first token.
func (a *answer) measure(f form, r *endpoint.Reply, at int) {
	given, other := f.match, f.differ
	if !a.match {
		given, other = other, given
	}
	if at < 0 {
		return
	}
	if a.confidence = probability(r, at, given, other); a.confidence == nil {
		return
	}
	a.source = new(LogprobFree)
	if r.Masked {
		a.source = new(LogprobMasked)
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
	if !slices.ContainsFunc(t.Top, func(alt endpoint.Token) bool { return alt.Text == t.Text }) {
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
	return new(sum[0] / (sum[0] + sum[1]))
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
