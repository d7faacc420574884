package judge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/job/jobtest"
	"tokenfork/internal/results"
	"tokenfork/internal/store"
	"tokenfork/judge/agreement"
	"tokenfork/judge/endpoint"
)

// fakeFirst answers with one word, with a probability by the question's hash.
type fakeFirst struct {
	mu    sync.Mutex
	asked int
	dumb  bool // no log probabilities
}

func (f *fakeFirst) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		_, _ = io.WriteString(w, `{"data":[{"id":"cheap"}]}`)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if !bytes.Contains(body, []byte("Greet the reader")) {
		f.mu.Lock()
		f.asked++
		f.mu.Unlock()
	}
	logprob := map[bool][2]float64{true: {-0.01, -4.6}, false: {-0.5, -0.95}}[job.Sum(body)[0]%2 == 0] // probabilities 0.99 or 0.61
	logprobs := fmt.Sprintf(`,"logprobs":{"content":[{"token":"True","logprob":%[1]v,"top_logprobs":[{"token":"True","logprob":%[1]v},{"token":"False","logprob":%[2]v}]}]}`, logprob[0], logprob[1])
	if f.dumb {
		logprobs = ""
	}
	fmt.Fprintf(w, `{"choices":[{"message":{"content":"True"},"finish_reason":"stop"%s}],"usage":{"prompt_tokens":50,"completion_tokens":1}}`, logprobs)
}

func withFirst(t *testing.T, o Options, f *fakeFirst, below float64) Options {
	t.Helper()
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	o.First = &FirstOptions{Below: below, Connect: func(context.Context) (Backend, error) { return Backend{Config: endpoint.Config{URL: s.URL}}, nil }}
	return o
}

// The first judge's verdict stands where it is sure; each row says whose it is, and
// merge takes both. Run again, nothing is asked; with another bound it is another judging.
func TestTwoJudges(t *testing.T) {
	s := jobtest.Make(t, 12, 2)
	strong, first := &fakeJudge{}, &fakeFirst{}
	o := withFirst(t, options(s, strong.serve(t)), first, 0.8)
	by, err := Run(t.Context(), o)
	if failure.Code(err) != failure.Partial {
		t.Fatal(err)
	}
	asked, _ := strong.counts()
	count := map[string]int{}
	records, err := Judgings(t.Context(), s)
	if err != nil || len(records) != 1 || records[0].First == nil || records[0].First.Judging.Model != "cheap" || records[0].First.Below != 0.8 {
		t.Fatalf("records %+v, %v", records, err)
	}
	for _, v := range verdicts(t, s, by.ID()) {
		count[v.JudgeModel]++
		switch {
		case v.Error != nil && *v.Error == results.NoContinuation, *v.ConfidenceSource == Identical:
		case v.JudgeModel == "cheap" && (*v.Confidence < 0.8 || !*v.MeaningMatch || *v.ConfidenceSource != LogprobFree || v.PromptHash != records[0].First.Judging.PromptHash):
			t.Errorf("the first judge was not sure: %+v", v)
		case v.JudgeModel != "cheap" && v.PromptHash != by.PromptHash:
			t.Errorf("got %+v", v)
		}
	}
	if count["cheap"] < 5 || asked < 5 || first.asked <= asked {
		t.Errorf("verdicts %v; asked the first %d, the other %d", count, first.asked, asked)
	}
	checkAccepted(t, s, records[0], by.ID())
	if n := counted(t, s, by.ID())[Escalated]; n != int64(asked) {
		t.Errorf("%d questions are counted as left to the second judge, which was asked %d", n, asked)
	}
	before := first.asked
	if _, err := Run(t.Context(), o); err != nil || first.asked != before {
		t.Errorf("again: %v, %d more questions", err, first.asked-before)
	}
	o.First.Below = 0.5
	if other, err := Run(t.Context(), o); failure.Code(err) != failure.Partial || other.ID() == by.ID() {
		t.Errorf("another bound is the same judging: %v", err)
	}
	if again, _ := strong.counts(); again != asked {
		t.Errorf("escalated %d more where the first judge is always sure", again-asked)
	}
}

