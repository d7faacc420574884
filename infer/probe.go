package infer

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"tokenfork/internal/failure"
	"tokenfork/internal/fork"
	"tokenfork/internal/job"
	"tokenfork/internal/vllm"
)

const (
	probes         = 64
	probeSentences = 8 // whose prefixes the forks need in the cache anyway
)

// probe asks the server for the next token at recorded positions of the shard,
// chosen by hash, before anything recorded is taken for what the model says.
func (l *lane) probe(ctx context.Context, m *job.Manifest) (job.Counters, error) {
	picks, err := l.pick(m)
	if err != nil {
		return nil, err
	}
	var agreed, asked, prompt, cached atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	for i, p := range picks {
		r := l.replicas[i%len(l.replicas)]
		if err := r.gate.acquire(gctx); err != nil {
			break
		}
		g.Go(func() error {
			defer r.gate.release()
			got, err := r.next(gctx, p)
			if err != nil {
				return fmt.Errorf("check the recorded predictions of sentence %s: %w", p.sentence.ID, err)
			}
			asked.Add(1)
			prompt.Add(int64(got.Usage.PromptTokens))
			cached.Add(int64(max(got.Usage.CachedTokens, 0)))
			if got.Choices[0].TokenIDs[0] == p.sentence.Predictions(l.side)[p.at] {
				agreed.Add(1)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	n, ok := asked.Load(), agreed.Load()
	if n > 0 && float64(ok) < l.options.MinAgreement*float64(n) {
		return nil, failure.New(failure.Refused,
			"another model, a sampled table, or another alignment? Give the model that made the table, or plan with --replay off",
			"the %s server says what the table records at %d of %d positions of shard %d", l.side, ok, n, m.Index)
	}
	return job.Counters{Probed: n, ProbesAgreed: ok, Requests: n, PromptTokens: prompt.Load(), CachedTokens: cached.Load(),
		ComputedTokens: prompt.Load() - cached.Load(), GeneratedTokens: n}, nil
}

// recorded is a position at which the table says what the model predicts.
type recorded struct {
	sentence *job.Sentence
	at       int
	order    uint64
}

// pick chooses positions by hash: the same ones whatever the run.
func (l *lane) pick(m *job.Manifest) ([]recorded, error) {
	var texts, picks []recorded
	for s, err := range m.Sentences() {
		if err != nil {
			return nil, err
		}
		texts = append(texts, recorded{s, 0, hashOf(m.ID, s.ID)})
		slices.SortFunc(texts, byOrder)
		texts = texts[:min(len(texts), probeSentences)]
	}
	for _, t := range texts {
		for q, id := range t.sentence.Predictions(l.side) {
			if q > 0 && id != fork.None && q+1 <= l.length {
				picks = append(picks, recorded{t.sentence, q, hashOf(t.sentence.ID, q)})
			}
		}
	}
	slices.SortFunc(picks, byOrder)
	return picks[:min(len(picks), probes)], nil
}

func byOrder(a, b recorded) int {
	if a.order < b.order {
		return -1
	}
	return 1
}

func hashOf(of ...any) uint64 {
	h := fnv.New64a()
	fmt.Fprintln(h, of...)
	return h.Sum64()
}

// next asks for the next token at the recorded position.
func (r *replica) next(ctx context.Context, p recorded) (vllm.Completion, error) {
	client, _, err := r.server.Client(ctx)
	if err != nil {
		return vllm.Completion{}, err
	}
	return client.Complete(ctx, vllm.CompletionRequest{Prompts: []vllm.Prompt{vllm.Tokens(p.sentence.Real[:p.at]...)}, MaxTokens: 1, StopTokenIDs: r.stop})
}
