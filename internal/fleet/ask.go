package fleet

import (
	"context"
	"errors"
	"net/http"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/vllm"
)

// Classes of requests that stay without an answer.
const (
	ClassContextLength = "context_length" // does not fit the served model
	ClassServerCrash   = "server_crash"   // killed the server, twice
	ClassRefused       = "refused"        // the server answered 4xx
	ClassServer        = "server"         // the server kept failing
)

// FailedError is a request that no further try would answer.
type FailedError struct {
	Class string
	Err   error
}

func (e *FailedError) Error() string { return e.Class + ": " + e.Err.Error() }
func (e *FailedError) Unwrap() error { return e.Err }

const (
	// CrashesBeforeAlone is after how many crashes in flight a request is to be sent alone.
	CrashesBeforeAlone = 2
	// RefusedTries is how often a request is sent that gets 429 or 5xx.
	RefusedTries = 8
)

// retryUnit is half of the first wait before a refused request is sent again. Tests
// shorten it.
var retryUnit = time.Second

// Spent is what the server says that an answer took. A server that does not tell
// how much of the prompt it had in its cache leaves those counters out.
func Spent(u vllm.Usage, generated int) job.Counters {
	c := job.Counters{job.Requests: 1, job.PromptTokens: int64(u.PromptTokens), job.GeneratedTokens: int64(generated)}
	if u.CachedTokens >= 0 {
		c[job.CachedTokens], c[job.ComputedTokens] = int64(u.CachedTokens), int64(u.PromptTokens-u.CachedTokens)
	}
	return c
}

// Ask has a server answer a request: send is called until it succeeds, on the server
// that is up at the time. crashes counts those that the request was in flight at, over
// all of its calls. The error is a *FailedError, or why there will be no server.
func Ask(ctx context.Context, s Server, crashes *int, send func(*vllm.Client) error) error {
	for tries := 0; ; {
		client, generation, err := s.Client(ctx)
		if err != nil {
			return err
		}
		err = send(client)
		var status *vllm.StatusError
		var failed *FailedError
		switch {
		case err == nil:
			return nil
		case errors.As(err, &failed):
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case vllm.IsContextLength(err):
			return &FailedError{ClassContextLength, err}
		case Overloaded(err):
			if tries++; tries == RefusedTries {
				return &FailedError{ClassServer, err}
			}
			if !errors.As(err, &status) || status.Status >= 500 { // the engine may be dead behind a server that still answers
				s.Lost(ctx, generation)
			}
			if err := Pause(ctx, tries); err != nil {
				return err
			}
		case errors.As(err, &status):
			return &FailedError{ClassRefused, err}
		case vllm.IsGone(err):
			if *crashes > CrashesBeforeAlone {
				return &FailedError{ClassServerCrash, err}
			}
			*crashes++
			s.Lost(ctx, generation)
		default:
			return &FailedError{ClassServer, err}
		}
	}
}

// Overloaded says whether another try may do: 429 and 5xx.
func Overloaded(err error) bool {
	var status *vllm.StatusError
	return errors.As(err, &status) && (status.Status == http.StatusTooManyRequests || status.Status >= http.StatusInternalServerError)
}

// Pause waits before another try: longer each time, up to a limit.
func Pause(ctx context.Context, try int) error {
	select {
	case <-time.After(retryUnit << min(try, 5)):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Watch returns an error, of failure.Stopped, when a server that somebody else runs
// hangs with requests in flight: tokenfork cannot restart it.
func Watch(ctx context.Context, s Server, stall time.Duration, inFlight func() int) error {
	client, _, err := s.Client(ctx)
	if err != nil {
		return nil // whoever sends a request is told the same
	}
	if err := vllm.NewWatchdog(client, stall, inFlight).Watch(ctx); err != nil {
		return failure.New(failure.Stopped, "restart it and run the same command", "the server at %s hangs: %w", client.URL(), err)
	}
	return nil
}
