package report

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"tokenfork/internal/job"
	"tokenfork/internal/results"
	"tokenfork/internal/stats"
)

// sample is what is kept of the results: 30 bytes a mismatch, and counts.
type sample struct {
	position []int32
	marks    []uint16
	measures [6][]float32 // NaN where the table has none; in the order of job.Measures
	starts   []int32      // first row of each text
	margins  bool         // some rows have margins

	last       string // text
	status     map[string]int64
	lengths    [2]lengths // by side
	confidence map[string]*confidences
	judges     map[string]int64 // "model, prompt version"
	examples   examples
	shown      textSample
	gold       *gold // nil: no labels
}

// Marks of a row; the token class is above them.
const (
	judged   = 1 << iota
	diverged // the judge said that the meanings differ
	cut      // a continuation ended at the limit
	nearTie
	unsure     // the judge's confidence is low
	classShift = iota
)

// lengths counts one side's continuations by tokens, predicted token included.
type lengths struct {
	tokens []int64
	finish map[string]int64
}

// confidenceBins cut [0, 1] evenly; 1 is in the last.
const confidenceBins = 20

// confidences are the counts of one source, by verdict: same, different.
type confidences struct {
	bins [2][confidenceBins]int64
	sum  [2]float64
	none [2]int64 // verdicts without a number
}

func newSample(mismatches int64) *sample {
	s := &sample{status: map[string]int64{}, confidence: map[string]*confidences{}, judges: map[string]int64{}, shown: newTextSample()}
	s.position = make([]int32, 0, mismatches)
	s.marks = make([]uint16, 0, mismatches)
	for i := range s.measures {
		s.measures[i] = make([]float32, 0, mismatches)
	}
	for i := range s.lengths {
		s.lengths[i].finish = map[string]int64{}
	}
	return s
}

// add takes the next row; texts must come one after the other.
func (s *sample) add(r *row) error {
	if len(s.marks) == math.MaxInt32 {
		return fmt.Errorf("more than %d mismatches", math.MaxInt32)
	}
	n := len(s.position)
	if n == 0 || r.SentenceID != s.last || r.Position <= int64(s.position[n-1]) {
		s.starts, s.last = append(s.starts, int32(n)), r.SentenceID
		s.shown.begin(r)
		if s.gold != nil {
			s.gold.next()
		}
	}
	s.position = append(s.position, int32(r.Position))
	for i, v := range r.measures() {
		f := float32(math.NaN())
		if v != nil {
			f = float32(*v)
		}
		s.measures[i] = append(s.measures[i], f)
	}
	s.status[r.Status]++
	s.margins = s.margins || r.MarginSmall != nil || r.MarginReference != nil
	marks := marksOf(r)
	s.marks = append(s.marks, marks)
	s.lengths[job.Small].add(r.SmallIDs, r.FinishSmall)
	s.lengths[job.Reference].add(r.ReferenceIDs, r.FinishReference)
	s.addConfidence(r)
	s.examples.add(r)
	if s.gold != nil {
		s.gold.add(r)
	}
	return s.shown.add(r, marks)
}

func marksOf(r *row) uint16 {
	m := uint16(job.TokenClass([]byte(r.RealToken))) << classShift
	if r.MeaningMatch != nil {
		m |= judged
		if !*r.MeaningMatch {
			m |= diverged
		}
		if r.Confidence != nil && *r.Confidence < unsureBelow {
			m |= unsure
		}
	}
	for _, f := range []*string{r.FinishSmall, r.FinishReference} {
		if f != nil && *f == job.FinishLength {
			m |= cut
		}
	}
	for _, gap := range []*float64{r.MarginSmall, r.MarginReference} {
		if gap != nil && stats.NearTie(*gap) {
			m |= nearTie
		}
	}
	return m
}

