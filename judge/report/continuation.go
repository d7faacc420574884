package report

import (
	"fmt"
	"maps"
	"slices"

	"tokenfork/internal/job"
	"tokenfork/internal/stats"
	"tokenfork/internal/terminal"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// continuationLengths shows how long the continuations are and how they end.
func (b *builder) continuationLengths() *figure {
	f := &figure{name: "lengths", title: "Continuation lengths", population: "continuations of all mismatches, each side by itself, judged or not",
		notes: []string{"Tokens up to and including the sentence end, the predicted token among them"}}
	t := &table{name: f.name, columns: []string{"side", "continuations", "missing", "mean", "median", "p90", "longest"}}
	ends := &table{name: "finish", columns: []string{"side", "finish", "continuations", "share"}}
	p := panel{x: "tokens", y: "continuations up to this length (%)", yRange: &[2]float64{0, 100}}
	for side := range job.Sides {
		l := &b.sample.lengths[side]
		n := l.count()
		if n == 0 {
			continue
		}
		f.n += n
		t.add(b.sideName(side), n, int64(len(b.sample.marks))-n, l.mean(), l.quantile(0.5), l.quantile(0.9), int64(len(l.tokens)-1))
		for _, reason := range sortedKeys(l.finish) {
			ends.add(b.sideName(side), reason, l.finish[reason], float64(l.finish[reason])/float64(n))
		}
		s := &series{name: b.sideName(side), look: sideLooks[side], marks: l.steps()}
		s.glyph = nil
		p.series = append(p.series, s)
	}
	if f.n == 0 {
		f.why = "there are no continuations"
		return f
	}
	if b.limit > 0 {
		f.notes = append(f.notes, fmt.Sprintf("The limit is %d tokens after the predicted one", b.limit))
	}
	f.tables = []*table{t, ends}
	f.picture = &picture{width: columnWidth, height: figureHeight, panels: []panel{p}}
	return f
}

func (l *lengths) count() (n int64) {
	for _, c := range l.tokens {
		n += c
	}
	return n
}

func (l *lengths) mean() float64 {
	sum := 0.0
	for length, c := range l.tokens {
		sum += float64(length) * float64(c)
	}
	return sum / float64(l.count())
}

// quantile is the least length that a share q of the continuations does not exceed.
func (l *lengths) quantile(q float64) int64 {
	need, seen := q*float64(l.count()), int64(0)
	for length, c := range l.tokens {
		if seen += c; c > 0 && float64(seen) >= need {
			return int64(length)
		}
	}
	return int64(len(l.tokens) - 1)
}

// steps are the shares of the continuations up to each length.
func (l *lengths) steps() []mark {
	ms := []mark{{0, stats.Point(0)}}
	seen, n := int64(0), float64(l.count())
	for length, c := range l.tokens {
		if c == 0 {
			continue
		}
		ms = append(ms, mark{float64(length), stats.Point(100 * float64(seen) / n)})
		seen += c
		ms = append(ms, mark{float64(length), stats.Point(100 * float64(seen) / n)})
	}
	return ms
}

var verdictLooks = [2]look{{color: blue}, {color: vermillion, dashes: dashed}}

// judgeConfidence makes a figure for each source: their numbers do not mean the same.
func (b *builder) judgeConfidence() []*figure {
	if len(b.sample.confidence) == 0 {
		return []*figure{{name: "confidence", title: "Judge confidence", why: b.sample.whyNoVerdicts()}}
	}
	var fs []*figure
	for _, source := range sortedKeys(b.sample.confidence) {
		fs = append(fs, b.confidenceOf(source, b.sample.confidence[source]))
	}
	return fs
}

func (b *builder) confidenceOf(source string, c *confidences) *figure {
	f := &figure{name: "confidence-" + source, title: "Judge confidence: " + source,
		population: fmt.Sprintf("verdicts whose confidence_source is %s", source)}
	t := &table{name: f.name, columns: []string{"verdict", "from", "to", "verdicts", "share"}}
	p := panel{x: "confidence in the given verdict", y: "share of the verdicts (%)", xRange: &[2]float64{0, 1}}
	for verdict, name := range [2]string{"same", "different"} {
		n := int64(0)
		for _, k := range c.bins[verdict] {
			n += k
		}
		f.n += n
		if c.none[verdict] > 0 {
			f.notes = append(f.notes, fmt.Sprintf("%s verdicts %q have no number", terminal.Grouped(c.none[verdict]), name))
		}
		if n == 0 {
			continue
		}
		f.notes = append(f.notes, fmt.Sprintf("Mean for %q: %s", name, rounded(c.sum[verdict]/float64(n))))
		s := &series{name: fmt.Sprintf("%s (n = %s)", name, terminal.Grouped(n)), look: verdictLooks[verdict]}
		for i, k := range c.bins[verdict] {
			from, to, share := float64(i)/confidenceBins, float64(i+1)/confidenceBins, float64(k)/float64(n)
			t.add(name, from, to, k, share)
			s.marks = append(s.marks, mark{from, stats.Point(100 * share)}, mark{to, stats.Point(100 * share)})
		}
		p.series = append(p.series, s)
	}
	if f.n == 0 {
		f.why = "these verdicts have no confidence"
		return f
	}
	f.tables = []*table{t}
	f.picture = &picture{width: columnWidth, height: figureHeight, panels: []panel{p}}
	return f
}

func (b *builder) exampleTable() *figure {
	f := &figure{name: "examples", title: "Examples", population: withVerdicts}
	with, without := b.sample.verdicts(variants[0])
	if with == 0 {
		f.why = b.sample.whyNoVerdicts()
		return f
	}
	f.n, f.missing = with, &without
	f.notes = []string{fmt.Sprintf("Up to %d of each verdict, chosen by a hash of seed, text and position; ⏎ is a line end", perVerdict)}
	f.tables = []*table{b.sample.examples.table()}
	return f
}
