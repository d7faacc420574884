package endpoint

import (
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"

	"github.com/sashabaranov/go-openai"

	"tokenfork/internal/failure"
	"tokenfork/internal/secret"
)

// dialect is what the server understands, found out once, when it is opened.
type dialect struct {
	format      format
	topLogprobs int  // most alternatives it gives, 0 for no logprobs at all
	newLimit    bool // max_completion_tokens; older servers know max_tokens only
	stream      bool // it answers in events only
	vllm        bool
}

// format is how an answer is held to the schema, from the best down.
type format int

const (
	bySchema format = iota // strict json_schema
	byObject               // json_object: some JSON
	byPrompt               // nothing but what the prompt says
)

func (f format) String() string { return [...]string{"json_schema", "json_object", "plain text"}[f] }

func (d dialect) request(model string, r Request) openai.ChatCompletionRequest {
	q := openai.ChatCompletionRequest{
		Model:    model,
		Messages: []openai.ChatCompletionMessage{{Role: openai.ChatMessageRoleUser, Content: r.Prompt}},
		Seed:     r.Seed,
	}
	q.TopLogProbs = min(r.TopLogprobs, d.topLogprobs)
	q.LogProbs = q.TopLogProbs > 0
	if r.Schema == nil {
		return q
	}
	switch d.format {
	case bySchema:
		q.ResponseFormat = &openai.ChatCompletionResponseFormat{
			Type:       openai.ChatCompletionResponseFormatTypeJSONSchema,
			JSONSchema: &openai.ChatCompletionResponseFormatJSONSchema{Name: "answer", Schema: r.Schema, Strict: true},
		}
	case byObject:
		q.ResponseFormat = &openai.ChatCompletionResponseFormat{Type: openai.ChatCompletionResponseFormatTypeJSONObject}
	}
	return q
}

// member is one of a JSON object.
type member struct {
	name  string
	value string // JSON
}

// greedyVLLM states what vLLM would otherwise take from the model's
// generation_config.json, a repetition penalty for instance.
var greedyVLLM = []member{{"top_p", "1"}, {"top_k", "-1"}, {"min_p", "0"}, {"repetition_penalty", "1"}, {"presence_penalty", "0"}, {"frequency_penalty", "0"}}

// ours are the members of a request that have flags of their own, or none.
var ours = map[string]string{"model": "--judge-model", "messages": "--judge-prompt", "temperature": "--judge-temperature", "seed": "--judge-seed",
	"max_tokens": "--judge-max-tokens", "max_completion_tokens": "--judge-max-tokens", "response_format": "", "logprobs": "", "top_logprobs": "", "n": "--votes", "stream": ""}

// ParseBody reads an object that is to be merged into each question, "" for
// none, and writes it in one form: sorted, without blanks.
func ParseBody(s string) (json.RawMessage, error) {
	if strings.TrimSpace(s) == "" {
		return nil, nil
	}
	if found := secret.In(s); found != "" {
		return nil, failure.New(failure.Usage, "a job keeps the body: use TOKENFORK_JUDGE_KEY, or --judge-header NAME=ENVVAR", "--judge-body holds %s in plain text", found)
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal([]byte(s), &m); err != nil {
		return nil, failure.New(failure.Usage, `for example '{"chat_template_kwargs":{"enable_thinking":false}}'`, "--judge-body is not a JSON object: %w", err)
	}
	for name := range m {
		if flag, taken := ours[name]; taken {
			hint := "tokenfork sets it itself"
			if flag != "" {
				hint = "use " + flag
			}
			return nil, failure.New(failure.Usage, hint, "--judge-body may not set %q", name)
		}
	}
	var v any
	d := json.NewDecoder(strings.NewReader(s))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("read --judge-body: %w", err)
	}
	return json.Marshal(v)
}

func bodyMembers(body json.RawMessage) ([]member, error) {
	if len(body) == 0 {
		return nil, nil
	}
	d := json.NewDecoder(strings.NewReader(string(body)))
	if _, err := d.Token(); err != nil {
		return nil, fmt.Errorf("read --judge-body: %w", err)
	}
	var all []member
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("read --judge-body: %w", err)
		}
		var v json.RawMessage
		if err := d.Decode(&v); err != nil {
			return nil, fmt.Errorf("read --judge-body: %w", err)
		}
		all = append(all, member{fmt.Sprint(name), string(v)})
	}
	return all, nil
}

// members are the request's parts that go-openai can't write, or (max_tokens)
// keeps from models whose servers want the newer name, and the user's own.
func (c *Client) members(d dialect, r Request) []byte {
	limit := "max_tokens"
	if d.newLimit {
		limit = "max_completion_tokens"
	}
	b := fmt.Appendf(nil, `"%s":%d`, limit, r.MaxTokens)
	if r.Temperature != nil {
		b = fmt.Appendf(b, `,"temperature":%s`, strconv.FormatFloat(*r.Temperature, 'f', -1, 64))
	}
	if d.stream {
		b = append(b, `,"stream":true,"stream_options":{"include_usage":true}`...)
	}
	own := map[string]bool{}
	for _, m := range c.body {
		own[m.name] = true
		b = fmt.Appendf(b, ",%q:%s", m.name, m.value)
	}
	if d.vllm {
		for _, m := range greedyVLLM {
			if !own[m.name] {
				b = fmt.Appendf(b, ",%q:%s", m.name, m.value)
			}
		}
	}
	return b
}

