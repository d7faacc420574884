// Package jobtest makes small jobs whose continuations are there, for tests of
// what comes after.
package jobtest

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"tokenfork/internal/job"
	"tokenfork/internal/results"
	"tokenfork/internal/store"
	"tokenfork/internal/tokenizer"
)

// Tokenizer makes a byte-level tokenizer whose ids are the pieces' indices.
func Tokenizer(tb testing.TB, pieces ...string) *tokenizer.Tokenizer {
	tb.Helper()
	vocab := map[string]int{}
	for id, p := range pieces {
		var token []rune
		for _, b := range []byte(p) {
			token = append(token, alphabet[b])
		}
		vocab[string(token)] = id
	}
	b, err := json.Marshal(map[string]any{"decoder": map[string]any{"type": "ByteLevel"}, "model": map[string]any{"type": "BPE", "vocab": vocab, "merges": []string{}}})
	if err != nil {
		tb.Fatal(err)
	}
	tok, err := tokenizer.Parse(b)
	if err != nil {
		tb.Fatal(err)
	}
	return tok
}

// alphabet is how byte-level tokenizers write each byte.
var alphabet = func() (a [256]rune) {
	next := rune(256)
	for b := range a {
		if b >= '!' && b <= '~' || b >= 0xa1 && b <= 0xac || b >= 0xae {
			a[b] = rune(b)
			continue
		}
		a[b] = next
		next++
	}
	return a
}()

// words is the vocabulary of the jobs made here.
var words = strings.Split("I|We| see| saw| the| a| dog| cat| hen| now| then|.", "|")

// PerText mismatches are at positions 1 and on of each text.
const PerText = 5

// Make plans a job of texts over shards and commits its continuations.
// Counted from 0, the mismatch at position 3 has equal continuations, the one
// at 4 asks the same in every other text, and the last one of text 2
// has failed.
func Make(tb testing.TB, texts, shards int) store.Store {
	tb.Helper()
	return write(tb, texts, shards, PerText, Text, continuations, "", nil)
}

// Judging is the id of Large's verdicts.
const Judging = "fedcba9876543210"

// LargePerText is how many mismatches a text of Large has: a ninth of its tokens.
const LargePerText = 222

// LargeContinuation is how many tokens a continuation of Large has.
const LargeContinuation = 16

// Large plans a job of texts of 2,000 tokens and commits continuations and verdicts with
// an analysis.
func Large(tb testing.TB, texts, shards int) store.Store {
	tb.Helper()
	return LargeJudged(tb, texts, shards, LargeContinuation, Judging, nil)
}

// LargeJudged is Large with continuations of so many tokens, at least 2, and verdicts of a judging. The function makes, for the job's plan
// and text, what says in each verdict which question it answers, and whose.
func LargeJudged(tb testing.TB, texts, shards, tokens int, judging string, questions func(*job.Plan, *tokenizer.Tokenizer) func(*job.Text, *job.Result, *job.Verdict)) store.Store {
	tb.Helper()
	s := write(tb, texts, shards, LargePerText, large, func(x *job.Text, side job.Side) []job.Continuation {
		return largeContinuations(x, side, tokens)
	}, judging, questions)
	for _, side := range job.Sides {
		put(tb, s, job.EngineKey(side), []byte(largeEngine))
	}
	return s
}

