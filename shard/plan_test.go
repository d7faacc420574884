package shard

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"math"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"tokenfork/internal/failure"
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

func inMemory(name, content string) table.Source {
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
		Settings:   job.Settings{Alignment: "auto", Trajectories: "own", Replay: true, MaxNewTokens: 128, OnBadText: "stop"},
		Models:     [2]job.Model{m, m},
		Tokenizer:  tok,
		Ends:       ends,
		Store:      folder(t),
		Throughput: [2]Throughput{{Prefill: 60000, Decode: 8000}, {Prefill: 9300, Decode: 3300}},
		Shards:     Shards{Count: 4},
		Tmp:        t.TempDir(),
	}
}

// generated is a table of the study layout.
func generated(t testing.TB, rows, tokens, vocab int) string {
	t.Helper()
	var b strings.Builder
	if err := tabletest.Write(&b, tabletest.Config{Layout: "study", Rows: rows, Tokens: tokens, Vocab: vocab, Mismatch: 0.11, Seed: 1}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func plan(t testing.TB, o Options) (*job.Job, *Estimate) {
	t.Helper()
	j, e, err := Plan(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return j, e
}

// objects are the store's, by key.
func objects(t testing.TB, s store.Store) map[string]string {
	t.Helper()
	all := map[string]string{}
	for o, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		b, err := store.ReadAll(t.Context(), s, o.Key)
		if err != nil {
			t.Fatal(err)
		}
		all[o.Key] = string(b)
	}
	return all
}

func TestShardsCoverEachTextOnce(t *testing.T) {
	content := generated(t, 20_000, 80, 5000)
	for _, shards := range []int{1, 3, 16, 100_000} {
		o := options(t, 5000, inMemory("t.csv", content))
		o.Shards.Count = shards
		j, e := plan(t, o)
		seen := map[int64]bool{}
		mismatches, cost := 0, 0.0
		for k, said := range j.Shards {
			m, err := job.OpenManifest(t.Context(), o.Store, k)
			if err != nil {
				t.Fatal(err)
			}
			if m.Shard != said || m.Of != len(j.Shards) || m.ID != j.ID || said.Texts == 0 {
				t.Errorf("manifest %d says %+v, job %+v", k, m.Shard, said)
			}
			for s, err := range m.Texts() {
				if err != nil {
					t.Fatal(err)
				}
				if seen[s.Ordinal] {
					t.Errorf("text %d twice", s.Ordinal)
				}
				seen[s.Ordinal] = true
				mismatches += len(s.Mismatches)
				cost += s.Cost
			}
		}
		withMismatches := 0
		for _, s := range j.Shards {
			withMismatches += s.Texts
		}
		if len(seen) != withMismatches || int64(mismatches) != j.Mismatches || len(j.Shards) != min(shards, len(seen)) {
			t.Errorf("%d shards: %d texts, %d mismatches in %d shards; planned %d, %d", shards, len(seen), mismatches, len(j.Shards), withMismatches, j.Mismatches)
		}
		if hours := e.GPUHours[0] + e.GPUHours[1]; cost < 3600*hours || cost > 3600*hours*1.001 {
			t.Errorf("texts cost %g s, the estimate is %g", cost, 3600*hours)
		}
	}
}

// TestDeterministic plans with one and several processors, from one file and
// from pieces that break texts.
func TestDeterministic(t *testing.T) {
	content := generated(t, 30_000, 500, 5000)
	cut := strings.Index(content[len(content)/2:], "\n") + len(content)/2 + 1
	header := content[:strings.Index(content, "\n")+1]
	var want map[string]string
	for _, procs := range []int{1, 2, 7} {
		for _, sources := range [][]table.Source{{inMemory("t.csv", content)}, {inMemory("t.csv", content[:cut]), inMemory("t2.csv", header+content[cut:])}} {
			before := runtime.GOMAXPROCS(procs)
			o := options(t, 5000, sources...)
			plan(t, o)
			runtime.GOMAXPROCS(before)
			got := objects(t, o.Store)
			if len(sources) == 2 { // the names of the files are in these
				got = map[string]string{job.MismatchesCSV: got[job.MismatchesCSV], job.MismatchesFile: got[job.MismatchesFile], job.RatesKey: got[job.RatesKey]}
			}
			if want == nil {
				want = got
			}
			for key, b := range got {
				if b != want[key] {
					t.Errorf("%d processors, %d files: %s differs", procs, len(sources), key)
				}
			}
		}
	}
}

func TestPlanAgain(t *testing.T) {
	content := generated(t, 3000, 80, 5000)
	o := options(t, 5000, inMemory("t.csv", content))
	first, _ := plan(t, o)
	before := objects(t, o.Store)
	again, e := plan(t, o)
	if !e.Planned || again.ID != first.ID || !maps.Equal(before, objects(t, o.Store)) {
		t.Error("planning again changed something")
	}
	for name, c := range map[string]struct {
		change func(*Options)
		want   string
	}{
		"settings": {func(o *Options) { o.Settings.MaxNewTokens, o.Settings.Trajectories = 64, "reference" },
			`was planned with different settings: max_new_tokens is 128 there, 64 now; trajectories is "own" there, "reference" now`},
		"alignment": {func(o *Options) { o.Settings.Alignment = "same" }, `alignment is "next" there, "same" now`},
		"models":    {func(o *Options) { o.Models[1].Fingerprint.Weights = "other" }, `reference model's weights is`},
		"shards":    {func(o *Options) { o.Shards.Count = 2 }, "has 4 shards, asked for are 2"},
		"input":     {func(o *Options) { o.Sources[0] = inMemory("t.csv", generated(t, 3001, 80, 5000)) }, "was planned from another table: t.csv of 3000 rows"},
		"a measure": {func(o *Options) { o.Sources[0] = inMemory("t.csv", changedMeasure(content)) }, "was planned from another table"},
	} {
		t.Run(name, func(t *testing.T) {
			o := o
			o.Sources = slices.Clone(o.Sources)
			c.change(&o)
			_, _, err := Plan(t.Context(), o)
			if err == nil || !strings.Contains(err.Error(), c.want) || failure.Code(err) != failure.Refused {
				t.Errorf("got %v, want %s", err, c.want)
			}
			if !maps.Equal(before, objects(t, o.Store)) {
				t.Error("refused, but something changed")
			}
		})
	}
}

// changedMeasure changes the last digit of the first entropy whose row is a mismatch.
func changedMeasure(content string) string {
	lines := strings.SplitAfter(content, "\n")
	for i, l := range lines[1:] {
		cells := strings.Split(l, ",")
		if cells[4] != cells[25] {
			b := []byte(cells[5])
			b[2] = '0' + (b[2]-'0'+1)%10
			cells[5] = string(b)
			lines[i+1] = strings.Join(cells, ",")
			break
		}
	}
	return strings.Join(lines, "")
}

// TestUnfinishedPlan finds what a planner that was killed left behind: its own
// is taken, another's refused.
func TestUnfinishedPlan(t *testing.T) {
	content := generated(t, 3000, 80, 5000)
	o := options(t, 5000, inMemory("t.csv", content))
	plan(t, o)
	want := objects(t, o.Store)
	for _, key := range []string{job.Key, job.ManifestKey(2)} {
		if err := o.Store.Remove(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	if plan(t, o); !maps.Equal(want, objects(t, o.Store)) {
		t.Error("a finished plan differs from one that went through")
	}
	if err := o.Store.Remove(t.Context(), job.Key); err != nil {
		t.Fatal(err)
	}
	o.Settings.Alignment = "same"
	_, _, err := Plan(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "is there already and says something else") || failure.Code(err) != failure.Refused {
		t.Errorf("got %v", err)
	}
}

func TestDryRun(t *testing.T) {
	content := generated(t, 3000, 80, 5000)
	o := options(t, 5000, inMemory("t.csv", content))
	tmp := o.Tmp
	got, err := DryRun(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	empty(t, o)
	if files, err := os.ReadDir(tmp); err != nil || len(files) > 0 {
		t.Errorf("%d files left in %s, %v", len(files), tmp, err)
	}
	_, want := plan(t, o)
	want.Spool = 0
	if !reflect.DeepEqual(got, want) {
		t.Errorf("a dry run says %+v\nplanning %+v", got, want)
	}
	o.Shards = Shards{Cost: 3600 * (got.GPUHours[0] + got.GPUHours[1]) / 2.5}
	if got, err = DryRun(t.Context(), o); err != nil || got.Shards != 3 {
		t.Errorf("%d shards of 1/2.5 of the work, %v", got.Shards, err)
	}
	work := 3600 * (got.GPUHours[0] + got.GPUHours[1])
	o.Throughput[0].End, o.Throughput[1].End = 0.1*work, 0.05*work
	got, err = DryRun(t.Context(), o) // 0.25 of the work fit beside the ends
	if sum := 3600 * (got.GPUHours[0] + got.GPUHours[1]); err != nil || got.Shards != 4 || math.Abs(sum/work-1.6) > 1e-6 || got.Largest < 0.39*work || got.Largest > 0.45*work {
		t.Errorf("%d shards with ends, the largest %g of %g s, %g s in all; %v", got.Shards, got.Largest, work, sum, err)
	}
}

func TestTooLongAndPadding(t *testing.T) {
	// Texts of 3 tokens; 505 is in the padding of a vocabulary of 500 and 4 more.
	o := small(t, r2rHead+"0,5,0,10,1,11,11\n1,5,1,11,1,505,13\n2,5,2,12,1,14,14\n3,6,0,4,1,7,8\n4,6,1,505,1,1,1\n")
	o.Settings.MaxNewTokens = 3
	o.Models[job.Small].MaxPositions = 5
	j, e := plan(t, o)
	if want := []job.TooLong{{SentenceID: "5", Tokens: 3, Mismatches: 1}}; !slices.Equal(j.TooLong, want) {
		t.Errorf("too long: %+v", j.TooLong)
	}
	if j.Padding != 2 || j.Mismatches != 2 || j.Longest != 6 { // of the reference
		t.Errorf("%+v", j)
	}
	if e.Work[job.Small].Requests != 1 || e.Work[job.Reference].Requests != 2 {
		t.Errorf("%+v", e.Work)
	}
	b, err := store.ReadAll(t.Context(), o.Store, job.MismatchesCSV)
	if err != nil || !strings.Contains(string(b), "\n5,2,12,") || !strings.Contains(string(b), ",,") {
		t.Errorf("%v\n%s", err, b)
	}
}

func TestNoMismatches(t *testing.T) {
	j, e := plan(t, small(t, r2rHead+"0,5,0,10,1,11,11\n1,5,1,11,1,12,12\n"))
	if e.Mismatches != 0 || len(j.Shards) != 0 {
		t.Errorf("%+v", e)
	}
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
