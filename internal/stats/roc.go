package stats

import (
	"math"
	"slices"
)

// Ranking is rows by falling value: how well the value tells the hits. 8 bytes a row.
type Ranking struct {
	rows     []uint32 // cluster<<2 | tied with the next<<1 | hit
	values   []float32
	clusters int
	hits     int64
}

const (
	hitBit = 1 << iota
	tiedBit
	clusterShift = iota
)

// Falling gives the indices of values by falling value, equal ones in their
// order; NaN is left out.
func Falling(values []float32) []int32 {
	keys := make([]uint64, 0, len(values))
	for i, v := range values {
		if v == v {
			keys = append(keys, uint64(^ascending(v))<<32|uint64(i))
		}
	}
	slices.Sort(keys)
	order := make([]int32, len(keys))
	for i, k := range keys {
		order[i] = int32(uint32(k))
	}
	return order
}

// ascending maps numbers to integers of the same order; both zeros are one.
func ascending(v float32) uint32 {
	bits := math.Float32bits(v + 0) // -0 + 0 is 0
	if bits>>31 == 1 {
		return ^bits
	}
	return bits | 1<<31
}

// NewRanking takes the rows in the order of Falling. row says whether row i
// counts, whether it is a hit, and which of the clusters it is of.
func NewRanking(order []int32, values []float32, clusters int, row func(i int32) (counts, hit bool, cluster int)) *Ranking {
	r := &Ranking{clusters: clusters, rows: make([]uint32, 0, len(order)), values: make([]float32, 0, len(order))}
	for _, i := range order {
		counts, hit, cluster := row(i)
		if !counts {
			continue
		}
		if last := len(r.rows) - 1; last >= 0 && r.values[last] == values[i] {
			r.rows[last] |= tiedBit
		}
		p := uint32(cluster) << clusterShift
		if hit {
			p |= hitBit
			r.hits++
		}
		r.rows, r.values = append(r.rows, p), append(r.values, values[i])
	}
	return r
}

// N is the number of rows, Hits that of the hits among them.
func (r *Ranking) N() int64 { return int64(len(r.rows)) }

// Hits counts the rows that are hits.
func (r *Ranking) Hits() int64 { return r.hits }

// Areas are the area under the ROC curve (ties count half) and the average
// precision (the sum of precision times the gain in recall over the thresholds),
// with intervals over clusters if rows of MinClusters are here. Of many rows, the
// intervals are those of ranges of the value.
func (r *Ranking) Areas(b Bootstrap) (auc, ap Estimate) {
	a, p := r.areas(slices.Repeat([]uint16{1}, r.clusters))
	auc, ap = Point(a), Point(p)
	if r.rowClusters() < MinClusters {
		return auc, ap
	}
	areas := r.areas
	if len(r.rows) > rankedRows {
		areas = r.ranges().areas
	}
	aucs, aps := make([]float64, b.Times), make([]float64, b.Times)
	b.Each(r.clusters, func(resample int, weight []uint16) {
		aucs[resample], aps[resample] = areas(weight)
	})
	auc.Interval, ap.Interval = Percentiles(aucs), Percentiles(aps)
	return auc, ap
}

// areas under the weights of the clusters; NaN where there is but one kind.
func (r *Ranking) areas(weight []uint16) (auc, ap float64) {
	var tp, fp, lastTP, lastFP, area, precision float64
	for _, p := range r.rows {
		w := float64(weight[p>>clusterShift])
		if p&hitBit != 0 {
			tp += w
		} else {
			fp += w
		}
		if p&tiedBit != 0 || tp == lastTP && fp == lastFP {
			continue
		}
		area += (fp - lastFP) * (tp + lastTP) / 2
		precision += (tp - lastTP) * tp / (tp + fp)
		lastTP, lastFP = tp, fp
	}
	return area / (tp * fp), precision / tp
}

// rowClusters counts the clusters with rows here.
func (r *Ranking) rowClusters() (n int) {
	seen := make([]bool, r.clusters)
	for _, p := range r.rows {
		if c := p >> clusterShift; !seen[c] {
			seen[c] = true
			n++
		}
	}
	return n
}

// Operating is a point of the curves: what a threshold finds.
type Operating struct {
	Called            int     // rows with at least the threshold's value
	Threshold         float64 // rows with at least this value are called hits
	FalsePositiveRate float64
	Recall            float64
	Precision         float64
}

// Curve gives the points where the thresholds are, thinned out to about so many.
func (r *Ranking) Curve(points int) []Operating {
	p, n := float64(r.hits), float64(r.N()-r.hits)
	curve := []Operating{{Threshold: math.Inf(1), Precision: math.NaN()}}
	var tp, fp float64
	for i, row := range r.rows {
		if row&hitBit != 0 {
			tp++
		} else {
			fp++
		}
		if row&tiedBit != 0 {
			continue
		}
		o := Operating{i + 1, float64(r.values[i]), fp / n, tp / p, tp / (tp + fp)}
		last := curve[len(curve)-1]
		if i == len(r.rows)-1 || o.Recall-last.Recall+o.FalsePositiveRate-last.FalsePositiveRate >= 2/float64(points) {
			curve = append(curve, o)
		}
	}
	return curve
}
