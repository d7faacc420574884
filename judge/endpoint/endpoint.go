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
	InFlight int           // most requests at once (256; of vLLM 1,024)
	Timeout  time.Duration // of one request (5 min)
	Patience time.Duration // without any answer, before the run stops (10 min)
	Budget   Budget
	Beside   *Client         // a client whose budget bounds this one's requests too, each at its own prices
	Query    url.Values      // added to each request's URL, for gateways
	Header   http.Header     // added to each request, shown nowhere
	Body     json.RawMessage // an object, merged into each question; see ParseBody
	Log      *slog.Logger    // nil says nothing
}

// Client asks one model of one server. Its methods may be called from many goroutines.
type Client struct {
	cfg     Config
	api     *openai.Client
	wire    *wire    // under api
	base    string   // its URL: without user and query, which Open refuses
	host    string   // of the server, for messages
	proxy   string   // that stands before it, "" for none
	url     string   // where requests go: base, or any host for a socket
	window  int      // tokens of prompt and answer that the model reads, 0 if unknown
	others  []string // models that the server lists, where the one asked for is not among them
	about   []string // what the server says of the model, beside its name
	body    []member // of cfg.Body
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
	Text      string
	Cut       bool    // it reached MaxTokens
	Masked    bool    // the server let only JSON through
	Tokens    []Token // of Text and perhaps more around it; nil where the server gives none
	Reasoning string  // name of the member that holds thoughts apart from Text, "" for none
	Room      int     // most tokens that the model's window leaves for the answer, 0 if unknown
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
	c := &Client{ledger: newLedger(cfg.Budget)}
	if cfg.Beside != nil {
		c.ledger = cfg.Beside.ledger
	}
	if c.body, err = bodyMembers(cfg.Body); err != nil {
		return nil, err
	}
	own := cfg.HTTP == nil
	cfg.setDefaults(socket)
	c.base, c.url = base, base
	if socket != "" {
		c.base = "unix://" + socket
	}
	c.cfg = cfg
	if c.host, err = c.reach(base, own && socket == ""); err != nil {
		return nil, err
	}
	sender := *cfg.HTTP
	sender.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c.wire = &wire{&sender, cfg.Query, cfg.Header}
	api := openai.DefaultConfig(cfg.Key)
	api.BaseURL, api.HTTPClient = base, c.wire
	c.api = openai.NewClientWithConfig(api)
	c.succeeded()
	err = c.findModel(ctx)
	first, most, inTime := firstLimit, mostInFlight, time.Duration(0)
	if c.dialect.vllm {
		first, most, inTime = firstOfVLLM, mostOfVLLM, cfg.Timeout/2
	}
	c.pace = newPace(first, cmp.Or(cfg.InFlight, most))
	c.pace.inTime = inTime
	return c, err
}

// reach gives the server's host. It finds the proxy on the way to it and warns
// of a key that others can read there.
func (c *Client) reach(base string, direct bool) (host string, err error) {
	u, err := url.Parse(base)
	if err != nil {
		return "", fmt.Errorf("judge's URL: %w", err)
	}
	if direct {
		proxy, err := http.ProxyFromEnvironment(&http.Request{URL: u})
		if err != nil {
			return "", failure.New(failure.Usage, "check HTTP_PROXY and HTTPS_PROXY", "the proxy for %s: not a URL", u.Host)
		}
		if proxy != nil {
			c.proxy = proxy.Host
		}
	}
	ip := net.ParseIP(u.Hostname())
	if own := u.Hostname() == "localhost" || ip != nil && ip.IsLoopback(); u.Scheme == "http" && !own && (c.cfg.Key != "" || len(c.cfg.Header) > 0) {
		c.cfg.Log.Warn("the judge's key is sent over http: others on the network can read it; use https", "host", u.Host)
	}
	return u.Hostname(), nil
}

func (cfg *Config) setDefaults(socket string) {
	cfg.Timeout = cmp.Or(cfg.Timeout, 5*time.Minute)
	cfg.Patience = cmp.Or(cfg.Patience, 10*time.Minute)
	if cfg.HTTP == nil {
		cfg.HTTP = &http.Client{Transport: transport(socket, cmp.Or(cfg.InFlight, mostOfVLLM))}
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
		return "", "", failure.New(failure.Usage, "put the key into TOKENFORK_JUDGE_KEY or OPENAI_API_KEY, and a query into --judge-query", "the judge's URL of %s holds a user or a query", u.Host)
	}
	if strings.Trim(u.Path, "/") == "" {
		u.Path = "/v1"
	}
	return strings.TrimSuffix(strings.TrimRight(u.String(), "/"), "/chat/completions"), "", nil
}

// Model is the name of the model that is asked.
func (c *Client) Model() string { return c.cfg.Model }

// Identity is what the judge is, beside its name: the server's URL, and what the
// server says of the model that stays the same. That is complete after Negotiate.
// A system_fingerprint is no part: hosted judges change it from week to week.
func (c *Client) Identity() string {
	return strings.Join(append([]string{c.base}, c.about...), " ")
}

// Under is how many requests are under way now.
func (c *Client) Under() int64 { return c.pace.underWay() }

