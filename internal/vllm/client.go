package vllm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Client talks to one vLLM server. It is safe for concurrent use once Model
// and API are set.
type Client struct {
	Model string // the id that requests name; Start and Check set it
	API   API    // where completions are asked

	url   string // as given but without a password, for messages
	via   string // names the proxy on the way, for messages; "" for none
	base  string
	key   string
	http  *http.Client
	life  context.Context
	close context.CancelCauseFunc
}

const (
	maxIdle = 4096 // connections kept; more than any number in flight
	// idleTimeout is below the 5 s after which vLLM closes idle connections.
	idleTimeout = 4 * time.Second
)

// NewClient returns a client of the server at rawURL: http://host:port,
// https://… or unix:///path/of/socket. A trailing /v1 is dropped. The key, if
// any, is sent as a bearer token.
func NewClient(rawURL, key string) (*Client, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, errors.New("server url: not a URL") // it may hold a password
	}
	if u.User != nil {
		return nil, fmt.Errorf("server url %s: a name or password in it would be logged; give the key by TOKENFORK_SERVER_KEY", u.Redacted())
	}
	transport := &http.Transport{
		MaxIdleConns: maxIdle, MaxIdleConnsPerHost: maxIdle, IdleConnTimeout: idleTimeout,
		Protocols: new(http.Protocols), DisableCompression: true,
		WriteBufferSize: 64 << 10, ReadBufferSize: 64 << 10,
	}
	transport.Protocols.SetHTTP1(true)
	c := &Client{url: rawURL, key: key, http: &http.Client{Transport: transport, CheckRedirect: noRedirect}}
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	switch {
	case u.Scheme == "unix" && u.Host == "" && u.Path != "":
		c.base = "http://localhost"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialUnix(ctx, dialer, u.Path)
		}
	case (u.Scheme == "http" || u.Scheme == "https") && u.Host != "":
		c.base = strings.TrimSuffix(strings.TrimSuffix(u.String(), "/"), "/v1")
		transport.DialContext = dialer.DialContext
		transport.Proxy = http.ProxyFromEnvironment
		if proxy, err := http.ProxyFromEnvironment(&http.Request{URL: u}); err == nil && proxy != nil {
			c.via = fmt.Sprintf(" (through the proxy %s: if the server is reached without it, set NO_PROXY=%s)", proxy.Host, u.Hostname())
		}
	default:
		return nil, fmt.Errorf("server url %q: want http://host:port, https://host or unix:///path", rawURL)
	}
	c.life, c.close = context.WithCancelCause(context.Background())
	return c, nil
}

// dialUnix tries again while the socket's queue of new connections is full,
// which a Unix socket answers with EAGAIN rather than by waiting.
func dialUnix(ctx context.Context, dialer *net.Dialer, path string) (net.Conn, error) {
	deadline := time.Now().Add(dialer.Timeout)
	for {
		conn, err := dialer.DialContext(ctx, "unix", path)
		if !errors.Is(err, syscall.EAGAIN) || time.Now().After(deadline) {
			return conn, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// URL is the address as it was given.
func (c *Client) URL() string { return c.url }

// Close ends open requests with ErrClosed and refuses further ones.
func (c *Client) Close() {
	c.close(ErrClosed)
	c.http.CloseIdleConnections()
}

// maxSends bounds how often a request is written to connections that the
// server was just closing.
const maxSends = 5

// maxAnswer bounds in bytes what is read of an answer whose length no request sets.
const maxAnswer = 1 << 20

// do sends a request and returns the body of a 200 answer, an AnswerError if it is
// longer than most bytes. body may be nil.
func (c *Client) do(ctx context.Context, method, path string, body *body, most int64) ([]byte, error) {
	request := method + " " + path
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(c.life, func() { cancel(ErrClosed) })()
	for try := 1; ; try++ {
		status, data, unsent, err := c.send(ctx, method, path, body, most)
		switch {
		case err != nil && unsent && try < maxSends && ctx.Err() == nil:
			c.http.CloseIdleConnections() // they are as old
			continue
		case err != nil:
			return nil, transportError(ctx, request+c.via, err)
		case status != http.StatusOK && !json.Valid(data): // no vLLM's
			return nil, statusError(request+c.via, status, data)
		case status != http.StatusOK:
			return nil, statusError(request, status, data)
		case int64(len(data)) > most:
			return nil, &AnswerError{Reason: fmt.Sprintf("%s: more than %d bytes, which nothing asked for can take", request, most)}
		}
		return data, nil
	}
}

// send makes one request. unsent says that the server can't have seen all of
// it, because a connection kept from before broke while it was written. Of the
// answer it reads a byte more than most.
func (c *Client) send(ctx context.Context, method, path string, body *body, most int64) (status int, data []byte, unsent bool, err error) {
	var kept, broke atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn:      func(info httptrace.GotConnInfo) { kept.Store(info.Reused) },
		WroteRequest: func(info httptrace.WroteRequestInfo) { broke.Store(info.Err != nil) },
	})
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, nil)
	if err != nil {
		return 0, nil, false, err
	}
	if body != nil {
		body.attach(req)
	}
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if wrapped, ok := errors.AsType[*url.Error](err); ok { // it names the request, as transportError does
			err = wrapped.Err
		}
		return 0, nil, kept.Load() && broke.Load(), err
	}
	defer resp.Body.Close()
	data, err = io.ReadAll(io.LimitReader(resp.Body, most+1))
	return resp.StatusCode, data, false, err
}

