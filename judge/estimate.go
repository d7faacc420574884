package judge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"tokenfork/internal/failure"
	"tokenfork/internal/fork"
	"tokenfork/internal/job"
	"tokenfork/internal/results"
	"tokenfork/internal/tokenizer"
	"tokenfork/judge/endpoint"
)

// AnalysisTokens is what estimates take an answer with an analysis to have,
// without thoughts. It is an assumption: judges differ.
const AnalysisTokens = 150

// Bounds of an estimate's sample.
const (
	sampleSize    = 400 // questions
	sampledShards = 16  // of a job: to read all manifests of a large one takes too long
)

// Estimate is what a judging takes, by a sample of its questions.
type Estimate struct {
	Mismatches     int64
	Sampled        int     // mismatches in the sample
	Expected       int     // of them, those without continuations yet: the table's text stands in for both
	Identical      float64 // share of the mismatches that need no judge
	Failed         float64 // share of the mismatches without a continuation
	Questions      int64   // requests to the judge
	PromptTokens   int64   // without the judge's chat template
	ComputedTokens int64   // of the prompt tokens, those that a prefix cache does not hold
	AnswerTokens   int64
	BytesPerToken  float64 // by the job's tokenizer, over the sampled contexts and continuations

	First *Escalation // of two judges: this is the estimate of the second
}

// Escalation is what the first of two judges takes, and what it leaves to the second.
type Escalation struct {
	Estimate
	Share float64 // of its questions that go on
	Of    int     // its answers to --gold that the share is from; 0: not known, and everything goes on
}

// leave keeps the share of the questions.
func (e *Estimate) leave(share float64) {
	for _, n := range []*int64{&e.Questions, &e.PromptTokens, &e.ComputedTokens, &e.AnswerTokens} {
		*n = int64(math.Round(float64(*n) * share))
	}
}

// Throughput is what one GPU does with a judge, in tokens per second.
type Throughput struct{ Prefill, Decode float64 }

// GPUHours is how long one GPU takes for the judging.
func (e *Estimate) GPUHours(t Throughput) float64 {
	return (float64(e.ComputedTokens)/t.Prefill + float64(e.AnswerTokens)/t.Decode) / 3600
}

// Dollars is what a hosted judge takes for it. No cached prompt is cheaper.
func (e *Estimate) Dollars(b endpoint.Budget) float64 { return b.Price(e.PromptTokens, e.AnswerTokens) }

// Estimator samples the mismatches that it is shown, by a hash of their places,
// and measures the questions that they make. Its methods may be called from many goroutines.
type Estimator struct {
	judge  *Judge
	framer *Framer
	rows   *results.Reader
	head   string // what all questions share
	most   atomic.Uint64

	mu     sync.Mutex
	sample []measured // by hash, the smallest sampleSize
}

// measured is what an estimate needs of one mismatch.
type measured struct {
	hash        uint64
	expected    bool
	identical   bool
	failed      bool
	requests    int64
	bytes       int64 // of the prompts
	fresh       int64 // bytes of the prompts that are in no cache
	answers     int64 // tokens
	textBytes   int64 // of context and continuations, and their tokens
	textsTokens int64
}

// NewEstimator prepares for the mismatches of a plan. Of the plan it needs the
// settings and the ends.
func NewEstimator(plan *job.Plan, text *tokenizer.Tokenizer, s Settings) (*Estimator, error) {
	return newEstimator(&Framer{Plan: plan, Text: text, Context: s.Context}, &results.Reader{Plan: plan, Text: text}, s)
}

// VerdictOnly is for the same questions, asked for one word: both share what they
// know of a text.
func (e *Estimator) VerdictOnly() (*Estimator, error) {
	s := e.judge.judging.Settings
	s.VerdictOnly = true
	return newEstimator(e.framer, e.rows, s)
}

