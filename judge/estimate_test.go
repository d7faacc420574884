package judge

import (
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/job/jobtest"
	"tokenfork/internal/results"
	"tokenfork/internal/store"
)

// dryRun estimates without a server: the options have no Connect.
func dryRun(t *testing.T, o Options) Estimate {
	t.Helper()
	o.Connect = nil
	before := keys(t, o.Store)
	e, err := DryRun(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if after := keys(t, o.Store); !slices.Equal(before, after) {
		t.Fatalf("a dry run wrote: before %v, after %v", before, after)
	}
	return *e
}

func keys(t *testing.T, s store.Store) (all []string) {
	t.Helper()
	for o, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, o.Key)
	}
	return all
}

// A sample that is the whole job gives what a run then asks, to the question.
func TestDryRunGivesWhatARunAsks(t *testing.T) {
	s := jobtest.Make(t, 20, 3)
	f := &fakeJudge{}
	o := options(s, f.serve(t))
	e := dryRun(t, o)
	if e.Mismatches != 100 || e.Sampled != 100 || e.Expected != 0 || e.Identical != 0.2 || e.Failed != 0.01 {
		t.Errorf("got %+v", e)
	}
	twice := o
	twice.Settings.Swap = true
	if both := dryRun(t, twice); both.Questions != 2*e.Questions || both.AnswerTokens != 2*e.AnswerTokens {
		t.Errorf("with --swap %+v, else %+v", both, e)
	}
	short := o
	short.Settings.VerdictOnly = true
	if one := dryRun(t, short); one.AnswerTokens != e.Questions || one.PromptTokens >= e.PromptTokens {
		t.Errorf("of verdicts alone %+v, else %+v", one, e)
	}

	judging, err := Run(t.Context(), o)
	if failure.Code(err) != failure.Partial {
		t.Fatal(err)
	}
	total := job.Counters{}
	for k := range 3 {
		c, err := job.OpenCommitted[job.Verdict](t.Context(), s, taskOf(t, s, k, judging.ID()))
		if err != nil {
			t.Fatal(err)
		}
		for name, n := range c.Commit().Counters {
			total[name] += n
		}
	}
	if total[NotAsked] != 20 || e.Questions != 79 {
		t.Errorf("estimated %+v, counted %v", e, total)
	}
	o.Model = "fake"
	if left := dryRun(t, o); left.Mismatches != 0 || left.Questions != 0 {
		t.Errorf("left of a finished judging: %+v", left)
	}
}

func taskOf(t *testing.T, s store.Store, k int, side string) job.Task {
	t.Helper()
	j, err := job.Load(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return job.Task{Stage: "judge", Shard: k, Side: side, Manifest: j.Shards[k].SHA256}
}

// The sizes of the prompts, and what a prefix cache leaves of them, are those of
// all questions in the order of a run. The texts repeat nothing, as Large's do.
func TestDryRunSizes(t *testing.T) {
	s := jobtest.Large(t, 3, 1)
	e, texts, j := estimator(t, s)
	random := rand.New(rand.NewPCG(1, 2))
	var sent prefixes
	for _, x := range texts {
		for p := range x.Real {
			x.Real[p] = random.Int32N(12)
		}
		if err := e.Planned(x); err != nil {
			t.Fatal(err)
		}
		for i := range x.Mismatches {
			q := e.framer.Question(x, e.row(x, i))
			text, err := e.judge.prompt.Render(q, Defaults(), job.Sides)
			if err != nil {
				t.Fatal(err)
			}
			if !q.Identical(Space) {
				sent.add(text)
			}
		}
	}
	est := e.Estimate(j.Mismatches)
	near := func(what string, got, bytes int64) {
		if want := float64(bytes) / est.BytesPerToken; math.Abs(float64(got)-want) > 0.03*want {
			t.Errorf("%s: estimated %d, sent %.0f", what, got, want)
		}
	}
	near("prompt tokens", est.PromptTokens, sent.all)
	near("tokens after the prefix cache", est.ComputedTokens, sent.fresh)
}

// estimator prepares one for the job, with the job's texts.
func estimator(t *testing.T, s store.Store) (*Estimator, []*job.Text, *job.Job) {
	t.Helper()
	j, err := job.Load(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	text, err := results.LoadText(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	m, err := job.OpenManifest(t.Context(), s, 0)
	if err != nil {
		t.Fatal(err)
	}
	var texts []*job.Text
	if err := eachText(m, func(x *job.Text) error {
		mine := *x
		mine.Real, mine.Mismatches = slices.Clone(x.Real), slices.Clone(x.Mismatches)
		mine.SmallPredictions, mine.ReferencePredictions = slices.Clone(x.SmallPredictions), slices.Clone(x.ReferencePredictions)
		texts = append(texts, &mine)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	e, err := NewEstimator(&j.Plan, text, Defaults())
	if err != nil {
		t.Fatal(err)
	}
	return e, texts, j
}

// Without continuations the table's text stands in for them.
func TestDryRunBeforeInfer(t *testing.T) {
	s := jobtest.Make(t, 20, 3)
	with := dryRun(t, options(s, ""))
	if err := os.RemoveAll(filepath.Join(s.String(), "parts", "infer")); err != nil {
		t.Fatal(err)
	}
	e := dryRun(t, options(s, ""))
	if e.Sampled != 100 || e.Expected != 100 || e.Questions < with.Questions || e.Questions > 100 || e.PromptTokens < with.PromptTokens {
		t.Errorf("before infer %+v, after it %+v", e, with)
	}
}

// The sample is the same in whatever order the texts come, and bounded.
func TestEstimateOfASample(t *testing.T) {
	s := jobtest.Large(t, 6, 1)
	_, texts, j := estimator(t, s)
	estimate := func() Estimate {
		e, _, _ := estimator(t, s)
		for _, x := range texts {
			if err := e.Planned(x); err != nil {
				t.Fatal(err)
			}
		}
		return e.Estimate(j.Mismatches)
	}
	forward := estimate()
	slices.Reverse(texts)
	if backward := estimate(); backward != forward {
		t.Errorf("in one order %+v, in the other %+v", forward, backward)
	}
	if forward.Sampled != sampleSize || forward.Mismatches != 6*jobtest.LargePerText || forward.Questions < forward.Mismatches*9/10 {
		t.Errorf("got %+v", forward)
	}
}
