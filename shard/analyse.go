package shard

import (
	"crypto/sha256"
	"math"
	"sync"

	"tokenfork/internal/job"
	"tokenfork/internal/table"
)

// tally is what is summed over all texts, in any order.
type tally struct {
	agreement  agreement
	positions  int64 // that could have been mismatches
	padding    int64 // ids that no token stands for
	work       [2]Work
	cost       [2]float64 // GPU nanoseconds, whole: the sum must not depend on the order
	longest    int        // tokens of the longest fork that fits, with its continuation
	histograms [6][2][job.ValueBins]int64
}

// analyst works texts out. It belongs to one goroutine at a time.
type analyst struct {
	*planner
	tally  tally
	walker walker
	whole  job.Text
	writer *job.ManifestWriter[job.Text]
	plain  []byte
	counts []cell

	thinkEnd    int32 // the token </think>, -1 if there is none
	contextEnds []int
}

func newAnalyst(p *planner) (*analyst, error) {
	a := &analyst{planner: p, counts: make([]cell, maxTypes*classCount), thinkEnd: -1}
	for id := range int32(len(p.classes)) {
		if a.thinkEnd < 0 && string(p.Tokenizer.Bytes(id)) == "</think>" {
			a.thinkEnd = id
		}
	}
	a.walker = walker{ends: p.Ends, limit: p.settings.MaxNewTokens, replay: p.settings.Replay && p.settings.Temperature == 0}
	var err error
	a.writer, err = job.NewManifestWriter[job.Text]()
	return a, err
}

// cell is a count of rates.parquet within a text.
type cell struct{ positions, mismatches int64 }

// worked is what comes out of a text. What is taken from the pool keeps its
// slices' memory.
type worked struct {
	planned    planned
	digest     [sha256.Size]byte
	packed     []byte // as a manifest will have it
	err        error
	mismatches []job.Mismatch
	csv        []byte // the same as lines of CSV
	rates      []job.Rate
	tooLong    *job.TooLong
}

var allWorked = sync.Pool{New: func() any { return new(worked) }}

// work turns a text's rows into everything that is kept of it.
func (a *analyst) work(s *text) *worked {
	defer textPool.Put(s)
	a.align(s)
	a.findMismatches(s)
	out := allWorked.Get().(*worked)
	*out = worked{planned: planned{ordinal: s.ordinal, mismatches: int32(len(a.whole.Mismatches))},
		packed: out.packed[:0], mismatches: out.mismatches[:0], csv: out.csv[:0], rates: out.rates[:0]}
	a.countRates(s, out)
	a.plain = content(a.plain[:0], &a.whole)
	out.digest = sha256.Sum256(a.plain)
	if len(a.whole.Mismatches) == 0 {
		return out
	}
	a.estimate(out)
	if a.Text != nil {
		if out.err = a.Text(&a.whole); out.err != nil {
			return out
		}
	}
	if a.writes {
		a.whole.Cost = out.planned.cost
		out.packed, out.err = a.writer.Encode(out.packed, &a.whole)
		if a.out != nil {
			a.describe(s, out)
		}
	}
	return out
}

// align sets each prediction at the position it is for.
func (a *analyst) align(s *text) {
	w := &a.whole
	w.Ordinal, w.ID, w.Real, w.TokenType = s.ordinal, s.id, s.real, s.types
	w.SetRowIDs(s.rowID)
	if len(s.types) == 0 {
		w.TokenType = nil
	}
	w.SmallPredictions = a.shift(w.SmallPredictions, s.small, len(s.real))
	w.ReferencePredictions = a.shift(w.ReferencePredictions, s.reference, len(s.real))
	evidence := s.reference
	if len(evidence) == 0 {
		evidence = s.small
	}
	a.tally.agreement.count(evidence, s.real)
}

// shift gives n+1 predictions by position from those by row.
func (a *analyst) shift(dst, byRow []int32, n int) []int32 {
	dst = resize(dst, n+1)
	if len(byRow) == 0 {
		for q := range dst {
			dst[q] = table.NoPrediction
		}
		return dst
	}
	dst[0], dst[n] = table.NoPrediction, table.NoPrediction
	copy(dst[a.offset:], byRow)
	return dst
}

// compared are the two tokens that differ at a mismatch at p, NoPrediction where one is missing.
func (a *analyst) compared(p int) (small, against int32) {
	if a.settings.Trajectories == job.Real {
		return a.whole.SmallPredictions[p], a.whole.Real[p]
	}
	return a.whole.SmallPredictions[p], a.whole.ReferencePredictions[p]
}

// findMismatches lists the mismatches with the measures of their rows. Rows of
// the instruction have none.
func (a *analyst) findMismatches(s *text) {
	w := &a.whole
	w.Mismatches = w.Mismatches[:0]
	for _, m := range measuresOf(w) {
		*m = (*m)[:0]
	}
	for p := a.offset; p < len(w.Real); p++ {
		small, against := a.compared(p)
		if small == against || small < 0 || against < 0 || a.passesOver(p) {
			continue
		}
		row := p - a.offset
		if w.TokenType != nil && w.TokenType[row] == 0 {
			continue
		}
		w.Mismatches = append(w.Mismatches, int32(p))
		a.tally.padding += int64(a.isPadding(small) + a.isPadding(against))
		for i, m := range measuresOf(w) {
			v := math.NaN()
			if len(s.measures[i]) > 0 {
				v = s.measures[i][row]
			}
			*m = append(*m, v)
		}
	}
}

