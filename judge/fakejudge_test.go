package judge

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"tokenfork/internal/job"
	"tokenfork/internal/store"
	"tokenfork/internal/tokenizer"
)

// words is the vocabulary of the jobs made here.
var words = strings.Split("I|We| see| saw| the| a| dog| cat| hen| now| then|.", "|")

// perSentence mismatches are at positions 1 and on of each sentence.
const perSentence = 5

// makeJob plans a job of sentences over shards and commits its continuations.
// The mismatch at position 3 has equal continuations, the one at 4 asks the
// same in every sentence, the last one of sentence 2 failed.
func makeJob(t *testing.T, sentences, shards int) store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), t.TempDir(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	tok := tokenizerOf(t, words...)
	ends, err := tokenizer.NewEnds(tok, tokenizer.DefaultEnds, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	j := job.Job{Plan: job.Plan{Format: job.Format, ID: "0123", Ends: ends, Settings: job.Settings{Trajectories: job.Own, Alignment: "next", FirstPosition: 1}}}
	put(t, s, job.TokenizerKey, tok.JSON())
	for k := range shards {
		var mine []*job.Sentence
		for n := k; n < sentences; n += shards {
			mine = append(mine, makeSentence(n))
		}
		j.Shards = append(j.Shards, writeShard(t, s, &j.Plan, k, shards, mine))
		j.Mismatches += int64(len(mine) * perSentence)
	}
	b, err := json.Marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, job.Key, b)
	return s
}

func put(t *testing.T, s store.Store, key string, b []byte) {
	t.Helper()
	if err := store.CreateBytes(t.Context(), s, key, b); err != nil {
		t.Fatal(err)
	}
}

func makeSentence(n int) *job.Sentence {
	s := &job.Sentence{Ordinal: int64(n), ID: fmt.Sprint("s", n), Real: []int32{int32(n % 2), 2, 4, 6, 9, 11}}
	for p := range s.Real {
		s.RowIDs = append(s.RowIDs, int64(100*n+p))
	}
	s.SmallPredictions = []int32{-1, 3, 5, 7, 10, 11, -1}
	s.ReferencePredictions = []int32{-1, 2, 4, 6, 9, 0, -1}
	for p := range perSentence {
		s.Mismatches = append(s.Mismatches, int32(p+1))
	}
	return s
}

// writeShard writes a manifest and both sides' committed parts.
func writeShard(t *testing.T, s store.Store, plan *job.Plan, k, of int, mine []*job.Sentence) job.Shard {
	t.Helper()
	h := job.Header{Plan: *plan, Index: k, Of: of, Shard: job.Shard{Sentences: len(mine), Mismatches: len(mine) * perSentence}}
	err := s.Create(t.Context(), job.ManifestKey(k), func(w io.Writer) (err error) {
		var each iter.Seq2[*job.Sentence, error] = func(yield func(*job.Sentence, error) bool) {
			for _, x := range mine {
				if !yield(x, nil) {
					return
				}
			}
		}
		h.Shard.SHA256, err = job.WriteManifest(w, h, each)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, side := range job.Sides {
		commit(t, s, job.Task{Stage: "infer", Shard: k, Side: side.String(), Manifest: h.Shard.SHA256}, mine, func(x *job.Sentence) []job.Continuation {
			return continuations(x, side)
		})
	}
	return h.Shard
}

func commit[T job.Row](t *testing.T, s store.Store, task job.Task, mine []*job.Sentence, rows func(*job.Sentence) []T) {
	t.Helper()
	log, err := job.OpenLog[T](t.Context(), s, "0123", task, job.Attempt{}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	var ordinals []int64
	for _, x := range mine {
		ordinals = append(ordinals, x.Ordinal)
		if err := log.Add(rows(x)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := log.Commit(t.Context(), ordinals); err != nil {
		t.Fatal(err)
	}
}

func continuations(x *job.Sentence, side job.Side) []job.Continuation {
	var cs []job.Continuation
	for _, p := range x.Mismatches {
		c := job.Continuation{Ordinal: x.Ordinal, Position: p, Fork: int32(side), IDs: []int32{x.Predictions(side)[p], 11}, Finish: ptr(job.FinishStop), RestAt: -1}
		switch {
		case p == 3:
			c.IDs = []int32{8, 11}
		case p != 4:
			c.IDs = append([]int32{c.IDs[0]}, number(int(x.Ordinal))...)
		}
		if x.Ordinal == 2 && p == 5 && side == job.Small {
			c = job.Continuation{Ordinal: x.Ordinal, Position: p, Fork: int32(side), RestAt: -1, Error: ptr("context_length"), Message: ptr("too long")}
		}
		cs = append(cs, c)
	}
	return cs
}

// number spells n in the words 4 to 7, so that each sentence asks something else.
func number(n int) []int32 {
	ids := []int32{11}
	for ; n > 0; n /= 4 {
		ids = append([]int32{int32(4 + n%4)}, ids...)
	}
	return ids
}

// fakeJudge answers each question by its hash, after a while.
type fakeJudge struct {
	mu    sync.Mutex
	asked map[string]int
	order []string // questions as they came
	delay time.Duration
	after func(total int) // called for each question
}

func (f *fakeJudge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		_, _ = io.WriteString(w, `{"data":[{"id":"fake"}]}`)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	_, _ = io.WriteString(w, f.reply(body))
}

// reply is the answer to a chat request's body.
func (f *fakeJudge) reply(body []byte) string {
	content := `{"ok":true}`
	if !bytes.Contains(body, []byte("Greet the reader")) {
		f.mu.Lock()
		if f.asked == nil {
			f.asked = map[string]int{}
		}
		f.asked[string(body)]++
		f.order = append(f.order, string(body))
		total := 0
		for _, n := range f.asked {
			total += n
		}
		f.mu.Unlock()
		if f.after != nil {
			f.after(total)
		}
		sum := job.Sum(body)
		time.Sleep(f.delay * time.Duration(sum[1]%8))
		content = fmt.Sprintf(`{"explanation":"%s","key_differences":[],"meaning_match":%t,"confidence":0.5}`, sum[:8], sum[0]%2 == 0)
	}
	return fmt.Sprintf(`{"choices":[{"message":{"content":%q},"finish_reason":"stop"}],"usage":{"prompt_tokens":100,"completion_tokens":10,"total_tokens":110}}`, content)
}

func (f *fakeJudge) counts() (questions, askings int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range f.asked {
		askings += n
	}
	return len(f.asked), askings
}

func (f *fakeJudge) serve(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	return server.URL
}
