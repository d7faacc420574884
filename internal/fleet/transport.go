package fleet

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
)

// neighbours is how many requests in a row go to one server, whose prefix cache they share.
const neighbours = 32

// Transport sends HTTP requests to the servers of one model, and waits while one of
// them is replaced. A request that a dying server does not answer is an error, and
// its sender's to repeat.
type Transport struct {
	servers []Server
	sent    atomic.Int64
	gone    chan struct{}
	once    sync.Once
	err     error
}

// NewTransport is for servers of the same model.
func NewTransport(servers []Server) *Transport {
	return &Transport{servers: servers, gone: make(chan struct{})}
}

// RoundTrip sends the request to one of the servers, whatever host it names.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx := r.Context()
	s := t.servers[int((t.sent.Add(1)-1)/neighbours)%len(t.servers)]
	client, generation, err := s.Client(ctx)
	if err != nil {
		if ctx.Err() == nil {
			t.once.Do(func() { t.err = err; close(t.gone) })
		}
		return nil, err
	}
	lost := func() {
		if ctx.Err() == nil {
			s.Lost(ctx, generation)
		}
	}
	s.Flying(1)
	resp, err := client.RoundTrip(r)
	if err != nil {
		s.Flying(-1)
		lost()
		return nil, err
	}
	if resp.StatusCode >= http.StatusInternalServerError {
		lost() // the engine may be dead behind a server that still answers
	}
	resp.Body = &flyingBody{ReadCloser: resp.Body, lost: lost, landed: sync.OnceFunc(func() { s.Flying(-1) })}
	return resp, nil
}

// flyingBody is the body of an answer, which is in flight until it is closed.
type flyingBody struct {
	io.ReadCloser
	lost, landed func()
}

func (b *flyingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		b.landed()
		b.lost()
	}
	return n, err
}

func (b *flyingBody) Close() error {
	b.landed()
	return b.ReadCloser.Close()
}

// Running counts the servers that are up, and the restarts of all.
func (t *Transport) Running() (up, restarts int64) { return Running(t.servers) }

// Gone is closed when a server ended for good; Err tells why.
func (t *Transport) Gone() <-chan struct{} { return t.gone }

// Err is why a server ended for good, after Gone.
func (t *Transport) Err() error { return t.err }

// Close ends servers of the task's own.
func (t *Transport) Close() error { return Close(t.servers) }

// Describe gives the address and the model name of the first server.
func (t *Transport) Describe(ctx context.Context) (url, model string, err error) {
	if len(t.servers) == 0 {
		return "", "", errors.New("no server came up")
	}
	client, _, err := t.servers[0].Client(ctx)
	if err != nil {
		return "", "", err
	}
	return client.URL(), client.Model, nil
}
