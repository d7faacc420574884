// Package endpoint asks questions of an OpenAI-compatible chat server: as many
// at once as it bears, within a budget, and it never makes an answer up. What
// it cannot get an answer for is an error with a class, or ends the run.
package endpoint

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sashabaranov/go-openai"
	"golang.org/x/sync/singleflight"

	"tokenfork/internal/failure"
)

// Config says where and how to ask. Zero values are the defaults named.
type Config struct {
	URL      string        // http://HOST:PORT or https://HOST, with or without /v1, or unix:///SOCKET
	Key      string        // sent as a bearer token, shown nowhere
	Model    string        // "" takes the only one that the server has
	HTTP     *http.Client  // nil makes one
	InFlight int           // most requests at once (256)
	Timeout  time.Duration // of one request (5 min)
	Patience time.Duration // without any answer, before the run stops (10 min)
	Budget   Budget
	Log      *slog.Logger // nil says nothing
}

// Client asks one model of one server. Its methods may be called from many goroutines.
type Client struct {
	cfg     Config
	api     *openai.Client
	dialect dialect
	pace    *pace
	ledger  *ledger
	alive   singleflight.Group
	success atomic.Int64 // time of the last answer, Unix nanoseconds
	said    atomic.Int64 // time of the last word about throttling, Unix nanoseconds
	count   counts
	holds   sync.Map // of batches: id to cost
}

// Request is one question.
type Request struct {
	Prompt      string
	Schema      json.RawMessage // what the answer must be, sent byte for byte; nil asks for free text
	MaxTokens   int
	Temperature *float64 // stated on the wire even at 0; nil leaves it to the server
	Seed        *int
	TopLogprobs int // alternatives per token, where the server gives them
}

// Reply is an answer.
type Reply struct {
	Text   string
	Cut    bool    // it reached MaxTokens
	Masked bool    // the server let only JSON through
	Tokens []Token // of Text and perhaps more around it; nil where the server gives none
}

// Token is a piece of an answer with its natural log probability.
type Token struct {
	Text    string // may be half a UTF-8 character
	Logprob float64
	Top     []Token // the likeliest at this place, Top nil in each
}

// Open checks that the server has the model. Negotiate comes next.
func Open(ctx context.Context, cfg Config) (*Client, error) {
	base, socket, err := baseURL(cfg.URL)
	if err != nil {
		return nil, err
	}
	cfg.setDefaults(socket)
	api := openai.DefaultConfig(cfg.Key)
	api.BaseURL, api.HTTPClient = base, &wire{cfg.HTTP}
	c := &Client{cfg: cfg, api: openai.NewClientWithConfig(api), pace: newPace(cfg.InFlight), ledger: newLedger(cfg.Budget)}
	c.succeeded()
	return c, c.findModel(ctx)
}

func (cfg *Config) setDefaults(socket string) {
	cfg.InFlight = cmp.Or(cfg.InFlight, 256)
	cfg.Timeout = cmp.Or(cfg.Timeout, 5*time.Minute)
	cfg.Patience = cmp.Or(cfg.Patience, 10*time.Minute)
	if cfg.HTTP == nil {
		cfg.HTTP = &http.Client{Transport: transport(socket, cfg.InFlight)}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
}

func transport(socket string, inFlight int) *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConnsPerHost = inFlight // 2 by default: each request would open a connection
	t.MaxIdleConns = 0
	t.IdleConnTimeout = 4 * time.Second // vLLM closes idle connections after 5
	if socket != "" {
		t.Proxy = nil
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}
	}
	return t
}

// baseURL adds /v1 to a bare host and tells a socket's path. A key has no place
// in a URL: it would end up in messages and process lists.
func baseURL(s string) (base, socket string, err error) {
	u, err := url.Parse(s)
	if err == nil && u.Scheme == "unix" && u.Host == "" && u.Path != "" {
		return "http://localhost/v1", u.Path, nil
	}
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", "", failure.New(failure.Usage, "give it as http://HOST:PORT, https://HOST/v1 or unix:///SOCKET", "the judge's URL is neither an http nor a unix URL")
	}
	if u.User != nil || u.RawQuery != "" {
		return "", "", failure.New(failure.Usage, "put the key into TOKENFORK_JUDGE_KEY or OPENAI_API_KEY", "the judge's URL of %s holds a user or a query", u.Host)
	}
	if strings.Trim(u.Path, "/") == "" {
		u.Path = "/v1"
	}
	return strings.TrimRight(u.String(), "/"), "", nil
}

// Model is the name of the model that is asked.
func (c *Client) Model() string { return c.cfg.Model }

// InFlight is the most requests that are under way at once.
func (c *Client) InFlight() int { return c.cfg.InFlight }

// findModel compares the server's list with what was asked for. A server
// without a list is taken at its word.
func (c *Client) findModel(ctx context.Context) error {
	models, err := c.models(ctx)
	if err != nil {
		return err
	}
	var names []string
	for _, m := range models {
		names = append(names, m.ID)
		c.dialect.vllm = c.dialect.vllm || m.OwnedBy == "vllm"
	}
	if c.cfg.Model == "" && len(names) == 1 {
		c.cfg.Model = names[0]
	}
	if c.cfg.Model == "" {
		return failure.New(failure.Usage, "name one with --judge-model", "the judge at %s serves %d models", c.cfg.URL, len(names))
	}
	if len(names) > 0 && !slices.Contains(names, c.cfg.Model) {
		return failure.New(failure.Refused, "name one of these with --judge-model: "+shorten(strings.Join(names, ", "), 300),
			"the judge at %s does not serve %q", c.cfg.URL, c.cfg.Model)
	}
	return nil
}