func write(tb testing.TB, texts, shards, perText int, text func(int) *job.Text,
	forks func(*job.Text, job.Side) []job.Continuation, judging string, questions func(*job.Plan, *tokenizer.Tokenizer) func(*job.Text, *job.Result, *job.Verdict)) store.Store {
	tb.Helper()
	s, err := store.Open(tb.Context(), tb.TempDir(), store.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	tok := Tokenizer(tb, words...)
	ends, err := tokenizer.NewEnds(tok, tokenizer.DefaultEnds, nil, false)
	if err != nil {
		tb.Fatal(err)
	}
	j := job.Job{Plan: job.Plan{Format: job.Format, Ends: ends, Settings: job.Settings{Trajectories: job.Own, Alignment: "next", FirstPosition: 1}}}
	if j.ID, err = j.Identity(); err != nil {
		tb.Fatal(err)
	}
	put(tb, s, job.TokenizerKey, tok.JSON())
	j.Files = map[string]string{job.TokenizerKey: job.Sum(tok.JSON())}
	for k := range shards {
		var mine []*job.Text
		for n := k; n < texts; n += shards {
			mine = append(mine, text(n))
		}
		shard := writeManifest(tb, s, &j.Plan, k, shards, mine, perText)
		for _, side := range job.Sides {
			commit(tb, s, job.Task{Stage: "infer", Shard: k, Side: side.String(), Manifest: shard.SHA256}, mine, nil, func(x *job.Text) []job.Continuation {
				return forks(x, side)
			})
		}
		if judging != "" {
			verdicts, inputs := verdictsOf(tb, s, &j.Plan, tok, k, shard.SHA256, questions)
			commit(tb, s, job.Task{Stage: "judge", Shard: k, Side: judging, Manifest: shard.SHA256}, mine, inputs, verdicts)
		}
		j.Shards = append(j.Shards, shard)
		j.Mismatches += int64(shard.Mismatches)
	}
	b, err := job.SealJSON(j)
	if err != nil {
		tb.Fatal(err)
	}
	put(tb, s, job.Key, b)
	return s
}

// verdictsOf makes a text's verdicts. If questions are given each is for its question, and
// inputs are what it was made from.
func verdictsOf(tb testing.TB, s store.Store, plan *job.Plan, tok *tokenizer.Tokenizer, k int, manifest string,
	questions func(*job.Plan, *tokenizer.Tokenizer) func(*job.Text, *job.Result, *job.Verdict)) (verdicts func(*job.Text) []job.Verdict, inputs map[string]string) {
	tb.Helper()
	if questions == nil {
		return largeVerdicts, nil
	}
	r := results.Reader{Plan: plan, Text: tok}
	for _, side := range job.Sides {
		var err error
		if r.Sides[side], err = job.OpenCommitted[job.Continuation](tb.Context(), s, job.Task{Stage: "infer", Shard: k, Side: side.String(), Manifest: manifest}); err != nil {
			tb.Fatal(err)
		}
	}
	question := questions(plan, tok)
	return func(x *job.Text) []job.Verdict {
		vs := largeVerdicts(x)
		rows, err := r.Rows(tb.Context(), x)
		if err != nil {
			tb.Fatal(err)
		}
		for i := range vs {
			question(x, &rows[i], &vs[i])
		}
		return vs
	}, r.Inputs()
}

func put(tb testing.TB, s store.Store, key string, b []byte) {
	tb.Helper()
	if err := store.CreateBytes(tb.Context(), s, key, b); err != nil {
		tb.Fatal(err)
	}
}

// Text is the job's n-th.
func Text(n int) *job.Text {
	s := &job.Text{Ordinal: int64(n), ID: fmt.Sprint("s", n), Real: []int32{int32(n % 2), 2, 4, 6, 9, 11}}
	s.RowRuns = []int64{int64(100 * n), int64(len(s.Real))}
	s.SmallPredictions = []int32{-1, 3, 5, 7, 10, 11, -1}
	s.ReferencePredictions = []int32{-1, 2, 4, 6, 9, 0, -1}
	for p := range PerText {
		s.Mismatches = append(s.Mismatches, int32(p+1))
	}
	return s
}

func writeManifest(tb testing.TB, s store.Store, plan *job.Plan, k, of int, mine []*job.Text, perText int) job.Shard {
	tb.Helper()
	h := job.Header{Plan: *plan, Index: k, Of: of, Shard: job.Shard{Texts: len(mine), Mismatches: len(mine) * perText}}
	m, err := job.NewManifestWriter[job.Text]()
	if err != nil {
		tb.Fatal(err)
	}
	err = s.Create(tb.Context(), job.ManifestKey(k), func(w io.Writer) (err error) {
		h.Shard.SHA256, err = m.Write(w, h, func(yield func([]byte, error) bool) {
			for _, x := range mine {
				if !yield(m.Encode(nil, x)) {
					return
				}
			}
		})
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return h.Shard
}

func commit[T job.Row](tb testing.TB, s store.Store, task job.Task, mine []*job.Text, inputs map[string]string, rows func(*job.Text) []T) {
	tb.Helper()
	log, err := job.OpenLog[T](tb.Context(), s, "a job", task, job.Attempt{}, time.Hour)
	if err != nil {
		tb.Fatal(err)
	}
	log.From(nil, inputs)
	var ordinals []int64
	for _, x := range mine {
		ordinals = append(ordinals, x.Ordinal)
		if err := log.Add(rows(x)); err != nil {
			tb.Fatal(err)
		}
	}
	if _, err := log.Commit(tb.Context(), ordinals); err != nil {
		tb.Fatal(err)
	}
}

func continuations(x *job.Text, side job.Side) []job.Continuation {
	var cs []job.Continuation
	for _, p := range x.Mismatches {
		c := job.Continuation{Ordinal: x.Ordinal, Position: p, Fork: int32(side), IDs: []int32{x.Predictions(side)[p], 11}, Finish: new(string), RestAt: -1}
		*c.Finish = job.FinishStop
		switch {
		case p == 3:
			c.IDs = []int32{8, 11}
		case p != 4:
			c.IDs = append([]int32{c.IDs[0]}, number(int(x.Ordinal))...)
		}
		if x.Ordinal == 2 && p == 5 && side == job.Small {
			class, message := "context_length", "too long"
			c = job.Continuation{Ordinal: x.Ordinal, Position: p, Fork: int32(side), RestAt: -1, Error: &class, Message: &message}
		}
		cs = append(cs, c)
	}
	return cs
}

// number spells n in the words 4 to 7, so that each text asks something else.
func number(n int) []int32 {
	ids := []int32{11}
	for ; n > 0; n /= 4 {
		ids = slices.Insert(ids, 0, int32(4+n%4))
	}
	return ids
}
