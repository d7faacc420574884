package endpoint

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"tokenfork/internal/terminal"
)

// completion is what is used of a chat completion. Nothing else is decoded:
// servers write floats, null or -Infinity where the API has integers.
type completion struct {
	model     string // that answered, "" where the server does not say
	text      string
	refusal   string
	reasoning string // name of the member that holds the thoughts, "" for none
	finish    string // in lower case
	tokens    []Token
	used      usage
	header    http.Header
}

// usage is what a server says that an answer took: unknown where it does not
// say, or says what cannot be.
type usage struct{ prompt, completion, cached int64 }

const unknown = -1

// maxUsage is more tokens than any model reads or writes at once.
const maxUsage = 1 << 30

func (u usage) total() int { return int(max(u.prompt, 0) + max(u.completion, 0)) }

// parseCompletion reads the body of an answer with status 200. An error in it
// is a fault: some gateways report the errors of others so.
func (c *Client) parseCompletion(body []byte) (completion, *fault) {
	body = bytes.Trim(bytes.TrimPrefix(body, []byte("\ufeff")), "\x00 \t\r\n")
	if events.Match(body) {
		body = joinEvents(body)
	}
	var b struct {
		Model   any
		Choices []struct {
			Index    any
			Finish   any             `json:"finish_reason"`
			Message  json.RawMessage `json:"message"`
			Text     string          // of servers that know completions only
			Logprobs json.RawMessage `json:"logprobs"`
			Error    json.RawMessage `json:"error"`
		}
		Usage json.RawMessage
		Error json.RawMessage
	}
	if err := json.Unmarshal(finite(body), &b); err != nil {
		w := readWords(body)
		return completion{}, &fault{class: ServerError, retry: true, unknown: true, foreign: true, message: "not a chat completion: " + w.message}
	}
	got := completion{used: readUsage(b.Usage)}
	switch {
	case filled(b.Error):
		return got, c.inBody(body)
	case len(b.Choices) == 0 && rejection(0, strings.ToLower(string(body))) == ContentFilter: // Gemini's block_reason
		return got, &fault{class: ContentFilter, message: "an answer without choices: " + terminal.Clip(string(body), 200)}
	case len(b.Choices) == 0:
		return got, &fault{class: ServerError, retry: true, message: "an answer without choices: " + terminal.Clip(string(body), 200)}
	}
	first := b.Choices[0]
	for _, choice := range b.Choices {
		if choice.Index == 0.0 {
			first = choice
		}
	}
	if filled(first.Error) {
		return got, c.inBody(slices.Concat([]byte(`{"error":`), first.Error, []byte("}")))
	}
	got.model, _ = b.Model.(string)
	finish, _ := first.Finish.(string)
	got.finish = strings.ToLower(finish)
	got.text = first.Text
	got.readMessage(first.Message)
	got.tokens = readLogprobs(first.Logprobs)
	return got, nil
}

// inBody is an error that came with status 200.
func (c *Client) inBody(body []byte) *fault {
	w := readWords(body)
	if w.status < 400 || w.status > 599 {
		w.status = http.StatusInternalServerError
	}
	return c.refused(w.status, w, nil)
}

// ended is a fault where the server broke the answer off.
func (g *completion) ended() *fault {
	switch {
	case filtered.MatchString(g.finish):
		return &fault{class: ContentFilter, message: "the server's content filter ended the answer: finish reason " + g.finish, raw: g.text}
	case g.finish == "error", g.finish == "insufficient_system_resource", g.finish == "network_error":
		return &fault{class: ServerError, retry: true, message: "the server broke the answer off: finish reason " + g.finish, raw: g.text}
	case g.refusal != "", g.finish == "refusal":
		return &fault{class: Refusal, message: "the judge refused", raw: cmp.Or(g.refusal, g.text)}
	}
	return nil
}

// filtered are the finish reasons of filters: OpenAI's, Google's, Zhipu's, Bedrock's.
var filtered = regexp.MustCompile(`^(?:content_filter|safety|prohibited|recitation|blocklist|sensitive|guardrail)`)

// cut says whether the answer reached its limit.
func (g *completion) cut() bool {
	return g.finish == "length" || g.finish == "max_tokens" || g.finish == "max_output_tokens" || g.finish == "model_length" ||
		strings.HasSuffix(g.finish, "context_window_exceeded")
}

func (g *completion) readMessage(raw json.RawMessage) {
	var m map[string]json.RawMessage
	if json.Unmarshal(raw, &m) != nil {
		var whole string // the message is its text
		if json.Unmarshal(raw, &whole) == nil {
			g.text = whole
		}
		return
	}
	if isSet(m["content"]) {
		g.readContent(m["content"])
	}
	for name, v := range m {
		if (strings.Contains(name, "reason") || strings.Contains(name, "think")) && filled(v) {
			g.reasoning = name
		}
	}
	if said := stringOf(m["refusal"]); said != "" {
		g.refusal = said
	}
	if calls := callArguments(m["tool_calls"], m["function_call"]); calls != "" {
		g.text = strings.TrimLeft(g.text+"\n"+calls, "\n")
	}
}

