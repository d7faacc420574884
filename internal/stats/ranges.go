package stats

import "slices"

// Of more rows than rankedRows, a resample counts those in ranges of the value by
// cluster, and does not go through all of them.
const rankedRows = 200_000

// A range has a fourth as many rows as come before it, so that precisions, which are
// over all rows before, change little within one; but at least 1/4096 and at most 1/32
// of all.
const (
	growth        = 4
	smallestRange = 4096
	largestRange  = 32
	maxRanges     = 64
)

// ranges are a ranking's rows by cluster and range of the value, the highest first.
// What a resample's areas lack, the order of rows within a range, is taken from all
// rows: with the weights of all rows the areas are exact, and with others a range's
// rows are taken to be ordered as usual.
type ranges struct {
	counts *Grouping
	within []within
}

// within is the order of all rows in a range.
type within struct {
	pairs     float64 // of its pairs of a hit and another row, those in which the hit is higher; ties count half
	precision float64 // of its hits on average, as a part of that at its middle, or of the only one
	at        float64 // where that is: 1/2, or 1 if all rows have one value, which is exact
}

// ranges counts the rows. Rows with one value are in one range.
func (r *Ranking) ranges() *ranges {
	of, ends := make([]uint8, len(r.rows)), []int{}
	from, n := 0, len(r.rows)
	for i := range r.rows {
		of[i] = uint8(len(ends))
		if size := min(max(n/smallestRange, from/growth), n/largestRange); i+1-from >= size && r.rows[i]&tiedBit == 0 || i == n-1 {
			ends, from = append(ends, i+1), i+1
		}
	}
	g := &ranges{counts: r.grouping(of, len(ends))}
	var tp, fp float64
	from = 0
	for _, to := range ends {
		part := Ranking{rows: r.rows[from:to]}
		hits, area, precision := part.sums(tp, fp)
		others := float64(to-from) - hits
		w := within{0.5, 1, 0.5}
		if !slices.ContainsFunc(r.rows[from:to-1], func(p uint32) bool { return p&tiedBit == 0 }) {
			w.at = 1
		}
		if hits > 0 && others > 0 {
			w.pairs = (area - others*tp) / (hits * others)
		}
		if hits > 0 {
			w.precision = precision / (hits * w.share(tp, fp, hits, others))
		}
		g.within = append(g.within, w)
		tp, fp, from = tp+hits, fp+others, to
	}
	return g
}

// share is the precision in a range of so many hits and others, after tp and fp of them.
func (w *within) share(tp, fp, hits, others float64) float64 {
	return (tp + hits*w.at) / (tp + fp + (hits+others)*w.at)
}

// sums are the hits, the area and the sum of precisions over rows that come after tp
// hits and fp others.
func (r *Ranking) sums(tp, fp float64) (hits, area, precision float64) {
	before, lastTP, lastFP := tp, tp, fp
	for _, p := range r.rows {
		if p&hitBit != 0 {
			tp++
		} else {
			fp++
		}
		if p&tiedBit != 0 {
			continue
		}
		area += (fp - lastFP) * (tp + lastTP) / 2
		precision += (tp - lastTP) * tp / (tp + fp)
		lastTP, lastFP = tp, fp
	}
	return tp - before, area, precision
}

// grouping counts rows and hits by cluster and range.
func (r *Ranking) grouping(of []uint8, n int) *Grouping {
	starts := make([]int32, r.clusters+1)
	for _, p := range r.rows {
		starts[p>>clusterShift+1]++
	}
	for c := range r.clusters {
		starts[c+1] += starts[c]
	}
	next, sorted := slices.Clone(starts), make([]uint8, len(r.rows)) // range<<1 | hit, by cluster
	for i, p := range r.rows {
		c := p >> clusterShift
		sorted[next[c]] = of[i]<<1 | uint8(p&hitBit)
		next[c]++
	}
	g := &Grouping{groups: n}
	for c := range r.clusters {
		var counts [maxRanges]cell
		for _, x := range sorted[starts[c]:starts[c+1]] {
			counts[x>>1].n++
			counts[x>>1].hits += uint32(x & 1)
		}
		for k, x := range counts {
			if x.n > 0 {
				g.cells = append(g.cells, cell{int32(k), x.n, x.hits})
			}
		}
		g.Next()
	}
	return g
}

// areas under the weights of the clusters; NaN where there is but one kind.
func (g *ranges) areas(weight []uint16) (auc, ap float64) {
	var tp, fp, area, precision float64
	for k, sum := range g.counts.resampled(weight) {
		hits, others, w := sum[1], sum[0]-sum[1], &g.within[k]
		area += others * (tp + hits*w.pairs)
		if hits > 0 {
			precision += hits * w.share(tp, fp, hits, others) * w.precision
		}
		tp, fp = tp+hits, fp+others
	}
	return area / (tp * fp), precision / tp
}