func newEstimator(framer *Framer, rows *results.Reader, s Settings) (*Estimator, error) {
	if s.Prompt == "" {
		s.Prompt = promptFor(&framer.Plan.Settings)
	}
	p, err := LoadPrompt(s)
	if err != nil {
		return nil, err
	}
	e := &Estimator{judge: newJudge(p, Judging{Settings: s}, nil), framer: framer, rows: rows}
	e.most.Store(math.MaxUint64)
	e.head, err = p.Render(&Question{Row: &job.Result{}, Job: framer.Plan.ID}, s, job.Sides)
	return e, err
}

// Planned takes mismatches of a text whose continuations are not there yet. The
// real text to the end of its sentence stands in for what each model would write.
func (e *Estimator) Planned(s *job.Text) error {
	return e.add(s, true, func(i int) (*job.Result, error) { return e.row(s, i), nil })
}

// row is the result that the table suggests for mismatch i.
func (e *Estimator) row(s *job.Text, i int) *job.Result {
	r, p := e.rows.Planned(s, i), int(s.Mismatches[i])
	r.ContinuationSmallIDs, r.FinishSmall = e.expected(s, p, r.PredSmallID)
	r.ContinuationReferenceIDs, r.FinishReference = e.expected(s, p, r.PredReferenceID)
	return &r
}

// expected is a continuation as the real text suggests it: the predicted token,
// then the text to its sentence's end.
func (e *Estimator) expected(s *job.Text, p int, predicted int32) ([]int32, *string) {
	ids := []int32{predicted}
	if end, _ := e.framer.Plan.Ends.End(fork.Before(s.Real, p), predicted); end {
		return ids, new(job.FinishPredicted)
	}
	for q := p + 1; q < len(s.Real) && q-p <= e.framer.Plan.Settings.MaxNewTokens; q++ {
		ids = append(ids, s.Real[q])
		if e.framer.endsAt(s.Real, q) {
			break
		}
	}
	return ids, new(job.FinishStop)
}

// add measures the mismatches of the text that belong to the sample.
func (e *Estimator) add(s *job.Text, expected bool, row func(i int) (*job.Result, error)) error {
	for i, p := range s.Mismatches {
		h := placeHash(s.Ordinal, p)
		if h > e.most.Load() {
			continue
		}
		m, err := e.measure(s, i, row)
		if err != nil {
			return err
		}
		m.hash, m.expected = h, expected
		e.keep(m)
	}
	return nil
}

