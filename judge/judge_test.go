package judge

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/judge/endpoint"
)

// fakeAsker answers by a function, for the faults that a real judge will not show.
type fakeAsker struct {
	mu     sync.Mutex
	asked  []endpoint.Request
	answer func(n int, r endpoint.Request) (*endpoint.Reply, error)
}

func (f *fakeAsker) Ask(_ context.Context, r endpoint.Request) (*endpoint.Reply, error) {
	f.mu.Lock()
	f.asked = append(f.asked, r)
	n := len(f.asked)
	f.mu.Unlock()
	return f.answer(n, r)
}

func says(match bool) *endpoint.Reply {
	return &endpoint.Reply{Masked: true, Text: fmt.Sprintf(`{"explanation":"e","key_differences":["d"],"meaning_match":%t,"confidence":0.75}`, match)}
}

func newTestJudge(t *testing.T, change func(*Settings), answer func(int, endpoint.Request) (*endpoint.Reply, error)) (*Judge, *fakeAsker) {
	t.Helper()
	s := Defaults()
	if change != nil {
		change(&s)
	}
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	p, err := LoadPrompt(s)
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeAsker{answer: answer}
	return newJudge(p, Judging{Model: "m", PromptVersion: p.Version, PromptHash: p.Hash, Settings: s}, f), f
}

func example() *Question {
	return &Question{Ordinal: 3, Position: 9, Before: "It rained. ", Start: "We",
		Forks: [2]Fork{
			{Token: " stay", Rest: "ed home.", IDs: []int32{1, 2}, Finish: "stop", bytes: " stayed home."},
			{Token: " left", Rest: ".", IDs: []int32{3, 4}, Finish: "stop", bytes: " left."}},
		Row: &job.Result{SentenceID: "s", SmallEntropy: new(0.5)}}
}

const seedText = `Compare two sentence continuations and determine if they convey the same meaning.

A context and its two continuations follow in sections. Each section begins with a line that starts with MARK,`

const seedSections = `
"confidence": a number from 0 to 1, how sure you are of meaning_match.

MARK Context
It rained. We
MARK Small model continuation
 stayed home.
MARK Reference model continuation
 left.
MARK End. Your answer:`

func TestAsk(t *testing.T) {
	j, f := newTestJudge(t, nil, func(int, endpoint.Request) (*endpoint.Reply, error) { return says(false), nil })
	v, err := j.Ask(t.Context(), example())
	if err != nil {
		t.Fatal(err)
	}
	if *v.MeaningMatch || *v.Explanation != "e" || *v.Confidence != 0.75 || *v.ConfidenceSource != Self || v.KeyDifferences[0] != "d" || v.Error != nil {
		t.Errorf("got %+v", v)
	}
	if v.Ordinal != 3 || v.Position != 9 || v.JudgeModel != "m" || v.PromptVersion != "seed-2" || len(v.PromptHash) != 64 || len(v.Question) != 64 {
		t.Errorf("got %+v", v)
	}
	r := f.asked[0]
	shown := strings.ReplaceAll(r.Prompt, example().mark(), "MARK")
	if !strings.HasPrefix(shown, seedText) || !strings.HasSuffix(shown, seedSections) {
		t.Errorf("asked\n%s", r.Prompt)
	}
	if *r.Temperature != 0 || r.Seed != nil || r.MaxTokens != 512 || r.TopLogprobs != 5 {
		t.Errorf("asked %+v", r)
	}
	const schema = `{"type":"object","properties":{"explanation":{"type":"string"},"key_differences":{"type":"array","items":{"type":"string"}},` +
		`"meaning_match":{"type":"boolean"},"confidence":{"type":"number"}},"required":["explanation","key_differences","meaning_match","confidence"],"additionalProperties":false}`
	if string(r.Schema) != schema {
		t.Errorf("schema %s", r.Schema)
	}
}

