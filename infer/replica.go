package infer

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync/atomic"

	"golang.org/x/sync/semaphore"

	"tokenfork/internal/fleet"
	"tokenfork/internal/job"
	"tokenfork/internal/vllm"
)

// replica carries on forks on one server.
type replica struct {
	server   fleet.Server
	length   int                 // tokens that the served model takes
	gate     *gate               // requests in flight
	tokens   *semaphore.Weighted // KV cache, in tokens of the texts in flight
	capacity int64               // of tokens
	set      *job.Settings
	stop     *vllm.Sequence // ids at which the server stops
	isStop   map[int32]bool
	block    int   // tokens of a KV cache block
	vocab    int32 // ids of the model
	answers  atomic.Int64
	inFlight atomic.Int64 // requests that wait for an answer
}

// finish generates the rest; what can't be had is marked at its sharers. Only
// errors that end the whole task are returned.
func (r *replica) finish(ctx context.Context, w *text, rest *rest) error {
	err := r.generate(ctx, w, rest)
	if failed, ok := errors.AsType[*fleet.FailedError](err); ok {
		rest.fail(failed)
		return nil
	}
	return err
}

func (r *replica) generate(ctx context.Context, w *text, rest *rest) error {
	for rest.wants() > 0 {
		err := fleet.Ask(ctx, r.server, &rest.crashes, func(c *vllm.Client) error { return r.send(ctx, c, w, rest) })
		if err != nil {
			return err
		}
	}
	return nil
}

// send makes one request in the place that the caller holds at the gate, or
// alone if the rest is suspected of killing servers.
func (r *replica) send(ctx context.Context, client *vllm.Client, w *text, rest *rest) error {
	if rest.crashes < fleet.CrashesBeforeAlone {
		return r.complete(ctx, client, w, rest)
	}
	r.gate.release()
	defer r.gate.reacquire()
	if err := r.gate.acquireAlone(ctx); err != nil {
		return err
	}
	defer r.gate.releaseAlone()
	return r.complete(ctx, client, w, rest)
}

func (r *replica) complete(ctx context.Context, client *vllm.Client, w *text, rest *rest) error {
	if rest.Token >= r.vocab { // an engine may die of an id that it does not have
		return &fleet.FailedError{Class: fleet.ClassRefused, Err: fmt.Errorf("token id %d: the served model has %d ids", rest.Token, r.vocab)}
	}
	wants := rest.wants()
	q := vllm.CompletionRequest{Prompt: w.encoded.Prompt(int(rest.At), rest.forced()...), MaxTokens: wants,
		StopTokenIDs: r.stop, Margins: r.set.Margins || rest.audits != nil, Sampling: vllm.Sampling{Temperature: r.set.Temperature, TopP: r.set.TopP}}
	if r.set.Temperature > 0 {
		q.Sampling.Seed = seed(r.set.Seed, w.ID, rest)
	}
	r.fly(1)
	answer, err := client.Complete(ctx, q)
	r.fly(-1)
	if err != nil {
		return err
	}
	r.answers.Add(1)
	w.count(&answer)
	for i, id := range answer.TokenIDs {
		if id < 0 || id >= r.vocab {
			return &vllm.AnswerError{Reason: fmt.Sprintf("token id %d of a model with %d ids", id, r.vocab)}
		}
		gap := math.NaN()
		if answer.Gaps != nil {
			gap = answer.Gaps[i]
		}
		rest.take(id, gap)
	}
	if n := len(answer.TokenIDs); n < wants && !r.isStop[answer.TokenIDs[n-1]] {
		return &vllm.AnswerError{Reason: fmt.Sprintf("%d tokens of %d without a stop token", n, wants)}
	}
	return nil
}

func (r *replica) fly(n int) {
	r.server.Flying(n)
	r.inFlight.Add(int64(n))
}

// seed depends on the job's seed and the fork alone, never on order or shard.
func seed(job int64, text string, rest *rest) int64 {
	b := rest.sharers[0]
	h := sha256.New()
	fmt.Fprintf(h, "%d\x00%s\x00%d\x00%d\x00%d", job, text, b.position, b.fork, len(rest.taken))
	return int64(binary.LittleEndian.Uint64(h.Sum(nil)) >> 1)
}