// reply makes a Reply of a completion.
func (c *Client) reply(got completion, r Request) (*Reply, *fault) {
	if f := got.ended(); f != nil {
		return nil, f
	}
	reply := &Reply{Text: got.text, Cut: got.cut(), Masked: r.Schema != nil && c.dialect.format != byPrompt, Tokens: got.tokens, Reasoning: got.reasoning}
	if c.window > 0 && got.used.prompt > 0 {
		reply.Room = max(1, c.window-int(got.used.prompt))
	}
	return reply, nil
}

var upTo = regexp.MustCompile(`(?:at most|maximum(?: of)?|up to|less than or equal to|<=|between 0 and|range \[0, ?) ?(\d{1,2})\b`)

// fewerLogprobs asks for as many as the server says, else: 20 is the usual
// most, some servers give 5, some none.
func (d *dialect) fewerLogprobs(said string) {
	if m := upTo.FindStringSubmatch(said); m != nil {
		if n, err := strconv.Atoi(m[1]); err == nil && n < d.topLogprobs {
			d.topLogprobs = n
			return
		}
	}
	if d.topLogprobs > 5 {
		d.topLogprobs = 5
	} else {
		d.topLogprobs = 0
	}
}

var (
	thoughtEnd = regexp.MustCompile(`(?i)</(?:(?:seed:)?think(?:ing)?|thoughts?|reasoning)>|\[/THINK\]|◁/think▷|<\|END_(?:THINKING|OF_THOUGHT)\|>|<channel\|>|` +
		`<\|channel\|>\s*final\s*(?:<\|constrain\|>\s*\w+\s*)?<\|message\|>`)
	// What ends a thought only where it began as one: the last without its control tokens.
	thought = regexp.MustCompile(`(?is)^\s*(?:<analysis\b[^>]*>.*</analysis>|<scratchpad\b[^>]*>.*</scratchpad>|<reflection\b[^>]*>.*</reflection>|<details\b[^>]*>.*</details>|` +
		`here is my thought process:.*here is my response:|(?-i:(?:analysis|commentary).*assistantfinal(?:\s*json)?))`)
	// A mark may itself be cut: "<think" without its end.
	thoughtStarts = regexp.MustCompile(`(?i)^\s*(?:<(?:seed:)?think(?:ing)?(?:[\s>]|$)|<(?:thoughts?|reasoning|analysis|scratchpad|reflection)\b|<details type="reasoning"|\[THINK\]|◁think▷|` +
		`(?:<\|start\|>assistant)?<\|channel\|>(?:analysis|commentary)|<\|channel>|<\|(?:START_THINKING|BEGIN_OF_THOUGHT)\|>|here is my thought process:|(?-i:analysis[A-Z]))`)
)

// Spoken is where the answer begins in a text: after the last thought, which may
// hold drafts of it. ok is false for a text that ends in its thoughts.
func Spoken(text string) (from int, ok bool) {
	for _, end := range append(thoughtEnd.FindAllStringIndex(text, -1), thought.FindStringIndex(text)) {
		if end != nil {
			from = max(from, end[1])
		}
	}
	return from, from > 0 || !thoughtStarts.MatchString(text)
}

// Begun says whether an answer has come out of its thoughts: a model that
// thinks first, and was cut there, has not answered yet.
func Begun(text string) bool {
	from, ok := Spoken(text)
	return ok && strings.TrimSpace(text[from:]) != ""
}

// holds says whether the answer to the probe, mostly cut, shows that the format
// is at work. One that was cut before its first word (a model that thinks
// first) is no evidence against it.
func (d dialect) holds(text string, want Request) bool {
	if want.Schema == nil || d.format == byPrompt || !Begun(text) {
		return true
	}
	from, _ := Spoken(text)
	first, isObject := firstMember(strings.TrimSpace(text[from:]))
	return isObject && (d.format == byObject || first == firstProperty(want.Schema))
}

// firstMember is the name of the first member of the object that a text starts with.
func firstMember(text string) (name string, isObject bool) {
	d := json.NewDecoder(strings.NewReader(text))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return "", false
	}
	t, err := d.Token()
	if err != nil {
		return "", true
	}
	name, _ = t.(string)
	return name, true
}

// firstProperty is the first that a schema names: the first member of an answer.
func firstProperty(schema json.RawMessage) string {
	var s struct {
		Properties json.RawMessage `json:"properties"`
	}
	if err := json.Unmarshal(schema, &s); err != nil {
		return ""
	}
	name, _ := firstMember(string(s.Properties))
	return name
}

// Describe says in a few words what was agreed with the server.
func (c *Client) Describe() string {
	return fmt.Sprintf("%s at %s, %s, %d logprobs", c.cfg.Model, c.cfg.URL, c.dialect.format, c.dialect.topLogprobs)
}

// GivesLogprobs says whether the server gives log probabilities of the answer's tokens.
func (c *Client) GivesLogprobs() bool { return c.dialect.topLogprobs > 0 }

// Probability is e to the log probability.
func (t Token) Probability() float64 { return math.Exp(t.Logprob) }
