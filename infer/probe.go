package infer

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"tokenfork/internal/failure"
	"tokenfork/internal/fork"
	"tokenfork/internal/job"
	"tokenfork/internal/vllm"
)

const (
	probes     = 64
	probeTexts = 8
)

// probe asks the server for the next token at recorded positions of the shard,
// before anything recorded is taken for what the model says.
func (l *lane) probe(ctx context.Context, run *shardRun) (job.Counters, error) {
	m := run.manifest
	replicas := l.up()
	picks, err := l.pick(run)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	counters := job.Counters{}
	g, gctx := errgroup.WithContext(ctx)
	for _, p := range picks {
		r := replicas[p.text%len(replicas)] // a text's prefix is computed on one alone
		if err := r.gate.acquire(gctx); err != nil {
			break
		}
		g.Go(func() error {
			defer r.gate.release()
			got, err := r.next(gctx, p)
			if err != nil {
				return fmt.Errorf("check the recorded predictions of text %s: %w", p.from.ID, err)
			}
			mu.Lock()
			defer mu.Unlock()
			counters.Add(spent(got.Usage, 1))
			counters[Probed]++
			if got.TokenIDs[0] == p.from.Predictions(l.side)[p.at] {
				counters[ProbesAgreed]++
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	n, ok := counters[Probed], counters[ProbesAgreed]
	if n > 0 && float64(ok) < l.options.MinAgreement*float64(n) {
		return nil, failure.New(failure.Refused,
			"another model, a sampled table, or another alignment? Give the model that made the table, or plan with --replay off",
			"the %s server says what the table records at %d of %d positions of shard %d", l.side, ok, n, m.Index)
	}
	return counters, nil
}

// recorded is a position at which the table says what the model predicts.
type recorded struct {
	from  *job.Text
	text  int // number of the text among those asked for
	at    int
	order uint64
}

// pick chooses positions by hash, of the texts that are fed first: their
// forks find the prefixes in the cache then. Positions after a full cache block
// go first, where a request computes one token and not half a block.
func (l *lane) pick(run *shardRun) ([]recorded, error) {
	r := l.up()[0]
	var cheap, dear []recorded
	texts, tokens := 0, int64(0)
	for s, err := range run.manifest.Texts() {
		if err != nil {
			return nil, err
		}
		if run.log.Has(s.Ordinal) {
			continue
		}
		tokens += int64(len(s.Real))
		if texts > 0 && tokens > r.capacity/2 || texts >= probeTexts && len(cheap) >= probes {
			break
		}
		for q, id := range s.Predictions(l.side) {
			p := recorded{s, texts, q, hashOf(run.manifest.ID, s.ID, q)}
			switch {
			case q == 0 || id == fork.None || q+1 > l.length:
			case q%r.block == 1%r.block:
				cheap = append(cheap, p)
			default:
				dear = append(dear, p)
			}
		}
		texts++
	}
	slices.SortFunc(cheap, byOrder)
	slices.SortFunc(dear, byOrder)
	picks := append(cheap, dear...)
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

// next asks for the next token at the recorded position, of another server if
// one dies meanwhile.
func (r *replica) next(ctx context.Context, p recorded) (vllm.Completion, error) {
	q := vllm.CompletionRequest{Prompt: vllm.Tokens(p.from.Real[:p.at]...), MaxTokens: 1, StopTokenIDs: r.stop}
	for try := 1; ; try++ {
		client, generation, err := r.server.Client(ctx)
		if err != nil {
			return vllm.Completion{}, err
		}
		r.fly(1)
		answer, err := client.Complete(ctx, q)
		r.fly(-1)
		if err == nil || !vllm.IsGone(err) || ctx.Err() != nil || try == refusedTries {
			return answer, err
		}
		r.server.Lost(ctx, generation)
	}
}
