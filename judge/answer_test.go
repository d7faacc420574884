package judge

import (
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	"tokenfork/judge/endpoint"
)

func formOf(t *testing.T, kind string, short bool) form {
	t.Helper()
	f, err := loadForm(kind, short)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestRead(t *testing.T) {
	const whole = `{"explanation":"same","key_differences":["a","b"],"meaning_match":true,"confidence":0.75}`
	for name, c := range map[string]struct {
		kind   string
		masked bool
		text   string
		want   string // of show, or a part of the error
	}{
		"as the schema says":         {"match", true, whole, "true same [a b] 0.75 self"},
		"false":                      {"match", true, strings.Replace(whole, "true", "false", 1), "false same [a b] 0.75 self"},
		"no differences":             {"match", true, `{"explanation":"x","key_differences":[],"meaning_match":true,"confidence":1}`, "true x [] 1 self"},
		"confidence in percent":      {"match", true, `{"explanation":"x","key_differences":[],"meaning_match":true,"confidence":90}`, "true x [] - -"},
		"verdict null":               {"match", true, `{"explanation":"x","key_differences":[],"meaning_match":null,"confidence":1}`, "! meaning_match is null"},
		"broken":                     {"match", true, whole[:60], "! no verdict"},
		"empty":                      {"match", true, "", "! no verdict"},
		"verdict twice":              {"match", true, `{"meaning_match":true,"meaning_match":false}`, "! twice"},
		"in a fence":                 {"match", false, "Sure:\n```json\n" + whole + "\n```\nHope it helps {}", "true same [a b] 0.75 self"},
		"as Python writes it":        {"match", false, `{"explanation":None,"key_differences":["it's True",],"meaning_match":False,}`, "false - [it's True] - -"},
		"verdict as text":            {"match", false, `{"meaning_match":"True"}`, "true - - - -"},
		"verdict as other text":      {"match", false, `{"meaning_match":"maybe"}`, "! neither true nor false"},
		"one difference as text":     {"match", false, `{"key_differences":"tense","meaning_match":false}`, "false - [tense] - -"},
		"two objects that agree":     {"match", false, "{\"meaning_match\":true}\nagain:\n{\"meaning_match\":true}", "true - - - -"},
		"two that do not":            {"match", false, "{\"meaning_match\":true}\n\n{\"meaning_match\":false}", "! two verdicts"},
		"two on a line":              {"match", false, `{"meaning_match":true} or {"meaning_match":false}`, "! no verdict"},
		"lines":                      {"match", false, "Core meaning: alike.\n**Verdict (True/False):** False\nExplanation: one is late.", "false one is late. - - -"},
		"lines that differ":          {"match", false, "Verdict: True\nVerdict: False", "! two verdicts"},
		"prose":                      {"match", false, "They are not true to each other.", "! no verdict"},
		"masked by no grammar":       {"match", true, "Verdict: True", "true - - - -"},
		"divergent":                  {"divergent", true, `{"explanation":"x","key_differences":[],"divergent":1,"confidence":0.5}`, "false x [] 0.5 self"},
		"not divergent":              {"divergent", true, `{"explanation":"x","key_differences":[],"divergent":0,"confidence":0.5}`, "true x [] 0.5 self"},
		"divergent line":             {"divergent", false, "Divergent: 0\nReasons: only wording", "true only wording - - -"},
		"divergent as a word":        {"divergent", false, `{"divergent":true}`, "false - - - -"},
		"thoughts":                   {"match", false, "<think>\n{\"meaning_match\":false}\nVerdict: False\n</think>\n" + whole, "true same [a b] 0.75 self"},
		"thoughts without a start":   {"match", false, "Hm. Verdict: False</think>Verdict: True", "true - - - -"},
		"thoughts, twice":            {"match", false, "<think>a</think>Verdict: False<think>b</think>Verdict: True", "true - - - -"},
		"thoughts of another family": {"match", false, "◁think▷Verdict: False◁/think▷\n\nVerdict: True", "true - - - -"},
		"thoughts, masked":           {"match", true, "<think>\n{\"meaning_match\":false}</think>\n\n" + whole, "true same [a b] 0.75 self"},
		"thoughts that do not end":   {"match", false, "<think>\nVerdict: True", "! before its thoughts do"},
		"a thought's end quoted":     {"match", true, `{"explanation":"says </think> {}","key_differences":[],"meaning_match":true,"confidence":1}`, "true says </think> {} [] 1 self"},
		"LaTeX":                      {"match", false, `{"explanation": "Both give \(x^2\) and \alpha", "meaning_match": true}`, `true Both give \(x^2\) and \alpha - - -`},
		"line breaks in a string":    {"match", false, "{\"explanation\": \"one\ntwo\", \"meaning_match\": true}", "true one\ntwo - - -"},
		"single quotes":              {"match", false, `{'explanation': 'It's the dog's', 'key_differences': ['tense', ], 'meaning_match': False}`, "false It's the dog's [tense] - -"},
		"names without quotes":       {"match", false, `{explanation: "x", meaning_match: true}`, "true x - - -"},
		"names in capitals":          {"match", false, `{"Explanation":"x","Key_Differences":[],"Meaning Match":"True","Confidence":"90%"}`, "true x [] - -"},
		"in another object":          {"match", false, `{"answer":` + whole + `}`, "true same [a b] 0.75 self"},
		"in a list":                  {"match", false, "[" + whole + "]", "true same [a b] 0.75 self"},
		"after a word":               {"match", false, "**Final answer:** " + whole, "true same [a b] 0.75 self"},
		"after a word, in a fence":   {"match", false, "Answer:\n```json\n" + whole + "\n```\nDone.", "true same [a b] 0.75 self"},
		"two in another object":      {"match", false, `{"a":{"meaning_match":true},"b":{"meaning_match":false}}`, "! two verdicts"},
		"two values":                 {"match", false, `{"meaning_match":true false}`, "! no verdict"},
		"a choice":                   {"match", false, `{"meaning_match":true|false}`, "! no verdict"},
		"verdict twice, no grammar":  {"match", false, `{"meaning_match":true,"Meaning_match":false}`, "! twice"},
		"object without an end":      {"match", false, `{"meaning_match":true, "explanation":"x`, "! no verdict"},
		"quoted, then a line":        {"match", false, "The second says {\"meaning_match\": true}, which is an order.\nVerdict: False", "false - - - -"},
		"quoted, then nothing":       {"match", false, "The second says: {\"meaning_match\": true}", "! no verdict"},
		"quoted, then more":          {"match", false, "{\"meaning_match\": true} is what the second says.", "! no verdict"},
		"quoted alone, then a line":  {"match", false, "The second says\n{\"meaning_match\": true}\nVerdict: False", "! two verdicts"},
		"object and line that agree": {"match", false, "{\"meaning_match\": true}\nVerdict: True", "true - - - -"},
		"both words":                 {"match", false, "Verdict: True/False", "! several ways"},
		"either word":                {"match", false, "Verdict: True or False", "! several ways"},
		"taken back":                 {"match", false, "Verdict: true, no wait, false", "! several ways"},
		"taken back in a sentence":   {"match", false, "Verdict: true. Wait, they differ.", "! several ways"},
		"asks itself":                {"match", false, "Answer: True? No, they differ", "! several ways"},
		"half":                       {"match", false, "Verdict: True, but the tone differs", "! several ways"},
		"either digit":               {"divergent", false, "Answer: 0 or 1", "! several ways"},
		"an echo, then a verdict":    {"match", false, "Verdict (True/False): True/False\nVerdict: True", "! several ways"},
		"yes":                        {"match", false, "**Verdict:** Yes, they have the same meaning.\n**Explanation:** same", "true same - - -"},
		"no":                         {"match", false, "Verdict: No. The second does not say it.", "false - - - -"},
		"yes, it matters":            {"divergent", false, "Answer: Yes", "false - - - -"},
		"bold":                       {"match", false, "Analysis...\n\n**Verdict (True/False):** **True**\n\n**Explanation:** same", "true same - - -"},
		"on the next line":           {"match", false, "### Verdict:\n**False**\n", "false - - - -"},
		"gpt-oss":                    {"match", false, "<|channel|>analysis<|message|>Hm.\n{\"meaning_match\":false}<|end|><|start|>assistant<|channel|>final <|constrain|>json<|message|>" + whole + "<|return|>", "true same [a b] 0.75 self"},
		"gpt-oss, marks stripped":    {"match", false, "analysisFirst\n{\"meaning_match\": false}\nno.assistantfinal" + whole, "true same [a b] 0.75 self"},
		"gpt-oss, no final channel":  {"match", false, "analysisWe see.\nVerdict: True", "! before its thoughts do"},
		"Gemma's thoughts":           {"match", false, "<|channel>thought\nVerdict: False\n<channel|>" + whole, "true same [a b] 0.75 self"},
		"Command's thoughts":         {"match", false, "<|START_THINKING|>\nVerdict: False\n<|END_THINKING|><|START_RESPONSE|>" + whole + "<|END_RESPONSE|>", "true same [a b] 0.75 self"},
		"thoughts in another tag":    {"match", false, "<analysis>\nVerdict: False\n</analysis>\n" + whole, "true same [a b] 0.75 self"},
		"a tag after the verdict":    {"match", false, "Verdict: True\n<analysis>why</analysis>", "true - - - -"},
		"thoughts in capitals":       {"match", false, "<THINK>\nVerdict: False\n</THINK>Verdict: True", "true - - - -"},
		"byte order mark":            {"match", false, "\ufeff\u200b" + whole + "</s>", "true same [a b] 0.75 self"},
		"end of turn":                {"match", false, "Verdict: True<|im_end|>", "true - - - -"},
		"head of turn":               {"match", false, "<|start_header_id|>assistant<|end_header_id|>\n\n" + whole, "true same [a b] 0.75 self"},
		"the next turn":              {"match", false, whole + "\nUser: next\nAssistant: {\"meaning_match\":false}", "! two verdicts"},
		"in a tag":                   {"match", false, "<answer>" + whole + "</answer>", "true same [a b] 0.75 self"},
		"word in a tag":              {"match", false, "They differ.\n<answer>False</answer>", "false - - - -"},
		"call in text":               {"match", false, "[TOOL_CALLS][{\"name\":\"answer\",\"arguments\":" + whole + "}]", "true same [a b] 0.75 self"},
		"JSON in a string":           {"match", false, `"{\"explanation\":\"x\",\"meaning_match\":false}"`, "false x - - -"},
		"JSON with escapes":          {"match", false, `{\"explanation\": \"x\", \"meaning_match\": true}`, "true x - - -"},
		"JSON in a member":           {"match", false, `{"answer":"{\"meaning_match\": false}"}`, "false - - - -"},
		"JSON quoted by a member":    {"match", false, `{"explanation":"{\"meaning_match\": false}"}`, "! no verdict"},
		"yes in an object":           {"match", false, `{"meaning_match":"Yes."}`, "true - - - -"},
		"a digit in an object":       {"match", false, `{"meaning_match":0}`, "false - - - -"},
		"a digit on a line":          {"match", false, "Verdict: 1. They differ.", "! neither"},
		"same in an object":          {"match", false, `{"meaning_match":"different"}`, "false - - - -"},
		"half in an object":          {"match", false, `{"meaning_match":"True, mostly"}`, "! neither true nor false"},
		"confidence of no JSON":      {"match", false, `{"meaning_match":true,"confidence":NaN}`, "true - - - -"},
		"confidence with a comma":    {"match", false, `{"confidence":0,9, "meaning_match":true}`, "true - - - -"},
		"confidence as a share":      {"match", false, `{"meaning_match":TRUE,"confidence":90%}`, "true - - - -"},
		"comments":                   {"match", false, "{\n\"meaning_match\": true, // yes\n/* no */ \"confidence\": 0.5 # half\n}", "true - - 0.5 self"},
		"quotes in a string":         {"match", false, `{"explanation":"Both say the "same" thing.","meaning_match":true}`, "true Both say the \"same\" thing. - - -"},
		"humps":                      {"match", false, `{"keyDifferences":[],"meaningMatch":true}`, "true - [] - -"},
		"twice the same":             {"match", false, `{"meaning_match":true,"meaning_match":true}`, "true - - - -"},
		"no brace at the end":        {"match", false, `{"explanation":"x","meaning_match":true`, "true x - - -"},
		"a brace too many":           {"match", false, "{" + whole + "}", "true same [a b] 0.75 self"},
		"two side by side":           {"match", false, whole + whole, "true same [a b] 0.75 self"},
		"two side by side, other":    {"match", false, whole + `{"meaning_match":false}`, "! two verdicts"},
		"two in a list":              {"match", false, `[{"meaning_match":true}, {"meaning_match":false}]`, "! two verdicts"},
		"wide punctuation":           {"match", false, "{“explanation”：“x”，“meaning_match”：true}", "true x - - -"},
		"wide colon":                 {"match", false, "**Verdict：** **True**", "true - - - -"},
		"lines of an object":         {"match", false, "\"explanation\": \"x\",\n\"meaning_match\": true,\n\"confidence\": 0.9", "true - - - -"},
		"one word at the end":        {"match", false, "They say the same.\n\n**True**", "true - - - -"},
		"one word under a heading":   {"match", false, "## Verdict\nFalse", "false - - - -"},
		"in a sentence at the end":   {"match", false, "So the verdict is True.", "true - - - -"},
		"one word, then but":         {"match", false, "True\n\nHowever, they differ.", "! no verdict"},
		"one word, then why":         {"match", false, "True\n\nBoth say it.", "true - - - -"},
		"a float in an object":       {"match", false, `{"meaning_match":1.0}`, "true - - - -"},
		"one word, quoted":           {"match", false, "The first says:\nTrue\nThe other says nothing.", "! no verdict"},
		"named, then more":           {"match", false, "My verdict is False.\nOne of them is late.", "false - - - -"},
		"not equal":                  {"match", false, "Verdict != True", "! no verdict"},
		"quoted in a sentence":       {"match", false, "They differ: the second's answer is False.", "! no verdict"},
		"confidence null":            {"match", false, `{"meaning_match":true,"confidence":null}`, "true - - - -"},
		"boxed object":               {"match", false, "\\boxed{" + whole + "}", "true same [a b] 0.75 self"},
		"boxed":                      {"match", false, "The answer is $\\boxed{\\text{False}}$.", "false - - - -"},
		"one word, then doubt":       {"match", false, "True\n\nHowever they differ, so it is false.", "! no verdict"},
		"not the word":               {"match", false, "The verdict is not True.", "! no verdict"},
		"with a reason":              {"match", false, "3. Final verdict: False (one is late)", "false - - - -"},
	} {
		a, err := formOf(t, c.kind, false).read(&endpoint.Reply{Text: c.text, Masked: c.masked})
		got := show(a)
		if err != nil {
			got = "! " + err.Error()
		}
		if got != c.want && !(err != nil && c.want[0] == '!' && strings.Contains(got, c.want[2:])) {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
	}
}

func show(a answer) string {
	parts := []any{a.match, "-", "-", "-", "-"}
	if a.explanation != nil {
		parts[1] = *a.explanation
	}
	if a.differences != nil {
		parts[2] = a.differences
	}
	if a.confidence != nil {
		parts[3] = *a.confidence
	}
	if a.source != nil {
		parts[4] = *a.source
	}
	return strings.TrimSpace(fmt.Sprintln(parts...))
}

func TestReadWord(t *testing.T) {
	for _, c := range []struct{ kind, text, want string }{
		{"match", "True", "true"}, {"match", " false.\n", "false"}, {"match", "**TRUE**", "true"},
		{"match", "T", "!"}, {"match", "", "!"}, {"match", "1", "!"}, {"match", "Truely", "!"}, {"match", "\ufeff“True”。", "true"}, {"match", "<answer>False</answer>", "false"}, {"match", "True<|im_end|>", "true"}, {"match", "True\n\nBoth say it.", "true"}, {"match", "Verdict: False", "false"}, {"match", "True\nFalse", "!"}, {"match", "{\n\"meaning_match\": true\n}\n{\"meaning_match\": false}", "!"}, {"match", "Yes.", "true"}, {"divergent", "Yes", "false"}, {"match", "<think>False</think>\n\nTrue", "true"}, {"match", "<think>", "!"}, {"match", "True/False", "!"},
		{"match", `{"meaning_match": true}`, "true"}, {"match", "```json\n{\"explanation\": \"\", \"meaning_match\": false}\n```", "false"}, {"match", `{"meaning_match": tr`, "!"}, {"match", `{"meaning_match": true} {"meaning_match": false}`, "!"},
		{"divergent", "1", "false"}, {"divergent", "0", "true"}, {"divergent", "10", "!"},
	} {
		a, err := formOf(t, c.kind, true).read(&endpoint.Reply{Text: c.text})
		if got := fmt.Sprint(a.match); err == nil && got != c.want || err != nil && c.want != "!" {
			t.Errorf("%q: got %s, %v", c.text, got, err)
		}
	}
}

// tokens cuts a text at | and gives the token that holds the last piece marked
// with ^ the alternatives.
func tokens(cut string, top ...endpoint.Token) (string, []endpoint.Token) {
	var list []endpoint.Token
	for _, p := range strings.Split(cut, "|") {
		t := endpoint.Token{Text: strings.TrimPrefix(p, "^"), Logprob: math.Log(0.5)}
		if t.Text != p {
			t.Top = top
		}
		list = append(list, t)
	}
	return strings.NewReplacer("|", "", "^", "").Replace(cut), list
}

func alt(text string, p float64) endpoint.Token {
	return endpoint.Token{Text: text, Logprob: math.Log(p)}
}

func TestConfidence(t *testing.T) {
	never := endpoint.Token{Text: "false", Logprob: -9999}
	for name, c := range map[string]struct {
		kind   string
		short  bool
		masked bool
		cut    string
		top    []endpoint.Token
		want   float64 // NaN for null
		source string
	}{
		"both seen":                {"match", false, true, `{"meaning_match|":|^true|}`, []endpoint.Token{alt("true", .6), alt("false", .2)}, .75, LogprobMasked},
		"with space":               {"match", false, true, `{"meaning_match":|^ true|}`, []endpoint.Token{alt(" true", .6), alt("false", .1), alt(" false", .1)}, .75, LogprobMasked},
		"token begins before":      {"match", false, true, `{"meaning_match|^":false|}`, []endpoint.Token{alt(`":false`, .3), alt(`":`, .1), alt(`":true`, .1)}, .75, LogprobMasked},
		"in pieces":                {"match", false, true, `{"meaning_match":|^t|rue}`, []endpoint.Token{alt("t", .5), alt("true", .25), alt("f", .25)}, .75, LogprobMasked},
		"other masked out":         {"match", false, true, `{"meaning_match":|^true|}`, []endpoint.Token{alt("true", .9), never}, 1, LogprobMasked},
		"given one not listed":     {"match", false, true, `{"meaning_match":|^true|}`, []endpoint.Token{alt("false", .5)}, .5, LogprobMasked},
		"word in the analysis":     {"match", false, true, `{"explanation":"true|ly false","meaning_match":|^false|}`, []endpoint.Token{alt("false", .8), alt("true", .2)}, .8, LogprobMasked},
		"thinking before":          {"match", false, true, `<think>true</think>|` + `{"meaning_match":|^false|}`, []endpoint.Token{alt("false", .8), alt("true", .2)}, .8, LogprobMasked},
		"no schema at work":        {"match", false, false, `{"meaning_match": |^true|}`, []endpoint.Token{alt("true", .8), alt("t", .1), alt("false", .2)}, .8, LogprobFree},
		"one word":                 {"match", true, false, `^True`, []endpoint.Token{alt("True", .6), alt(" true", .1), alt("False", .1), alt("The", .1), alt("F", .1)}, .875, LogprobFree},
		"one digit":                {"divergent", true, false, `^1`, []endpoint.Token{alt("1", .9), alt("0", .1)}, .9, LogprobFree},
		"neither seen":             {"match", false, false, `{"meaning_match": |^"tr|ue"}`, []endpoint.Token{alt(`"tr`, .8)}, math.NaN(), ""},
		"tokens of another text":   {"match", false, true, `{"meaning_match":|^true|}`, nil, math.NaN(), ""},
		"given one seen all alone": {"match", false, true, `{"meaning_match":|^true|}`, []endpoint.Token{alt("true", .3)}, 1, LogprobMasked},
	} {
		r := &endpoint.Reply{Masked: c.masked}
		r.Text, r.Tokens = tokens(c.cut, c.top...)
		r.Text = strings.TrimPrefix(r.Text, "<think>true</think>")
		if name == "tokens of another text" {
			r.Tokens[0].Text = "?"
		}
		a, err := formOf(t, c.kind, c.short).read(r)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got, source := math.NaN(), ""
		if a.confidence != nil {
			got, source = *a.confidence, *a.source
		}
		if source != c.source || math.Abs(got-c.want) > 1e-9 || math.IsNaN(got) != math.IsNaN(c.want) {
			t.Errorf("%s: got %v %s, want %v %s", name, got, source, c.want, c.source)
		}
	}
}

func TestMajority(t *testing.T) {
	say := func(match bool, word string) answer {
		return answer{match: match, explanation: &word, confidence: new(0.9), source: new(LogprobMasked)}
	}
	yes, no := say(true, "yes"), say(false, "no")
	for _, c := range []struct {
		all  []answer
		want string
	}{
		{[]answer{yes, yes}, "true yes - 1 votes"},
		{[]answer{no, yes, yes}, "true yes - 0.6666666666666666 votes"},
		{[]answer{yes, no, no}, "false no - 0.6666666666666666 votes"},
		{[]answer{no, yes}, "false no - 0.5 votes"},
		{[]answer{yes, no}, "true yes - 0.5 votes"},
	} {
		if got := show(majority(c.all)); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
}

func TestMemoryIsBoundedAndKeepsWhatIsUsed(t *testing.T) {
	m := newMemory(10)
	for i := range 1000 {
		m.put(fmt.Sprint(i), answer{match: true})
		if _, ok := m.get("0"); !ok {
			t.Fatalf("forgot the answer in use after %d others", i)
		}
		if n := len(m.young) + len(m.old); n > 11 {
			t.Fatalf("holds %d answers", n)
		}
	}
	if _, ok := m.get("500"); ok {
		t.Error("remembers an answer not used for long")
	}
	if !reflect.DeepEqual(m.half, 5) {
		t.Error(m.half)
	}
}
