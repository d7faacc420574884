package endpoint

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sashabaranov/go-openai"

	"tokenfork/internal/failure"
	"tokenfork/internal/terminal"
)

// Classes of questions without an answer.
const (
	Refusal       = "refusal"        // the judge will not say
	ContentFilter = "content_filter" // the server will not let it
	ContextLength = "context_length" // longer than the model reads
	Rejected      = "rejected"       // the server says 4xx to this one
	Timeout       = "timeout"        // no answer in time, others were answered
	ServerError   = "server_error"   // 5xx or a broken reply, others were answered
	Malformed     = "malformed"      // an answer in which no verdict can be read
	Length        = "length"         // the answer did not end within its limit
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
	denied    error // ends the run unless the server answers others
	class     string
	retry     bool // another try may do
	throttled bool // too fast, or too many
	unknown   bool // it may have been computed, and billed
	foreign   bool // not in the form of any such server: a proxy, or a web site
	status    int
	message   string
	raw       string
	wait      time.Duration // what the server asks for, 0 for nothing
	err       error
}

// error is the fault for the user, who must never see the key.
func (f *fault) error(c *Client) *Error {
	return &Error{Class: f.class, Message: c.redact(terminal.Clip(f.message, 500)), Raw: c.redact(f.raw)}
}

// said is what the server said, for the user.
func (f *fault) said(c *Client) string { return f.error(c).Message }

// redact takes keys out of a server's words, also those that it shows in part.
func (c *Client) redact(s string) string {
	secrets := []string{c.cfg.Key}
	for name := range c.cfg.Header {
		secrets = append(secrets, c.cfg.Header.Get(name))
	}
	for _, key := range secrets {
		if key == "" {
			continue
		}
		s = strings.ReplaceAll(s, key, "[key]")
		if len(key) >= 8 {
			s = regexp.MustCompile(regexp.QuoteMeta(key[:4])+`[\w.\-]*\*[*\w.\-]*`).ReplaceAllString(s, "[key]")
		}
	}
	return s
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
	var untrusted *tls.CertificateVerificationError
	switch {
	case errors.As(err, &api):
		return c.refused(api.HTTPStatusCode, words{message: api.Message, code: fmt.Sprint(api.Code) + " " + api.Type}, nil)
	case errors.As(err, &other):
		return c.refused(other.HTTPStatusCode, readWords(other.Body), nil)
	case errors.As(err, &untrusted):
		return &fault{fatal: failure.New(failure.Refused, "put the certificate of who signed it into a file and its path into SSL_CERT_FILE, or give --judge the name that it is for",
			"the judge at %s has a certificate that is not trusted here: %w", c.cfg.URL, err)}
	case errors.Is(err, context.DeadlineExceeded):
		return &fault{class: Timeout, retry: true, unknown: true, message: "no answer within " + c.cfg.Timeout.String() + c.proxied(), err: err}
	case errors.Is(err, openai.ErrReasoningModelLimitationsLogprobs), errors.Is(err, openai.ErrReasoningSamplingUnsupported):
		return &fault{class: Rejected, message: err.Error(), err: errNotForModel}
	case errors.Is(err, errTooLong):
		return &fault{class: Malformed, unknown: true, message: err.Error(), err: err}
	}
	return &fault{class: ServerError, retry: true, unknown: true, message: err.Error() + c.proxied(), err: err}
}

// proxied names the proxy that a request went through, "" for none.
func (c *Client) proxied() string {
	if c.proxy == "" {
		return ""
	}
	return fmt.Sprintf(" (through the proxy %s: if the judge is reached without it, set NO_PROXY=%s)", c.proxy, c.host)
}

