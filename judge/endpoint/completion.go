package endpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
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
	if bytes.HasPrefix(bytes.TrimSpace(body), []byte("data:")) {
		body = joinEvents(body)
	}
	var b struct {
		Model   any
		Choices []struct {
			Finish   any             `json:"finish_reason"`
			Message  json.RawMessage `json:"message"`
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
	case isSet(b.Error):
		return got, c.inBody(body)
	case len(b.Choices) == 0:
		return got, &fault{class: ServerError, retry: true, message: "an answer without choices: " + terminal.Clip(string(body), 200)}
	case isSet(b.Choices[0].Error):
		return got, c.inBody(append(append([]byte(`{"error":`), b.Choices[0].Error...), '}'))
	}
	first := b.Choices[0]
	got.model, _ = b.Model.(string)
	finish, _ := first.Finish.(string)
	got.finish = strings.ToLower(finish)
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
	case strings.HasPrefix(g.finish, "content_filter"), strings.HasPrefix(g.finish, "safety"), strings.HasPrefix(g.finish, "prohibited"),
		strings.HasPrefix(g.finish, "recitation"), strings.HasPrefix(g.finish, "blocklist"):
		return &fault{class: ContentFilter, message: "the server's content filter ended the answer: finish reason " + g.finish, raw: g.text}
	case g.finish == "error", g.finish == "insufficient_system_resource", g.finish == "network_error":
		return &fault{class: ServerError, retry: true, message: "the server broke the answer off: finish reason " + g.finish, raw: g.text}
	case g.refusal != "":
		return &fault{class: Refusal, message: "the judge refused", raw: g.refusal}
	}
	return nil
}

// cut says whether the answer reached its limit.
func (g *completion) cut() bool {
	return g.finish == "length" || g.finish == "max_tokens" || g.finish == "max_output_tokens" || g.finish == "model_length"
}

func (g *completion) readMessage(raw json.RawMessage) {
	var m struct {
		Content          json.RawMessage `json:"content"`
		Refusal          any             `json:"refusal"`
		ReasoningContent any             `json:"reasoning_content"`
		Reasoning        any             `json:"reasoning"`
		ToolCalls        json.RawMessage `json:"tool_calls"`
	}
	if json.Unmarshal(raw, &m) != nil {
		return
	}
	var thoughts bool
	if g.text, thoughts = content(m.Content); thoughts {
		g.reasoning = "a part of content that is not text"
	}
	for name, v := range map[string]any{"reasoning_content": m.ReasoningContent, "reasoning": m.Reasoning} {
		if s, ok := v.(string); ok && strings.TrimSpace(s) != "" {
			g.reasoning = name
		}
	}
	g.refusal, _ = m.Refusal.(string)
	if g.text == "" {
		g.text = callArguments(m.ToolCalls)
	}
}

// content joins a message's content where it comes in parts, and says whether
// some of them hold no text of the answer (thoughts).
func content(raw json.RawMessage) (text string, others bool) {
	if json.Unmarshal(raw, &text) == nil {
		return text, false
	}
	var parts []json.RawMessage
	if json.Unmarshal(raw, &parts) != nil {
		return string(raw), false // an object, decoded already
	}
	var b strings.Builder
	for _, p := range parts {
		var s string
		var part struct{ Type, Text string }
		switch {
		case json.Unmarshal(p, &s) == nil:
			b.WriteString(s)
		case json.Unmarshal(p, &part) == nil && (part.Type == "" || part.Type == "text" || part.Type == "output_text"):
			b.WriteString(part.Text)
		default:
			others = true
		}
	}
	return b.String(), others
}

// callArguments are those of the only function call: some gateways hold an
// answer to a schema by making it one.
func callArguments(raw json.RawMessage) string {
	var calls []struct{ Function struct{ Arguments string } }
	if json.Unmarshal(raw, &calls) != nil || len(calls) != 1 {
		return ""
	}
	return calls[0].Function.Arguments
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
		if t.Bytes != nil {
			r.Text = string(t.Bytes)
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

// joinEvents makes one completion of the events of a server that streams
// although it was not asked to.
func joinEvents(body []byte) []byte {
	type message struct {
		Content          string `json:"content"`
		ReasoningContent string `json:"reasoning_content,omitempty"`
		Reasoning        string `json:"reasoning,omitempty"`
	}
	var all message
	var finish, model any
	var usage json.RawMessage
	for line := range bytes.Lines(body) {
		data, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte("data:"))
		var event struct {
			Model   any
			Error   json.RawMessage
			Usage   json.RawMessage
			Choices []struct {
				Delta  message
				Finish any `json:"finish_reason"`
			}
		}
		if !ok || json.Unmarshal(finite(data), &event) != nil {
			continue // [DONE], comments
		}
		if isSet(event.Error) {
			return data
		}
		model = event.Model
		if isSet(event.Usage) {
			usage = event.Usage
		}
		if len(event.Choices) == 0 {
			continue
		}
		d := event.Choices[0]
		all.Content += d.Delta.Content
		all.ReasoningContent += d.Delta.ReasoningContent
		all.Reasoning += d.Delta.Reasoning
		if d.Finish != nil {
			finish = d.Finish
		}
	}
	joined, err := json.Marshal(map[string]any{"model": model, "usage": usage,
		"choices": []any{map[string]any{"message": all, "finish_reason": finish}}})
	if err != nil || finish == nil { // broken off
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