// counted sums the counters of a judging's commits up.
func counted(t *testing.T, s store.Store, id string) job.Counters {
	t.Helper()
	j, err := job.Load(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	sum := job.Counters{}
	for k := range j.Shards {
		c, err := job.LoadCommit(t.Context(), s, job.Task{Stage: "judge", Shard: k, Side: id, Manifest: j.Shards[k].SHA256})
		if err != nil {
			t.Fatal(err)
		}
		sum.Add(c.Counters)
	}
	return sum
}

// checkAccepted holds each verdict against its row, as merge does.
func checkAccepted(t *testing.T, s store.Store, r Record, id string) {
	t.Helper()
	text, err := results.LoadText(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	j, err := job.Load(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	accept, err := r.Accept(&j.Plan, text)
	if err != nil {
		t.Fatal(err)
	}
	run, err := newRunner(t.Context(), &Options{Store: s, Settings: Defaults()})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for k := range j.Shards {
		sh, err := run.shardRun(t.Context(), k)
		if err != nil {
			t.Fatal(err)
		}
		c, err := job.OpenCommitted[job.Verdict](t.Context(), s, job.Task{Stage: "judge", Shard: k, Side: id, Manifest: j.Shards[k].SHA256})
		if err != nil {
			t.Fatal(err)
		}
		for x, err := range sh.manifest.Texts() {
			if err != nil {
				t.Fatal(err)
			}
			rows, err := sh.results.Rows(t.Context(), x)
			if err != nil {
				t.Fatal(err)
			}
			vs, err := c.Text(t.Context(), x.Ordinal)
			if err != nil {
				t.Fatal(err)
			}
			for i, v := range vs {
				if rows[i].Status != results.OK {
					continue
				}
				n++
				if err := accept(x, &rows[i], &v); err != nil {
					t.Errorf("%v", err)
				}
				v.JudgeModel = "nobody"
				if accept(x, &rows[i], &v) == nil {
					t.Error("a verdict of an unknown judge is accepted")
				}
			}
		}
	}
	if n < 20 {
		t.Errorf("only %d verdicts", n)
	}
}

// Without log probabilities it is not known where a first judge is unsure; two judges that
// cannot be told apart in the results are refused, as is a batch.
func TestTwoJudgesRefused(t *testing.T) {
	s := jobtest.Make(t, 4, 1)
	strong := &fakeJudge{}
	o := withFirst(t, options(s, strong.serve(t)), &fakeFirst{dumb: true}, 0.8)
	if _, err := Run(t.Context(), o); failure.Code(err) != failure.Refused || !strings.Contains(err.Error(), "no log probabilities") {
		t.Errorf("got %v", err)
	}
	o = withFirst(t, options(s, strong.serve(t)), &fakeFirst{}, 0.8)
	o.Model, o.First.Model, o.Settings.VerdictOnly = "cheap", "cheap", true
	if _, err := Run(t.Context(), o); failure.Code(err) != failure.Usage || !strings.Contains(err.Error(), "asked alike") {
		t.Errorf("got %v", err)
	}
	o.Batch = true
	if _, err := Run(t.Context(), o); failure.Code(err) != failure.Usage {
		t.Errorf("got %v", err)
	}
}

// Both judges are asked about all labelled pairs, whatever the first says.
func TestCalibrateTwoJudges(t *testing.T) {
	pairs, err := agreement.ReadPairs("../testdata/gold.csv")
	if err != nil {
		t.Fatal(err)
	}
	pairs = pairs[:150]
	notIdentical := 0
	for _, p := range pairs {
		if p.Kind == "paraphrase" || p.Kind == "contradiction" {
			notIdentical++
		}
	}
	strong, first := &fakeJudge{}, &fakeFirst{}
	o := withFirst(t, pairOptions(t, strong), first, 0)
	o.Wanted = agreement.Wanted{Agreement: 0.3, Confidence: 0.95}
	m, by, err := GoldPairs(t.Context(), o, pairs)
	if err != nil {
		t.Fatal(err)
	}
	questions, _ := strong.counts()
	if m.Two == nil || m.Two.Cases != notIdentical || first.asked != questions || by.First == nil || m.Two.Kept == 0 || m.Two.Risk > 0.7 {
		t.Errorf("asked %d and %d; got %+v", first.asked, questions, m.Two)
	}
	if said := m.String(); !strings.Contains(said, "found: --escalate-below ") || !strings.Contains(said, "the first judge's tokens") {
		t.Errorf("got\n%s", said)
	}
}

// A dry run of two judges counts both: all questions for the first and, once --gold has
// shown how often it is sure, as many for the second as a run then asks.
func TestDryRunOfTwoJudges(t *testing.T) {
	s := jobtest.Make(t, 12, 2)
	strong, first := &fakeJudge{}, &fakeFirst{}
	o := withFirst(t, options(s, strong.serve(t)), first, 0.8)
	alone := o
	alone.First = nil
	one, before := dryRun(t, alone), dryRun(t, o)
	if f := before.First; f == nil || f.Of != 0 || f.Share != 1 || f.Questions != one.Questions || f.AnswerTokens != one.Questions || before.Questions != one.Questions || before.PromptTokens != one.PromptTokens {
		t.Fatalf("one judge %+v, two %+v, the first %+v", one, before, f)
	}
	labels := agreement.Labels{}
	for k := range 12 {
		for p := range int64(100) {
			labels[agreement.Place{SentenceID: fmt.Sprint("s", k), Position: p}] = true
		}
	}
	gold := o // which is to find the probability
	gold.First = &FirstOptions{Connect: o.First.Connect}
	gold.Wanted = agreement.Wanted{Agreement: 0.5, Confidence: 0.9}
	if _, _, err := Gold(t.Context(), gold, labels); err != nil {
		t.Fatal(err)
	}
	after := dryRun(t, o)
	_, asked := strong.counts()
	askedFirst := first.asked
	by, err := Run(t.Context(), o)
	if failure.Code(err) != failure.Partial {
		t.Fatal(err)
	}
	if _, again := strong.counts(); asked == 0 || again != asked || first.asked != askedFirst {
		t.Errorf("%d and %d questions of --gold were asked again", again-asked, first.asked-askedFirst)
	}
	escalated, decided := 0, 0
	for _, v := range verdicts(t, s, by.ID()) {
		switch {
		case v.Error != nil, *v.ConfidenceSource == Identical:
		case v.JudgeModel == "cheap":
			decided++
		default:
			escalated++
		}
	}
	want := float64(escalated) / float64(escalated+decided)
	if f := after.First; f.Of == 0 || f.Share < want-0.05 || f.Share > want+0.05 || after.Questions != int64(math.Round(float64(one.Questions)*f.Share)) {
		t.Errorf("%d of %d go on; expected %+v, %+v", escalated, escalated+decided, after, f)
	}
	o.Model, o.First.Model = "fake", "cheap"
	if left := dryRun(t, o); left.Mismatches != 0 {
		t.Errorf("judged whole, and still to do: %+v", left)
	}
}

// The budget bounds both judges together, each at its own prices.
func TestBudgetOfTwoJudges(t *testing.T) {
	for name, c := range map[string]struct {
		budget, first endpoint.Budget
		spent         func(first, strong int) float64
		most          float64
	}{
		"tokens": {endpoint.Budget{Tokens: 15_000}, endpoint.Budget{}, func(first, strong int) float64 { return float64(51*first + 110*strong) }, 15_000},
		"dollars": {endpoint.Budget{Dollars: 0.06, PriceIn: 1, PriceOut: 2}, endpoint.Budget{PriceIn: 10, PriceOut: 10},
			func(first, strong int) float64 { return (510*float64(first) + 120*float64(strong)) / 1e6 }, 0.06},
	} {
		s := jobtest.Make(t, 60, 1)
		strong, first := &fakeJudge{}, &fakeFirst{}
		o := withFirst(t, options(s, strong.serve(t)), first, 0.8)
		for _, connect := range []struct {
			to     *func(context.Context) (Backend, error)
			budget endpoint.Budget
		}{{&o.Connect, c.budget}, {&o.First.Connect, c.first}} {
			open := *connect.to
			*connect.to = func(ctx context.Context) (Backend, error) {
				b, err := open(ctx)
				b.Budget = connect.budget
				return b, err
			}
		}
		_, err := Run(t.Context(), o)
		_, asked := strong.counts()
		if spent := c.spent(first.asked, asked); failure.Code(err) != failure.Stopped || !errors.Is(err, endpoint.ErrBudget) || spent > c.most || first.asked == 0 {
			t.Errorf("%s: spent %v on %d and %d questions: %v", name, spent, first.asked, asked, err)
		}
	}
}
