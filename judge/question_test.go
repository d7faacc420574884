package judge

import (
	"reflect"
	"strings"
	"testing"

	"tokenfork/internal/job"
)

// pieces is a vocabulary: the id is the index.
type pieces []string

func (p pieces) Bytes(id int32) []byte {
	if int(id) >= len(p) {
		return nil
	}
	return []byte(p[id])
}

func (p pieces) Decode(ids []int32) string {
	var b []byte
	for _, id := range ids {
		b = append(b, p.Bytes(id)...)
	}
	return text(b)
}

// End and ContinuesDecimal are the default rule with --decimals.
func (p pieces) End(prev, id int32) (bool, bool) {
	t := p[id]
	digit := prev >= 0 && strings.ContainsAny(p[prev][len(p[prev])-1:], "0123456789")
	return strings.ContainsAny(t[len(t)-1:], ".!?\n"), t == "." && digit
}

func (p pieces) ContinuesDecimal(next int32) bool {
	return strings.ContainsAny(p[next][:1], "0123456789")
}

// ids are the pieces of a text that is cut at |, added to the vocabulary.
func (p *pieces) ids(cut string) []int32 {
	var ids []int32
	for _, t := range strings.Split(cut, "|") {
		ids = append(ids, int32(len(*p)))
		*p = append(*p, t)
	}
	return ids
}

func TestContext(t *testing.T) {
	const story = "One| dog|.| Two| cats|!|\n| Three| 3|.|5| hens|.| Four"
	for _, c := range []struct {
		rule          string
		p             int
		before, start string
	}{
		{"sentences=2", 13, " Two cats!\n Three 3.5 hens.", ""}, // the fork starts a sentence
		{"sentences=1", 13, " Three 3.5 hens.", ""},
		{"sentences=0", 13, "", ""},
		{"sentences=2", 12, "One dog. Two cats!\n", " Three 3.5 hens"},
		{"sentences=1", 12, " Two cats!\n", " Three 3.5 hens"},
		{"sentences=0", 12, "", " Three 3.5 hens"},
		{"sentences=9", 2, "", "One dog"},
		{"sentences=1", 6, " Two cats!", ""}, // before the newline the new sentence is open
		{"tokens=3", 12, "", ".5 hens"},
		{"tokens=6", 12, "\n", " Three 3.5 hens"},
		{"tokens=99", 4, "One dog.", " Two"},
		{"mismatch", 12, " cats!\n", " Three 3.5 hens"},
		{"mismatch", 4, "One dog.", " Two"},
		{"sentences=1", 0, "", ""},
	} {
		var v pieces
		s := &job.Sentence{Real: v.ids(story), Mismatches: []int32{4, 12}}
		f := Framer{Decoder: &v, Ends: &v}
		if err := f.Context.UnmarshalText([]byte(c.rule)); err != nil {
			t.Fatal(err)
		}
		before, start, carry := f.context(s, c.p)
		if before != c.before || start != c.start || len(carry) > 0 {
			t.Errorf("%s at %d: got %q, %q, %q; want %q, %q", c.rule, c.p, before, start, carry, c.before, c.start)
		}
	}
}

func TestContextBySentencesIsBounded(t *testing.T) {
	v := pieces{"a", "."}
	s := &job.Sentence{Real: make([]int32, 2000)} // no end anywhere
	f := Framer{Decoder: v, Ends: v, Context: ContextRule{BySentences, 2}}
	if before, start, _ := f.context(s, 1500); before != "" || len(start) != 512 {
		t.Errorf("got %d and %d tokens, want 0 and 512", len(before), len(start))
	}
}

// Characters are cut neither where the context starts nor where it ends: what
// is begun before the fork is shown with both continuations.
func TestCharactersStayWhole(t *testing.T) {
	emoji := "🦊" // f0 9f a6 8a
	v := pieces{"x", emoji[:2], emoji[2:3], emoji[3:], "é", emoji[2:] + "!", "."}
	s := &job.Sentence{Real: []int32{0, 1, 2, 3, 4, 1, 2, 0}}
	f := Framer{Decoder: v, Ends: v, Context: ContextRule{ByTokens, 4}}

	before, start, carry := f.context(s, 6) // from the third byte of the first emoji
	if before+start != "é" || string(carry) != emoji[:2] {
		t.Errorf("got %q, %q, carry %q", before, start, carry)
	}
	got := f.fork(carry, &job.Continuation{IDs: []int32{2, 3, 4, 0}, Finish: ptr(job.FinishLength)})
	if got.Token != emoji || got.Rest != "éx" {
		t.Errorf("got %+v", got)
	}
	got = f.fork(carry, &job.Continuation{IDs: []int32{5}, Finish: ptr(job.FinishPredicted)})
	if got.Token != emoji+"!" || got.Rest != "" {
		t.Errorf("got %+v", got)
	}
	got = f.fork(carry, &job.Continuation{IDs: []int32{0, 0}, Finish: ptr(job.FinishStop)})
	if got.Token != "\uFFFDx" || got.Rest != "x" {
		t.Errorf("got %+v", got)
	}
	if _, _, carry = f.context(s, 2); string(carry) != emoji[:2] {
		t.Errorf("carry %q", carry)
	}
}

