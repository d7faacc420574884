package fleet

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/vllm"
)

// remote is a server that somebody else runs.
type remote struct {
	client *vllm.Client
	url    string
	log    *slog.Logger
	up     atomic.Bool // it has answered
}

// How long a server at a URL may be gone before the task stops, resumable, and how
// often it is asked meanwhile. Tests shorten them.
var remoteWait, remotePoll = 2 * time.Minute, time.Second

// HurryUp shortens the waits for servers that refuse or are gone, for tests.
func HurryUp() {
	remoteWait, remotePoll, retryUnit = 2*time.Second, 10*time.Millisecond, 10*time.Millisecond
}

func newRemote(url, key string, log *slog.Logger) (*remote, error) {
	c, err := vllm.NewClient(url, key)
	if err != nil {
		return nil, failure.New(failure.Usage, "", "%w", err)
	}
	return &remote{client: c, url: url, log: log}, nil
}

// Client waits until the server answers. One that has never done so and refuses
// is not vLLM.
func (r *remote) Client(ctx context.Context) (*vllm.Client, int, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, remoteWait,
		failure.New(failure.Stopped, "start it again and run the same command", "the server at %s has been gone for %s", r.url, remoteWait))
	defer cancel()
	for told := false; ; told = true {
		err := r.client.Health(ctx)
		if err == nil {
			r.up.Store(true)
			return r.client, 0, nil
		}
		if refused := r.client.Explain(err); !r.up.Load() && failure.Code(refused) == failure.Refused {
			return nil, 0, refused
		}
		if !told {
			r.log.Warn("server does not answer, waiting", "url", r.url, "error", err)
		}
		select {
		case <-time.After(remotePoll):
		case <-ctx.Done():
			return nil, 0, context.Cause(ctx)
		}
	}
}

// Lost needs no action: Client waits for the server.
func (r *remote) Lost(context.Context, int) {}

// Flying does nothing: the server is not supervised.
func (r *remote) Flying(int) {}

// Running takes the server for up: who sends a request is told otherwise.
func (r *remote) Running() (bool, int) { return true, 0 }

// Engine is not known.
func (r *remote) Engine() (vllm.Engine, bool) { return vllm.Engine{}, false }

// Close leaves the server to who runs it.
func (r *remote) Close() error { return nil }
