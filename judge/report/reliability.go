package report

import (
	"fmt"
	"math"

	"tokenfork/internal/stats"
	"tokenfork/internal/terminal"
	"tokenfork/judge/agreement"
)

// reliabilityBins cut the confidences evenly.
const reliabilityBins = 10

// gold compares verdicts with human labels.
type gold struct {
	labels   agreement.Labels
	bySource map[string]*reliability
	missing  int64 // labels of a mismatch without a verdict, or of none
}

// reliability counts one source's labelled verdicts by their confidence.
type reliability struct {
	*stats.Grouping
	sum [reliabilityBins]float64
}

func newGold(labels agreement.Labels) *gold {
	return &gold{labels: labels, bySource: map[string]*reliability{}, missing: int64(len(labels))}
}

// next closes a text, for the sources that have labels in it.
func (g *gold) next() {
	for _, r := range g.bySource {
		if r.Open() {
			r.Next()
		}
	}
}

func (g *gold) add(r *row) {
	same, labelled := g.labels[agreement.Place{SentenceID: r.SentenceID, Position: r.Position}]
	if !labelled || r.MeaningMatch == nil {
		return
	}
	g.missing--
	if r.Confidence == nil || r.ConfidenceSource == nil {
		return
	}
	of := g.bySource[*r.ConfidenceSource]
	if of == nil {
		of = &reliability{Grouping: stats.NewGrouping()}
		g.bySource[*r.ConfidenceSource] = of
	}
	bin := min(max(int(*r.Confidence*reliabilityBins), 0), reliabilityBins-1)
	of.Add(int32(bin), 1, oneIf(*r.MeaningMatch == same))
	of.sum[bin] += *r.Confidence
}

// reliability makes a figure for each source, where there are labels.
func (b *builder) reliability() []*figure {
	g := b.sample.gold
	if g == nil {
		return nil
	}
	if len(g.bySource) == 0 {
		return []*figure{{name: "reliability", title: "Reliability", why: fmt.Sprintf("none of the %d labels is of a verdict with a confidence", len(g.labels))}}
	}
	var fs []*figure
	for _, source := range sortedKeys(g.bySource) {
		fs = append(fs, b.reliabilityOf(source, g.bySource[source]))
	}
	return fs
}

func (b *builder) reliabilityOf(source string, of *reliability) *figure {
	f := &figure{name: "reliability-" + source, title: "Reliability: " + source, resampled: true,
		population: fmt.Sprintf("labelled mismatches with a verdict whose confidence_source is %s", source)}
	t := &table{name: f.name, columns: []string{"from", "to", "sentences", "verdicts", "right", "mean_confidence", "share_right"}}
	rs := of.Shares(b.Bootstrap)
	gap := 0.0
	var means [reliabilityBins]float64
	for k, r := range rs {
		if r.N == 0 {
			continue
		}
		means[k] = of.sum[k] / float64(r.N)
		t.add(float64(k)/reliabilityBins, float64(k+1)/reliabilityBins, int64(r.Clusters), r.N, r.Hits, means[k], r.Estimate)
		f.n += r.N
		gap += float64(r.N) * math.Abs(r.Value-means[k])
	}
	f.texts = of.Clusters()
	f.notes = []string{fmt.Sprintf("Labels without a verdict: %s, left out", terminal.Grouped(b.sample.gold.missing)),
		"Right: the verdict is the label's; drawn at the mean confidence of each bin of 0.1",
		fmt.Sprintf("Expected calibration error: %s", rounded(gap/float64(f.n))), "Dotted: a judge that is right as often as it says"}
	f.tables = []*table{t}
	f.picture = &picture{width: columnWidth, height: figureHeight, panels: []panel{{x: "confidence in the given verdict (%)", y: "right verdicts (%)",
		xRange: &[2]float64{0, 100}, yRange: &[2]float64{0, 100}, series: []*series{
			{look: look{color: grey, dashes: dotted}, marks: []mark{{0, stats.Point(0)}, {100, stats.Point(100)}}},
			{look: variantLooks[0], marks: percent(rs, func(k int) float64 { return 100 * means[k] })}}}}}
	return f
}
