package judge

import (
	"regexp"
	"strings"
	"unicode"
)

// controlToken is the spellings that tokenizers of any family read as one control
// token: ends of turns and texts, roles, tools, thinking. A text that holds one
// would end the judge's turn or begin another. It matches at the beginning of a text.
var controlToken = regexp.MustCompile(`^(?:` + strings.Join([]string{
	`<[|｜][^<>|｜\s]{1,64}[|｜]>`,                       // <|im_end|>, <｜end▁of▁sentence｜>
	`<[|｜][A-Za-z_/"]{1,40}>|<[A-Za-z_/"]{1,40}[|｜]>`, // <|turn>, <turn|>
	`</?[A-Za-z][A-Za-z0-9]*(?:_[A-Za-z0-9]+)+>`,      // <start_of_turn>, <tool_call>
	`</?(?i:s|sop|eop|bos|eos|eot|pad|unk|mask|cls|sep|think|thinking|thought|answer|system|user|assistant|sys|seed:[a-z_]+)>`,
	`<\[[^\]\s]{1,40}\]>`, // <[end▁of▁sentence]>
	`\[/?(?:INST|SYSTEM_PROMPT|TOOL_[A-Z]+|AVAILABLE_TOOLS|THINK|MODEL_SETTINGS|PREFIX|MIDDLE|SUFFIX|CALL_ID|ARGS|IMG|IMG_[A-Z]+|AUDIO|` +
		`CLS|SEP|PAD|MASK|UNK|BOS|EOS|UNUSED\d+|unused\d+|[gs]MASK|control_\d+)\]`,
	`◁/?[^◁▷\s]{1,40}▷`,   // ◁/think▷
	`\]~!?b[\[\]]|\[e~\[`, // ]~b], [e~[
}, "|") + `)`)

// longestControl is more bytes than any control token has.
const longestControl = 300

// plain shows control tokens as words that no tokenizer reads as one.
func plain(text string) string {
	var out strings.Builder
	done := 0
	for at := 0; at < len(text); at++ {
		switch text[at] {
		case '<', '[', ']', "◁"[0]: // all begin so
			if n := len(controlToken.FindString(text[at:min(len(text), at+longestControl)])); n > 0 {
				out.WriteString(text[done:at])
				out.WriteString(controlWords(text[at : at+n]))
				done = at + n
				at = done - 1
			}
		}
	}
	if done == 0 {
		return text
	}
	out.WriteString(text[done:])
	return out.String()
}

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