// RoundTrip sends any HTTP request to this server, whatever host it names. The
// client's end ends the reading of its answer too.
func (c *Client) RoundTrip(r *http.Request) (*http.Response, error) {
	to, err := url.Parse(c.base)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	stop := context.AfterFunc(c.life, func() { cancel(ErrClosed) })
	end := func() { stop(); cancel(nil) }
	r = r.Clone(ctx)
	r.URL.Scheme, r.URL.Host, r.Host = to.Scheme, to.Host, to.Host
	if c.key != "" {
		r.Header.Set("Authorization", "Bearer "+c.key)
	}
	resp, err := c.http.Transport.RoundTrip(r)
	if err != nil {
		err = transportError(ctx, r.Method+" "+r.URL.Path, err)
		end()
		return nil, err
	}
	resp.Body = &answerBody{ReadCloser: resp.Body, end: end, explain: func(err error) error {
		return transportError(ctx, r.Method+" "+r.URL.Path, err)
	}}
	return resp, nil
}

// answerBody is the body of an answer that is read as it comes.
type answerBody struct {
	io.ReadCloser
	end     func()
	explain func(error) error
}

func (b *answerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = b.explain(err)
	}
	return n, err
}

func (b *answerBody) Close() error {
	defer b.end()
	return b.ReadCloser.Close()
}

func (c *Client) getJSON(ctx context.Context, path string, v any) error {
	data, err := c.do(ctx, http.MethodGet, path, nil, maxAnswer)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return &AnswerError{Reason: fmt.Sprintf("GET %s: %v", path, err)}
	}
	return nil
}

// body is a pooled request body. It goes back to the pool when its maker and
// every reader that the transport took have let go of it.
type body struct {
	b    []byte
	refs atomic.Int32
}

var bodies = sync.Pool{New: func() any { return new(body) }}

func newBody() *body {
	p := bodies.Get().(*body)
	p.b = p.b[:0]
	p.refs.Store(1)
	return p
}

func (p *body) release() {
	if p.refs.Add(-1) == 0 {
		bodies.Put(p)
	}
}

func (p *body) reader() io.ReadCloser {
	p.refs.Add(1)
	return &bodyReader{Reader: bytes.NewReader(p.b), body: p}
}

// attach makes p the request's body. The empty key says that the request may
// be sent again where the server closed an idle connection under it.
func (p *body) attach(req *http.Request) {
	req.Header.Set("Content-Type", "application/json")
	req.Header["Idempotency-Key"] = []string{}
	req.ContentLength = int64(len(p.b))
	req.GetBody = func() (io.ReadCloser, error) { return p.reader(), nil }
	req.Body = p.reader()
}

type bodyReader struct {
	*bytes.Reader
	body *body
	once sync.Once
}

func (r *bodyReader) Close() error {
	r.once.Do(r.body.release)
	return nil
}
