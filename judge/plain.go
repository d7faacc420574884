package judge

import (
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// controlToken is the spellings that tokenizers of any family read as one control
// token: ends of turns and texts, roles, tools, thinking. A text that holds one
// would end the judge's turn or begin another.
//
// It matches at the start of a text alone: plain knows where one may begin.
var controlToken = regexp.MustCompile("^(?:" + strings.Join([]string{
	`<[|｜][^<>|｜\s]{1,64}[|｜]>`,                       // <|im_end|>, <｜end▁of▁sentence｜>
	`<[|｜][A-Za-z_/"]{1,40}>|<[A-Za-z_/"]{1,40}[|｜]>`, // <|turn>, <turn|>
	`</?[A-Za-z][A-Za-z0-9]*(?:_[A-Za-z0-9]+)+>`,      // <start_of_turn>, <tool_call>
	`</?(?i:s|sop|eop|bos|eos|eot|pad|unk|mask|cls|sep|think|thinking|thought|answer|system|user|assistant|sys|seed:[a-z_]+)>`,
	`<\[[^\]\s]{1,40}\]>`, // <[end▁of▁sentence]>
	`\[/?(?:INST|SYSTEM_PROMPT|TOOL_[A-Z]+|AVAILABLE_TOOLS|THINK|MODEL_SETTINGS|PREFIX|MIDDLE|SUFFIX|CALL_ID|ARGS|IMG|IMG_[A-Z]+|AUDIO|` +
		`CLS|SEP|PAD|MASK|UNK|BOS|EOS|UNUSED\d+|unused\d+|[gs]MASK|control_\d+)\]`,
	`◁/?[^◁▷\s]{1,40}▷`,   // ◁/think▷
	`\]~!?b[\[\]]|\[e~\[`, // ]~b], [e~[
}, "|") + ")")

// openers are what control tokens begin with. Most questions hold few of them, and
// matching at every byte of a prompt took more time than all else about it.
var openers = [...]string{"<", "[", "]~", "◁"}

// plain shows control tokens as words that no tokenizer reads as one.
func plain(text string) string {
	var b strings.Builder
	var next [len(openers)]int // where each of openers is next, or the text's end
	for i := range next {
		next[i] = -1
	}
	done := 0
	for at := 0; ; {
		first := len(text)
		for i, begin := range openers {
			if next[i] < at {
				if next[i] = strings.Index(text[at:], begin); next[i] < 0 {
					next[i] = len(text)
				} else {
					next[i] += at
				}
			}
			first = min(first, next[i])
		}
		if first == len(text) {
			break
		}
		at = first + 1
		if !mayBegin(text[first:]) {
			continue
		}
		if token := controlToken.FindString(text[first:]); token != "" {
			b.WriteString(text[done:first])
			b.WriteString(controlWords(token))
			at = first + len(token)
			done = at
		}
	}
	if done == 0 {
		return text
	}
	b.WriteString(text[done:])
	return b.String()
}

// mayBegin tells most of what begins with an opener and is no control token: "a < b", "x[1]".
func mayBegin(s string) bool {
	switch {
	case s[0] == '<' && len(s) > 1:
		return s[1] >= 'A' || s[1] == '/' // letters, |, ｜ and [ among them
	case s[0] == '[' && !strings.HasPrefix(s, "[e~["):
		inner := strings.TrimPrefix(s[1:], "/")
		return inner != "" && inner[0] <= 'Z' && inner[0] >= 'A' || slices.ContainsFunc(lowerCase, func(word string) bool { return strings.HasPrefix(inner, word) })
	}
	return true
}

// lowerCase are what control tokens in square brackets begin with, if not with a capital letter.
var lowerCase = []string{"unused", "gMASK", "sMASK", "control_"}

// controlWords is a control token in words: [end of text], [im end], [think token].
// No tokenizer has an added token of several lower-case words.
func controlWords(token string) string {
	inner := strings.TrimFunc(token, func(r rune) bool { return r != '/' && !unicode.IsLetter(r) && !unicode.IsDigit(r) })
	end := ""
	if strings.HasPrefix(inner, "/") {
		end = "end of "
	}
	words := strings.FieldsFunc(strings.ToLower(inner), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })
	name := strings.Join(words, " ")
	switch name {
	case "endoftext", "s", "eos":
		if name != "s" || end != "" {
			return "[end of text]"
		}
		return "[start of text]"
	case "":
		name = "control"
	}
	if end == "" && len(words) < 2 {
		name += " token"
	}
	return "[" + end + name + "]"
}