func TestR2RPrompt(t *testing.T) {
	j, f := newTestJudge(t, func(s *Settings) { s.Prompt, s.Blind = "r2r", true }, func(int, endpoint.Request) (*endpoint.Reply, error) {
		return &endpoint.Reply{Masked: true, Text: `{"explanation":"e","key_differences":[],"divergent":1,"confidence":1}`}, nil
	})
	v, err := j.Ask(t.Context(), example())
	if err != nil || *v.MeaningMatch || v.PromptVersion != "r2r-2" {
		t.Errorf("got %+v, %v", v, err)
	}
	asked := f.asked[0].Prompt
	for _, want := range []string{"question\nIt rained. \n#", "\nWe<< stay>>ed home.\n#", "\nWe<< left>>.\n#", " Continuation A\n", " Continuation B\n", `"divergent": 1 if`} {
		if !strings.Contains(asked, want) {
			t.Errorf("lacks %q:\n%s", want, asked)
		}
	}
	if strings.Contains(asked, "mall model") {
		t.Errorf("blind, but it names the model:\n%s", asked)
	}
	first := map[bool]string{true: "(A: small, B: reference) e", false: "(A: reference, B: small) e"}[strings.Index(asked, "stay") < strings.Index(asked, "left")]
	if *v.Explanation != first {
		t.Errorf("explanation %q, want %q", *v.Explanation, first)
	}
}

func TestFilePrompt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mine.tmpl")
	write := func(s string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("{{.Row.SentenceID}} {{.Row.SmallEntropy}} {{.A.Fork}}|{{.B.Text}}|{{.B.Finish}}\n")
	set := func(s *Settings) { s.Prompt = "file=" + path }
	j, f := newTestJudge(t, set, func(int, endpoint.Request) (*endpoint.Reply, error) { return says(true), nil })
	v, err := j.Ask(t.Context(), example())
	if err != nil || v.PromptVersion != "file:mine.tmpl" {
		t.Fatal(v.PromptVersion, err)
	}
	if want := "s 0.5  stay| left.|stop\n\nReply with one JSON object"; !strings.HasPrefix(f.asked[0].Prompt, want) {
		t.Errorf("asked %q", f.asked[0].Prompt)
	}

	s := Defaults()
	for _, c := range []struct{ text, says string }{{"{{.Nothing}}", "Nothing"}, {"{{", "unclosed"}, {"{{.Row.SentenceID}}", "--blind"}} {
		write(c.text)
		s.Prompt, s.Blind = "file="+path, true
		if _, err := LoadPrompt(s); failure.Code(err) != failure.Usage || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v", c.text, err)
		}
	}
	s.Prompt = "file=/nowhere/x"
	if _, err := LoadPrompt(s); err == nil {
		t.Error("a prompt that is not there was read")
	}
	s.Prompt = "gpt"
	if _, err := LoadPrompt(s); failure.Code(err) != failure.Usage {
		t.Errorf("got %v", err)
	}
}

func TestVerdictOnly(t *testing.T) {
	j, f := newTestJudge(t, func(s *Settings) { s.VerdictOnly = true }, func(int, endpoint.Request) (*endpoint.Reply, error) {
		return &endpoint.Reply{Text: "False", Cut: true, Tokens: []endpoint.Token{{Text: "False", Logprob: -0.1}}}, nil
	})
	v, err := j.Ask(t.Context(), example())
	if err != nil || *v.MeaningMatch || *v.Confidence != 1 || *v.ConfidenceSource != LogprobFree || v.Explanation != nil || v.KeyDifferences != nil {
		t.Errorf("got %+v, %v", v, err)
	}
	if r := f.asked[0]; r.MaxTokens != 1 || r.TopLogprobs != 20 || r.Schema != nil || !strings.Contains(r.Prompt, "one word") {
		t.Errorf("asked %+v", r)
	}
}

func TestIdenticalIsNotAsked(t *testing.T) {
	j, f := newTestJudge(t, nil, nil)
	q := example()
	q.Forks[1] = q.Forks[0]
	v, err := j.Ask(t.Context(), q)
	if err != nil || !*v.MeaningMatch || *v.ConfidenceSource != Identical || *v.Confidence != 1 || v.Explanation != nil || len(f.asked) != 0 {
		t.Errorf("got %+v, %v, asked %d", v, err, len(f.asked))
	}
	if v.KeyDifferences == nil || len(v.KeyDifferences) != 0 || v.PromptHash == "" {
		t.Errorf("got %+v", v)
	}
}

