package store

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/smithy-go/middleware"
)

// retryer is the SDK's standard retryer bounded by time instead of a count,
// with a few more errors that pass, and a word to the user while it lasts.
type retryer struct {
	*retry.Standard
	limit time.Duration
	log   *slog.Logger

	mu                  sync.Mutex
	count               int // retries since the last line, or since trouble began
	first, last, worded time.Time
}

// gaveUpError joins the last answer's error when the time for retries is used up.
type gaveUpError struct {
	after time.Duration
	tries int
}

func (e *gaveUpError) Error() string {
	return fmt.Sprintf("gave up after %s and %d tries", e.after.Round(time.Second), e.tries)
}

func newRetryer(o Options) *retryer {
	r := &retryer{limit: cmp.Or(o.RetryFor, 15*time.Minute), log: cmp.Or(o.Logger, slog.New(slog.DiscardHandler))}
	r.Standard = retry.NewStandard(func(so *retry.StandardOptions) {
		so.RateLimiter = ratelimit.None
		so.Retryables = append([]retry.IsErrorRetryable{retry.IsErrorRetryableFunc(neverPasses)}, so.Retryables...)
		so.Retryables = append(so.Retryables, retry.IsErrorRetryableFunc(passes))
	})
	return r
}

// neverPasses cuts short what the SDK takes for a broken connection.
func neverPasses(err error) aws.Ternary {
	var cert *tls.CertificateVerificationError
	if errors.As(err, &cert) || errors.Is(err, http.ErrSchemeMismatch) {
		return aws.FalseTernary
	}
	return aws.UnknownTernary
}

// passes adds what the SDK does not try again by itself.
func passes(err error) aws.Ternary {
	switch errCode(err) {
	case "RequestTimeTooSkewed", "ConditionalRequestConflict", "OperationAborted", "InternalError", "ServiceUnavailable":
		return aws.TrueTernary
	}
	if errors.Is(err, io.ErrUnexpectedEOF) { // an answer cut short
		return aws.TrueTernary
	}
	return aws.UnknownTernary
}

// MaxAttempts is 0: no bound by number.
func (r *retryer) MaxAttempts() int { return 0 }

// GetRetryToken is asked before each retry of an operation.
func (r *retryer) GetRetryToken(ctx context.Context, err error) (func(error) error, error) {
	if op, ok := ctx.Value(operationKey{}).(*operation); ok {
		if err := r.again(op, err); err != nil {
			return nil, err
		}
	}
	return r.Standard.GetRetryToken(ctx, err)
}

// operation is one piece of work with its own time for retries.
type operation struct {
	start   time.Time
	retries int
}

// again counts a failure; its error says that op's time is up. One retry is always left.
func (r *retryer) again(op *operation, err error) error {
	r.tell(err)
	op.retries++
	if after := time.Since(op.start); op.retries > 1 && after > r.limit {
		return &gaveUpError{after, op.retries}
	}
	return nil
}

// tell logs a line once trouble has lasted for ten seconds, then one a minute.
func (r *retryer) tell(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if now.Sub(r.last) > 5*time.Minute {
		r.count, r.first = 0, now
	}
	r.count, r.last = r.count+1, now
	if now.Sub(r.first) >= 10*time.Second && now.Sub(r.worded) >= time.Minute {
		r.log.Warn(fmt.Sprintf("S3 slow: %d retries", r.count), "last", err)
		r.count, r.worded = 0, now
	}
}

// pause waits before retry number op.retries.
func (r *retryer) pause(ctx context.Context, op *operation, err error) error {
	delay, err := r.RetryDelay(op.retries, err)
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(delay):
		return nil
	}
}

// noConflictRetry leaves a conflict to the caller, who must start the upload anew.
type noConflictRetry struct{ *retryer }

func (r noConflictRetry) IsErrorRetryable(err error) bool {
	return errCode(err) != "ConditionalRequestConflict" && r.retryer.IsErrorRetryable(err)
}

type operationKey struct{}

// startClock gives each operation its own time for retries.
func startClock(stack *middleware.Stack) error {
	return stack.Initialize.Add(middleware.InitializeMiddlewareFunc("tokenforkClock",
		func(ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler) (middleware.InitializeOutput, middleware.Metadata, error) {
			return next.HandleInitialize(context.WithValue(ctx, operationKey{}, &operation{start: time.Now()}), in)
		}), middleware.Before)
}

// watchStalls makes connections fail on which no byte has moved for a while,
// in either direction: an upload that goes on keeps its waiting read alive.
func watchStalls(dial func(context.Context, string, string) (net.Conn, error), stall time.Duration) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &watchedConn{Conn: c, stall: cmp.Or(stall, 2*time.Minute)}, nil
	}
}

type watchedConn struct {
	net.Conn
	stall time.Duration
}

func (c *watchedConn) Read(p []byte) (int, error)  { return c.watch(c.Conn.Read, p) }
func (c *watchedConn) Write(p []byte) (int, error) { return c.watch(c.Conn.Write, p) }

// watch moves the deadline on before and after do.
func (c *watchedConn) watch(do func([]byte) (int, error), p []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(c.stall)); err != nil {
		return 0, err
	}
	n, err := do(p)
	if err == nil {
		err = c.SetDeadline(time.Now().Add(c.stall))
	}
	return n, err
}