// models asks a few times: a server may be starting.
func (c *Client) models(ctx context.Context) ([]openai.Model, error) {
	for tries := 1; ; tries++ {
		list, err := c.api.ListModels(ctx)
		f := c.explain(ctx, err)
		switch {
		case f == nil || f.status == http.StatusNotFound || f.status == http.StatusMethodNotAllowed:
			return list.Models, nil
		case f.fatal != nil:
			return nil, f.fatal
		case !f.retry || tries == triesPerQuestion:
			return nil, failure.New(failure.Stopped, "start it, or mend --judge-url", "ask the judge at %s for its models: %w", c.cfg.URL, f.error(c))
		}
		if err := sleep(ctx, max(f.wait, backoff(tries))); err != nil {
			return nil, err
		}
	}
}

// Ask gives the answer, or an *Error for a question that this server will not
// answer, or any other error when the run must end.
func (c *Client) Ask(ctx context.Context, r Request) (*Reply, error) {
	for tries := 1; ; {
		reply, f := c.once(ctx, r)
		switch {
		case f == nil:
			return reply, nil
		case f.fatal != nil:
			return nil, f.fatal
		case f.class != "" && !f.retry:
			return nil, f.error(c)
		}
		if err := c.lost(ctx, f); err != nil {
			return nil, err
		}
		if f.throttled {
			continue // the pace waits, for all
		}
		if tries >= triesPerQuestion && c.answers(ctx) {
			return nil, f.error(c) // others are answered: it is this question
		}
		c.count.retries.Add(1)
		if err := sleep(ctx, backoff(tries)); err != nil {
			return nil, err
		}
		tries++
	}
}

const triesPerQuestion = 5

// once sends the question when the pace allows it.
func (c *Client) once(ctx context.Context, r Request) (*Reply, *fault) {
	if err := c.pace.acquire(ctx); err != nil {
		return nil, &fault{fatal: err}
	}
	resp, f := c.paid(ctx, c.dialect, r)
	c.pace.headers(resp.Header(), c.ledger.bound(r).tokens())
	if f != nil {
		c.pace.failed(f)
		if f.throttled {
			c.throttled(f)
		}
		return nil, f
	}
	c.pace.release(resp.Usage.TotalTokens)
	return c.dialect.read(resp, r)
}

// throttled counts "too many requests" and says so once a minute.
func (c *Client) throttled(f *fault) {
	c.count.throttled.Add(1)
	now := time.Now().UnixNano()
	if last := c.said.Load(); now-last > int64(time.Minute) && c.said.CompareAndSwap(last, now) {
		c.cfg.Log.Info("the judge asks for fewer questions", "at_once", c.pace.now(), "wait", f.wait, "so_far", c.count.throttled.Load())
	}
}

// paid sends the question when the budget allows it.
func (c *Client) paid(ctx context.Context, d dialect, r Request) (openai.ChatCompletionResponse, *fault) {
	hold, err := c.ledger.reserve(ctx, c.ledger.bound(r))
	if err != nil {
		return openai.ChatCompletionResponse{}, &fault{fatal: err}
	}
	resp, f := c.send(ctx, d, r)
	c.ledger.settle(hold, resp, f)
	if f == nil {
		c.succeeded()
		c.count.add(resp.Usage)
	}
	return resp, f
}

// send makes one request and no other.
func (c *Client) send(ctx context.Context, d dialect, r Request) (openai.ChatCompletionResponse, *fault) {
	limited, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	req := d.request(c.cfg.Model, r)
	resp, err := c.api.CreateChatCompletion(withMembers(limited, d.members(r)), req)
	if f := c.explain(ctx, err); f != nil {
		f.wait = retryAfter(resp.Header())
		return resp, f
	}
	if len(resp.Choices) == 0 {
		return resp, &fault{class: ServerError, retry: true, message: "an answer without choices"}
	}
	return resp, nil
}

func (c *Client) succeeded() { c.success.Store(time.Now().UnixNano()) }

// lost is an error when waiting on has no point: nothing at all was answered
// for too long, or the server asks for a longer break than that.
func (c *Client) lost(ctx context.Context, f *fault) error {
	silent := time.Since(time.Unix(0, c.success.Load()))
	if f.wait <= c.cfg.Patience && (silent <= c.cfg.Patience || c.answers(ctx)) {
		return nil
	}
	return failure.New(failure.Stopped, "start it again later: what is judged is kept",
		"the judge at %s has not answered for %s: %w", c.cfg.URL, max(silent, f.wait).Round(time.Second), f.error(c))
}

// answers asks a tiny question, one for all who want to know at the same time.
func (c *Client) answers(ctx context.Context) bool {
	_, err, _ := c.alive.Do("", func() (any, error) {
		if _, f := c.paid(ctx, c.dialect, probe(Request{})); f != nil {
			return nil, errors.New(f.message)
		}
		return nil, nil
	})
	return err == nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("ask the judge: %w", context.Cause(ctx))
	}
}
