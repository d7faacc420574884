package stats

import (
	"math/rand/v2"
	"runtime"
	"sync"
)

// MinClusters is how many clusters an interval is worth drawing from.
const MinClusters = 5

// Bootstrap draws whole clusters (the texts) with replacement, as often as there
// are any: the rows of a text, and forks that share a rest, are not independent.
// The same seed gives the same resamples.
type Bootstrap struct {
	Seed  uint64
	Times int // B
}

// Each calls f for every resample with how often each of n clusters was drawn,
// from several goroutines at once; weight is only valid during the call.
func (b Bootstrap) Each(n int, f func(resample int, weight []uint16)) {
	if n == 0 {
		return
	}
	var wg sync.WaitGroup
	workers := min(runtime.GOMAXPROCS(0), b.Times)
	for w := range workers {
		wg.Go(func() {
			weight := make([]uint16, n)
			for i := w; i < b.Times; i += workers {
				clear(weight)
				rng := rand.New(rand.NewPCG(b.Seed, uint64(i)))
				for range n {
					weight[rng.IntN(n)]++
				}
				f(i, weight)
			}
		})
	}
	wg.Wait()
}

// cell counts a cluster's rows in one group, and the hits among them.
type cell struct {
	group int32
	n     uint32
	hits  uint32
}

// Grouping counts rows and hits by cluster and group: what is resampled of a share.
type Grouping struct {
	groups int
	cells  []cell
	ends   []int // of each cluster's cells
	open   map[int32]int
}

// NewGrouping has no clusters yet.
func NewGrouping() *Grouping { return &Grouping{open: map[int32]int{}} }

// Add counts rows of the cluster that is open.
func (g *Grouping) Add(group int32, n, hits int64) {
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

// Next closes the cluster.
func (g *Grouping) Next() {
	g.ends = append(g.ends, len(g.cells))
	clear(g.open)
}

// Open says whether the open cluster has rows.
func (g *Grouping) Open() bool { return len(g.open) > 0 }

// Groups is one more than the last group.
func (g *Grouping) Groups() int { return g.groups }

// Clusters counts those that are closed.
func (g *Grouping) Clusters() int { return len(g.ends) }

// Widen joins the groups to wider ones.
func (g *Grouping) Widen(by int32) *Grouping {
	w := NewGrouping()
	from := 0
	for _, to := range g.ends {
		for _, c := range g.cells[from:to] {
			w.Add(c.group/by, int64(c.n), int64(c.hits))
		}
		from = to
		w.Next()
	}
	return w
}

// Share is that of the hits in a group. It has an interval if it has rows of
// MinClusters clusters.
type Share struct {
	N, Hits  int64
	Clusters int // with rows in the group
	Estimate
}

// Shares of all groups, with intervals over clusters.
func (g *Grouping) Shares(b Bootstrap) []Share {
	shares := make([]Share, g.groups)
	for _, c := range g.cells {
		s := &shares[c.group]
		s.N, s.Hits = s.N+int64(c.n), s.Hits+int64(c.hits)
		s.Clusters++
	}
	values := make([][]float64, g.groups)
	for i := range values {
		values[i] = make([]float64, b.Times)
	}
	b.Each(len(g.ends), func(resample int, weight []uint16) {
		for i, r := range g.resampled(weight) {
			values[i][resample] = r[1] / r[0]
		}
	})
	for i := range shares {
		s := &shares[i]
		s.Estimate = Point(float64(s.Hits) / float64(s.N))
		if s.Clusters >= MinClusters {
			s.Interval = Percentiles(values[i])
		}
	}
	return shares
}

// Statistic is a function of the numbers of rows by group, with an interval over clusters if
// there are MinClusters.
func (g *Grouping) Statistic(b Bootstrap, f func(rows []float64) float64) Estimate {
	of := func(weight []uint16) float64 {
		rows := make([]float64, g.groups)
		for i, r := range g.resampled(weight) {
			rows[i] = r[0]
		}
		return f(rows)
	}
	once, values := make([]uint16, len(g.ends)), make([]float64, b.Times)
	for i := range once {
		once[i] = 1
	}
	e := Point(of(once))
	if len(g.ends) < MinClusters {
		return e
	}
	b.Each(len(g.ends), func(resample int, weight []uint16) { values[resample] = of(weight) })
	e.Interval = Percentiles(values)
	return e
}

// resampled counts rows and hits by group under the weights of the clusters.
func (g *Grouping) resampled(weight []uint16) [][2]float64 {
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
