package endpoint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sashabaranov/go-openai"

	"tokenfork/internal/failure"
)

// Classes of questions without an answer.
const (
	Refusal       = "refusal"        // the judge will not say
	ContentFilter = "content_filter" // the server will not let it
	ContextLength = "context_length" // longer than the model reads
	Rejected      = "rejected"       // the server says 4xx to this one
	Timeout       = "timeout"        // no answer in time, others were answered
	ServerError   = "server_error"   // 5xx or a broken reply, others were answered
)

// Error is a question that got no answer, while the server answers others.
type Error struct {
	Class   string
	Message string
	Raw     string // what the judge did say, if anything
}

func (e *Error) Error() string { return e.Class + ": " + e.Message }

// fault is what went wrong with one request.
type fault struct {
	fatal     error // ends the run
	class     string
	retry     bool // another try may do
	throttled bool // too fast, or too many
	unknown   bool // it may have been computed, and billed
	status    int
	message   string
	raw       string
	wait      time.Duration // what the server asks for, 0 for nothing
	err       error
}

// error is the fault for the user, who must never see the key.
func (f *fault) error(c *Client) *Error {
	message := shorten(f.message, 500)
	if c.cfg.Key != "" {
		message = strings.ReplaceAll(message, c.cfg.Key, "[key]")
	}
	return &Error{Class: f.class, Message: message, Raw: f.raw}
}

func shorten(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// errNotForModel: go-openai itself keeps some models from logprobs.
var errNotForModel = errors.New("not for this model")

// explain sorts an error of go-openai; nil for nil.
func (c *Client) explain(ctx context.Context, err error) *fault {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return &fault{fatal: fmt.Errorf("ask the judge: %w", context.Cause(ctx)), unknown: true}
	}
	var api *openai.APIError
	var other *openai.RequestError
	switch {
	case errors.As(err, &api):
		code := fmt.Sprint(api.Code)
		return c.status(&fault{status: api.HTTPStatusCode, message: api.Message, err: err}, code+" "+api.Type)
	case errors.As(err, &other):
		return c.status(&fault{status: other.HTTPStatusCode, message: bodyMessage(other.Body), err: err}, "")
	case errors.Is(err, context.DeadlineExceeded):
		return &fault{class: Timeout, retry: true, unknown: true, message: "no answer within " + c.cfg.Timeout.String(), err: err}
	case errors.Is(err, openai.ErrReasoningModelLimitationsLogprobs), errors.Is(err, openai.ErrReasoningSamplingUnsupported):
		return &fault{class: Rejected, message: err.Error(), err: errNotForModel}
	}
	return &fault{class: ServerError, retry: true, unknown: true, message: err.Error(), err: err}
}

// bodyMessage finds the words in an error body that is not in OpenAI's form.
func bodyMessage(body []byte) string {
	var said struct{ Message, Detail, Error any }
	if json.Unmarshal(body, &said) == nil {
		for _, v := range []any{said.Message, said.Detail, said.Error} {
			if v != nil {
				return fmt.Sprint(v)
			}
		}
	}
	return string(body)
}

// status sorts an answer that is an error by its code and its words.
func (c *Client) status(f *fault, code string) *fault {
	f.message = fmt.Sprintf("%d %s: %s", f.status, http.StatusText(f.status), f.message)
	words := strings.ToLower(code + " " + f.message)
	switch {
	case f.status == http.StatusUnauthorized || f.status == http.StatusForbidden:
		// The server's words often quote the key.
		f.fatal = failure.New(failure.Refused, "set TOKENFORK_JUDGE_KEY (or OPENAI_API_KEY) to a key that may use the model",
			"the judge at %s refuses the key: %d %s", c.cfg.URL, f.status, http.StatusText(f.status))
	case f.status == http.StatusNotFound:
		f.fatal = failure.New(failure.Refused, "mend --judge-url or --judge-model", "the judge at %s has no such place or model: %w", c.cfg.URL, f.error(c))
	case f.status == http.StatusPaymentRequired || strings.Contains(words, "insufficient_quota"):
		f.fatal = failure.New(failure.Stopped, "add credit and start it again: what is judged is kept", "the judge's account is used up: %w", f.error(c))
	case f.status == http.StatusTooManyRequests:
		f.class, f.retry, f.throttled = ServerError, true, true
	case f.status >= 500 || f.status == http.StatusRequestTimeout || f.status == http.StatusConflict || f.status == http.StatusTooEarly:
		f.class, f.retry = ServerError, true
	default:
		f.class = rejection(f.status, words)
	}
	return f
}

func rejection(status int, words string) string {
	for _, w := range []string{"content_filter", "content_policy", "content management policy", "invalid_prompt"} {
		if strings.Contains(words, w) {
			return ContentFilter
		}
	}
	for _, w := range []string{"context_length", "context length", "maximum context", "too long", "max_model_len", "maximum model length"} {
		if strings.Contains(words, w) {
			return ContextLength
		}
	}
	if status == http.StatusRequestEntityTooLarge {
		return ContextLength
	}
	return Rejected
}

// retryAfter is the break that the server asks for.
func retryAfter(h http.Header) time.Duration {
	if ms, err := strconv.ParseFloat(h.Get("Retry-After-Ms"), 64); err == nil && ms > 0 {
		return time.Duration(ms * float64(time.Millisecond))
	}
	v := h.Get("Retry-After")
	if s, err := strconv.ParseFloat(v, 64); err == nil && s > 0 {
		return time.Duration(s * float64(time.Second))
	}
	at, err := http.ParseTime(v)
	now, dateErr := http.ParseTime(h.Get("Date")) // the server's clock: ours may be off
	if err != nil || dateErr != nil {
		return 0
	}
	return max(0, at.Sub(now))
}

// backoff doubles from 1 s to 60 s, each shortened at random by up to a half.
func backoff(tries int) time.Duration {
	d := min(time.Minute, time.Second<<min(tries-1, 6))
	return d - rand.N(d/2)
}