// placeHash is splitmix64's mix of a place: the same sample whatever the order.
func placeHash(ordinal int64, p int32) uint64 {
	x := uint64(ordinal)<<32 + uint64(p) + 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func (e *Estimator) keep(m measured) {
	e.mu.Lock()
	defer e.mu.Unlock()
	at, _ := slices.BinarySearchFunc(e.sample, m.hash, func(m measured, h uint64) int { return cmp.Compare(m.hash, h) })
	e.sample = slices.Insert(e.sample, at, m)
	if len(e.sample) > sampleSize {
		e.sample = e.sample[:sampleSize]
	}
	if len(e.sample) == sampleSize {
		e.most.Store(e.sample[sampleSize-1].hash)
	}
}

// measure frames the question about mismatch i as a run would. The question
// before it in the text, or else what all questions share, is in the judge's cache.
func (e *Estimator) measure(s *job.Text, i int, row func(i int) (*job.Result, error)) (measured, error) {
	r, err := row(i)
	if err != nil || r.Status != results.OK {
		return measured{failed: true}, err
	}
	q := e.framer.Question(s, r)
	p := int(s.Mismatches[i])
	m := measured{textsTokens: int64(len(r.ContinuationSmallIDs) + len(r.ContinuationReferenceIDs) + p - e.framer.contextFrom(s, p))}
	m.textBytes = int64(len(q.Before) + len(q.Start) + len(q.Forks[job.Small].bytes) + len(q.Forks[job.Reference].bytes))
	if m.identical = q.Identical(e.judge.judging.Settings.Normalisation); m.identical {
		return m, nil
	}
	asked, err := e.askings(q)
	if err != nil {
		return m, err
	}
	cache := &prefixes{}
	cache.add(e.head)
	if i > 0 {
		if err := e.addBefore(cache, s, i-1, row); err != nil {
			return m, err
		}
	}
	cache.all, cache.fresh = 0, 0
	for _, a := range asked {
		cache.add(a.request.Prompt)
		m.answers += int64(min(a.request.MaxTokens, AnalysisTokens))
	}
	m.requests, m.bytes, m.fresh = int64(len(asked)), cache.all, cache.fresh
	return m, nil
}

func (e *Estimator) addBefore(cache *prefixes, s *job.Text, i int, row func(i int) (*job.Result, error)) error {
	r, err := row(i)
	if err != nil || r.Status != results.OK {
		return err
	}
	asked, err := e.askings(e.framer.Question(s, r))
	for _, a := range asked {
		cache.add(a.request.Prompt)
	}
	return err
}

func (e *Estimator) askings(q *Question) ([]asking, error) {
	return e.judge.askings(q, "", q.order(e.judge.judging.Settings))
}

// Estimate is the judging of so many mismatches like those of the sample.
func (e *Estimator) Estimate(mismatches int64) Estimate {
	e.mu.Lock()
	defer e.mu.Unlock()
	var sum measured
	identical, failed := 0, 0
	est := Estimate{Mismatches: mismatches, Sampled: len(e.sample)}
	for _, m := range e.sample {
		sum.requests += m.requests
		sum.bytes += m.bytes
		sum.fresh += m.fresh
		sum.answers += m.answers
		sum.textBytes += m.textBytes
		sum.textsTokens += m.textsTokens
		identical += oneIf(m.identical)
		failed += oneIf(m.failed)
		est.Expected += oneIf(m.expected)
	}
	if sum.textsTokens == 0 {
		return est
	}
	n := float64(len(e.sample))
	scaled := func(sum int64, per float64) int64 {
		return int64(math.Round(float64(sum) / per * float64(mismatches) / n))
	}
	est.Identical, est.Failed = float64(identical)/n, float64(failed)/n
	est.BytesPerToken = float64(sum.textBytes) / float64(sum.textsTokens)
	est.Questions, est.AnswerTokens = scaled(sum.requests, 1), scaled(sum.answers, 1)
	est.PromptTokens, est.ComputedTokens = scaled(sum.bytes, est.BytesPerToken), scaled(sum.fresh, est.BytesPerToken)
	return est
}

func oneIf(is bool) int {
	if is {
		return 1
	}
	return 0
}

// likely is the judging by what is known without a server: of judges at URLs
// the job's own by these names and settings, if there is one.
func (r *runner) likely(ctx context.Context) (Judging, error) {
	if r.first != nil {
		r.first.named(r.Options.First.Model, r.Options.First.Identity)
	}
	j := r.named(r.Model, r.Identity)
	if r.Identity != "" && (r.first == nil || r.first.about.Judging.Identity != "") {
		return j, nil
	}
	all, err := Judgings(ctx, r.Store)
	for _, known := range all {
		like := r.named(r.Model, cmp.Or(r.Identity, known.Identity))
		if r.first != nil && r.first.mayBe(known.First) {
			like.First = known.First
		}
		if like.ID() == known.ID() {
			return known.Judging, err
		}
	}
	return j, err
}

// DryRun estimates what is left to judge of the job's shards, without a server.
// Where the model is not named no judging is known, and all shards count.
// It writes nothing.
func DryRun(ctx context.Context, o Options) (*Estimate, error) {
	r, err := newRunner(ctx, &o)
	if err != nil {
		return nil, err
	}
	shards, err := r.chosen()
	if err != nil {
		return nil, err
	}
	if o.Model != "" {
		if r.judging, err = r.likely(ctx); err != nil {
			return nil, err
		}
		if err := r.sort(ctx, shards); err != nil {
			return nil, err
		}
		shards = append(r.todo, r.waiting...)
	}
	e, err := NewEstimator(&r.job.Plan, r.framer.Text, r.Settings)
	if err != nil {
		return nil, err
	}
	by := []*Estimator{e}
	if r.first != nil {
		first, err := newEstimator(e.framer, e.rows, r.first.about.Judging.Settings)
		if err != nil {
			return nil, err
		}
		by = append(by, first)
	}
	mismatches := int64(0)
	for _, k := range shards {
		mismatches += int64(r.job.Shards[k].Mismatches)
	}
	slices.SortFunc(shards, func(a, b int) int { return cmp.Compare(placeHash(int64(a), -1), placeHash(int64(b), -1)) })
	for _, k := range shards[:min(len(shards), sampledShards)] {
		if err := r.sampleShard(ctx, by, k); err != nil {
			return nil, err
		}
	}
	est := e.Estimate(mismatches)
	if r.first != nil {
		share, of, err := r.escalatedOfGold(ctx)
		if err != nil {
			return nil, err
		}
		est.First = &Escalation{by[1].Estimate(mismatches), share, of}
		est.leave(share)
	}
	return &est, nil
}

// escalatedOfGold is the share of the first judge's answers to --gold, as the job
// keeps them, that are not sure enough; 1 of none.
func (r *runner) escalatedOfGold(ctx context.Context) (share float64, of int, err error) {
	kept, err := goldAnswers(ctx, r.Store)
	if err != nil {
		return 1, 0, err
	}
	f := r.first
	unsure := 0
	for _, v := range kept {
		if v.PromptHash != f.prompt.Hash || r.Options.First.Model != "" && v.JudgeModel != r.Options.First.Model || r.Options.First.Model == "" && v.JudgeModel == r.Model {
			continue
		}
		of++
		unsure += oneIf(!sure(&v, f.about.Below))
	}
	if of == 0 {
		return 1, 0, nil
	}
	return float64(unsure) / float64(of), of, nil
}

// sampleShard shows the estimators a shard, with its continuations where they are there.
func (r *runner) sampleShard(ctx context.Context, by []*Estimator, k int) error {
	run, err := r.shardRun(ctx, k)
	if errors.Is(err, fs.ErrNotExist) {
		m, err := job.OpenManifest(ctx, r.Store, k)
		if err != nil {
			return err
		}
		return eachText(m, func(s *job.Text) error {
			for _, e := range by {
				if err := e.Planned(s); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		return err
	}
	return eachText(run.manifest, func(s *job.Text) error {
		var rows []job.Result
		for _, e := range by {
			err := e.add(s, false, func(i int) (_ *job.Result, err error) {
				if rows == nil {
					rows, err = run.results.Rows(ctx, s)
				}
				if err != nil {
					return nil, err
				}
				return &rows[i], nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func eachText(m *job.Manifest, f func(*job.Text) error) error {
	for s, err := range m.Texts() {
		if err != nil {
			return fmt.Errorf("read manifest of shard %d: %w", m.Index, err)
		}
		if err := f(s); err != nil {
			return err
		}
	}
	return nil
}

// chosen are the shards that the options name, all of the job if none.
func (r *runner) chosen() ([]int, error) {
	if r.Shards == nil || len(r.job.Shards) == 0 { // a table without mismatches has none
		all := make([]int, len(r.job.Shards))
		for k := range all {
			all[k] = k
		}
		return all, nil
	}
	for _, k := range r.Shards {
		if k < 0 || k >= len(r.job.Shards) {
			return nil, failure.New(failure.Usage, fmt.Sprintf("they are 0 to %d", len(r.job.Shards)-1), "%s has no shard %d", r.Store, k)
		}
	}
	return slices.Clone(r.Shards), nil
}
