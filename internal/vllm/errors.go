package vllm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// ErrClosed is what open requests get when their client or server is closed.
var ErrClosed = errors.New("vLLM client closed")

// StatusError is an answer other than 200.
type StatusError struct {
	Request string // "POST /v1/completions"
	Status  int
	Type    string // the server's error type, may be empty
	Message string // the server's message
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("%s: status %d: %s", e.Request, e.Status, e.Message)
}

// AnswerError is an answer of status 200 that is no whole, honest answer.
type AnswerError struct {
	Reason string
	cut    bool
}

func (e *AnswerError) Error() string { return "answer of the server is unfit: " + e.Reason }

type goneError struct{ err error }

func (e *goneError) Error() string { return "server is gone: " + e.err.Error() }
func (e *goneError) Unwrap() error { return e.err }

// IsGone reports whether the server could not be reached, ended the
// connection or the request, or said that its engine is dead: another server
// may answer.
func IsGone(err error) bool {
	if _, ok := errors.AsType[*goneError](err); ok {
		return true
	}
	var status *StatusError
	return errors.As(err, &status) && status.Status >= 500 &&
		(strings.Contains(status.Type+status.Message, "EngineDead") || strings.Contains(status.Message, "EngineCore"))
}

// contextLengthTexts are what vLLM's versions and endpoints say of a prompt
// that leaves no room. The last one is its answer to a prompt of exactly
// max_model_len tokens: the limit asked for is never below 1.
var contextLengthTexts = []string{
	"maximum context length",
	"maximum model length",
	"max_tokens must be at least 1",
}

// IsContextLength reports whether the prompt, or the prompt and its limit,
// exceed what the server can hold.
func IsContextLength(err error) bool {
	if answer, ok := errors.AsType[*AnswerError](err); ok {
		return answer.cut
	}
	var status *StatusError
	if !errors.As(err, &status) || status.Status != 400 {
		return false
	}
	for _, text := range contextLengthTexts {
		if strings.Contains(status.Message, text) {
			return true
		}
	}
	return false
}

// transportError tells a caller that gave up from a server that went away.
func transportError(ctx context.Context, request string, err error) error {
	if ctx.Err() != nil && !errors.Is(context.Cause(ctx), ErrClosed) {
		return fmt.Errorf("%s: %w", request, context.Cause(ctx))
	}
	if ctx.Err() != nil {
		err = ErrClosed
	}
	return &goneError{err: fmt.Errorf("%s: %w", request, err)}
}

func statusError(request string, status int, body []byte) error {
	e := &StatusError{Request: request, Status: status}
	var w struct {
		Error struct {
			Message string `json:"message"`
			Type    string `json:"type"`
		} `json:"error"`
		Message string          `json:"message"` // older servers
		Type    string          `json:"type"`
		Detail  json.RawMessage `json:"detail"` // FastAPI's own
	}
	if json.Unmarshal(body, &w) == nil {
		e.Message, e.Type = w.Error.Message+w.Message, w.Error.Type+w.Type
		if e.Message == "" {
			e.Message = string(w.Detail)
		}
	}
	if e.Message == "" {
		e.Message = strings.TrimSpace(string(body[:min(len(body), 300)]))
	}
	return e
}