// Equal questions are asked once, at the same time or later, wherever they stand.
func TestEqualQuestionsAreAskedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, f := newTestJudge(t, nil, func(int, endpoint.Request) (*endpoint.Reply, error) {
			time.Sleep(time.Second)
			return says(true), nil
		})
		var wg sync.WaitGroup
		for i := range int32(40) {
			wg.Go(func() {
				q := example()
				q.Position = i
				q.Forks[0].IDs = []int32{i % 2}
				time.Sleep(time.Duration(i) * 100 * time.Millisecond)
				if v, err := j.Ask(t.Context(), q); err != nil || !*v.MeaningMatch || v.Position != i {
					t.Errorf("got %+v, %v", v, err)
				}
			})
		}
		wg.Wait()
		if len(f.asked) != 2 || j.count.repeated.Load() != 38 {
			t.Errorf("asked %d times, %d repeated", len(f.asked), j.count.repeated.Load())
		}
	})
}

func TestAskedAgainThenListed(t *testing.T) {
	reply := func(text string, cut bool) func(int, endpoint.Request) (*endpoint.Reply, error) {
		return func(int, endpoint.Request) (*endpoint.Reply, error) {
			return &endpoint.Reply{Text: text, Cut: cut, Masked: true}, nil
		}
	}
	fail := func(class string) func(int, endpoint.Request) (*endpoint.Reply, error) {
		return func(int, endpoint.Request) (*endpoint.Reply, error) {
			return nil, &endpoint.Error{Class: class, Message: "no", Raw: "raw"}
		}
	}
	for name, c := range map[string]struct {
		answer func(int, endpoint.Request) (*endpoint.Reply, error)
		class  string
		raw    string
		times  int
	}{
		"malformed":      {reply(`{"meaning_match":null}`, false), Malformed, `{"meaning_match":null}`, 3},
		"cut":            {reply(`{"explanation":"on and on`, true), Length, `{"explanation":"on and on`, 2},
		"refusal":        {fail(endpoint.Refusal), endpoint.Refusal, "raw", 3},
		"content filter": {fail(endpoint.ContentFilter), endpoint.ContentFilter, "raw", 3},
		"too long":       {fail(endpoint.ContextLength), endpoint.ContextLength, "raw", 1},
		"poison":         {fail(endpoint.ServerError), endpoint.ServerError, "raw", 1},
	} {
		j, f := newTestJudge(t, nil, c.answer)
		v, err := j.Ask(t.Context(), example())
		if err != nil || v.Error == nil || *v.Error != c.class || *v.Raw != c.raw || !v.Failed() {
			t.Errorf("%s: got %+v, %v", name, v, err)
		}
		if v.MeaningMatch != nil || v.Confidence != nil || v.KeyDifferences != nil || v.Explanation != nil {
			t.Errorf("%s: a verdict was made up: %+v", name, v)
		}
		if len(f.asked) != c.times {
			t.Errorf("%s: asked %d times, want %d", name, len(f.asked), c.times)
		}
		if last := f.asked[len(f.asked)-1].MaxTokens; c.class == Length && last != 2048 {
			t.Errorf("%s: last limit %d", name, last)
		}
	}
}

// A seeded server would say the same to the same seed.
func TestAskedAgainWithAnotherSeed(t *testing.T) {
	j, f := newTestJudge(t, func(s *Settings) { s.Temperature = new(0.7) }, func(n int, _ endpoint.Request) (*endpoint.Reply, error) {
		if n < 3 {
			return &endpoint.Reply{Text: "hm"}, nil
		}
		return says(true), nil
	})
	if v, err := j.Ask(t.Context(), example()); err != nil || v.Error != nil {
		t.Errorf("got %+v, %v", v, err)
	}
	if a, b, c := *f.asked[0].Seed, *f.asked[1].Seed, *f.asked[2].Seed; a == b || b == c || a == c {
		t.Errorf("seeds %d, %d, %d", a, b, c)
	}
}

func TestSecondAnswerCounts(t *testing.T) {
	j, _ := newTestJudge(t, nil, func(n int, _ endpoint.Request) (*endpoint.Reply, error) {
		if n == 1 {
			return &endpoint.Reply{Text: "hm", Masked: true}, nil
		}
		return says(true), nil
	})
	if v, err := j.Ask(t.Context(), example()); err != nil || v.Error != nil || !*v.MeaningMatch {
		t.Errorf("got %+v, %v", v, err)
	}
}