// readContent joins a message's content where it comes in parts. Some of them
// may hold no text of the answer (thoughts).
func (g *completion) readContent(raw json.RawMessage) {
	var parts []json.RawMessage
	if json.Unmarshal(raw, &g.text) == nil {
		return
	}
	if json.Unmarshal(raw, &parts) != nil {
		parts = []json.RawMessage{raw}
	}
	var b strings.Builder
	for _, p := range parts {
		var s string
		var part struct{ Type, Text, Refusal string }
		err := json.Unmarshal(p, &part)
		switch kind := strings.ToLower(part.Type); {
		case json.Unmarshal(p, &s) == nil:
			b.WriteString(s)
		case err == nil && (kind == "text" || kind == "output_text" || kind == "" && part.Text != ""):
			b.WriteString(part.Text)
		case err == nil && kind == "refusal":
			g.refusal = part.Refusal
		case kind == "" && len(parts) == 1:
			b.Write(p) // an object, decoded already
		default:
			g.reasoning = "a part of content that is not text"
		}
	}
	g.text = b.String()
}

// callArguments are those of the function calls: some gateways hold an answer to
// a schema by making it one. Several that differ are two verdicts.
func callArguments(tools, old json.RawMessage) string {
	type function struct{ Arguments json.RawMessage }
	var calls []struct{ Function function }
	var one function
	var all []string
	if json.Unmarshal(tools, &calls) == nil {
		for _, c := range calls {
			all = append(all, cmp.Or(stringOf(c.Function.Arguments), string(c.Function.Arguments)))
		}
	}
	if json.Unmarshal(old, &one) == nil {
		all = append(all, cmp.Or(stringOf(one.Arguments), string(one.Arguments)))
	}
	return strings.Join(all, "\n")
}

