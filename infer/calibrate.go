package infer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"tokenfork/internal/cost"
	"tokenfork/internal/failure"
	"tokenfork/internal/fleet"
	"tokenfork/internal/fork"
	"tokenfork/internal/job"
	"tokenfork/internal/vllm"
)

// Calibration measures the models that a job needs, one after the other, on some of its texts.
type Calibration struct {
	Options
	Time  time.Duration // of each model's measurements, without loading
	Judge *fleet.Model  // nil: no judge is measured

	plan  *job.Plan
	texts []*job.Text // in the order of sampling
}

// Bounds of a calibration.
const (
	calibrationShards = 8 // of the job's: reading all manifests of a large one takes too long
	prefillsAtOnce    = 4
	questionTokens    = 512 // of the prompts that stand in for a judge's questions
	answerTokens      = 150 // see judge.AnalysisTokens
)

// atOnce are the numbers of requests in flight that are tried.
var atOnce = []int{32, 128, 512}

// Run gives the rates.
func (c *Calibration) Run(ctx context.Context) (*Rates, error) {
	if err := c.sample(ctx); err != nil {
		return nil, err
	}
	rates := &Rates{Format: job.Format}
	for _, side := range c.plan.Settings.Servers() {
		var todo [2][]int
		todo[side] = []int{0}
		fleets, err := arrange(ctx, &c.Options, c.plan, todo)
		if err != nil {
			return nil, err
		}
		if err := c.model(ctx, side.String(), fleets[side], c.forks(side), rates); err != nil {
			return nil, err
		}
	}
	if c.Judge != nil {
		fleets, err := fleet.Arrange(ctx, [2]*fleet.Model{c.Judge}, c.Log)
		if err != nil {
			return nil, err
		}
		if err := c.model(ctx, "judge", fleets[0], c.questions, rates); err != nil {
			return nil, err
		}
	}
	return rates, nil
}

// sample reads texts of some shards.
func (c *Calibration) sample(ctx context.Context) error {
	ks, err := shards(ctx, c.Store)
	if err != nil {
		return err
	}
	for _, k := range ks[:min(len(ks), calibrationShards)] {
		m, err := job.OpenManifest(ctx, c.Store, k)
		if err != nil {
			return err
		}
		c.plan = &m.Plan
		for x, err := range m.Texts() {
			if err != nil {
				return err
			}
			c.texts = append(c.texts, x)
		}
	}
	if len(c.texts) == 0 {
		return failure.New(failure.Refused, "calibrate on a job with mismatches", "job %s has no texts to measure with", c.Store)
	}
	slices.SortFunc(c.texts, func(a, b *job.Text) int { return cmp.Compare(job.SampleRank(a.ID), job.SampleRank(b.ID)) })
	return nil
}

// load is what a server is asked: prompts that are new to it, and then continuations.
type load struct {
	prefill, decode []*request
}

// request is one of a load, with its work as the estimates count it.
type request struct {
	vllm.CompletionRequest
	work   func(vllm.Usage) float64 // of the phase that the request is for
	blocks float64                  // prompt tokens that a continuation computes beyond the cache
}

// forks give the load of a side: each text up to its last rest, and then its rests.
func (c *Calibration) forks(side job.Side) func(s served) load {
	return func(s served) (l load) {
		set, tokens := &c.plan.Settings, int64(0)
		for _, x := range c.texts {
			w := work(x, side, set, c.plan.Ends, s.length, 0)
			if len(w.rests) == 0 {
				continue
			}
			last := w.rests[len(w.rests)-1].At
			if tokens += int64(last); len(l.prefill) > 0 && tokens > s.capacity/2 {
				break
			}
			ends := fork.SentenceEnds(c.plan.Ends, x.Real, nil)
			l.prefill = append(l.prefill, &request{CompletionRequest: vllm.CompletionRequest{Prompt: w.encoded.Prompt(int(max(last, 1))), MaxTokens: 1},
				work: func(u vllm.Usage) float64 { return cost.Prefilled(int64(u.PromptTokens-max(u.CachedTokens, 0)), last) }})
			for _, r := range w.rests {
				expected := fork.Expected(ends, r.At, int32(r.wants()))
				l.decode = append(l.decode, &request{blocks: float64(r.At%cost.Block + 1),
					CompletionRequest: vllm.CompletionRequest{Prompt: w.encoded.Prompt(int(r.At), r.forced()...), MaxTokens: r.wants(), StopTokenIDs: vllm.NewSequence(c.plan.Ends.IDs()),
						Margins: set.Margins, Sampling: vllm.Sampling{Temperature: set.Temperature, TopP: set.TopP}},
					work: func(vllm.Usage) float64 { return cost.Decoded(expected, r.At) }})
			}
		}
		return l
	}
}

// questions are pieces of the texts, as long as a judge's questions, under ids that its model has.
func (c *Calibration) questions(s served) (l load) {
	for _, x := range c.texts {
		for from := 0; from+16 < len(x.Real); from += questionTokens {
			ids := slices.Clone(x.Real[from:min(from+questionTokens, len(x.Real), from+s.length-answerTokens)])
			for i := range ids {
				ids[i] %= int32(s.vocab)
			}
			prompt := vllm.Tokens(ids...)
			l.prefill = append(l.prefill, &request{CompletionRequest: vllm.CompletionRequest{Prompt: prompt, MaxTokens: 1},
				work: func(u vllm.Usage) float64 { return float64(u.PromptTokens - max(u.CachedTokens, 0)) }})
			l.decode = append(l.decode, &request{CompletionRequest: vllm.CompletionRequest{Prompt: prompt, MaxTokens: answerTokens},
				work: func(u vllm.Usage) float64 { return float64(u.GeneratedTokens) }, blocks: cost.Block})
		}
	}
	return l
}

