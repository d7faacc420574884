package report

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"tokenfork/internal/job"
	"tokenfork/internal/stats"
	"tokenfork/internal/terminal"
	"tokenfork/judge/merge"
)

// fewRows is below how many rows a figure says that there are few.
const fewRows = 200

// Populations of figures.
const (
	allTokens    = "all tokens that could have been a mismatch (rates.parquet)"
	allMismatch  = "all mismatches"
	withVerdicts = "mismatches with a verdict"
)

// figure is a picture with its numbers, or why there is none.
type figure struct {
	name, title string
	population  string
	n           int64  // rows
	texts       int    // with such rows; 0 where it is not known
	missing     *int64 // mismatches without a verdict; nil where verdicts play no part
	resampled   bool   // has intervals
	notes       []string
	why         string // there is no picture
	picture     *picture
	tables      []*table
}

// caption says what one must know to read the figure.
func (f *figure) caption(b stats.Bootstrap) string {
	if f.why != "" {
		return "Not drawn: " + f.why + "."
	}
	said := []string{fmt.Sprintf("Population: %s, n = %s", f.population, terminal.Grouped(f.n))}
	if f.texts > 0 {
		said[0] += fmt.Sprintf(" in %s texts", terminal.Grouped(int64(f.texts)))
	}
	if f.missing != nil {
		said = append(said, fmt.Sprintf("Missing verdicts: %s, left out", terminal.Grouped(*f.missing)))
	}
	if f.n < fewRows {
		said = append(said, fmt.Sprintf("FEW ROWS: fewer than %d, so read nothing into it", fewRows))
	}
	if f.resampled {
		said = append(said, fmt.Sprintf("Intervals: 95 %%, percentiles of %d resamples of whole texts, seed %d. Groups with rows of fewer than %d texts have none and are in the table only", b.Times, b.Seed, stats.MinClusters))
	}
	return strings.Join(append(said, f.notes...), ". ") + "."
}

// builder makes the figures.
type builder struct {
	sample *sample
	tokens *tokens // nil: no rates.parquet
	stats.Bootstrap
	names    [2]string         // of the models
	first    int64             // the table's first position
	limit    int               // max-new-tokens; 0: not known
	drawn    *job.Sample       // of the table; nil: all its texts
	gpuHours float64           // of infer, as plan predicted them
	summary  *merge.Summary    // of the merge; nil: not known
	sums     map[string]string // sha256 of what is read, by key, where the job or its merge knows it
}

var classTitles = [...]string{
	job.ClassWordStart: "word start", job.ClassContinuation: "word continued", job.ClassNumber: "number",
	job.ClassPunctuation: "punctuation", job.ClassSpace: "white space", job.ClassOther: "other",
}

// classOrder is from the bottom up.
var classOrder = []int{job.ClassOther, job.ClassSpace, job.ClassPunctuation, job.ClassNumber, job.ClassContinuation, job.ClassWordStart}

func (b *builder) figures() []*figure {
	fs := []*figure{
		b.overview(),
		b.mismatchByPosition(), b.divergenceByPosition(),
		b.mismatchByQuantile(), b.divergenceByQuantile(),
		b.mismatchByClass(), b.divergenceByClass(),
	}
	if b.drawn != nil {
		fs = append(fs, b.wholeTable())
	}
	fs = append(fs, b.prediction()...)
	fs = append(fs, b.continuationLengths())
	fs = append(fs, b.judgeConfidence()...)
	fs = append(fs, b.reliability()...)
	fs = append(fs, b.exampleTable())
	for _, f := range fs {
		b.note(f)
	}
	return fs
}

// percent makes rates marks at their places. Groups of too few texts are not
// drawn, unless all are such.
func percent(rs []stats.Share, x func(group int) float64) []mark {
	least := 1
	for _, r := range rs {
		if r.Clusters >= stats.MinClusters {
			least = stats.MinClusters
		}
	}
	var ms []mark
	for i, r := range rs {
		if r.Clusters >= least {
			ms = append(ms, mark{x(i), stats.Estimate{Value: 100 * r.Value, Interval: stats.Interval{Low: 100 * r.Low, High: 100 * r.High}}})
		}
	}
	return ms
}

