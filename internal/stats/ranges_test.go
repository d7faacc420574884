package stats

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// ranked are rows of clusters that differ in how high their values are, and in how
// well these tell the hits; values have so many decimals.
func ranked(clusters, perCluster, decimals int) *Ranking {
	rng := rand.New(rand.NewPCG(1, 2))
	unit := math.Pow10(decimals)
	var values []float32
	var hits []bool
	for range clusters {
		height, skill := rng.NormFloat64()/2, 1+rng.NormFloat64()/2
		for range perCluster {
			hit := rng.Float64() < 0.3
			v := height + rng.NormFloat64()
			if hit {
				v += skill
			}
			values, hits = append(values, float32(math.Round(v*unit)/unit)), append(hits, hit)
		}
	}
	return NewRanking(Falling(values), values, clusters, func(i int32) (bool, bool, int) { return true, hits[i], int(i) / perCluster })
}

// TestRanges compares the areas of resamples by ranges with those of all rows, whose
// areas are compared with scikit-learn's: they differ by a small part of what resamples
// differ by, and hardly at all for all rows, or where there are few values.
func TestRanges(t *testing.T) {
	for _, c := range []struct{ clusters, perCluster, decimals int }{{300, 60, 6}, {300, 60, 1}, {2000, 5, 6}, {40, 200, 0}} {
		r := ranked(c.clusters, c.perCluster, c.decimals)
		g := r.ranges()
		ones := slices.Repeat([]uint16{1}, r.clusters)
		auc, ap := r.areas(ones)
		if a, p := g.areas(ones); math.Abs(a-auc) > 1e-12 || math.Abs(p-ap) > 1e-12 {
			t.Errorf("%+v: all rows: AUC %v, AP %v, want %v, %v", c, a, p, auc, ap)
		}
		const times = 400
		var exact, ranges [2][times]float64
		Bootstrap{Seed: 7, Times: times}.Each(r.clusters, func(i int, weight []uint16) {
			exact[0][i], exact[1][i] = r.areas(weight)
			ranges[0][i], ranges[1][i] = g.areas(weight)
		})
		for k, name := range []string{"AUC", "AP"} {
			want, got := Percentiles(slices.Clone(exact[k][:])), Percentiles(slices.Clone(ranges[k][:]))
			width, most := want.High-want.Low, 0.0
			for i := range times {
				most = max(most, math.Abs(exact[k][i]-ranges[k][i]))
			}
			said := fmt.Sprintf("%+v: %s: intervals %v and %v; resamples differ by up to %.4f of the width", c, name, want, got, most/width)
			if most > 0.05*width || c.decimals == 0 && most > 1e-3*width || math.Abs(want.Low-got.Low) > 0.02*width || math.Abs(want.High-got.High) > 0.02*width {
				t.Error(said)
			}
			t.Log(said)
		}
	}
}