// served is what a server can hold.
type served struct {
	length, vocab int
	capacity      int64 // of the KV cache, in tokens
}

// model brings up a model's servers and measures the first.
func (c *Calibration) model(ctx context.Context, name string, f *fleet.Fleet, of func(served) load, rates *Rates) (err error) {
	servers, err := f.All(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fleet.Close(servers)) }()
	s := servers[0]
	client, _, err := s.Client(ctx)
	if err != nil {
		return err
	}
	is, vocab := vllm.Want{Model: client.Model}, 0
	for _, side := range job.Sides {
		if name == side.String() {
			vocab = c.plan.Models[side].VocabSize
		}
	}
	if name == "judge" {
		vocab = c.Judge.Model.VocabSize
	}
	is.VocabSize = vocab
	model, err := client.Check(ctx, is)
	if err != nil {
		return err
	}
	metrics, err := client.Metrics(ctx)
	if err != nil {
		return fmt.Errorf("ask the %s server for its KV cache: %w", name, err)
	}
	l := of(served{model.MaxModelLen, vocab, cmp.Or(metrics.KVCapacity, int64(model.MaxModelLen))})
	if len(l.decode) == 0 {
		return failure.New(failure.Refused, "calibrate on a job that the table does not answer by itself", "the texts that were sampled leave nothing for the %s model to generate", name)
	}
	m := Measured{Model: name, GPUs: 1, Texts: len(l.prefill)}
	if own, is := s.Engine(); is {
		m.Engine = own
		if n, err := strconv.Atoi(own.TensorParallel); err == nil {
			m.GPUs = n
		}
	}
	if err := c.measure(ctx, client, l, &m); err != nil {
		return fmt.Errorf("measure the %s model: %w", name, err)
	}
	rates.Add(m)
	return nil
}

// measure finds both rates: a third of the time goes to prompts, the rest to continuations at
// each number in flight.
func (c *Calibration) measure(ctx context.Context, client *vllm.Client, l load, m *Measured) error {
	done, err := c.send(ctx, client, l.prefill, prefillsAtOnce, c.Time/3, false)
	if err != nil {
		return err
	}
	m.Requests, m.Prefill = len(done), rate(done, prefillsAtOnce, 0)/float64(m.GPUs)
	for _, n := range atOnce {
		done, err := c.send(ctx, client, l.decode, n, c.Time*2/3/time.Duration(len(atOnce)), true)
		if err != nil {
			return err
		}
		m.Requests += len(done)
		if len(done) < steady*n && m.Decode > 0 {
			c.Log.Warn("too few answers for a rate: more requests in flight may be faster than what was measured; give a longer --time", "model", m.Model, "in flight", n, "answers", len(done))
			break // mostly its beginning and end
		}
		if r := rate(done, n, m.Prefill*float64(m.GPUs)) / float64(m.GPUs); r > m.Decode {
			m.Decode, m.InFlight = r, n
		}
		if n >= len(l.decode) {
			break // more cannot be in flight
		}
	}
	if !(m.Prefill > 0 && m.Decode > 0) || math.IsInf(m.Prefill+m.Decode, 0) {
		return failure.New(failure.Refused, "give it more --time", "%d requests were too few for a rate", m.Requests)
	}
	c.Log.Info("measured", "model", m.Model, "prefill tokens a second", math.Round(m.Prefill), "decode", math.Round(m.Decode), "in flight", m.InFlight, "requests", m.Requests)
	return nil
}

// completion is a request that was answered.
type completion struct {
	at           time.Duration // since the first was sent
	work, blocks float64
}

// send keeps so many requests in flight until the time is over or, unless they go round, all
// are sent. A server that answers too few in that time for a rate gets up to three times as long.
func (c *Calibration) send(ctx context.Context, client *vllm.Client, all []*request, atOnce int, d time.Duration, round bool) ([]completion, error) {
	var mu sync.Mutex
	var done []completion
	next, start := 0, time.Now()
	g, gctx := errgroup.WithContext(ctx)
	for range min(atOnce, len(all)) {
		g.Go(func() error {
			for {
				mu.Lock()
				i := next
				next++
				took, few := time.Since(start), len(done) <= (steady+1)*atOnce
				if i >= len(all) && !round || i > 0 && took > d && (!few || took > 3*d) {
					mu.Unlock()
					return nil
				}
				mu.Unlock()
				q := all[i%len(all)]
				answer, err := client.Complete(gctx, q.CompletionRequest)
				if err != nil {
					return err
				}
				mu.Lock()
				done = append(done, completion{time.Since(start), q.work(answer.Usage), q.blocks})
				mu.Unlock()
			}
		})
	}
	err := g.Wait()
	return done, err
}

// steady is from how many completions for each request in flight on the beginning, when all are
// sent at once, and the end, when fewer and fewer are left, are not counted.
const steady = 5

// rate is the work a second, less the time of the prompt tokens beyond the cache where their rate is known.
func rate(done []completion, atOnce int, prefill float64) float64 {
	if len(done) == 0 {
		return 0
	}
	from, counted := time.Duration(0), done
	if len(done) >= steady*atOnce {
		from, counted = done[atOnce-1].at, done[atOnce:len(done)-atOnce]
	}
	work, blocks := 0.0, 0.0
	for _, x := range counted {
		work, blocks = work+x.work, blocks+x.blocks
	}
	seconds := (counted[len(counted)-1].at - from).Seconds()
	if prefill > 0 {
		seconds = max(seconds-blocks/prefill, seconds/10)
	}
	return work / seconds
}
