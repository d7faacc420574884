package vllm

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
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

// Predict reads a text and gives the most probable next token after each of
// its tokens, the last one included.
func (c *Client) Predict(ctx context.Context, ids []int32) ([]int32, error) {
	r := CompletionRequest{Prompt: Tokens(ids...), MaxTokens: 1}
	if err := r.check(); err != nil {
		return nil, err
	}
	body := newBody()
	defer body.release()
	body.b = r.appendWire(body.b, Completions, c.Model)
	body.b = append(body.b[:len(body.b)-1], `,"prompt_logprobs":1}`...)
	data, err := c.do(ctx, http.MethodPost, Completions.path(), body, r.answerBound()+int64(len(ids))*2*tokenBytes)
	if err != nil {
		return nil, err
	}
	last, err := readCompletion(data, &r)
	if err != nil {
		return nil, err
	}
	out, err := readPredictions(data, len(ids))
	if err != nil {
		return nil, err
	}
	return append(out, last.TokenIDs[0]), nil
}

// readPredictions finds the token of rank 1 at every position but the first,
// of which nothing is predicted: vLLM adds it to the text's own token.
func readPredictions(data []byte, n int) ([]int32, error) {
	var w struct {
		Choices []struct {
			Prompt []map[string]struct {
				Rank int `json:"rank"`
			} `json:"prompt_logprobs"`
		} `json:"choices"`
	}
	if err := json.Unmarshal(data, &w); err != nil {
		return nil, &AnswerError{Reason: "unreadable: " + err.Error()}
	}
	if len(w.Choices) != 1 || len(w.Choices[0].Prompt) != n {
		return nil, &AnswerError{Reason: fmt.Sprintf("no prompt_logprobs of a text of %d tokens", n)}
	}
	out := make([]int32, 0, n)
	for p, tokens := range w.Choices[0].Prompt[1:] {
		best := -1
		for key, token := range tokens {
			id, err := strconv.ParseInt(key, 10, 32)
			if err != nil || token.Rank == 1 && best >= 0 {
				return nil, &AnswerError{Reason: fmt.Sprintf("prompt_logprobs of position %d: %v", p+1, tokens)}
			}
			if token.Rank == 1 {
				best = int(id)
			}
		}
		if best < 0 {
			return nil, &AnswerError{Reason: fmt.Sprintf("prompt_logprobs of position %d have no token of rank 1: %v", p+1, tokens)}
		}
		out = append(out, int32(best))
	}
	return out, nil
}