// passesOver says whether R2R's find_mismatches does not consider position p of
// the text: a real </think>, and all of a text without an instruction.
func (a *analyst) passesOver(p int) bool {
	w := &a.whole
	return a.settings.R2RMismatches && (w.Real[p] == a.thinkEnd || w.TokenType != nil && w.TokenType[0] != 0)
}

// isPadding is 1 for an id that no token stands for.
func (a *analyst) isPadding(id int32) int {
	if a.classes[id] == padding {
		return 1
	}
	return 0
}

// countRates counts positions and mismatches by place and class, and the
// measures by bin.
func (a *analyst) countRates(s *text, out *worked) {
	w := &a.whole
	mismatches := w.Mismatches
	from := 0
	for from < len(w.Real) {
		to := min(from+job.PositionBinWidth, len(w.Real))
		types := a.countBin(s, from, to, &mismatches)
		a.emit(from/job.PositionBinWidth, types, out)
		from = to
	}
}

// maxTypes bounds the token types that are told apart.
const maxTypes = 16

// countBin counts the positions of a bin into a.counts, by token type and class,
// and says how many types there are.
func (a *analyst) countBin(s *text, from, to int, mismatches *[]int32) (types int) {
	w := &a.whole
	types = 1
	clear(a.counts)
	for p := max(from, a.offset); p < to; p++ {
		small, against := a.compared(p)
		if small < 0 || against < 0 || a.passesOver(p) {
			continue
		}
		hit := len(*mismatches) > 0 && (*mismatches)[0] == int32(p)
		row := p - a.offset
		at := 0
		if w.TokenType != nil {
			at = int(min(w.TokenType[row], maxTypes-1))
			types = max(types, at+1)
		}
		class := a.classes[w.Real[p]]
		if class == padding {
			a.tally.padding++
			class = other
		}
		c := &a.counts[at*classCount+int(class)]
		c.positions++
		outcome := 0
		if hit {
			*mismatches = (*mismatches)[1:]
			c.mismatches++
			outcome = 1
		}
		for i, m := range s.measures {
			if len(m) > 0 && m[row] == m[row] {
				a.tally.histograms[i][outcome][job.ValueBin(m[row])]++
			}
		}
	}
	return types
}

// emit writes the counts of a bin.
func (a *analyst) emit(bin, types int, out *worked) {
	for t := range types {
		for class := range classCount {
			c := a.counts[t*classCount+class]
			if c.positions == 0 {
				continue
			}
			a.tally.positions += c.positions
			r := job.Rate{Measure: job.MeasurePosition, Bin: int32(bin), TokenClass: &job.TokenClasses[class], Positions: c.positions, Mismatches: c.mismatches,
				From: float64(bin*job.PositionBinWidth + a.settings.FirstPosition), To: float64((bin+1)*job.PositionBinWidth + a.settings.FirstPosition)}
			if a.whole.TokenType != nil {
				v := int32(t)
				r.TokenType = &v
			}
			id := a.whole.ID
			r.SentenceID = &id
			out.rates = append(out.rates, r)
		}
	}
}

// estimate works out what the text's forks cost.
func (a *analyst) estimate(out *worked) {
	w := &a.whole
	a.walker.text(w.Real)
	tooLong := 0
	seconds := 0.0
	if a.samples() {
		out.planned.sides, out.planned.rank = new([2]sideWork), job.SampleRank(w.ID)
	}
	for _, side := range job.Sides {
		a.walker.model(w.Predictions(side), a.Throughput[side])
		for _, forked := range job.Sides {
			if serverOf(a.settings.Trajectories, forked) != side || a.settings.Trajectories == job.Real && forked == job.Reference {
				continue
			}
			tooLong = max(tooLong, a.forks(side, forked))
		}
		work, cost := a.walker.done()
		a.tally.work[side].add(work)
		a.tally.cost[side] += math.Round(cost * 1e9)
		if out.planned.sides != nil {
			out.planned.sides[side] = sideWork{work, math.Round(cost * 1e9)}
		}
		seconds += cost
	}
	out.planned.cost = seconds + leastCost
	if tooLong > 0 {
		out.tooLong = &job.TooLong{SentenceID: w.ID, Tokens: len(w.Real), Mismatches: tooLong}
	}
}

// forks follows the forks of one side and says how many do not fit the model
// that goes on with them.
func (a *analyst) forks(side, forked job.Side) (tooLong int) {
	w := &a.whole
	for _, p := range w.Mismatches {
		need := int(p) + 1 + a.settings.MaxNewTokens
		if most := a.Models[side].MaxPositions; most > 0 && need > most {
			tooLong++
			continue
		}
		a.tally.longest = max(a.tally.longest, need)
		a.walker.follow(w.Predictions(side), p, w.Predictions(forked)[p])
	}
	return tooLong
}
