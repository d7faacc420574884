package infer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

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
	calibrationShards = 8   // of the job's: reading all manifests of a large one takes too long
	questionTokens    = 512 // of the prompts that stand in for a judge's questions
	answerTokens      = 150 // see judge.AnalysisTokens
)

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

// sample is a prompt that is new to the server, and what continues it once it is in the cache.
type sample struct {
	prompt        *request
	continuations []*request
}

// request is one of a sample, with its work as the estimates count it.
type request struct {
	vllm.CompletionRequest
	work  func(vllm.Usage) float64 // of the phase that the request is for
	reads int                      // prompt tokens that the estimates count as prefill for a continuation

	generated int // tokens, once it is answered
}

// forks give the samples of a side: each text up to its last rest, and then its rests.
func (c *Calibration) forks(side job.Side) func(s served) []sample {
	return func(s served) (l []sample) {
		set, tokens := &c.plan.Settings, int64(0)
		for _, x := range c.texts {
			w := work(x, side, set, c.plan.Ends, s.length, 0)
			if len(w.rests) == 0 {
				continue
			}
			last := w.rests[len(w.rests)-1].At
			if tokens += int64(last); len(l) > 0 && tokens > s.capacity/2 {
				break
			}
			ends := fork.SentenceEnds(c.plan.Ends, x.Real, nil)
			one := sample{prompt: &request{CompletionRequest: vllm.CompletionRequest{Prompt: w.encoded.Prompt(int(max(last, 1))), MaxTokens: 1},
				work: func(u vllm.Usage) float64 { return cost.Prefilled(int64(u.PromptTokens-max(u.CachedTokens, 0)), last) }}}
			for _, r := range w.rests {
				expected := fork.Expected(ends, r.At, int32(r.wants()))
				one.continuations = append(one.continuations, &request{reads: int(r.At%cost.Block + 1),
					CompletionRequest: vllm.CompletionRequest{Prompt: w.encoded.Prompt(int(r.At), r.forced()...), MaxTokens: r.wants(), StopTokenIDs: vllm.NewSequence(c.plan.Ends.IDs()),
						Margins: set.Margins, Sampling: vllm.Sampling{Temperature: set.Temperature, TopP: set.TopP}},
					work: func(vllm.Usage) float64 { return cost.Decoded(expected, r.At) }})
			}
			l = append(l, one)
		}
		return l
	}
}

// questions are pieces of the texts, as long as a judge's questions, under ids that its model has.
func (c *Calibration) questions(s served) (l []sample) {
	for _, x := range c.texts {
		for from := 0; from+16 < len(x.Real); from += questionTokens {
			ids := slices.Clone(x.Real[from:min(from+questionTokens, len(x.Real), from+s.length-answerTokens)])
			for i := range ids {
				ids[i] %= int32(s.vocab)
			}
			prompt := vllm.Tokens(ids...)
			l = append(l, sample{
				prompt: &request{CompletionRequest: vllm.CompletionRequest{Prompt: prompt, MaxTokens: 1},
					work: func(u vllm.Usage) float64 { return float64(u.PromptTokens - max(u.CachedTokens, 0)) }},
				continuations: []*request{{CompletionRequest: vllm.CompletionRequest{Prompt: prompt, MaxTokens: answerTokens},
					work: func(u vllm.Usage) float64 { return float64(u.GeneratedTokens) }, reads: len(ids)}}})
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
func (c *Calibration) model(ctx context.Context, name string, f *fleet.Fleet, of func(served) []sample, rates *Rates) (err error) {
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
	if len(l) == 0 {
		return failure.New(failure.Refused, "calibrate on a job that the table does not answer by itself", "the texts that were sampled leave nothing for the %s model to generate", name)
	}
	m := Measured{Model: name, GPUs: 1}
	if own, is := s.Engine(); is {
		m.Engine = own
		if n, err := strconv.Atoi(own.TensorParallel); err == nil {
			m.GPUs = n
		}
	}
	if err := c.measure(ctx, client, l, cmp.Or(metrics.BlockSize, cost.Block), &m); err != nil {
		return fmt.Errorf("measure the %s model: %w", name, err)
	}
	rates.Add(m)
	return nil
}
