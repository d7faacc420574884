package vllm

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// Tokenize gives the ids of a text; with special ones at its start where the
// model's tokenizer puts them there.
func (c *Client) Tokenize(ctx context.Context, text string, special bool) ([]int32, error) {
	return c.tokenize(ctx, map[string]any{"prompt": text, "add_special_tokens": special})
}

// Message is one of a chat.
type Message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// TokenizeChat gives the ids of messages in the model's chat template, up to where
// the answer begins.
func (c *Client) TokenizeChat(ctx context.Context, messages []Message) ([]int32, error) {
	return c.tokenize(ctx, map[string]any{"messages": messages, "add_generation_prompt": true})
}

func (c *Client) tokenize(ctx context.Context, request map[string]any) ([]int32, error) {
	request["model"] = c.Model
	b, err := json.Marshal(request)
	if err != nil {
		return nil, fmt.Errorf("ask for tokens: %w", err)
	}
	body := newBody()
	defer body.release()
	body.b = append(body.b, b...)
	data, err := c.do(ctx, http.MethodPost, "/tokenize", body, maxAnswer+int64(len(b))*idBytes) // no token is shorter than a byte
	if err != nil {
		return nil, err
	}
	var answer struct {
		Count  *int    `json:"count"`
		Tokens []int32 `json:"tokens"`
	}
	if err := json.Unmarshal(data, &answer); err != nil || answer.Count == nil || *answer.Count != len(answer.Tokens) {
		return nil, &AnswerError{Reason: fmt.Sprintf("POST /tokenize: no whole list of tokens: %v", err)}
	}
	return answer.Tokens, nil
}

// Reading is what a model says after each of a text's n tokens.
type Reading struct {
	Best []int32 // n: the most probable next token
	// Top are the k largest scores at each position, descending: log-probabilities in
	// nats, or logits of a server started with --logprobs-mode raw_logits. n·k of them.
	Top    []float64
	TopIDs []int32 // whose they are
	Usage  Usage
}

// Predict reads a text and gives, after each of its tokens, the last one included, the
// most probable next one and the k largest scores; k is at least 1.
func (c *Client) Predict(ctx context.Context, ids []int32, k int) (*Reading, error) {
	r := CompletionRequest{Prompt: Tokens(ids...), MaxTokens: 1}
	if err := r.check(); err != nil {
		return nil, err
	}
	body := newBody()
	defer body.release()
	body.b = r.appendWire(body.b, Completions, c.Model)
	body.b = fmt.Appendf(body.b[:len(body.b)-1], `,"return_tokens_as_token_ids":true,"logprobs":%d,"prompt_logprobs":%d}`, k, k)
	bound := r.answerBound() + int64(len(ids)+1)*int64(k+1)*tokenBytes
	data, err := c.do(ctx, http.MethodPost, Completions.path(), body, bound)
	if err != nil {
		return nil, err
	}
	last, err := readCompletion(data, &r)
	if err != nil {
		return nil, err
	}
	reading, err := readScores(data, len(ids), k)
	if err != nil {
		return nil, err
	}
	reading.Best, reading.Usage = append(reading.Best, last.TokenIDs[0]), last.Usage
	return reading, nil
}

// readScores finds the scores at every position but the first, of which nothing is
// predicted, and those of the token that was generated. vLLM adds the text's own token
// to the k best ones. The token of rank 1 after the last is not known here.
func readScores(data []byte, n, k int) (*Reading, error) {
	type score struct {
		Logprob float64 `json:"logprob"`
		Rank    int     `json:"rank"`
	}
	var w struct {
		Choices []struct {
			Prompt   []map[string]score `json:"prompt_logprobs"`
			Logprobs *struct {
				Top []map[string]float64 `json:"top_logprobs"`
			} `json:"logprobs"`
		} `json:"choices"`
	}
	if err := json.Unmarshal(data, &w); err != nil {
		return nil, &AnswerError{Reason: "unreadable: " + err.Error()}
	}
	if len(w.Choices) != 1 || len(w.Choices[0].Prompt) != n {
		return nil, &AnswerError{Reason: fmt.Sprintf("no prompt_logprobs of a text of %d tokens", n)}
	}
	if l := w.Choices[0].Logprobs; l == nil || len(l.Top) != 1 {
		return nil, &AnswerError{Reason: "no logprobs of the token that follows the text"}
	}
	out := &Reading{Best: make([]int32, 0, n), Top: make([]float64, 0, n*k), TopIDs: make([]int32, 0, n*k)}
	here := make([]scored, 0, k+1)
	for p, tokens := range w.Choices[0].Prompt[1:] {
		best := -1
		here = here[:0]
		for key, token := range tokens {
			id, err := strconv.ParseInt(key, 10, 32)
			if err != nil || token.Rank == 1 && best >= 0 {
				return nil, &AnswerError{Reason: fmt.Sprintf("prompt_logprobs of position %d: %v", p+1, tokens)}
			}
			if token.Rank == 1 {
				best = int(id)
			}
			if token.Rank <= k {
				here = append(here, scored{int32(id), token.Logprob})
			}
		}
		if best < 0 {
			return nil, &AnswerError{Reason: fmt.Sprintf("prompt_logprobs of position %d have no token of rank 1: %v", p+1, tokens)}
		}
		out.Best = append(out.Best, int32(best))
		if err := out.add(here, k, p+1); err != nil {
			return nil, err
		}
	}
	here = here[:0]
	for key, v := range w.Choices[0].Logprobs.Top[0] {
		id, err := strconv.ParseInt(strings.TrimPrefix(key, "token_id:"), 10, 32)
		if err != nil {
			return nil, &AnswerError{Reason: fmt.Sprintf("top_logprobs of the token that follows the text: %q is no token_id:N", key)}
		}
		here = append(here, scored{int32(id), v})
	}
	return out, out.add(here, k, n)
}

// scored is a token's score.
type scored struct {
	id    int32
	score float64
}

// add takes the scores of one position, the largest first, which must be k: of equal ones at the
// edge a server may give more.
func (r *Reading) add(here []scored, k, position int) error {
	if len(here) < k {
		return &AnswerError{Reason: fmt.Sprintf("%d scores at position %d, asked for %d", len(here), position, k)}
	}
	slices.SortFunc(here, func(a, b scored) int { return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(a.id, b.id)) })
	for _, s := range here[:k] {
		r.Top, r.TopIDs = append(r.Top, s.score), append(r.TopIDs, s.id)
	}
	return nil
}
