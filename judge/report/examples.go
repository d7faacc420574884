package report

import (
	"cmp"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
)

// perVerdict is how many examples of each verdict are shown.
const perVerdict = 5

// example is a mismatch that is shown in full.
type example struct {
	key uint64
	row row
}

// examples keeps, for each verdict, the rows whose hash comes first: a choice by
// nobody, and the same for the same results.
type examples struct {
	seed uint64
	kept [2][]example // same, different
}

func (e *examples) add(r *row) {
	if r.MeaningMatch == nil || r.ContinuationSmall == nil || r.ContinuationReference == nil {
		return
	}
	verdict := oneIf(!*r.MeaningMatch)
	kept := e.kept[verdict]
	key := exampleKey(e.seed, r)
	if len(kept) == perVerdict && key >= kept[perVerdict-1].key {
		return
	}
	at, _ := slices.BinarySearchFunc(kept, key, func(k example, key uint64) int { return cmp.Compare(k.key, key) })
	e.kept[verdict] = slices.Insert(kept, at, example{key, *r})[:min(len(kept)+1, perVerdict)]
}

func exampleKey(seed uint64, r *row) uint64 {
	h := fnv.New64a()
	for _, s := range []string{strconv.FormatUint(seed, 10), r.SentenceID, strconv.FormatInt(r.Position, 10)} {
		h.Write([]byte(s))
		h.Write([]byte{0})
	}
	return mix(h.Sum64())
}

// mix spreads the last bytes over all bits, which FNV does not for the top ones.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

const contextEnd = 80 // characters of context that are shown

// table of the examples; line ends are shown as ⏎.
func (e *examples) table() *table {
	t := &table{name: "examples", columns: []string{"verdict", "sentence_id", "position", "context", "small", "reference", "explanation"}}
	for verdict, name := range []string{"same", "different"} {
		for i := range e.kept[verdict] {
			r := &e.kept[verdict][i].row
			why := ""
			if r.Explanation != nil {
				why = *r.Explanation
			}
			t.add(name, r.SentenceID, r.Position, lastOf(visible(r.Context), contextEnd), visible(*r.ContinuationSmall), visible(*r.ContinuationReference), visible(why))
		}
	}
	return t
}

func visible(s string) string {
	return strings.NewReplacer("\r\n", "⏎", "\n", "⏎", "\t", " ", "\r", "⏎").Replace(s)
}

func lastOf(s string, n int) string {
	if c := []rune(s); len(c) > n {
		return "…" + string(c[len(c)-n:])
	}
	return s
}
