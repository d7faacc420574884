package report

import (
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
)

// resampler draws whole texts with replacement, as often as there are any:
// the rows of a text, and forks that share a rest, are not independent.
type resampler struct {
	seed  uint64
	times int // B
}

// each calls f for every resample with how often each of n texts was drawn,
// from several goroutines at once; weight is only valid during the call. The same
// seed gives the same resamples.
func (b resampler) each(n int, f func(resample int, weight []uint16)) {
	if n == 0 {
		return
	}
	var wg sync.WaitGroup
	workers := min(runtime.GOMAXPROCS(0), b.times)
	for w := range workers {
		wg.Go(func() {
			weight := make([]uint16, n)
			for i := w; i < b.times; i += workers {
				clear(weight)
				rng := rand.New(rand.NewPCG(b.seed, uint64(i)))
				for range n {
					weight[rng.IntN(n)]++
				}
				f(i, weight)
			}
		})
	}
	wg.Wait()
}

// minTexts is how many texts an interval is worth drawing from.
const minTexts = 5

// interval is an estimate with its 95 % percentile interval; NaN where there is none.
type interval struct{ value, low, high float64 }

func point(v float64) interval { return interval{v, math.NaN(), math.NaN()} }

// percentiles makes the interval from the resampled values; those that are not
// defined are NaN and left out. values is sorted.
func percentiles(value float64, values []float64) interval {
	values = slices.DeleteFunc(values, math.IsNaN)
	slices.Sort(values)
	if len(values) == 0 {
		return point(value)
	}
	return interval{value, quantile(values, 0.025), quantile(values, 0.975)}
}

// quantile of sorted values, linear between them.
func quantile[F float32 | float64](sorted []F, q float64) float64 {
	at := q * float64(len(sorted)-1)
	i := int(at)
	if i+1 >= len(sorted) {
		return float64(sorted[len(sorted)-1])
	}
	part := at - float64(i)
	return float64(sorted[i])*(1-part) + float64(sorted[i+1])*part
}

// cell counts a text's rows in one group, and the hits among them.
type cell struct {
	group int32
	n     uint32
	hits  uint32
}

// grouping is a table of counts by text and group: what is resampled of a rate.
type grouping struct {
	groups int
	cells  []cell
	ends   []int // of each text's cells
	open   map[int32]int
}

func newGrouping() *grouping { return &grouping{open: map[int32]int{}} }

// add counts rows of the text that is open.
func (g *grouping) add(group int32, n, hits int64) {
	at, ok := g.open[group]
	if !ok {
		at = len(g.cells)
		g.open[group] = at
		g.cells = append(g.cells, cell{group: group})
		g.groups = max(g.groups, int(group)+1)
	}
	g.cells[at].n += uint32(n)
	g.cells[at].hits += uint32(hits)
}

// next closes the text.
func (g *grouping) next() {
	g.ends = append(g.ends, len(g.cells))
	clear(g.open)
}

// rate is the share of hits in a group.
type rate struct {
	n, hits int64
	texts   int // with rows in the group
	interval
}

// rates of all groups, with intervals over texts.
func (g *grouping) rates(b resampler) []rate {
	rs := make([]rate, g.groups)
	for _, c := range g.cells {
		r := &rs[c.group]
		r.n, r.hits = r.n+int64(c.n), r.hits+int64(c.hits)
		r.texts++
	}
	values := make([][]float64, g.groups)
	for i := range values {
		values[i] = make([]float64, b.times)
	}
	b.each(len(g.ends), func(resample int, weight []uint16) {
		for i, r := range g.resampled(weight) {
			values[i][resample] = r[1] / r[0]
		}
	})
	for i := range rs {
		r := &rs[i]
		r.interval = point(float64(r.hits) / float64(r.n))
		if r.texts >= minTexts {
			r.interval = percentiles(r.value, values[i])
		}
	}
	return rs
}

// resampled counts rows and hits by group under the weights of the texts.
func (g *grouping) resampled(weight []uint16) [][2]float64 {
	sums := make([][2]float64, g.groups)
	from := 0
	for s, to := range g.ends {
		if w := float64(weight[s]); w > 0 {
			for _, c := range g.cells[from:to] {
				sums[c.group][0] += w * float64(c.n)
				sums[c.group][1] += w * float64(c.hits)
			}
		}
		from = to
	}
	return sums
}

// divergence groups the rows with a verdict under the variant; group is negative
// for rows that are in none.
func (s *sample) divergence(v variant, group func(row int) int32) *grouping {
	g := newGrouping()
	for i, from := range s.starts {
		to := len(s.marks)
		if i+1 < len(s.starts) {
			to = int(s.starts[i+1])
		}
		for r := int(from); r < to; r++ {
			m := s.marks[r]
			if m&judged == 0 || m&v.drop != 0 {
				continue
			}
			if k := group(r); k >= 0 {
				g.add(k, 1, int64(m&diverged/diverged))
			}
		}
		g.next()
	}
	return g
}
