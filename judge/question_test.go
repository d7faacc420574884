package judge

import (
	"reflect"
	"strings"
	"testing"

	"tokenfork/internal/job"
	"tokenfork/internal/job/jobtest"
	"tokenfork/internal/tokenizer"
)

// framerOf frames questions over texts of the pieces, decimals minded.
func framerOf(t *testing.T, rule string, pieces ...string) *Framer {
	t.Helper()
	tok := jobtest.Tokenizer(t, pieces...)
	ends, err := tokenizer.NewEnds(tok, tokenizer.DefaultEnds, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	f := &Framer{Plan: &job.Plan{Ends: ends, Settings: job.Settings{FirstPosition: 1}}, Text: tok}
	if err := f.Context.UnmarshalText([]byte(rule)); err != nil {
		t.Fatal(err)
	}
	return f
}

// A text that is put where another one was is not taken for that one.
func TestContextOfTheNextText(t *testing.T) {
	f := framerOf(t, "sentences=2", "a", ".", "b")
	s := &job.Text{Ordinal: 3, Real: []int32{0, 1, 0}}
	if before, start, _ := f.context(s, 2); before != "a." || start != "" {
		t.Errorf("%q, %q", before, start)
	}
	*s = job.Text{Ordinal: 4, Real: []int32{2, 2, 2, 2, 2, 2}}
	if before, start, _ := f.context(s, 5); before != "" || start != "bbbbb" {
		t.Errorf("the next text: %q, %q", before, start)
	}
}

func TestContext(t *testing.T) {
	words := strings.Split("One| dog|.| Two| cats|!|\n| Three| 3|5| hens| Four", "|")
	real := []int32{0, 1, 2, 3, 4, 5, 6, 7, 8, 2, 9, 10, 2, 11}
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
		s := &job.Text{Real: real, Mismatches: []int32{4, 12}}
		f := framerOf(t, c.rule, words...)
		before, start, carry := f.context(s, c.p)
		if before != c.before || start != c.start || len(carry) > 0 {
			t.Errorf("%s at %d: got %q, %q, %q; want %q, %q", c.rule, c.p, before, start, carry, c.before, c.start)
		}
	}
}

func TestContextBySentencesIsBounded(t *testing.T) {
	s := &job.Text{Real: make([]int32, 2000)} // no end anywhere
	f := framerOf(t, "sentences=2", "a", ".")
	if before, start, _ := f.context(s, 1500); before != "" || len(start) != 512 {
		t.Errorf("got %d and %d tokens, want 0 and 512", len(before), len(start))
	}
}

// Characters are cut neither where the context starts nor where it ends: what
// is begun before the fork is shown with both continuations.
func TestCharactersStayWhole(t *testing.T) {
	emoji := "🦊" // f0 9f a6 8a
	s := &job.Text{Real: []int32{0, 1, 2, 3, 4, 1, 2, 0}}
	f := framerOf(t, "tokens=4", "x", emoji[:2], emoji[2:3], emoji[3:], "é", emoji[2:]+"!", ".")

	before, start, carry := f.context(s, 6) // from the third byte of the first emoji
	if before+start != "é" || string(carry) != emoji[:2] {
		t.Errorf("got %q, %q, carry %q", before, start, carry)
	}
	got := f.fork(carry, []int32{2, 3, 4, 0}, job.FinishLength)
	if got.Token != emoji || got.Rest != "éx" {
		t.Errorf("got %+v", got)
	}
	got = f.fork(carry, []int32{5}, job.FinishPredicted)
	if got.Token != emoji+"!" || got.Rest != "" {
		t.Errorf("got %+v", got)
	}
	got = f.fork(carry, []int32{0, 0}, job.FinishStop)
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
		{" a  b.\n", " a b.", "stop", "stop", false, true},
		{" b.", "b.", "stop", "stop", false, false}, // after "a" these are "a b." and "ab."
		{"a\tb .", "a b .", "stop", "stop", false, true},
		{"if x:\n    y", "if x:\n  y", "stop", "stop", false, false},
		{"a\nb", "a b", "stop", "stop", false, false},
		{"a\r\nb  c", "a\nb c", "stop", "stop", false, true},
		{"\xf0\x9f", "\xf0\x9e", "stop", "stop", false, false}, // shown alike
		{"A b.", "a b.", "stop", "stop", false, false},
		{"a b", "a b", "length", "length", false, false},
		{"a b", "a b", "length", "stop", false, false},
		{"", "", "predicted", "predicted", false, false},
		{"\n", "\n\n", "predicted", "predicted", false, false},
		{"a", "b", "stop", "stop", false, false},
	} {
		q := Question{Forks: [2]Fork{{bytes: c.small, Finish: c.finishSmall}, {bytes: c.reference, Finish: c.finishReference}}}
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

func TestQuestion(t *testing.T) {
	f := framerOf(t, "sentences=0", "I", " am", " here", ".", " gone")
	s := &job.Text{Ordinal: 5, Real: []int32{0, 1, 2, 3}, Mismatches: []int32{2}}
	r := &job.Result{MismatchPosition: 3, ContinuationSmallIDs: []int32{2, 3}, ContinuationReferenceIDs: []int32{4, 3}, FinishSmall: new("stop"), FinishReference: new("length")}
	got := f.Question(s, r)
	want := &Question{Ordinal: 5, Position: 2, Start: "I am", Row: r, Forks: [2]Fork{
		{Token: " here", Rest: ".", IDs: []int32{2, 3}, Finish: "stop", bytes: " here.", whole: " here."}, {Token: " gone", Rest: ".", IDs: []int32{4, 3}, Finish: "length", bytes: " gone.", whole: " gone."}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