// InFlight is the most requests that are under way at once.
func (c *Client) InFlight() int { return c.pace.most }

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
		case f.denied != nil && !c.answers(ctx):
			return nil, f.denied
		case !f.retry:
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

const (
	triesPerQuestion = 8 // that a server in trouble fails on, two minutes in all
	triesToReach     = 5 // of a server that may be starting, half a minute in all
)

// once sends the question when the pace allows it.
func (c *Client) once(ctx context.Context, r Request) (*Reply, *fault) {
	if err := c.pace.acquire(ctx); err != nil {
		return nil, &fault{fatal: err}
	}
	sent := time.Now()
	got, f := c.paid(ctx, c.dialect, r)
	c.obeyQuota(got.header, c.cfg.Budget.bound(r).tokens())
	if f != nil {
		c.pace.failed(f)
		if f.throttled {
			c.throttled(f)
		}
		return nil, f
	}
	c.pace.release(got.used.total(), time.Since(sent))
	return c.reply(got, r)
}

// obeyQuota waits where the server says that too little is left of a quota for
// another such request. A longer break than our patience ends the run.
func (c *Client) obeyQuota(h http.Header, tokens int64) {
	wait := max(quota(h, "requests", 1), quota(h, "tokens", tokens))
	switch {
	case wait == 0:
		return
	case wait > c.cfg.Patience:
		c.pace.fail(failure.New(failure.Stopped, "start it again then: what is judged is kept",
			"the judge at %s says that its quota is used up for %s", c.cfg.URL, wait.Round(time.Second)))
	case wait > time.Minute && c.mayTell():
		c.cfg.Log.Info("the judge's quota is used up", "wait", wait.Round(time.Second))
	}
	c.pace.pause(wait)
}

// throttled counts "too many requests" and says so once a minute.
func (c *Client) throttled(f *fault) {
	c.count.throttled.Add(1)
	if c.mayTell() {
		c.cfg.Log.Info("the judge asks for fewer questions", "at_once", c.pace.now(), "wait", f.wait, "so_far", c.count.throttled.Load())
	}
}

// mayTell is true once a minute.
func (c *Client) mayTell() bool {
	now, last := time.Now().UnixNano(), c.said.Load()
	return now-last > int64(time.Minute) && c.said.CompareAndSwap(last, now)
}

// paid sends the question when the budget allows it.
func (c *Client) paid(ctx context.Context, d dialect, r Request) (completion, *fault) {
	hold, err := c.ledger.reserve(ctx, c.cfg.Budget.bound(r))
	if err != nil {
		return completion{}, &fault{fatal: err}
	}
	got, f := c.send(ctx, d, r)
	c.ledger.settle(hold, c.cfg.Budget.used(hold, got.used, f))
	if f == nil {
		c.succeeded()
		c.count.add(got.used)
	}
	return got, f
}

// replyBound is more bytes than an answer to the request takes, with what may be
// said of each token.
func replyBound(r Request) int64 {
	return 1<<20 + int64(r.MaxTokens)*int64(256*(1+r.TopLogprobs))
}

// send makes one request and no other.
func (c *Client) send(ctx context.Context, d dialect, r Request) (completion, *fault) {
	limited, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	x := &exchange{members: c.members(d, r), most: replyBound(r)}
	_, err := c.api.CreateChatCompletion(withExchange(limited, x), d.request(c.cfg.Model, r))
	if f := c.explain(ctx, err); f != nil {
		return completion{used: usage{unknown, unknown, unknown}}, f
	}
	if x.status != http.StatusOK {
		return completion{header: x.header}, c.refused(x.status, readWords(x.body), x.header)
	}
	got, f := c.parseCompletion(x.body)
	if packed := x.header.Get("Content-Encoding"); f != nil && f.foreign && packed != "" {
		f.fatal = failure.New(failure.Refused, "let it, or the proxy before it, send gzip or nothing", "the judge at %s packs its answers as %q, which was not asked for", c.cfg.URL, packed)
	}
	got.header = x.header
	return got, f
}

func (c *Client) succeeded() { c.success.Store(time.Now().UnixNano()) }

// lost is an error when waiting on has no point: nothing at all was answered
// for too long, or the server asks for a longer break than that.
func (c *Client) lost(ctx context.Context, f *fault) error {
	silent := time.Since(time.Unix(0, c.success.Load()))
	if f.wait <= c.cfg.Patience && (silent <= c.cfg.Patience || c.answers(ctx)) {
		return nil
	}
	if f.wait > c.cfg.Patience {
		return failure.New(failure.Stopped, "start it again then: what is judged is kept", "the judge at %s asks for a break of %s: %s", c.cfg.URL, f.wait.Round(time.Second), f.said(c))
	}
	return failure.New(failure.Stopped, "start it again later: what is judged is kept",
		"the judge at %s has not answered for %s: %s", c.cfg.URL, silent.Round(time.Second), f.said(c)) // not %w: it is no verdict on a question
}

// answers asks a tiny question, one for all who want to know at the same time.
func (c *Client) answers(ctx context.Context) bool {
	_, err, _ := c.alive.Do("", func() (any, error) {
		_, f := c.paid(ctx, c.dialect, probe(Request{}, probeTokens))
		if f != nil && f.class != Length && f.class != Malformed { // those were answered
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