func (l *lengths) add(ids []int32, finish *string) {
	if ids == nil {
		return
	}
	if short := len(ids) + 1 - len(l.tokens); short > 0 {
		l.tokens = append(l.tokens, make([]int64, short)...)
	}
	l.tokens[len(ids)]++
	if finish != nil {
		l.finish[*finish]++
	}
}

func (s *sample) addConfidence(r *row) {
	if r.MeaningMatch == nil {
		return
	}
	if r.JudgeModel != nil && r.PromptVersion != nil {
		s.judges[judgeName(*r.JudgeModel, *r.PromptVersion)]++
	}
	source := "none"
	if r.ConfidenceSource != nil {
		source = *r.ConfidenceSource
	}
	c := s.confidence[source]
	if c == nil {
		c = &confidences{}
		s.confidence[source] = c
	}
	verdict := oneIf(!*r.MeaningMatch)
	if r.Confidence == nil {
		c.none[verdict]++
		return
	}
	c.sum[verdict] += *r.Confidence
	c.bins[verdict][min(max(int(*r.Confidence*confidenceBins), 0), confidenceBins-1)]++
}

func oneIf(is bool) int64 {
	if is {
		return 1
	}
	return 0
}

// variant is a choice of rows: all, or without those whose divergence may be
// no more than the limit or the numerics.
type variant struct {
	name  string
	title string // where it stands alone
	drop  uint16 // rows with one of these marks
}

var variants = []variant{
	{"all", "all", 0},
	{"no length-cut", "no length-cut", cut},
	{"no near ties", "no near ties", nearTie},
	{"neither", "neither length-cut nor near ties", cut | nearTie},
}

// variants are those that the results can tell apart.
func (s *sample) variants() []variant {
	if s.margins {
		return variants
	}
	return variants[:2]
}

// verdicts counts, under the variant, rows with and without a verdict.
func (s *sample) verdicts(v variant) (with, without int64) {
	for _, m := range s.marks {
		switch {
		case m&v.drop != 0:
		case m&judged != 0:
			with++
		default:
			without++
		}
	}
	return with, without
}

// whyNoVerdicts says it, in a caption.
func (s *sample) whyNoVerdicts() string {
	if len(s.marks) == 0 {
		return "there are no mismatches"
	}
	var said []string
	for status, n := range s.status {
		said = append(said, fmt.Sprintf("%d %s", n, status))
	}
	slices.Sort(said)
	why := "no mismatch has a verdict (" + strings.Join(said, ", ") + ")"
	if s.status[results.NotJudged] > 0 {
		why += "; judge the job and merge it again"
	}
	return why
}

// divergence groups the rows with a verdict under the variant; group is negative
// for rows that are in none.
func (s *sample) divergence(v variant, group func(row int) int32) *stats.Grouping {
	g := stats.NewGrouping()
	for i, from := range s.starts {
		to := len(s.marks)
		if i+1 < len(s.starts) {
			to = int(s.starts[i+1])
		}
		for r := int(from); r < to; r++ {
			m := s.marks[r]
			if m&judged == 0 || m&v.drop != 0 {
				continue
			}
			if k := group(r); k >= 0 {
				g.Add(k, 1, int64(m&diverged/diverged))
			}
		}
		g.Next()
	}
	return g
}

// texts gives each row's text, by its number.
func (s *sample) texts() []int32 {
	texts := make([]int32, len(s.marks))
	for i, from := range s.starts {
		to := len(texts)
		if i+1 < len(s.starts) {
			to = int(s.starts[i+1])
		}
		for row := int(from); row < to; row++ {
			texts[row] = int32(i)
		}
	}
	return texts
}

// rank ranks the rows with a verdict and a value under the variant: how well the
// measure tells divergence. order is that of stats.Falling.
func (s *sample) rank(v variant, measure []float32, order, texts []int32) *stats.Ranking {
	return stats.NewRanking(order, measure, len(s.starts), func(i int32) (counts, hit bool, text int) {
		m := s.marks[i]
		return m&judged != 0 && m&v.drop == 0, m&diverged != 0, int(texts[i])
	})
}
