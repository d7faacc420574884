package report

import (
	"fmt"
	"math"
	"slices"

	"tokenfork/internal/job"
	"tokenfork/internal/stats"
)

// Names of the measures for people, as job.Measures by side has them.
var measureTitles = [3]string{"entropy", "AU", "EU"}

// sideName is "small (1.5)".
func (b *builder) sideName(side int) string {
	name := job.Side(side).String()
	if b.names[side] != "" {
		name += " (" + b.names[side] + ")"
	}
	return name
}

func (b *builder) mismatchByQuantile() *figure {
	f := &figure{name: "mismatch-quantile", title: "Mismatch rate by quantile of uncertainty", population: allTokens,
		notes: []string{"Groups of about a tenth of the tokens, as the histograms' bins allow (eight to an octave)", "n is that of the most frequent measure; the table has each", "No intervals: the histograms are over the whole table, not by text"}}
	if b.tokens == nil {
		return b.noTokens(f)
	}
	t := &table{name: f.name, columns: []string{"measure", "from", "to", "positions", "mismatches", "mismatch_rate"}}
	f.picture = &picture{width: pageWidth, height: figureHeight}
	for i, title := range measureTitles {
		p := panel{x: "quantile of " + title + " among tokens (%)", y: "mismatch rate (%)", xRange: &[2]float64{0, 100}}
		for side := range job.Sides {
			name := job.Measures[3*side+i]
			groups := join(b.tokens.histograms[name])
			s := &series{name: b.sideName(side), look: sideLooks[side], marks: shares(groups)}
			for _, g := range groups {
				t.add(name, g.from, g.to, g.positions, g.mismatches, float64(g.mismatches)/float64(g.positions))
			}
			p.series = append(p.series, s)
			f.n = max(f.n, total(groups))
		}
		f.picture.addPanel(p)
	}
	f.picture.sameValues()
	if f.n == 0 {
		f.why, f.picture = "the table has no entropy, AU or EU", nil
	}
	f.tables = []*table{t}
	return f
}

// addPanel adds one that has something in it.
func (f *picture) addPanel(p panel) {
	for _, s := range p.series {
		if len(s.marks) > 0 {
			f.panels = append(f.panels, p)
			return
		}
	}
}

func total(groups []valueRange) (n int64) {
	for _, g := range groups {
		n += g.positions
	}
	return n
}

// shares are the groups' rates at the middles of their places among all.
func shares(groups []valueRange) []mark {
	var ms []mark
	before, all := int64(0), float64(total(groups))
	for _, g := range groups {
		x := 100 * (float64(before) + float64(g.positions)/2) / all
		ms = append(ms, mark{x, stats.Point(100 * float64(g.mismatches) / float64(g.positions))})
		before += g.positions
	}
	return ms
}

func (b *builder) divergenceByQuantile() *figure {
	f := &figure{name: "divergence-quantile", title: "Divergence rate by quantile of uncertainty"}
	if !b.ofMismatches(f) {
		return f
	}
	f.notes = append(f.notes, "Tenths of all mismatches that have the measure, judged or not; equal values stay together", "The picture shows all rows, the table also those without length-cut and near ties")
	t := &table{name: f.name, columns: []string{"rows", "measure", "from", "to", "mismatches", "sentences", "judged", "divergent", "divergence_rate"}}
	f.picture = &picture{width: pageWidth, height: figureHeight}
	for i, title := range measureTitles {
		p := panel{x: "quantile of " + title + " among mismatches (%)", y: "divergence rate (%)", xRange: &[2]float64{0, 100}}
		for side := range job.Sides {
			p.series = append(p.series, &series{name: b.sideName(side), look: sideLooks[side], marks: b.quantileRates(t, 3*side+i, 1.5*float64(2*side-1)/2)})
		}
		f.picture.addPanel(p)
	}
	f.picture.sameValues()
	f.tables = []*table{t}
	if len(f.picture.panels) == 0 {
		f.why, f.picture = "the table has no entropy, AU or EU", nil
	}
	return f
}

// quantileRates adds a measure's groups to the table and gives those of all rows as marks.
func (b *builder) quantileRates(t *table, measure int, shift float64) (marks []mark) {
	values := b.sample.measures[measure]
	edges := b.sample.cuts(values)
	if len(edges) == 0 {
		return nil
	}
	sizes := population(edges, values)
	middles := make([]float64, len(sizes))
	before, all := int64(0), int64(0)
	for _, n := range sizes {
		all += n
	}
	for k, n := range sizes {
		middles[k] = 100*(float64(before)+float64(n)/2)/float64(all) + shift
		before += n
	}
	for i, v := range b.sample.variants() {
		rs := b.sample.divergence(v, func(row int) int32 { return group(edges, values[row]) }).Shares(b.Bootstrap)
		for k, r := range rs {
			if r.N > 0 {
				t.add(v.name, job.Measures[measure], edges[k], edges[min(k+1, len(edges)-1)], sizes[k], int64(r.Clusters), r.N, r.Hits, r.Estimate)
			}
		}
		if i == 0 {
			marks = percent(rs, func(k int) float64 { return middles[k] })
		}
	}
	return marks
}