func TestErrorsThatEndTheRunAreNoVerdicts(t *testing.T) {
	j, _ := newTestJudge(t, nil, func(int, endpoint.Request) (*endpoint.Reply, error) { return nil, endpoint.ErrBudget })
	if v, err := j.Ask(t.Context(), example()); !errors.Is(err, endpoint.ErrBudget) || v.Error != nil {
		t.Errorf("got %+v, %v", v, err)
	}
}

func TestVotesAndSwap(t *testing.T) {
	j, f := newTestJudge(t, func(s *Settings) { s.Votes, s.Swap, s.Temperature = 2, true, new(0.7) }, func(n int, _ endpoint.Request) (*endpoint.Reply, error) {
		return says(n != 2), nil
	})
	v, err := j.Ask(t.Context(), example())
	if err != nil || !*v.MeaningMatch || *v.Confidence != 0.75 || *v.ConfidenceSource != ByVotes {
		t.Errorf("got %+v, %v", v, err)
	}
	if len(f.asked) != 4 || *f.asked[0].Temperature != 0.7 {
		t.Fatalf("asked %d times", len(f.asked))
	}
	seeds := map[int]bool{}
	for i, r := range f.asked {
		small, reference := strings.Index(r.Prompt, "Small model"), strings.Index(r.Prompt, "Reference model")
		if (small < reference) != (i%2 == 0) {
			t.Errorf("asking %d shows the sides in the wrong order", i)
		}
		seeds[*r.Seed] = true
	}
	if len(seeds) != 4 {
		t.Errorf("seeds %v", seeds)
	}
}

func TestJudgingID(t *testing.T) {
	base := Judging{Format: 1, Model: "m", PromptVersion: "v", PromptHash: "h", Settings: Defaults()}
	if got := base.ID(); got != base.ID() || len(got) != 16 {
		t.Errorf("id %q", got)
	}
	seen := map[string]bool{base.ID(): true}
	for _, change := range []func(*Judging){
		func(j *Judging) { j.Model = "n" },
		func(j *Judging) { j.Identity = "another checkpoint" },
		func(j *Judging) { j.PromptHash = "g" },
		func(j *Judging) { j.Settings.Context.N = 1 },
		func(j *Judging) { j.Settings.Blind = true },
		func(j *Judging) { j.Settings.VerdictOnly = true },
		func(j *Judging) { j.Settings.Votes = 3 },
		func(j *Judging) { j.Settings.Swap = true },
		func(j *Judging) { j.Settings.Temperature = nil },
		func(j *Judging) { j.Settings.Temperature = new(0.5) },
		func(j *Judging) { j.Settings.MaxTokens = 9 },
		func(j *Judging) { j.Settings.Seed = 1 },
		func(j *Judging) { j.Settings.Normalisation = Exact },
	} {
		other := base
		change(&other)
		if d := base.Differences(other); seen[other.ID()] || len(d) != 1 {
			t.Errorf("%+v: same id, or differences %v", other, d)
		}
		seen[other.ID()] = true
	}
	path := base
	path.Settings.Prompt = "file=elsewhere"
	if path.ID() != base.ID() {
		t.Error("the prompt's path changes the id")
	}
}

func TestValidate(t *testing.T) {
	for _, change := range []func(*Settings){
		func(s *Settings) { s.Votes = 0 },
		func(s *Settings) { s.Votes = 3 },
		func(s *Settings) { s.Temperature = new(-1.0) },
		func(s *Settings) { s.MaxTokens = 0 },
		func(s *Settings) { s.Normalisation = "none" },
	} {
		s := Defaults()
		change(&s)
		if err := s.Validate(); failure.Code(err) != failure.Usage || failure.Hint(err) == "" {
			t.Errorf("%+v: got %v", s, err)
		}
	}
}

func TestContextRuleText(t *testing.T) {
	for _, s := range []string{"mismatch", "sentences=0", "sentences=2", "tokens=512"} {
		var r ContextRule
		if err := r.UnmarshalText([]byte(s)); err != nil || r.String() != s {
			t.Errorf("%s: got %s, %v", s, r, err)
		}
	}
	for _, s := range []string{"", "all", "mismatch=1", "sentences", "sentences=-1", "tokens=0", "tokens=x"} {
		if err := new(ContextRule).UnmarshalText([]byte(s)); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
}

// mark is what sets the question's texts apart.
func (q *Question) mark() string { return q.markBeside(q.Forks[0].Text(), q.Forks[1].Text()) }