func TestIdentical(t *testing.T) {
	for _, c := range []struct {
		small, reference             string
		finishSmall, finishReference string
		exact, space                 bool
	}{
		{"a b.", "a b.", "stop", "stop", true, true},
		{"a b.", "a b.", "stop", "eos", true, true},
		{" a  b.\n", "a b.", "stop", "stop", false, true},
		{"A b.", "a b.", "stop", "stop", false, false},
		{"a b", "a b", "length", "length", false, false},
		{"a b", "a b", "length", "stop", false, false},
		{"", "", "predicted", "predicted", false, false},
		{"\n", "\n\n", "predicted", "predicted", false, false},
		{"a", "b", "stop", "stop", false, false},
	} {
		q := Question{Forks: [2]Fork{{Rest: c.small, Finish: c.finishSmall}, {Rest: c.reference, Finish: c.finishReference}}}
		if exact, space := q.Identical(Exact), q.Identical(Space); exact != c.exact || space != c.space {
			t.Errorf("%+v: got exact %t, space %t", c, exact, space)
		}
	}
}

// Both orders come up, the same question always in the same one, wherever it stands.
func TestBlindOrder(t *testing.T) {
	seen := map[job.Side]int{}
	for n := range int32(200) {
		q := Question{Ordinal: int64(n), Position: n, Start: "x", Forks: [2]Fork{{IDs: []int32{n / 2}}, {IDs: []int32{7}}}}
		again := q
		again.Ordinal, again.Position = 900, 900
		if q.order(Settings{Blind: true}) != again.order(Settings{Blind: true}) {
			t.Fatal("the order depends on the place")
		}
		if q.order(Settings{Seed: int64(n)}) != job.Sides {
			t.Fatal("changed order without --blind")
		}
		seen[q.order(Settings{Blind: true})[0]]++
	}
	if seen[job.Small] < 60 || seen[job.Reference] < 60 {
		t.Errorf("first shown: %v", seen)
	}
}

func TestResult(t *testing.T) {
	var v pieces
	s := &job.Sentence{ID: "7", RowIDs: []int64{50, 51, 52, 53}, Real: v.ids("a|b|c|d"), SmallPredictions: []int32{-1, 3, 0, 1, -1},
		ReferencePredictions: []int32{-1, 1, 2, 0, -1}, Mismatches: []int32{1, 3}, SmallEntropy: []float64{1, 2.5}, SmallAU: nan(2), SmallEU: nan(2),
		ReferenceEntropy: nan(2), ReferenceAU: nan(2), ReferenceEU: []float64{0, -1}}
	f := Framer{Plan: &job.Plan{Settings: job.Settings{FirstPosition: 1, Alignment: "next", Trajectories: "own"}}, Decoder: v, Ends: v}
	forks := [2]*job.Continuation{{IDs: []int32{1, 2}, Finish: ptr("stop"), Replayed: 1}, {Error: ptr("context_length")}}
	got := f.Result(s, 1, forks)
	want := &job.Result{SentenceID: "7", Context: "bc", ContextIDs: []int32{1, 2}, MismatchPosition: 4, PredSmall: "b", PredSmallID: 1, PredReference: "a",
		ContinuationSmall: ptr("bc"), ContinuationSmallIDs: []int32{1, 2}, FinishSmall: ptr("stop"), ReplayedSmall: ptr(int32(1)),
		RowID: ptr(int64(52)), RealRowID: ptr(int64(53)), RealToken: "d", RealTokenID: 3, SmallEntropy: ptr(2.5), ReferenceEU: ptr(-1.0)}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	f.Plan.Settings.Alignment, f.Plan.Settings.Trajectories = "same", "real"
	if got := f.Result(s, 0, forks); *got.RowID != 51 || got.PredReferenceID != 1 || got.PredSmallID != 3 || got.Context != "a" {
		t.Errorf("got %+v", got)
	}
}
