package shard

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"tokenfork/internal/job"
	"tokenfork/internal/tokenizer"
)

// withThink is a vocabulary whose token of that id is spelled </think>.
type withThink struct {
	*tokenizer.Tokenizer
	id int32
}

func (w withThink) Bytes(id int32) []byte {
	if id == w.id {
		return []byte("</think>")
	}
	return w.Tokenizer.Bytes(id)
}

// R2R's find_mismatches passes over a real </think>, and over a text whose
// first row is not of the instruction.
func TestR2RMismatches(t *testing.T) {
	var b strings.Builder
	b.WriteString("row_id,data_id,token_id,real_token,token_type,SLM_predictions,LLM_predictions\n")
	row := 0
	for _, text := range []struct {
		id    int
		types string // of the rows
	}{{1, "0111122"}, {2, "1111122"}, {3, "0000000"}} {
		for i, kind := range text.types {
			next := 11 + i // the next real token
			small := next
			if i == 3 || i == 4 || i == 5 { // differs from the real token at 4, 5 and 6
				small = 30
			}
			fmt.Fprintf(&b, "%d,%d,%d,%d,%c,%d,%d\n", row, text.id, i, 10+i, kind, small, next)
			row++
		}
	}
	positions := func(passesOver bool) map[string][]int64 {
		o := options(t, 40, inMemory("t.csv", b.String()))
		o.Tokenizer = withThink{words(t, 40), 15} // the real token at position 5
		o.Settings.Trajectories, o.Settings.Alignment, o.Settings.R2RMismatches = job.Real, "next", passesOver
		o.Shards = Shards{Count: 1}
		plan(t, o)
		m, err := job.OpenManifest(t.Context(), o.Store, 0)
		if err != nil {
			t.Fatal(err)
		}
		at := map[string][]int64{}
		for x, err := range m.Texts() {
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range x.Mismatches {
				at[x.ID] = append(at[x.ID], int64(p))
			}
		}
		return at
	}
	if got, want := positions(true), map[string][]int64{"1": {4, 6}}; !reflect.DeepEqual(got, want) {
		t.Errorf("as R2R: got %v, want %v", got, want)
	}
	if got, want := positions(false), map[string][]int64{"1": {4, 5, 6}, "2": {4, 5, 6}}; !reflect.DeepEqual(got, want) {
		t.Errorf("otherwise: got %v, want %v", got, want)
	}
}
