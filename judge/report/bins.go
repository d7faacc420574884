package report

import (
	"math"
	"slices"

	"tokenfork/internal/job"
	"tokenfork/internal/stats"
)

// quantiles is how many groups of about equal size a measure is cut into.
const quantiles = 10

// cuts are the edges of a measure's groups over all mismatches that have it,
// with or without a verdict: group k is edges[k] < value <= edges[k+1], the first
// with its lower edge. Equal edges are one, so that groups may be fewer and larger.
func (s *sample) cuts(measure []float32) []float64 {
	sorted := make([]float32, 0, len(measure))
	for _, v := range measure {
		if v == v {
			sorted = append(sorted, v)
		}
	}
	if len(sorted) == 0 {
		return nil
	}
	slices.Sort(sorted)
	edges := make([]float64, quantiles+1)
	for i := range edges {
		edges[i] = stats.Quantile(sorted, float64(i)/quantiles)
	}
	return slices.Compact(edges)
}

// group of a value between the edges; -1 for none.
func group(edges []float64, v float32) int32 {
	if v != v || len(edges) == 0 {
		return -1
	}
	at, _ := slices.BinarySearch(edges, float64(v))
	return int32(min(max(at-1, 0), max(len(edges)-2, 0)))
}

// population counts the mismatches in each group, with or without a verdict.
func population(edges []float64, measure []float32) []int64 {
	counts := make([]int64, max(len(edges)-1, 1))
	for _, v := range measure {
		if k := group(edges, v); k >= 0 {
			counts[k]++
		}
	}
	return counts
}

// valueRange is a run of histogram bins.
type valueRange struct {
	from, to              float64
	positions, mismatches int64
}

// join makes groups of about equal size from the bins of a histogram, in the
// order of their values. What one bin holds stays together.
func join(bins []job.Rate) []valueRange {
	bins = slices.Clone(bins)
	slices.SortFunc(bins, func(a, b job.Rate) int { return int(math.Copysign(1, a.From-b.From)) })
	var total, before int64
	for _, b := range bins {
		total += b.Positions
	}
	var groups []valueRange
	last := int64(-1)
	for _, b := range bins {
		k := (2*before + b.Positions) * quantiles / (2 * total) // where its middle is
		if k != last {
			groups = append(groups, valueRange{from: b.From})
			last = k
		}
		g := &groups[len(groups)-1]
		g.to = b.To
		g.positions += b.Positions
		g.mismatches += b.Mismatches
		before += b.Positions
	}
	return groups
}

// most positions are cut into between fewest and most bins where that can be.
const (
	fewestBins = 8
	mostBins   = 32
)

// binWidth is how many positions a bin of a figure holds: what plan counted by, more
// for long texts, less (a power of two, from narrowest) for short ones.
func binWidth(longest int64, narrowest int64) int64 {
	width := int64(job.PositionBinWidth)
	for width > narrowest && longest/width < fewestBins {
		width /= 2
	}
	for longest/width >= mostBins {
		width *= 2
	}
	return width
}
