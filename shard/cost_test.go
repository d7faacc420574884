package shard

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"tokenfork/internal/fork"
	"tokenfork/internal/job"
	"tokenfork/internal/tokenizer"
)

// draw makes a text and a model's predictions of it.
func draw(r *rand.Rand, n int) (real, recorded []int32) {
	real, recorded = make([]int32, n), make([]int32, n+1)
	for i := range real {
		real[i] = int32(r.IntN(99)) // 0 is the eos
	}
	recorded[0], recorded[n] = fork.None, int32(r.IntN(99))
	for q := 1; q < n; q++ {
		recorded[q] = real[q]
		switch r.IntN(12) {
		case 0:
			recorded[q] = 1 + int32(r.IntN(99))
		case 1:
			recorded[q] = fork.None
		}
	}
	return real, recorded
}

// TestWalkerAsWalk compares what the walker replays and leaves to generate with
// fork.Walk, fork by fork and shared.
func TestWalkerAsWalk(t *testing.T) {
	tok := words(t, 100)
	ends, err := tokenizer.NewEnds(tok, tokenizer.DefaultEnds, []int32{0}, false)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 1))
	for range 3000 {
		real, recorded := draw(r, 2+r.IntN(60))
		limit := []int{0, 1, 3, 128}[r.IntN(4)]
		w := walker{ends: ends, limit: limit, replay: true}
		w.text(real)
		w.model(recorded, Throughput{Prefill: 1, Decode: 1})
		replayed := 0
		most := map[int32]int{} // by the rests' positions
		for p := 1; p < len(real); p++ {
			token := recorded[p]
			if r.IntN(2) == 0 {
				token = real[p] // somebody else's prediction
			}
			if token == fork.None {
				continue
			}
			w.follow(recorded, int32(p), token)
			tail, rest := fork.Walk(ends, real, recorded, p, token, limit)
			replayed += len(tail.IDs) - 1
			if rest != nil {
				most[rest.At] = max(most[rest.At], tail.Left())
			}
		}
		generated := 0
		for q, left := range most {
			generated += int(fork.Expected(w.end, q, int32(left)))
		}
		if got := w.work; got.Replayed != int64(replayed) || got.Requests != int64(len(most)) || got.Generated != int64(generated) {
			t.Fatalf("%v\n%v\nlimit %d: %+v, want %d replayed, %d rests, %d generated", real, recorded, limit, got, replayed, len(most), generated)
		}
	}
}

func TestWithoutReplayNothingIsShared(t *testing.T) {
	ends, err := tokenizer.NewEnds(words(t, 100), tokenizer.DefaultEnds, []int32{0}, false)
	if err != nil {
		t.Fatal(err)
	}
	w := walker{ends: ends, limit: 8}
	real, recorded := []int32{1, 2, 4, 5, 7}, []int32{-1, 2, 4, 5, 7, 8}
	w.text(real)
	w.model(recorded, Throughput{Prefill: 1, Decode: 1})
	w.follow(recorded, 1, 2)
	w.follow(recorded, 2, 4)
	work, cost := w.done()
	if work.Requests != 2 || work.Replayed+work.Shared != 0 || work.Generated != 4+3 || work.Prefill != 2+2+3 || cost <= 0 {
		t.Errorf("%+v, %g", work, cost)
	}
}

// TestCostGrowsWithPosition: the same fork costs more further into a text.
func TestCostGrowsWithPosition(t *testing.T) {
	ends, err := tokenizer.NewEnds(words(t, 100), tokenizer.DefaultEnds, []int32{0}, false)
	if err != nil {
		t.Fatal(err)
	}
	last := 0.0
	for _, n := range []int{100, 1000, 10_000} {
		real := make([]int32, n)
		for i := range real {
			real[i] = 1
		}
		recorded := make([]int32, n+1)
		w := walker{ends: ends, limit: 10}
		w.text(real)
		w.model(recorded, Throughput{Prefill: math.Inf(1), Decode: 1})
		w.follow(recorded, int32(n-20), 2)
		if _, cost := w.done(); cost <= last {
			t.Errorf("%d tokens cost %g, fewer %g", n, cost, last)
		} else {
			last = cost
		}
	}
}

// TestBalance splits 10,000 texts of heavy-tailed cost.
func TestBalance(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	for _, tail := range []float64{0.5, 1.5, 3} {
		all := make([]planned, 10_000)
		sum, largest := 0.0, 0.0
		for i := range all {
			all[i] = planned{ordinal: int64(i), cost: math.Exp(tail * r.NormFloat64())}
			sum += all[i].cost
			largest = max(largest, all[i].cost)
		}
		for _, n := range []int{1, 7, 64, 500} {
			shards := balance(all, n)
			bound := 1.02 * max(sum/float64(n), largest)
			times := make([]int, len(all))
			for _, s := range shards {
				if costOf(s) > bound {
					t.Errorf("tail %g, %d shards: one costs %g, bound %g", tail, n, costOf(s), bound)
				}
				for i, x := range s {
					times[x.ordinal]++
					if i > 0 && s[i-1].ordinal >= x.ordinal {
						t.Fatal("a shard is out of order")
					}
				}
				if len(s) == 0 {
					t.Errorf("tail %g: an empty shard of %d", tail, n)
				}
			}
			for i, k := range times {
				if k != 1 {
					t.Fatalf("text %d is in %d shards", i, k)
				}
			}
		}
	}
}

// TestBalanceOfATable does so with the costs of a table of 10,000 texts.
func TestBalanceOfATable(t *testing.T) {
	p := newPlanner(options(t, 5000, inMemory("t.csv", generated(t, 150_000, 15, 5000))))
	defer p.close()
	if err := p.read(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p.estimate.Texts < 10_000 {
		t.Fatalf("%d texts", p.estimate.Texts)
	}
	longest := slices.MaxFunc(p.all, func(a, b planned) int { return cmp.Compare(a.cost, b.cost) }).cost
	for _, n := range []int{1, 7, 64, 500} {
		mean := costOf(p.all) / float64(n)
		for _, s := range balance(p.all, n) {
			if costOf(s) > 1.02*max(mean, longest) {
				t.Errorf("%d shards: one costs %g, the mean is %g, the costliest text %g", n, costOf(s), mean, longest)
			}
		}
	}
}

func TestServerOf(t *testing.T) {
	if serverOf(job.Own, job.Small) != job.Small || serverOf(job.FromReference, job.Small) != job.Reference || serverOf(job.Real, job.Small) != job.Reference {
		t.Error("the wrong server")
	}
}
