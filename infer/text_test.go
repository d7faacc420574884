package infer

import (
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"

	"tokenfork/internal/fork"
	"tokenfork/internal/job"
)

// The vocabulary of the property test: digits, a point that needs a look
// ahead, plain ends, an end of text and words.
const (
	point, stop, eos, digit0, word0, vocabulary = 0, 1, 2, 3, 6, 14
)

type ends struct{ decimals, wide bool }

func isDigit(id int32) bool { return id >= digit0 && id < word0 }

func (e ends) End(prev, id int32) (bool, bool) {
	if id == point {
		return true, e.decimals && isDigit(prev)
	}
	return id == stop || id == eos || e.wide && id == word0, false
}
func (e ends) ContinuesDecimal(id int32) bool { return isDigit(id) }
func (e ends) IsEOS(id int32) bool            { return id == eos }

// hashModel is a greedy language model: the next token is a function of the prefix.
type hashModel uint64

func (m hashModel) next(prefix []int32) int32 {
	h := fnv.New64a()
	fmt.Fprint(h, uint64(m), prefix)
	v := h.Sum64()
	if v%3 == 0 { // numbers are common, so that decimals are met
		return int32(v / 3 % word0)
	}
	return int32(v / 3 % vocabulary)
}

// table makes a text which the models follow often, with gaps in what is
// recorded: under either alignment one end of the text has no prediction.
func table(r *rand.Rand, models [2]hashModel, n int) *job.Text {
	s := &job.Text{ID: "s"}
	unrecorded := [2]int{0, n}[r.IntN(2)] // as under next, and under same
	for q := 0; q <= n; q++ {
		preds := [2]int32{models[0].next(s.Real), models[1].next(s.Real)}
		kept := preds
		for i := range kept {
			if r.IntN(12) == 0 || q == unrecorded {
				kept[i] = fork.None
			}
		}
		s.SmallPredictions = append(s.SmallPredictions, kept[0])
		s.ReferencePredictions = append(s.ReferencePredictions, kept[1])
		if q == n {
			break
		}
		real := preds[r.IntN(2)]
		if r.IntN(6) == 0 {
			real = int32(r.IntN(vocabulary))
		}
		s.Real = append(s.Real, real)
		if kept[0] != fork.None && kept[1] != fork.None && kept[0] != kept[1] {
			s.Mismatches = append(s.Mismatches, int32(q))
		}
	}
	return s
}

// generate plays the server: greedy until a stop token or the tokens asked for.
func generate(m hashModel, w *text, e ends) int {
	calls := 0
	for _, r := range w.rests {
		for n := r.wants(); n > 0; n = r.wants() {
			calls++
			prefix := append(append([]int32{}, w.Real[:r.At]...), r.forced()...)
			for range n {
				id := m.next(prefix)
				prefix = append(prefix, id)
				r.take(id, math.NaN())
				if end, _ := e.End(fork.None, id); end {
					break
				}
			}
		}
	}
	return calls
}

func TestReplayChangesNothing(t *testing.T) {
	const seed = 20250521
	r := rand.New(rand.NewPCG(seed, 1))
	saved, audits := 0, int64(0)
	for trial := range 4000 {
		models := [2]hashModel{hashModel(r.Uint64()), hashModel(r.Uint64())}
		s := table(r, models, 1+r.IntN(30))
		e := ends{decimals: r.IntN(2) == 0, wide: r.IntN(2) == 0}
		for _, trajectories := range []string{job.Own, job.FromReference, job.Real} {
			set := job.Settings{Trajectories: trajectories, MaxNewTokens: r.IntN(6)}
			for _, side := range set.Servers() {
				var rows [2][]job.Continuation
				var calls [2]int
				for i, replay := range []bool{false, true} {
					set.Replay = replay
					w := work(s, side, &set, e, math.MaxInt, 0)
					calls[i] = generate(models[side], w, e)
					rows[i] = w.rows("e", false)
				}
				audited := work(s, side, &set, e, math.MaxInt, 1)
				generate(models[side], audited, e)
				audited.countAudits()
				if c := audited.counters; c[AuditAgreed] != c[Audited] {
					t.Fatalf("seed %d trial %d: %d audits, %d agree", seed, trial, c[Audited], c[AuditAgreed])
				}
				audits += audited.counters[Audited]
				if calls[1] > calls[0] {
					t.Fatalf("seed %d trial %d: replay made %d requests, without %d", seed, trial, calls[1], calls[0])
				}
				saved += calls[0] - calls[1]
				same(t, rows[0], rows[1], fmt.Sprintf("seed %d trial %d %s %v limit %d decimals %v", seed, trial, trajectories, side, set.MaxNewTokens, e.decimals))
			}
		}
	}
	if saved < 1000 || audits < 1000 {
		t.Errorf("replay saved %d requests in all, %d audits: the tables do not exercise it", saved, audits)
	}
}

func same(t *testing.T, a, b []job.Continuation, where string) {
	t.Helper()
	if len(a) != len(b) {
		t.Fatalf("%s: %d rows and %d", where, len(a), len(b))
	}
	for i := range a {
		if !reflect.DeepEqual(a[i].IDs, b[i].IDs) || *a[i].Finish != *b[i].Finish {
			t.Fatalf("%s: fork at %d of %d: without replay %v %s, with %v %s (replayed %d)",
				where, a[i].Position, a[i].Fork, a[i].IDs, *a[i].Finish, b[i].IDs, *b[i].Finish, b[i].Replayed)
		}
	}
}
