package endpoint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strings"

	"github.com/sashabaranov/go-openai"

	"tokenfork/internal/failure"
)

// dialect is what the server understands, found out once, when it is opened.
type dialect struct {
	format      format
	topLogprobs int  // most alternatives it gives, 0 for no logprobs at all
	newLimit    bool // max_completion_tokens; older servers know max_tokens only
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

// read makes a Reply of a response that has a choice.
func (d dialect) read(resp openai.ChatCompletionResponse, r Request) (*Reply, *fault) {
	choice := resp.Choices[0]
	switch {
	case choice.FinishReason == openai.FinishReasonContentFilter:
		return nil, &fault{class: ContentFilter, message: "the server's content filter ended the answer", raw: choice.Message.Content}
	case choice.Message.Refusal != "":
		return nil, &fault{class: Refusal, message: "the judge refused", raw: choice.Message.Refusal}
	}
	reply := &Reply{
		Text:   choice.Message.Content,
		Cut:    choice.FinishReason == openai.FinishReasonLength,
		Masked: r.Schema != nil && d.format != byPrompt,
	}
	if choice.LogProbs != nil {
		for _, t := range choice.LogProbs.Content {
			token := newToken(t.Token, t.Bytes, t.LogProb)
			for _, top := range t.TopLogProbs {
				token.Top = append(token.Top, newToken(top.Token, top.Bytes, top.LogProb))
			}
			reply.Tokens = append(reply.Tokens, token)
		}
	}
	return reply, nil
}

func newToken(text string, b []byte, logprob float64) Token {
	if b != nil {
		text = string(b)
	}
	return Token{Text: text, Logprob: logprob}
}

// probe is a question that nobody answers by the schema of their own accord: a
// server that passes over the schema in silence gives itself away.
func probe(like Request) Request {
	return Request{Prompt: "Greet the reader in a JSON object.", Schema: like.Schema, MaxTokens: 32, Temperature: like.Temperature, TopLogprobs: like.TopLogprobs}
}

// Negotiate finds out, with a question or two of a few words, what the server
// understands of want's schema, limit and logprobs. A question which it refuses
// later is then that question's fault.
func (c *Client) Negotiate(ctx context.Context, want Request) error {
	d := dialect{topLogprobs: want.TopLogprobs, vllm: c.dialect.vllm}
	for tries := 1; ; tries++ {
		resp, f := c.paid(ctx, d, probe(want))
		switch {
		case f != nil:
			if err := c.mend(ctx, &d, f, want, tries); err != nil {
				return err
			}
		case d.holds(resp, want):
			c.agree(d, resp, want)
			return nil
		default:
			d.format++
		}
	}
}

// mend changes the dialect to one that the server may take, or waits where it
// is not the dialect's fault.
func (c *Client) mend(ctx context.Context, d *dialect, f *fault, want Request, tries int) error {
	if f.fatal != nil {
		return f.fatal
	}
	ofModel := errors.Is(f.err, errNotForModel)
	if !ofModel && f.status != http.StatusBadRequest && f.status != http.StatusUnprocessableEntity {
		if tries >= triesPerQuestion {
			return failure.New(failure.Stopped, "start it again later: what is judged is kept", "try the judge at %s: %w", c.cfg.URL, f.error(c))
		}
		return sleep(ctx, max(f.wait, backoff(tries)))
	}
	said := strings.ToLower(f.message)
	switch {
	case !d.newLimit && strings.Contains(said, "max_completion_tokens"):
		d.newLimit = true
	case d.topLogprobs > 0 && (ofModel || strings.Contains(said, "logprob")):
		d.fewerLogprobs()
	case want.Temperature != nil && strings.Contains(said, "temperature"):
		return failure.New(failure.Refused, "--judge-temperature default leaves it to the model", "the judge %s takes no temperature: %w", c.cfg.Model, f.error(c))
	case want.Schema != nil && d.format < byPrompt:
		d.format++
	case d.topLogprobs > 0:
		d.fewerLogprobs()
	default:
		return failure.New(failure.Refused, "see the server's log", "the judge at %s refuses every form of question: %w", c.cfg.URL, f.error(c))
	}
	return nil
}

// fewerLogprobs: 20 is the usual most, some servers give 5, some none.
func (d *dialect) fewerLogprobs() {
	if d.topLogprobs > 5 {
		d.topLogprobs = 5
	} else {
		d.topLogprobs = 0
	}
}

// holds says whether the answer to the probe, mostly cut, shows that the format
// is at work. One that was cut before its first word (a model that thinks
// first) is no evidence against it.
func (d dialect) holds(resp openai.ChatCompletionResponse, want Request) bool {
	text := strings.TrimSpace(resp.Choices[0].Message.Content)
	if want.Schema == nil || d.format == byPrompt || text == "" {
		return true
	}
	first, isObject := firstMember(text)
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

// agree keeps the dialect and says what it costs the verdicts.
func (c *Client) agree(d dialect, resp openai.ChatCompletionResponse, want Request) {
	if lp := resp.Choices[0].LogProbs; lp == nil || len(lp.Content) == 0 {
		d.topLogprobs = 0
	}
	c.dialect = d
	if want.Schema != nil && d.format != bySchema {
		c.cfg.Log.Warn("the judge does not hold answers to a JSON schema; they are parsed and asked for again", "format", d.format.String())
	}
	if want.TopLogprobs > 0 && d.topLogprobs == 0 {
		c.cfg.Log.Warn("the judge gives no log probabilities; confidence is its own word or null")
	}
}

// Describe says in a few words what was agreed with the server.
func (c *Client) Describe() string {
	return fmt.Sprintf("%s at %s, %s, %d logprobs", c.cfg.Model, c.cfg.URL, c.dialect.format, c.dialect.topLogprobs)
}

// Probability is e to the log probability.
func (t Token) Probability() float64 { return math.Exp(t.Logprob) }
