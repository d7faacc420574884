package report

import (
	"fmt"
	"math"

	"tokenfork/internal/job"
	"tokenfork/internal/stats"
)

// note says of a figure of a sample what its rates are estimates of.
func (b *builder) note(f *figure) {
	if b.drawn != nil && f.why == "" && f.population != allTokens {
		f.notes = append([]string{fmt.Sprintf("From %s, drawn by hash: each text is in with the same probability, so that rates need no weights; totals weigh a text by %s. Intervals of rates are for texts like these, those for this table are in the table whole-table",
			b.drawn, rounded(float64(b.drawn.OfTexts)/float64(b.drawn.Texts)))}, f.notes...)
	}
}

// fewTexts is how many a sample needs for its intervals to hold where texts differ much: docs/report.md.
const fewTexts = 100

// wholeTable says what the sample's whole table would give.
func (b *builder) wholeTable() *figure {
	f := &figure{name: "whole-table", title: "The whole table, by this sample"}
	if !b.ofMismatches(f) {
		return f
	}
	n, of := int(b.drawn.Texts), int(b.drawn.OfTexts)
	share, total := b.estimates(n, of)
	t := &table{name: f.name, columns: []string{"of_the_whole_table", "texts", "of_texts", "weight", "estimate"}}
	row := func(what string, e stats.Estimate) {
		t.add(what, int64(n), int64(of), float64(of)/float64(n), e)
	}
	row("divergent of mismatches", scaled(total, 1/float64(b.drawn.OfMismatches)))
	row("divergent mismatches", total)
	if b.tokens != nil && b.tokens.positions > 0 {
		row("divergent of tokens", scaled(total, 1/float64(b.tokens.positions)))
	}
	f.notes = append(f.notes, "Ratio estimates: divergent per judged mismatch of the sample, times the table's mismatches, which plan counted all",
		"Intervals with the finite population correction and Student's t", "Mismatches without a verdict are taken to be like those with one")
	if n < fewTexts {
		f.notes = append(f.notes, fmt.Sprintf("FEW TEXTS: fewer than %d. If one or two texts differ much from the others, the intervals are too narrow", fewTexts))
	}
	f.tables = []*table{t}
	if !math.IsNaN(share.Low) {
		b.drawWidths(f, share, n, of)
	}
	return f
}

// sampleSizes is how many sizes of samples are compared.
const sampleSizes = 25

// drawWidths draws how precise other samples of the table would be, by the bootstrap of this one.
func (b *builder) drawWidths(f *figure, share stats.Estimate, n, of int) {
	t := &table{name: "sample-size", columns: []string{"texts", "share", "infer_gpu_hours", "half_width"}}
	p := panel{x: "share of the texts (%)", y: "half width of the interval (points)", xRange: &[2]float64{0, 100}}
	curve := &series{look: look{color: black}}
	for i, last := 1, 1; i <= sampleSizes; i++ {
		m := of * i / sampleSizes
		if m <= last {
			continue
		}
		last = m
		at, width := 100*float64(m)/float64(of), share.HalfWidthAt(m, n, of)
		t.add(int64(m), at/100, b.gpuHours*float64(m)/float64(n), width)
		curve.marks = append(curve.marks, mark{at, stats.Point(100 * width)})
	}
	here := &series{name: "this sample", look: look{color: vermillion, glyph: variantLooks[0].glyph, bare: true},
		marks: []mark{{100 * float64(n) / float64(of), stats.Point(100 * share.HalfWidthAt(n, n, of))}}}
	p.series = []*series{curve, here}
	f.notes = append(f.notes, "The curve is the half width of the interval of the divergence rate to be expected of other samples of this table; table sample-size has the GPU hours of infer, in proportion to what plan predicted for this sample")
	f.tables = append(f.tables, t)
	f.picture = &picture{width: columnWidth, height: figureHeight, panels: []panel{p}}
}

// estimates are the divergence rate with the interval of the bootstrap over the sample's texts, and
// the number of divergent mismatches in the whole table with the interval for it.
func (b *builder) estimates(n, of int) (share, total stats.Estimate) {
	share = b.sample.divergence(variants[0], func(int) int32 { return 0 }).Shares(b.Bootstrap)[0].Estimate
	table := share.InPopulation(n, of)
	if table.Low < 0 || table.High > 1 {
		table.Low, table.High = max(table.Low, 0), min(table.High, 1)
	}
	return share, scaled(table, float64(b.drawn.OfMismatches))
}

func scaled(e stats.Estimate, by float64) stats.Estimate {
	return stats.Estimate{Value: e.Value * by, Interval: stats.Interval{Low: e.Low * by, High: e.High * by}}
}

// take keeps what job.json says of the sample, and of its cost.
func (b *builder) take(j *job.Job) {
	if j.Sample.Partial() {
		b.drawn = j.Sample
	}
	b.gpuHours = (j.Cost[job.Small] + j.Cost[job.Reference]) / 3600
}