// stringOf is a JSON string's text, "" for all else.
func stringOf(raw json.RawMessage) (s string) {
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// readLogprobs gives the answer's tokens, nil where one of them has no
// logarithm of a probability.
func readLogprobs(raw json.RawMessage) []Token {
	type token struct {
		Token   string
		Logprob *float64
		Bytes   []byte
		Top     []token `json:"top_logprobs"`
	}
	var l struct{ Content []token }
	if json.Unmarshal(raw, &l) != nil {
		return nil
	}
	var read func(t token) (Token, bool)
	read = func(t token) (Token, bool) {
		if t.Logprob == nil || *t.Logprob > 1e-3 { // rounding may give a little more than 0
			return Token{}, false
		}
		r := Token{Text: t.Token, Logprob: *t.Logprob}
		if len(t.Bytes) > 0 {
			r.Text = string(t.Bytes)
		} else { // perhaps as the tokenizer writes it
			r.Text = spelled.Replace(t.Token)
		}
		for _, top := range t.Top {
			alternative, ok := read(top)
			if !ok {
				return Token{}, false
			}
			r.Top = append(r.Top, alternative)
		}
		return r, true
	}
	var all []Token
	for _, t := range l.Content {
		r, ok := read(t)
		if !ok {
			return nil
		}
		all = append(all, r)
	}
	return all
}

var spelled = strings.NewReplacer("Ġ", " ", "▁", " ", "Ċ", "\n")

func readUsage(raw json.RawMessage) usage {
	var u struct {
		Prompt     any `json:"prompt_tokens"`
		Completion any `json:"completion_tokens"`
		Details    struct {
			Cached any `json:"cached_tokens"`
		} `json:"prompt_tokens_details"`
	}
	if json.Unmarshal(raw, &u) != nil {
		return usage{unknown, unknown, unknown}
	}
	got := usage{tokens(u.Prompt), tokens(u.Completion), tokens(u.Details.Cached)}
	if got.prompt <= 0 && got.completion <= 0 { // no answer takes nothing
		return usage{unknown, unknown, unknown}
	}
	return got
}

func tokens(v any) int64 {
	f, ok := v.(float64)
	if !ok || f < 0 || f > maxUsage {
		return unknown
	}
	return int64(math.Ceil(f))
}

func isSet(raw json.RawMessage) bool { return len(raw) > 0 && string(raw) != "null" }

// filled says whether a member holds something: some servers send an empty error with each answer.
func filled(raw json.RawMessage) bool {
	var v any
	return json.Unmarshal(raw, &v) == nil && !hollow(v)
}

func hollow(v any) bool {
	switch v := v.(type) {
	case map[string]any:
		return !slices.ContainsFunc(slices.Collect(maps.Values(v)), func(in any) bool { return !hollow(in) })
	case []any:
		return !slices.ContainsFunc(v, func(in any) bool { return !hollow(in) })
	case string:
		return strings.TrimSpace(v) == ""
	}
	return v == nil || v == false || v == 0.0
}

// finite replaces what Python writes for numbers that JSON lacks, outside strings.
func finite(body []byte) []byte {
	if json.Valid(body) {
		return body
	}
	var out []byte
	inString := false
	for i := 0; i < len(body); i++ {
		rest := body[i:]
		switch {
		case inString && body[i] == '\\' && i+1 < len(body):
			out = append(out, body[i], body[i+1])
			i++
			continue
		case body[i] == '"':
			inString = !inString
		case inString:
		case bytes.HasPrefix(rest, []byte("-Infinity")):
			out, i = append(out, "-1e308"...), i+len("-Infinity")-1
			continue
		case bytes.HasPrefix(rest, []byte("Infinity")):
			out, i = append(out, "1e308"...), i+len("Infinity")-1
			continue
		case bytes.HasPrefix(rest, []byte("NaN")):
			out, i = append(out, "null"...), i+len("NaN")-1
			continue
		}
		out = append(out, body[i])
	}
	return out
}

var events = regexp.MustCompile(`^(?:data:|event:|id:|retry:|:)`)

// joinEvents makes one completion of the events of a server that streams.
func joinEvents(body []byte) []byte {
	type choice struct {
		Delta, Message json.RawMessage
		Logprobs       struct{ Content []json.RawMessage }
		Finish         any `json:"finish_reason"`
	}
	var all completion
	var finish, model string
	var usage json.RawMessage
	var tokens []json.RawMessage
	failed := false
	for line := range bytes.Lines(body) {
		line = bytes.TrimSpace(line)
		data, ok := bytes.CutPrefix(line, []byte("data:"))
		var event struct {
			Model   any
			Error   json.RawMessage
			Usage   json.RawMessage
			Choices []choice
		}
		switch {
		case bytes.HasPrefix(line, []byte("event:")):
			failed = bytes.HasSuffix(line, []byte("error"))
			continue
		case ok && string(bytes.TrimSpace(data)) == "[DONE]" && finish == "":
			finish = "stop"
			continue
		case !ok || json.Unmarshal(finite(data), &event) != nil: // comments
			continue
		case filled(event.Error):
			return data
		case failed:
			return slices.Concat([]byte(`{"error":`), data, []byte("}"))
		}
		if m, ok := event.Model.(string); ok {
			model = m
		}
		if isSet(event.Usage) {
			usage = event.Usage
		}
		if len(event.Choices) == 0 {
			continue
		}
		c := event.Choices[0]
		var g completion
		g.readMessage(append(c.Delta, c.Message...)) // one of them
		all.text += g.text
		all.refusal += g.refusal
		all.reasoning = cmp.Or(all.reasoning, g.reasoning)
		tokens = append(tokens, c.Logprobs.Content...)
		if f, ok := c.Finish.(string); ok {
			finish = f
		}
	}
	message := map[string]any{"content": all.text, "refusal": all.refusal}
	if all.reasoning != "" {
		message[all.reasoning] = "some"
	}
	joined, err := json.Marshal(map[string]any{"model": model, "usage": usage, "choices": []any{map[string]any{
		"message": message, "finish_reason": finish, "logprobs": map[string]any{"content": tokens}}}})
	if err != nil || finish == "" { // broken off
		return body
	}
	return joined
}

// parseModels reads a list of models, bare or under "data".
func parseModels(body []byte) (listed []model, err error) {
	var object struct{ Data *[]model }
	if json.Unmarshal(body, &listed) == nil {
		return listed, nil
	}
	if err := json.Unmarshal(finite(body), &object); err != nil {
		return nil, fmt.Errorf("not a list of models: %s", terminal.Clip(readWords(body).message, 200))
	}
	if object.Data == nil {
		return nil, errors.New("not a list of models: " + terminal.Clip(string(body), 200))
	}
	return *object.Data, nil
}

// model is what is used of a model in a server's list.
type model struct {
	ID      string `json:"id"`
	OwnedBy any    `json:"owned_by"`
	Window  any    `json:"max_model_len"`  // vLLM's name for the most tokens of prompt and answer
	Context any    `json:"context_length"` // that of others
	Root    any    `json:"root"`           // vLLM, SGLang: the model's folder or hub name
	Meta    any    `json:"meta"`           // llama.cpp: n_params and size of the file
}

func (m model) window() int {
	return int(max(tokens(m.Window), tokens(m.Context), 0))
}

// about is what the list says of the model that another checkpoint of the same name changes.
func (m model) about() (all []string) {
	if root, ok := m.Root.(string); ok && root != "" && root != m.ID {
		all = append(all, "root "+strconv.Quote(root))
	}
	meta, _ := m.Meta.(map[string]any)
	for _, name := range []string{"n_params", "size"} {
		if n, ok := meta[name].(float64); ok {
			all = append(all, name+" "+strconv.FormatFloat(n, 'f', -1, 64))
		}
	}
	return all
}
