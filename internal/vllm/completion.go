package vllm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
)

// Completion is the answer to a CompletionRequest.
type Completion struct {
	TokenIDs     []int32   // at least one; a stop token or EOS is the last
	FinishReason string    // the server's: "stop" or "length"
	StopTokenID  int32     // the stop token that ended it; -1 at EOS and at the limit
	Gaps         []float64 // per token: best minus second-best logprob; nil without Margins
	Usage        Usage
}

// Usage counts a request's tokens as the server reports them.
type Usage struct {
	PromptTokens    int
	GeneratedTokens int
	CachedTokens    int // of the prompt, from the prefix cache; -1 where the server does not tell
}

// Complete asks for a continuation. Its errors: *StatusError where the server
// refuses, *AnswerError where a 200 is not a whole answer; see IsContextLength
// and IsGone. It does not retry.
func (c *Client) Complete(ctx context.Context, r CompletionRequest) (Completion, error) {
	if err := r.check(); err != nil {
		return Completion{}, err
	}
	body := newBody()
	defer body.release()
	body.b = r.appendWire(body.b, c.API, c.Model)
	data, err := c.do(ctx, http.MethodPost, c.API.path(), body, r.answerBound())
	if err != nil {
		return Completion{}, err
	}
	return readCompletion(data, &r)
}

type wireCompletion struct {
	Choices []wireChoice `json:"choices"`
	Usage   *struct {
		Prompt    int `json:"prompt_tokens"`
		Generated int `json:"completion_tokens"`
		Details   *struct {
			Cached *int `json:"cached_tokens"`
		} `json:"prompt_tokens_details"`
	} `json:"usage"`
}

type wireChoice struct {
	TokenIDs     []int32         `json:"token_ids"`
	FinishReason *string         `json:"finish_reason"`
	StopReason   json.RawMessage `json:"stop_reason"`
	Logprobs     *struct {
		Top     []map[string]float64 `json:"top_logprobs"` // completions
		Content []struct {           // generate
			Top []struct {
				Logprob float64 `json:"logprob"`
			} `json:"top_logprobs"`
		} `json:"content"`
	} `json:"logprobs"`
}

func readCompletion(data []byte, r *CompletionRequest) (Completion, error) {
	var w wireCompletion
	if err := json.Unmarshal(data, &w); err != nil {
		return Completion{}, &AnswerError{Reason: "unreadable: " + err.Error()}
	}
	if len(w.Choices) != 1 {
		return Completion{}, &AnswerError{Reason: fmt.Sprintf("%d choices for one prompt", len(w.Choices))}
	}
	c, err := w.Choices[0].read(r)
	if err != nil {
		return Completion{}, err
	}
	c.Usage = w.usage()
	return c, nil
}

func (w *wireCompletion) usage() Usage {
	u := Usage{CachedTokens: -1}
	if w.Usage == nil {
		return u
	}
	u.PromptTokens, u.GeneratedTokens = w.Usage.Prompt, w.Usage.Generated
	if d := w.Usage.Details; d != nil && d.Cached != nil {
		u.CachedTokens = *d.Cached
	}
	return u
}

func (w *wireChoice) read(r *CompletionRequest) (Completion, error) {
	c := Completion{TokenIDs: w.TokenIDs, StopTokenID: -1}
	if w.FinishReason != nil && *w.FinishReason == "abort" { // a server that is shutting down ends its requests so
		return c, &goneError{errors.New(`it ended the request: finish reason "abort"`)}
	}
	if len(c.TokenIDs) == 0 {
		return c, &AnswerError{Reason: "no token ids"}
	}
	if len(c.TokenIDs) > r.MaxTokens {
		return c, &AnswerError{Reason: fmt.Sprintf("%d tokens, asked for %d", len(c.TokenIDs), r.MaxTokens)}
	}
	if err := w.readFinish(&c, r.MaxTokens); err != nil {
		return c, err
	}
	if !r.Margins {
		return c, nil
	}
	return c, w.readGaps(&c)
}

func (w *wireChoice) readFinish(c *Completion, limit int) error {
	if w.FinishReason == nil {
		return &AnswerError{Reason: "no finish reason"}
	}
	c.FinishReason = *w.FinishReason
	switch c.FinishReason {
	case "length":
		if len(c.TokenIDs) < limit {
			return &AnswerError{cut: true, Reason: fmt.Sprintf(
				"cut at %d of %d tokens: prompt and limit together exceed the server's max_model_len", len(c.TokenIDs), limit)}
		}
		return nil
	case "stop":
		return w.readStop(c)
	}
	return &AnswerError{Reason: fmt.Sprintf("finish reason %q", c.FinishReason)}
}

func (w *wireChoice) readStop(c *Completion) error {
	if len(w.StopReason) == 0 || string(w.StopReason) == "null" {
		return nil
	}
	if err := json.Unmarshal(w.StopReason, &c.StopTokenID); err != nil {
		return &AnswerError{Reason: fmt.Sprintf("stop reason %s is no token id", w.StopReason)}
	}
	if last := c.TokenIDs[len(c.TokenIDs)-1]; last != c.StopTokenID {
		return &AnswerError{Reason: fmt.Sprintf("stopped at token %d, but the last one is %d", c.StopTokenID, last)}
	}
	return nil
}

func (w *wireChoice) readGaps(c *Completion) error {
	if w.Logprobs == nil {
		return &AnswerError{Reason: "no logprobs"}
	}
	for _, top := range w.Logprobs.Top {
		var best twoBest
		for _, lp := range top {
			best.add(lp)
		}
		c.Gaps = append(c.Gaps, best.gap())
	}
	for _, content := range w.Logprobs.Content {
		var best twoBest
		for _, top := range content.Top {
			best.add(top.Logprob)
		}
		c.Gaps = append(c.Gaps, best.gap())
	}
	if len(c.Gaps) != len(c.TokenIDs) {
		return &AnswerError{Reason: fmt.Sprintf("logprobs of %d tokens for %d token ids", len(c.Gaps), len(c.TokenIDs))}
	}
	return nil
}

type twoBest struct {
	n             int
	first, second float64
}

func (t *twoBest) add(lp float64) {
	t.n++
	switch {
	case t.n == 1:
		t.first = lp
	case lp > t.first:
		t.first, t.second = lp, t.first
	case t.n == 2 || lp > t.second:
		t.second = lp
	}
}

// gap is +Inf where no second token was possible.
func (t *twoBest) gap() float64 {
	if t.n < 2 {
		return math.Inf(1)
	}
	return t.first - t.second
}