func (b *builder) noTokens(f *figure) *figure {
	f.why = "the job has no " + job.RatesKey
	return f
}

// ofMismatches fills in a figure about verdicts; false if there are none.
func (b *builder) ofMismatches(f *figure) bool {
	with, without := b.sample.verdicts(variants[0])
	f.population, f.n, f.missing, f.resampled = withVerdicts, with, &without, true
	if with == 0 {
		f.why = b.sample.whyNoVerdicts()
		return false
	}
	f.texts = b.sample.divergence(variants[0], func(int) int32 { return 0 }).Shares(stats.Bootstrap{})[0].Clusters
	if b.sample.margins {
		f.notes = append(f.notes, b.nearTies())
	}
	return true
}

func (b *builder) nearTies() string {
	return fmt.Sprintf("Near ties: the two best log probabilities of a continuation came within %g of each other", stats.NearTieGap)
}

// overview is the table of overall rates; it has no picture.
func (b *builder) overview() *figure {
	f := &figure{name: "rates", title: "Rates", population: allMismatch, n: int64(len(b.sample.marks)), texts: len(b.sample.starts), resampled: true}
	f.notes = []string{"A continuation is length-cut if it reached the limit on new tokens"}
	if b.sample.margins {
		f.notes = append(f.notes, b.nearTies(), fmt.Sprintf("%q: %s", variants[3].name, variants[3].title))
	}
	t := &table{name: "rates", columns: []string{"rate", "rows", "n", "hits", "missing_verdicts", "share"}}
	if b.tokens != nil && b.tokens.positions > 0 {
		r := b.tokens.overall.Shares(b.Bootstrap)[0]
		t.add("mismatches of tokens", "all", r.N, r.Hits, int64(0), r.Estimate)
	}
	for _, v := range b.sample.variants() {
		with, without := b.sample.verdicts(v)
		r := stats.Share{Estimate: stats.Point(math.NaN())}
		if with > 0 {
			r = b.sample.divergence(v, func(int) int32 { return 0 }).Shares(b.Bootstrap)[0]
		}
		t.add("divergent of judged mismatches", v.name, with, r.Hits, without, r.Estimate)
	}
	s := &table{name: "status", columns: []string{"status", "mismatches"}}
	for _, status := range sortedKeys(b.sample.status) {
		s.add(status, b.sample.status[status])
	}
	f.tables = []*table{t, s}
	return f
}

func (b *builder) mismatchByPosition() *figure {
	f := &figure{name: "mismatch-position", title: "Mismatch rate by position", population: allTokens, resampled: true}
	if b.tokens == nil || b.tokens.positions == 0 {
		return b.noTokens(f)
	}
	f.n, f.texts = b.tokens.positions, b.tokens.byBin.Clusters()
	width := binWidth(int64(b.tokens.byBin.Groups())*job.PositionBinWidth, job.PositionBinWidth)
	rs := b.tokens.byBin.Widen(int32(width / job.PositionBinWidth)).Shares(b.Bootstrap)
	t := &table{name: f.name, columns: []string{"position_from", "position_to", "sentences", "positions", "mismatches", "mismatch_rate"}}
	for i, r := range rs {
		if r.N > 0 {
			t.add(int64(i)*width+b.first, int64(i+1)*width+b.first, int64(r.Clusters), r.N, r.Hits, r.Estimate)
		}
	}
	f.tables = []*table{t}
	f.notes = []string{fmt.Sprintf("Bins of %d positions", width)}
	f.picture = &picture{width: columnWidth, height: figureHeight, panels: []panel{{
		x: "position in the text (tokens)", y: "mismatch rate (%)", xRange: &[2]float64{0, float64(int64(len(rs)) * width)},
		series: []*series{{marks: percent(rs, b.middle(width)), look: variantLooks[0]}}}}}
	return f
}

// middle gives the middle of bins of a width.
func (b *builder) middle(width int64) func(int) float64 {
	return func(i int) float64 { return (float64(i)+0.5)*float64(width) + float64(b.first) }
}

// narrowest is the least width of a bin of positions.
const narrowest = 16

