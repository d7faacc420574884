package shard

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"tokenfork/internal/job"
	"tokenfork/internal/model"
	"tokenfork/internal/store"
	"tokenfork/internal/table"
	"tokenfork/internal/table/tabletest"
	"tokenfork/internal/tokenizer"
)

func folder(t testing.TB) store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), t.TempDir(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// words is a vocabulary of n tokens.
func words(t testing.TB, n int) *tokenizer.Tokenizer {
	t.Helper()
	vocab := map[string]int{}
	for i := range n {
		letters := ""
		for k := i; k > 0; k /= 26 {
			letters += string(rune('a' + k%26))
		}
		switch {
		case i%29 == 0:
			vocab[letters+"."] = i // some of at most 4 characters end a sentence
		case i%31 == 0:
			vocab[strconv.Itoa(i)] = i
		case i%37 == 0:
			vocab["Ġ\""+letters] = i
		case i%3 == 0:
			vocab["Ġ"+letters] = i
		default:
			vocab[letters] = i
		}
	}
	vocab[","], vocab["é¸"], vocab["Ċ"], vocab["ÃĥÂ"] = n, n+1, n+2, n+3
	b, err := json.Marshal(map[string]any{"decoder": map[string]any{"type": "ByteLevel"}, "model": map[string]any{"type": "WordLevel", "vocab": vocab}})
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func itoa(n int) string { return strconv.Itoa(n) }

func file(name string) table.Source {
	return table.Source{Name: name, Open: func(context.Context) (io.ReadCloser, error) { return os.Open(name) }}
}

func text(name, content string) table.Source {
	return table.Source{Name: name, Open: func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(content)), nil
	}}
}

func options(t testing.TB, vocab int, sources ...table.Source) Options {
	t.Helper()
	tok := words(t, vocab)
	ends, err := tokenizer.NewEnds(tok, tokenizer.DefaultEnds, []int32{0}, false)
	if err != nil {
		t.Fatal(err)
	}
	m := job.Model{Name: "m", Fingerprint: model.Fingerprint{Config: "f"}, VocabSize: vocab + 10, MaxPositions: 1 << 20}
	return Options{
		Sources:    sources,
		Settings:   job.Settings{Alignment: "auto", Trajectories: "own", Replay: true, MaxNewTokens: 128, OnBadSentence: "stop"},
		Models:     [2]job.Model{m, m},
		Tokenizer:  tok,
		Ends:       ends,
		Store:      folder(t),
		Throughput: [2]Throughput{{60000, 8000}, {9300, 3300}},
		Shards:     Shards{Count: 4},
		Tmp:        t.TempDir(),
	}
}

func TestPlanGenerated(t *testing.T) {
	var b bytes.Buffer
	if err := tabletest.Write(&b, tabletest.Config{Layout: "study", Rows: 20000, Tokens: 800, Vocab: 5000, Mismatch: 0.11, Seed: 1}); err != nil {
		t.Fatal(err)
	}
	o := options(t, 5000, text("t.csv", b.String()))
	j, e, err := Plan(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int64]bool{}
	for k := range j.Shards {
		m, err := job.OpenManifest(t.Context(), o.Store, k)
		if err != nil {
			t.Fatal(err)
		}
		for s, err := range m.Sentences() {
			if err != nil {
				t.Fatal(err)
			}
			if seen[s.Ordinal] {
				t.Errorf("sentence %d twice", s.Ordinal)
			}
			seen[s.Ordinal] = true
		}
	}
	if int64(len(seen)) != e.Sentences {
		t.Errorf("%d sentences in manifests, %d planned", len(seen), e.Sentences)
	}
	js, _ := json.MarshalIndent(j, "", " ")
	if testing.Verbose() {
		fmt.Println(string(js))
		fmt.Printf("%+v\n", *e)
	}
	_ = slices.Sorted[string]
}

func BenchmarkPlan(b *testing.B) {
	name := os.Getenv("TABLE")
	if name == "" {
		b.Skip("TABLE names no table")
	}
	o := options(b, 151_000, file(name))
	for b.Loop() {
		o.Store = folder(b)
		if _, _, err := Plan(b.Context(), o); err != nil {
			b.Fatal(err)
		}
	}
}