// prediction makes the figures of entropy, AU and EU as predictors of divergence.
func (b *builder) prediction() []*figure {
	roc := &figure{name: "roc", title: "Predicting divergence: ROC"}
	pr := &figure{name: "precision-recall", title: "Predicting divergence: precision and recall"}
	auc := &figure{name: "auc", title: "Predicting divergence: area under the ROC curve, average precision"}
	fs := []*figure{roc, pr, auc}
	for _, f := range fs {
		if !b.ofMismatches(f) {
			return without(fs, f.why)
		}
		f.notes = append(f.notes, "Rows without the measure are left out of its curve; table auc has their numbers")
	}
	roc.resampled, pr.resampled = false, false
	var all []scores
	points := &table{name: "roc", curve: true, columns: []string{"measure", "threshold", "false_positive_rate", "recall", "precision"}}
	roc.picture = &picture{width: columnWidth, height: 1.25 * figureHeight, panels: []panel{{x: "false positive rate", y: "true positive rate (recall)", xRange: &[2]float64{0, 1}, yRange: &[2]float64{0, 1},
		series: []*series{{look: look{color: grey, dashes: dotted}, marks: []mark{{0, stats.Point(0)}, {1, stats.Point(1)}}}}}}}
	pr.picture = &picture{width: columnWidth, height: 1.25 * figureHeight, panels: []panel{{x: "recall", y: "precision", xRange: &[2]float64{0, 1}, yRange: &[2]float64{0, 1}}}}
	texts := b.sample.texts()
	for k := range job.Measures {
		m := k%2*3 + k/2 // both sides' of one, then of the next
		name, order := job.Measures[m], stats.Falling(b.sample.measures[m])
		for i, v := range b.sample.variants() {
			r := b.sample.rank(v, b.sample.measures[m], order, texts)
			if r.Hits() == 0 || r.Hits() == r.N() {
				continue
			}
			s := scores{measure: name, variant: v, n: r.N(), positives: r.Hits()}
			s.auc, s.ap = r.Areas(b.Bootstrap)
			all = append(all, s)
			if i == 0 {
				b.drawCurves(roc.picture, pr.picture, points, m, r, s)
			}
		}
	}
	if len(all) == 0 {
		return without(fs, "no measure is there for both a divergent and an equal mismatch")
	}
	prevalence := float64(all[0].positives) / float64(all[0].n)
	pr.picture.panels[0].rule = &prevalence
	pr.notes = append(pr.notes, fmt.Sprintf("Drawn from %d rows called divergent on", fewCalled), "Average precision beside the names", "The dotted line is the share of divergent rows, which chance gives")
	roc.notes = append(roc.notes, "Area under the curve beside the names", "Dotted: chance", fmt.Sprintf("A mismatch is called divergent if the measure is at least the threshold; drawn by about %d points", curvePoints))
	roc.tables = []*table{points}
	b.drawAreas(auc, all)
	return fs
}

func without(fs []*figure, why string) []*figure {
	for _, f := range fs {
		f.why, f.picture = why, nil
	}
	return fs
}

// scores of a measure as a predictor of divergence.
type scores struct {
	measure      string // of job.Measures
	variant      variant
	n, positives int64
	auc, ap      stats.Estimate
}

// curvePoints is about how many points a curve is drawn with.
const curvePoints = 400

// fewCalled is from how many rows on a precision is drawn: below, it jumps about.
const fewCalled = 20

func (b *builder) drawCurves(roc, pr *picture, points *table, m int, r *stats.Ranking, s scores) {
	name := job.Side(m/3).String() + " " + measureTitles[m%3]
	onROC, onPR := &series{name: fmt.Sprintf("%s %.2f", name, s.auc.Value), look: measureLooks[m]}, &series{name: fmt.Sprintf("%s %.2f", name, s.ap.Value), look: measureLooks[m]}
	for _, o := range r.Curve(curvePoints) {
		onROC.marks = append(onROC.marks, mark{o.FalsePositiveRate, stats.Point(o.Recall)})
		if o.Called >= fewCalled {
			onPR.marks = append(onPR.marks, mark{o.Recall, stats.Point(o.Precision)})
		}
		points.add(job.Measures[m], o.Threshold, o.FalsePositiveRate, o.Recall, o.Precision)
	}
	roc.panels[0].series = append(roc.panels[0].series, onROC)
	pr.panels[0].series = append(pr.panels[0].series, onPR)
}

// drawAreas draws the areas with their intervals and lists them.
func (b *builder) drawAreas(f *figure, all []scores) {
	t := &table{name: "auc", columns: []string{"rows", "measure", "judged", "divergent", "roc_auc", "average_precision"}}
	half, chance := 0.5, float64(all[0].positives)/float64(all[0].n)
	areas := panel{x: "area under the ROC curve", rule: &half}
	precisions := panel{x: "average precision", rule: &chance}
	for m := len(job.Measures) - 1; m >= 0; m-- {
		areas.names = append(areas.names, job.Side(m/3).String()+" "+measureTitles[m%3])
	}
	precisions.names = areas.names
	for i, v := range b.sample.variants() {
		a := &series{name: v.name, look: bare(i), sideways: true}
		p := &series{name: v.name, look: bare(i), sideways: true}
		for _, s := range all {
			if s.variant != v {
				continue
			}
			t.add(v.name, s.measure, s.n, s.positives, s.auc, s.ap)
			at := rowOf(s.measure) + (float64(len(b.sample.variants())-1)/2-float64(i))*0.18
			a.marks, p.marks = append(a.marks, mark{at, s.auc}), append(p.marks, mark{at, s.ap})
		}
		areas.series, precisions.series = append(areas.series, a), append(precisions.series, p)
	}
	f.notes = append(f.notes, "Dotted: what chance gives")
	areas.xRange = &[2]float64{math.Floor(20*min(0.4, lowest(areas.series))) / 20, 1}
	f.tables = []*table{t}
	f.picture = &picture{width: pageWidth, height: figureHeight, panels: []panel{areas, precisions}}
}

func lowest(ss []*series) float64 {
	low := math.Inf(1)
	for _, s := range ss {
		from, _, _, _ := s.DataRange()
		low = min(low, from)
	}
	return low
}

// rowOf is a measure's place from the bottom up.
func rowOf(measure string) float64 {
	return float64(len(job.Measures) - 1 - slices.Index(job.Measures[:], measure))
}
