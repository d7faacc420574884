package report

import (
	"cmp"
	"math"
	"slices"
)

// ranking is the rows with a verdict and a value, by falling value: how well the
// value tells divergence. 4 bytes a row.
type ranking struct {
	rows      []uint32 // text<<2 | tied with the next<<1 | diverged
	texts     int
	positives int64
	values    []float32
}

const tied = 2

// rank orders the rows under the variant by a measure.
func (s *sample) rank(v variant, measure []float32) *ranking {
	r := &ranking{texts: len(s.starts)}
	at := make([]int32, 0, len(s.marks))
	for i, m := range s.marks {
		if m&judged != 0 && m&v.drop == 0 && measure[i] == measure[i] {
			at = append(at, int32(i))
		}
	}
	slices.SortFunc(at, func(a, b int32) int {
		return cmp.Or(cmp.Compare(measure[b], measure[a]), cmp.Compare(a, b))
	})
	r.rows = make([]uint32, len(at))
	r.values = make([]float32, len(at))
	for i, row := range at {
		text, exact := slices.BinarySearch(s.starts, row)
		if !exact {
			text--
		}
		p := uint32(text) << 2
		if i+1 < len(at) && measure[at[i+1]] == measure[row] {
			p |= tied
		}
		if s.marks[row]&diverged != 0 {
			p |= 1
			r.positives++
		}
		r.rows[i], r.values[i] = p, measure[row]
	}
	return r
}

// areas are the area under the ROC curve (ties count half) and the average
// precision, the sum of precision times the gain in recall over the thresholds.
// weight is by text.
func (r *ranking) areas(weight []uint16) (auc, ap float64) {
	var tp, fp, lastTP, lastFP, area, precision float64
	for _, p := range r.rows {
		w := float64(weight[p>>2])
		if p&1 != 0 {
			tp += w
		} else {
			fp += w
		}
		if p&tied != 0 || tp == lastTP && fp == lastFP {
			continue
		}
		area += (fp - lastFP) * (tp + lastTP) / 2
		precision += (tp - lastTP) * tp / (tp + fp)
		lastTP, lastFP = tp, fp
	}
	return area / (tp * fp), precision / tp // NaN where there is but one kind
}

// scores of a measure as a predictor of divergence.
type scores struct {
	measure      string // of job.Measures
	variant      variant
	n, positives int64
	auc, ap      interval
}

func (r *ranking) scores(b resampler) scores {
	auc, ap := r.areas(slices.Repeat([]uint16{1}, r.texts))
	if r.hitTexts() < minTexts {
		return scores{n: int64(len(r.rows)), positives: r.positives, auc: point(auc), ap: point(ap)}
	}
	aucs, aps := make([]float64, b.times), make([]float64, b.times)
	b.each(r.texts, func(resample int, weight []uint16) {
		aucs[resample], aps[resample] = r.areas(weight)
	})
	return scores{n: int64(len(r.rows)), positives: r.positives, auc: percentiles(auc, aucs), ap: percentiles(ap, aps)}
}

// hitTexts counts the texts with rows here.
func (r *ranking) hitTexts() int {
	seen := map[uint32]bool{}
	for _, p := range r.rows {
		seen[p>>2] = true
	}
	return len(seen)
}

// operating is a point of the curves: what a threshold finds.
type operating struct {
	called            int     // divergent, by the threshold
	threshold         float64 // rows with at least this value are called divergent
	falsePositiveRate float64
	recall            float64
	precision         float64
}

// curvePoints is about how many points a curve is drawn with.
const curvePoints = 400

// curve gives the points where the thresholds are, thinned out to steps that
// no print shows.
func (r *ranking) curve() []operating {
	p, n := float64(r.positives), float64(int64(len(r.rows))-r.positives)
	points := []operating{{threshold: math.Inf(1), precision: math.NaN()}}
	var tp, fp float64
	for i, row := range r.rows {
		if row&1 != 0 {
			tp++
		} else {
			fp++
		}
		if row&tied != 0 {
			continue
		}
		o := operating{i + 1, float64(r.values[i]), fp / n, tp / p, tp / (tp + fp)}
		last := points[len(points)-1]
		if i == len(r.rows)-1 || o.recall-last.recall+o.falsePositiveRate-last.falsePositiveRate >= 2./curvePoints {
			points = append(points, o)
		}
	}
	return points
}
