package merge_test

import (
	"cmp"
	"encoding/json"
	"flag"
	"io"
	"os"
	"testing"

	"tokenfork/internal/job"
	"tokenfork/internal/job/jobtest"
	"tokenfork/internal/results"
	"tokenfork/internal/store"
	"tokenfork/internal/tokenizer"
	"tokenfork/judge"
	"tokenfork/judge/merge"
)

var (
	mismatches = flag.Int("mismatches", 100_000, "how many BenchmarkMerge merges")
	shards     = flag.Int("shards", 0, "of how many shards; 0 is one for each 50,000 mismatches")
	brief      = flag.Bool("brief", false, "continuations of 3 tokens and verdicts of a few words, for very many rows")
	keep       = flag.String("keep", "", "a new folder: BenchmarkMerge leaves the job there and merges nothing")
)

// judgedLarge makes a job whose verdicts answer their questions, and the record of
// their judging: what tokenfork merge and check read.
func judgedLarge(tb testing.TB, texts, shards int) store.Store {
	tb.Helper()
	s := judge.Defaults()
	p, err := judge.LoadPrompt(s)
	if err != nil {
		tb.Fatal(err)
	}
	r := judge.Record{Judging: judge.Judging{Format: 2, Model: "judge", PromptVersion: p.Version, PromptHash: p.Hash, Settings: s}, Prompt: p.Text}
	tokens := jobtest.LargeContinuation
	if *brief {
		tokens = 3
	}
	st := jobtest.LargeJudged(tb, texts, shards, tokens, r.ID(), func(plan *job.Plan, text *tokenizer.Tokenizer) func(*job.Text, *job.Result, *job.Verdict) {
		question, err := r.Questions(plan, text)
		if err != nil {
			tb.Fatal(err)
		}
		return func(x *job.Text, row *job.Result, v *job.Verdict) {
			var err error
			if v.Question, err = question(x, row); err != nil {
				tb.Fatal(err)
			}
			v.PromptVersion, v.PromptHash = p.Version, p.Hash
			if *brief {
				*v.Explanation, v.KeyDifferences = (*v.Explanation)[:30], nil
			}
		}
	})
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		tb.Fatal(err)
	}
	if err := store.CreateBytes(tb.Context(), st, job.JudgingPrefix+r.ID()+".json", append(b, '\n')); err != nil {
		tb.Fatal(err)
	}
	return st
}

// BenchmarkMerge merges a large job, and checks each verdict against its question.
func BenchmarkMerge(b *testing.B) {
	texts := max(1, *mismatches/jobtest.LargePerText)
	s := judgedLarge(b, texts, cmp.Or(*shards, max(1, texts/225)))
	if *keep != "" {
		if err := os.Rename(s.String(), *keep); err != nil {
			b.Fatal(err)
		}
		return
	}
	j, err := job.Load(b.Context(), s)
	if err != nil {
		b.Fatal(err)
	}
	text, err := results.LoadText(b.Context(), s)
	if err != nil {
		b.Fatal(err)
	}
	records, err := judge.Judgings(b.Context(), s)
	if err != nil {
		b.Fatal(err)
	}
	accept, err := records[0].Accept(&j.Plan, text)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := merge.Merge(b.Context(), merge.Options{Jobs: []merge.Source{{Store: s, Judging: records[0].ID(), Accept: accept}}, Out: s, Console: io.Discard}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(texts*jobtest.LargePerText*b.N)/b.Elapsed().Seconds(), "rows/s")
}
