package infer

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"tokenfork/internal/failure"
	"tokenfork/internal/fleet"
	"tokenfork/internal/fork"
	"tokenfork/internal/job"
	"tokenfork/internal/stats"
	"tokenfork/internal/vllm"
)

const (
	probes      = 64
	probeTexts  = 8
	aloneProbes = 16 // of a server that is to be batch-invariant: asked one at a time before all are
)

// probe asks the server for the next token at recorded positions of the shard,
// greedily whatever the job's temperature: is it the model that made the table?
func (l *lane) probe(ctx context.Context, run *shardRun) (job.Counters, error) {
	m := run.Manifest
	picks, err := l.pick(run)
	if err != nil {
		return nil, err
	}
	var computed, cached []vllm.Completion
	if m.Settings.Deterministic {
		few := picks[:min(len(picks), aloneProbes)]
		if computed, _, err = l.ask(ctx, few, 1, rand.Text()); err != nil {
			return nil, err
		}
		if cached, _, err = l.ask(ctx, few, 1, ""); err != nil { // what was not in the cache is now
			return nil, err
		}
	}
	answers, refused, err := l.ask(ctx, picks, len(picks), "")
	if err != nil {
		return nil, err
	}
	if err := l.batchInvariant(answers, computed, cached); err != nil {
		return nil, err
	}
	counters := job.Counters{}
	var gaps []float64 // where the server says something else
	for i, got := range answers {
		if len(got.TokenIDs) == 0 {
			continue
		}
		counters[Probed]++
		if got.TokenIDs[0] == picks[i].from.Predictions(l.side)[picks[i].at] {
			counters[ProbesAgreed]++
		} else {
			gaps = append(gaps, got.Gaps[0])
		}
	}
	for _, got := range slices.Concat(answers, computed, cached) {
		if len(got.TokenIDs) > 0 {
			counters.Add(fleet.Spent(got.Usage, 1))
		}
	}
	n, ok := counters[Probed], counters[ProbesAgreed]
	if n == 0 && refused != nil {
		return nil, refused
	}
	if n > 0 && float64(ok) < l.options.MinAgreement*float64(n) {
		slices.Sort(gaps)
		return nil, failure.New(failure.Refused, likelyCause(float64(ok)/float64(n), gaps),
			"the %s server says what the table records at %d of %d positions of shard %d; where it differs, its best token leads by %s (log probability)",
			l.side, ok, n, m.Index, gapText(gaps))
	}
	return counters, nil
}

// ask gives the next token of each pick, with so many requests in flight, from the prefix cache of that salt. Of a
// prompt that the server does not take there are no tokens, and refused is why: its forks are listed so.
func (l *lane) ask(ctx context.Context, picks []recorded, atOnce int, salt string) (answers []vllm.Completion, refused, err error) {
	replicas := l.up()
	answers = make([]vllm.Completion, len(picks))
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for i, p := range picks {
		r := replicas[p.text%len(replicas)] // a text's prefix is computed on one alone
		if err := r.gate.acquire(gctx); err != nil {
			break
		}
		g.Go(func() error {
			defer r.gate.release()
			got, err := r.next(gctx, p, salt)
			if err == nil {
				answers[i] = got
				return nil
			}
			err = fmt.Errorf("check the recorded predictions of text %s: %w", p.from.ID, err)
			if _, ok := errors.AsType[*vllm.StatusError](err); ok && !fleet.Overloaded(err) {
				mu.Lock()
				defer mu.Unlock()
				refused = err
				return nil
			}
			return err
		})
	}
	return answers, refused, g.Wait()
}

// batchInvariant refuses a server whose answers alone, computed in full or from the prefix cache, have another bit
// than those beside others.
func (l *lane) batchInvariant(beside, computed, cached []vllm.Completion) error {
	varied, most := 0, 0.0
	for i := range computed {
		differs := false
		for _, a := range []vllm.Completion{computed[i], cached[i]} {
			if b := beside[i]; len(a.TokenIDs) > 0 && len(b.TokenIDs) > 0 {
				d := math.Abs(a.Gaps[0] - b.Gaps[0])
				differs, most = differs || d > 0 || a.TokenIDs[0] != b.TokenIDs[0], max(most, d)
			}
		}
		if differs {
			varied++
		}
	}
	if varied == 0 {
		return nil
	}
	return failure.New(failure.Refused, fmt.Sprintf("serve another version of vLLM, or another attention backend (--%s-args \"--attention-backend …\"), or plan without --deterministic", l.side),
		"the job is planned with --deterministic, but the %s server is not batch-invariant: of %d predictions %d have another lead over the next token (log probability) alone, computed in full or from the prefix cache, than beside others, by up to %.2g",
		l.side, len(computed), varied, most)
}

// likelyCause names why a server may differ from the table, the likeliest first.
func likelyCause(agreement float64, gaps []float64) string {
	const precision = "another precision or engine than the table's (serve with its dtype, for example --dtype float32)"
	const model = "another model (are the URLs or folders of the two sides exchanged?), another checkpoint of it, another alignment (plan --alignment)"
	const sampled = "predictions in the table that were sampled"
	const anyway = "; plan with --replay off and infer with --replay-min-agreement 0 go on all the same"
	if agreement >= 0.5 && stats.NearTie(gaps[len(gaps)/2]) {
		return "likely, in this order: " + precision + ", " + sampled + ", " + model + anyway
	}
	return "likely, in this order: " + model + ", " + sampled + ", " + precision + anyway
}

// gapText lists gaps, the smallest first, or the smallest, the middle and the largest of many.
func gapText(gaps []float64) string {
	if n := len(gaps); n > 8 {
		return fmt.Sprintf("%.2g to %.2g, median %.2g", gaps[0], gaps[n-1], gaps[n/2])
	}
	var all []string
	for _, g := range gaps {
		all = append(all, fmt.Sprintf("%.2g", g))
	}
	return strings.Join(all, ", ")
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
	for s, err := range run.Manifest.Texts() {
		if err != nil {
			return nil, err
		}
		if run.Log.Has(s.Ordinal) {
			continue
		}
		tokens += int64(len(s.Real))
		if texts > 0 && tokens > r.capacity/2 || texts >= probeTexts && len(cheap) >= probes {
			break
		}
		for q, id := range s.Predictions(l.side) {
			p := recorded{s, texts, q, hashOf(run.Manifest.ID, s.ID, q)}
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

func byOrder(a, b recorded) int { return cmp.Compare(a.order, b.order) }

func hashOf(of ...any) uint64 {
	h := fnv.New64a()
	fmt.Fprintln(h, of...)
	return h.Sum64()
}

// next asks for the next token at the recorded position, again if the server is
// busy, and of another one if it dies meanwhile.
func (r *replica) next(ctx context.Context, p recorded, salt string) (vllm.Completion, error) {
	q := vllm.CompletionRequest{Prompt: vllm.Tokens(p.from.Real[:p.at]...), MaxTokens: 1, StopTokenIDs: r.stop, Margins: true, CacheSalt: salt}
	for try := 1; ; try++ {
		client, generation, err := r.server.Client(ctx)
		if err != nil {
			return vllm.Completion{}, err
		}
		r.fly(1)
		answer, err := client.Complete(ctx, q)
		r.fly(-1)
		busy := fleet.Overloaded(err)
		if err == nil || !busy && !vllm.IsGone(err) || ctx.Err() != nil || try == fleet.RefusedTries {
			return answer, err
		}
		r.server.Lost(ctx, generation)
		if busy {
			if err := fleet.Pause(ctx, try); err != nil {
				return vllm.Completion{}, err
			}
		}
	}
}
