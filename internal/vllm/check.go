package vllm

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"tokenfork/internal/failure"
)

// Model is one entry of a server's /v1/models.
type Model struct {
	ID          string `json:"id"`
	Root        string `json:"root"`          // the folder or name that the server was given
	MaxModelLen int    `json:"max_model_len"` // tokens; 0 where not told
}

// Models lists what the server serves.
func (c *Client) Models(ctx context.Context) ([]Model, error) {
	var list struct {
		Data []Model `json:"data"`
	}
	if err := c.getJSON(ctx, "/v1/models", &list); err != nil {
		return nil, err
	}
	return list.Data, nil
}

// Version is the server's vLLM version.
func (c *Client) Version(ctx context.Context) (string, error) {
	var v struct {
		Version string `json:"version"`
	}
	err := c.getJSON(ctx, "/version", &v)
	return v.Version, err
}

// Health returns nil when the server says that it is well. A hung engine can
// still say so: see Watchdog.
func (c *Client) Health(ctx context.Context) error {
	_, err := c.do(ctx, http.MethodGet, "/health", nil, maxAnswer)
	return err
}

// Probe asks for one token, the proof that the engine works.
func (c *Client) Probe(ctx context.Context) error {
	_, err := c.Complete(ctx, CompletionRequest{Prompt: Tokens(0), MaxTokens: 1})
	return err
}

// chooseAPI takes Generate where the server has it, in a version that counts
// tokens in its answers.
func (c *Client) chooseAPI(ctx context.Context) error {
	if c.API == Generate {
		return nil
	}
	lighter := *c
	lighter.API = Generate
	answer, err := lighter.Complete(ctx, CompletionRequest{Prompt: Tokens(0), MaxTokens: 1})
	var status *StatusError
	switch {
	case errors.As(err, &status) && status.Status < 500:
		return nil
	case err == nil && answer.Usage.PromptTokens > 0:
		c.API = Generate
	}
	return err
}

// Want is what a server must be to answer for a planned model.
type Want struct {
	Model string // served id; "" takes the only one that there is
	// VocabSize is one more than the largest id that the model has: config.json's
	// vocab_size. A tokenizer may know more. 0 leaves it unchecked.
	VocabSize int
}

// Check compares the server with want before any row is sent, and sets
// c.Model, and c.API to the lighter one where the server has it. An error names
// what differs.
func (c *Client) Check(ctx context.Context, want Want) (Model, error) {
	models, err := c.Models(ctx)
	if err != nil {
		return Model{}, c.Explain(err)
	}
	m, err := c.choose(models, want)
	if err != nil {
		return m, err
	}
	c.Model = m.ID
	if err := c.chooseAPI(ctx); err != nil {
		return m, c.Explain(err)
	}
	if want.VocabSize > 0 {
		return m, c.checkVocab(ctx, int32(want.VocabSize))
	}
	return m, nil
}

// Explain is the error of a server that was asked for the first time: an answer
// that no vLLM gives is refused, trouble that passes is not.
func (c *Client) Explain(err error) error {
	const hint = "give the URL of a vLLM server, without /v1: infer and predict need its token ids; other servers can only judge"
	status, ofStatus := errors.AsType[*StatusError](err)
	_, ofAnswer := errors.AsType[*AnswerError](err)
	switch {
	case ofStatus && (status.Status == http.StatusUnauthorized || status.Status == http.StatusForbidden):
		return failure.New(failure.Refused, "set TOKENFORK_SERVER_KEY to a key of the server, and "+hint, "the server at %s refuses: %w", c.url, err)
	case ofAnswer, ofStatus && status.Status < 500 && status.Status != http.StatusRequestTimeout && status.Status != http.StatusTooEarly && status.Status != http.StatusTooManyRequests:
		return failure.New(failure.Refused, hint, "the server at %s does not answer as vLLM does: %w", c.url, err)
	}
	return fmt.Errorf("check server %s: %w", c.url, err)
}

func (c *Client) choose(models []Model, want Want) (Model, error) {
	var ids []string
	for _, m := range models {
		if m.ID == want.Model {
			return m, nil
		}
		ids = append(ids, fmt.Sprintf("%q", m.ID))
	}
	if want.Model != "" {
		return Model{}, failure.New(failure.Refused, "another server may hold that address",
			"%s answers as %s, expected %q", c.url, strings.Join(ids, ", "), want.Model)
	}
	if len(models) == 0 {
		return Model{}, c.Explain(&AnswerError{Reason: "it serves no model"})
	}
	if len(models) != 1 {
		return Model{}, failure.New(failure.Refused, "name one of them",
			"%s serves %d models: %s", c.url, len(models), strings.Join(ids, ", "))
	}
	return models[0], nil
}

// checkVocab asks for what follows the last id, which must work. It asks for no
// id beyond: some versions of vLLM take one, and on a GPU the engine dies of it.
func (c *Client) checkVocab(ctx context.Context, size int32) error {
	_, err := c.Complete(ctx, CompletionRequest{Prompt: Tokens(size - 1), MaxTokens: 1})
	if status, ok := errors.AsType[*StatusError](err); ok && status.Status == http.StatusBadRequest {
		return failure.New(failure.Refused, "serve the model that the job was planned for",
			"%s does not know token id %d of the planned model: %s", c.url, size-1, status.Message)
	}
	if err != nil {
		return c.Explain(err)
	}
	return nil
}