func (b *builder) divergenceByPosition() *figure {
	f := &figure{name: "divergence-position", title: "Divergence rate by position"}
	if !b.ofMismatches(f) {
		return f
	}
	longest := int64(0)
	for _, p := range b.sample.position {
		longest = max(longest, int64(p)-b.first+1)
	}
	width := binWidth(longest, narrowest)
	f.notes = append(f.notes, fmt.Sprintf("Bins of %d positions", width))
	at := func(row int) int32 { return int32((int64(b.sample.position[row]) - b.first) / width) }
	t := &table{name: f.name, columns: []string{"rows", "position_from", "position_to", "sentences", "judged", "divergent", "divergence_rate"}}
	p := panel{x: "position of the mismatch (tokens)", y: "divergence rate (%)", xRange: &[2]float64{0, float64((longest + width - 1) / width * width)}}
	last := len(b.sample.variants()) - 1
	for i, v := range b.sample.variants() {
		rs := b.sample.divergence(v, at).Shares(b.Bootstrap)
		for k, r := range rs {
			if r.N > 0 {
				t.add(v.name, int64(k)*width+b.first, int64(k+1)*width+b.first, int64(r.Clusters), r.N, r.Hits, r.Estimate)
			}
		}
		if i == 0 || i == last {
			shift := float64(width) * (float64(i)/float64(last) - 0.5) / 8
			p.series = append(p.series, &series{name: v.title, look: variantLooks[i], marks: percent(rs, func(k int) float64 { return b.middle(width)(k) + shift })})
		}
	}
	if last > 1 {
		f.notes = append(f.notes, "The table also has the rows without length-cut, and without near ties, by themselves")
	}
	f.tables = []*table{t}
	f.picture = &picture{width: columnWidth, height: figureHeight, panels: []panel{p}}
	return f
}

func (b *builder) mismatchByClass() *figure {
	f := &figure{name: "mismatch-class", title: "Mismatch rate by token class", population: allTokens, resampled: true}
	if b.tokens == nil || b.tokens.positions == 0 {
		return b.noTokens(f)
	}
	f.n, f.texts = b.tokens.positions, b.tokens.byClass.Clusters()
	f.notes = []string{"The class is that of the real token"}
	rs := b.tokens.byClass.Shares(b.Bootstrap)
	t := &table{name: f.name, columns: []string{"token_class", "sentences", "positions", "mismatches", "mismatch_rate"}}
	addClasses(t, rs)
	f.tables = []*table{t}
	p := classPanel("mismatch rate (%)")
	p.series = []*series{{look: bare(0), sideways: true, marks: byClass(rs, 0)}}
	f.picture = &picture{width: columnWidth, height: figureHeight, panels: []panel{p}}
	return f
}

func (b *builder) divergenceByClass() *figure {
	f := &figure{name: "divergence-class", title: "Divergence rate by token class"}
	if !b.ofMismatches(f) {
		return f
	}
	f.notes = append(f.notes, "The class is that of the real token")
	class := func(row int) int32 { return int32(b.sample.marks[row] >> classShift) }
	t := &table{name: f.name, columns: []string{"rows", "token_class", "sentences", "judged", "divergent", "divergence_rate"}}
	p := classPanel("divergence rate (%)")
	for i, v := range b.sample.variants() {
		rs := b.sample.divergence(v, class).Shares(b.Bootstrap)
		addClasses(t, rs, v.name)
		shift := (float64(len(b.sample.variants())-1)/2 - float64(i)) * 0.18
		p.series = append(p.series, &series{name: v.name, look: bare(i), sideways: true, marks: byClass(rs, shift)})
	}
	f.tables = []*table{t}
	f.picture = &picture{width: columnWidth, height: figureHeight, panels: []panel{p}}
	return f
}

func bare(i int) look {
	l := variantLooks[i]
	l.bare = true
	return l
}

func classPanel(x string) panel {
	p := panel{x: x}
	for _, c := range classOrder {
		p.names = append(p.names, classTitles[c])
	}
	return p
}

func addClasses(t *table, rs []stats.Share, first ...any) {
	for i, r := range rs {
		if r.N > 0 {
			t.add(append(first[:len(first):len(first)], job.TokenClasses[i], int64(r.Clusters), r.N, r.Hits, r.Estimate)...)
		}
	}
}

func byClass(rs []stats.Share, shift float64) []mark {
	return percent(rs, func(k int) float64 { return float64(slices.Index(classOrder, k)) + shift })
}
