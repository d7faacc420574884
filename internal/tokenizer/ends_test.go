package tokenizer

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"regexp"
	"slices"
	"testing"

	"tokenfork/internal/failure"
)

func TestParseEnds(t *testing.T) {
	for _, test := range []struct{ spec, want string }{
		{DefaultEnds, ".!?\n"},
		{`. ! ? \n`, ".!?\n"},
		{"r2r", "r2r"},
		{"。…", "。…"},
		{`;\t`, ";\t"},
	} {
		got, err := ParseEnds(test.spec)
		if err != nil || got != test.want {
			t.Errorf("%q is %q (%v), want %q", test.spec, got, err, test.want)
		}
	}
	for _, spec := range []string{"", " ", "R2R", "none", ".1", `.\x`, `\`, "\xff", "\uFFFD"} {
		if _, err := ParseEnds(spec); failure.Code(err) != failure.Usage {
			t.Errorf("%q gives %v", spec, err)
		}
	}
}

func TestEOS(t *testing.T) {
	tok, _ := loadReal(t, "r1-distill-qwen")
	ends, err := NewEnds(tok, DefaultEnds, []int32{151900, 151643, 13}, false)
	if err != nil {
		t.Fatal(err)
	}
	if got := ends.eos.sorted; !slices.Equal(got, []int32{13, 151643, 151900}) {
		t.Errorf("eos %v", got)
	}
	for _, test := range []struct {
		id       int32
		end, eos bool
	}{
		{13, true, true},       // ".", here an eos as well
		{0, true, false},       // "!"
		{151648, true, false},  // <think>
		{151649, true, false},  // </think>
		{151900, true, true},   // beyond the vocabulary
		{64, false, false},     // "a"
		{151901, false, false}, // padding
		{-1, false, false},
		{1 << 30, false, false},
	} {
		if ends.IsEnd(test.id) != test.end || ends.IsEOS(test.id) != test.eos {
			t.Errorf("id %d: end %v, eos %v", test.id, ends.IsEnd(test.id), ends.IsEOS(test.id))
		}
	}
	if n := len(ends.IDs()); n != 1208+2 {
		t.Errorf("%d ids", n)
	}
	for _, bad := range []int32{-1, maxID + 1} {
		if _, err := NewEnds(tok, DefaultEnds, []int32{bad}, false); failure.Code(err) != failure.Refused {
			t.Errorf("eos %d gives %v", bad, err)
		}
	}
}

// restored is what a task without the tokenizer has.
func restored(t *testing.T, ends *Ends) *Ends {
	t.Helper()
	data, err := json.Marshal(ends)
	if err != nil {
		t.Fatal(err)
	}
	var back Ends
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(struct{ Ends Ends }{back}.Ends) // not by pointer this time
	if err != nil || !bytes.Equal(data, again) {
		t.Errorf("ends change when read back: %s, was %s", again, data)
	}
	t.Logf("%d bytes of JSON", len(data))
	return &back
}

// By the text alone: a look ahead is needed where an end completes "digit, point", the
// decimal goes on where the next text begins with a digit.
func decimalsByText(t *testing.T, tok *Tokenizer, _ expected) {
	point, digit := regexp.MustCompile(`[0-9]\.$`), regexp.MustCompile(`^[0-9]`)
	made, err := NewEnds(tok, DefaultEnds, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	ends := restored(t, made)
	ids := slices.Concat(made.decimals.EndsDigit.sorted, made.IDs())
	rng := rand.New(rand.NewPCG(1, 2))
	asked := 0
	for range 200000 {
		prev, id := rng.Int32N(int32(tok.Size()+5))-1, rng.Int32N(int32(tok.Size()+5))
		if rng.IntN(2) == 0 {
			prev, id = ids[rng.IntN(len(ids))], made.decimals.Dot.sorted[0]
		} else if rng.IntN(2) == 0 {
			id = ids[rng.IntN(len(ids))]
		}
		isEnd, ahead := ends.End(prev, id)
		wantAhead := isEnd && point.MatchString(tok.Decode([]int32{prev, id}))
		if isEnd != made.IsEnd(id) || ahead != wantAhead {
			t.Fatalf("%d, %d: end %v, look ahead %v, want %v", prev, id, isEnd, ahead, wantAhead)
		}
		if got := ends.ContinuesDecimal(id); got != digit.MatchString(tok.Decode([]int32{id})) {
			t.Fatalf("%d continues a decimal: %v", id, got)
		}
		if ahead {
			asked++
		}
	}
	if asked < 100 {
		t.Errorf("only %d look aheads", asked)
	}
}

func TestWithoutDecimalsNoLookAhead(t *testing.T) {
	tok, _ := loadReal(t, "odd")
	seven, _ := tok.ID("7")
	plain, err := NewEnds(tok, DefaultEnds, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	eight, _ := tok.ID("8.")
	eos, err := NewEnds(tok, DefaultEnds, []int32{eight}, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, ends := range []*Ends{restored(t, plain), restored(t, eos)} {
		if isEnd, ahead := ends.End(seven, eight); !isEnd || ahead {
			t.Errorf("end %v, look ahead %v", isEnd, ahead)
		}
	}
	if plain.ContinuesDecimal(seven) || !eos.ContinuesDecimal(seven) {
		t.Error("decimals are on and off the wrong way round")
	}
}

func TestIDSetJSON(t *testing.T) {
	for text, ids := range map[string][]int32{
		`""`:                 {},
		`"0"`:                {0},
		`"3-4,63-65,151643"`: {3, 4, 63, 64, 65, 151643},
		`"4194303"`:          {maxID},
	} {
		var set idSet
		if err := json.Unmarshal([]byte(text), &set); err != nil || !slices.Equal(set.sorted, ids) {
			t.Errorf("%s is %v (%v)", text, set.sorted, err)
		}
		if back, err := json.Marshal(newIDSet(append(ids, ids...))); err != nil || string(back) != text {
			t.Errorf("%v is %s (%v)", ids, back, err)
		}
	}
	for _, bad := range []string{`5`, `","`, `"-1"`, `"2-1"`, `"1-"`, `"4194304"`, `"x"`, `"1, 2"`} {
		if err := json.Unmarshal([]byte(bad), new(idSet)); err == nil {
			t.Errorf("%s is read", bad)
		}
	}
}