// refused sorts an answer that is an error by its status and its words.
func (c *Client) refused(status int, w words, h http.Header) *fault {
	f := &fault{status: status, foreign: w.foreign, raw: w.raw, wait: max(retryAfter(h), w.wait)}
	f.message = strings.TrimSuffix(strings.TrimSpace(fmt.Sprintf("%d %s: %s", status, http.StatusText(status), w.message)), ":")
	if w.foreign {
		f.message += c.proxied()
	}
	said := strings.ToLower(w.code + " " + f.message)
	switch {
	case status >= 300 && status < 400:
		f.fatal = failure.New(failure.Refused, "give --judge the URL that answers", "the judge at %s redirects to %q: not followed, for it would get the key", c.cfg.URL, bare(h.Get("Location")))
	case status == http.StatusPaymentRequired, strings.Contains(said, "insufficient_quota"):
		f.fatal = c.usedUp(f)
	case status >= 400 && status < 500 && contains(said, ofAccounts): // not fatal: they may quote a text
		f.class, f.denied = Rejected, c.usedUp(f)
	case status == http.StatusProxyAuthRequired:
		f.class = Rejected
		f.denied = failure.New(failure.Refused, "put its user and password into HTTP_PROXY or HTTPS_PROXY, or set NO_PROXY="+c.host, "the proxy before the judge at %s wants a password: %s", c.cfg.URL, f.said(c))
	case status == http.StatusUnauthorized, status >= 400 && contains(said, ofKeys):
		f.class = Rejected
		f.denied = failure.New(failure.Refused, "set TOKENFORK_JUDGE_KEY (or OPENAI_API_KEY, which is sent over https only) to a key that may use the model",
			"the judge at %s refuses the key: %s", c.cfg.URL, f.said(c))
	case status == http.StatusForbidden:
		f.class = ContentFilter
		f.denied = failure.New(failure.Refused, "check that the key may use the model, and that this host may use the server", "the judge at %s refuses: %s", c.cfg.URL, f.said(c))
	case status == http.StatusNotFound, strings.Contains(said, "model_not_found"): // new-api: with 503
		f.class = Rejected
		f.denied = failure.New(failure.Refused, "check --judge and --judge-model", "the judge at %s has no such page or model: %s", c.cfg.URL, f.said(c))
	case status == http.StatusTooManyRequests, status == capacityExceeded:
		f.class, f.retry, f.throttled = ServerError, true, true
	case status >= 500 && rejection(status, said) == ContentFilter: // a gateway's status for what a provider would not do
		f.class = ContentFilter
	case status >= 500, passing[status]:
		f.class, f.retry = ServerError, true
	default:
		f.class = rejection(status, said)
	}
	return f
}

// usedUp ends the run. It does not wrap the fault, which would be no verdict on a question.
func (c *Client) usedUp(f *fault) error {
	return failure.New(failure.Stopped, "add credit and start it again: what is judged is kept", "the judge's account is used up: %s", f.said(c))
}

// ofAccounts and ofKeys are words by which servers say so with whatever status.
var (
	ofAccounts = []string{"insufficient balance", "balance is insufficient", "balance is too low", "arrearage", "budget_exceeded", "budget has been exceeded", "exceeded_current_quota", "key limit exceeded"}
	ofKeys     = []string{"api key not valid", "invalid api key", "no connected db"} // the last: LiteLLM without a database, to a key that is not its own
)

// passing are statuses below 500 of trouble that passes: 424 is Text Generation
// Inference's for an error while it generates, 499 Google's for a request that it cancelled.
var passing = map[int]bool{http.StatusRequestTimeout: true, http.StatusConflict: true, http.StatusMisdirectedRequest: true, http.StatusFailedDependency: true, http.StatusTooEarly: true, 499: true}

func contains(said string, any []string) bool {
	return slices.ContainsFunc(any, func(words string) bool { return strings.Contains(said, words) })
}

// bare is a URL without what may be secret in it.
func bare(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return "another place"
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}

// capacityExceeded is Groq's status for a busy flex tier.
const capacityExceeded = 498

// phrases by which servers say 400 to one question, and what they mean.
var phrases = []struct {
	class string
	words []string
}{
	{Malformed, []string{"json_validate_failed", "failed to generate json", "failed to validate json"}},
	{Length, []string{"could not finish the message", "model output limit was reached"}},
	{ContentFilter, []string{"content_filter", "content_policy", "content management policy", "invalid_prompt", "data_inspection_failed", "moderation", "was flagged",
		"inappropriate content", "content exists risk", "safety system", "guardrail", "block_reason", "high risk"}},
	{ContextLength, []string{"context_length", "context length", "context size", "context window", "maximum context", "too long", "max_model_len", "maximum model length", "exceed_context",
		"reduce the length of the messages", "range of input length", "maximum allowed token length", "maximum number of tokens allowed", "`max_new_tokens` must be <="}},
}

func rejection(status int, said string) string {
	for _, p := range phrases {
		if contains(said, p.words) {
			return p.class
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
		return seconds(ms / 1000)
	}
	v := h.Get("Retry-After")
	if s, err := strconv.ParseFloat(v, 64); err == nil && s > 0 {
		return seconds(s)
	}
	at, err := http.ParseTime(v)
	now, dateErr := http.ParseTime(h.Get("Date")) // the server's clock: ours may be off
	if err != nil || dateErr != nil {
		return 0
	}
	return max(0, at.Sub(now))
}

// seconds is a duration of so many, at most a year.
func seconds(s float64) time.Duration {
	return time.Duration(min(max(s, 0), 365*24*3600) * float64(time.Second))
}

// backoff doubles from 1 s to 60 s, each shortened at random by up to a half.
func backoff(tries int) time.Duration {
	d := min(time.Minute, time.Second<<min(tries-1, 6))
	return d - rand.N(d/2)
}
