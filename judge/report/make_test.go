package report

import (
	"context"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"tokenfork/internal/columnar"
	"tokenfork/internal/job"
	"tokenfork/internal/store"
	"tokenfork/judge/agreement"
)

func openStore(t testing.TB, dir string) store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func ptr[T any](v T) *T { return &v }

// synthetic describes results whose structure is known: divergence becomes more
// likely with small's entropy and with the text, and texts differ.
type synthetic struct {
	texts    int
	seed     uint64
	margins  bool
	unjudged bool // no verdicts at all
	measures bool
}

var classTokens = []string{" word", "ing", "7", ".", "\n", "+"}

// rows gives a text's results.
func (s synthetic) rows(ordinal int, r *rand.Rand) []job.Result {
	var rows []job.Result
	level := r.NormFloat64() * 0.8
	p := 1
	for range 20 + r.IntN(40) {
		p += 1 + r.IntN(80)
		row := job.Result{SentenceID: fmt.Sprint(ordinal * 7), MismatchPosition: int64(p), Context: "the text\nbefore",
			PredSmall: " <a>", PredReference: " b & c", RealToken: classTokens[r.IntN(len(classTokens))], Status: "ok", Ordinal: int64(ordinal)}
		entropy := float64(float32(math.Round(r.ExpFloat64()*8) / 8)) // with ties
		if s.measures {
			row.SmallEntropy, row.SmallAU, row.SmallEU = &entropy, ptr(float64(float32(entropy*r.Float64()))), ptr(float64(float32(r.ExpFloat64()/50)))
			row.ReferenceEntropy = ptr(float64(float32(0.5*entropy + r.Float64())))
			if r.IntN(10) > 0 {
				row.ReferenceEU = ptr(float64(float32(r.Float64())))
			}
		}
		s.judge(&row, r, entropy+level)
		rows = append(rows, row)
	}
	return rows
}

func (s synthetic) judge(row *job.Result, r *rand.Rand, risk float64) {
	ends := []string{job.FinishStop, job.FinishStop, job.FinishEOS, job.FinishPredicted, job.FinishLength}
	row.ContinuationSmall, row.ContinuationReference = ptr(" <a> small goes on."), ptr(" b & c goes on,\nelsewhere.")
	row.ContinuationSmallIDs, row.ContinuationReferenceIDs = make([]int32, 1+r.IntN(60)), make([]int32, 1+r.IntN(90))
	row.FinishSmall, row.FinishReference = &ends[r.IntN(5)], &ends[r.IntN(5)]
	if s.margins {
		row.MarginSmall, row.MarginReference = ptr(r.ExpFloat64()), ptr(r.ExpFloat64())
	}
	switch {
	case s.unjudged:
		row.Status = "not_judged"
		return
	case r.IntN(20) == 0:
		row.Status = "judge_failed:refusal"
		return
	}
	row.MeaningMatch = ptr(r.Float64() > 1/(1+math.Exp(1.8-0.7*risk)))
	row.VerifyExplanation = ptr("They say <the same> & more: 100 % of 2_000.")
	row.JudgeModel, row.PromptVersion = ptr("judge-72b"), ptr("seed-2")
	source := []string{"logprob_masked", "identical", "votes"}[r.IntN(3)]
	row.ConfidenceSource = &source
	switch source {
	case "votes":
		row.VerifyConfidence = ptr(float64(1+r.IntN(5)) / 5)
	case "logprob_masked":
		row.VerifyConfidence = ptr(1 - r.Float64()*r.Float64()*0.5)
	}
}

// write makes a job's results.parquet and rates.parquet.
func (s synthetic) write(t testing.TB) store.Store {
	t.Helper()
	st := openStore(t, t.TempDir())
	r := rand.New(rand.NewPCG(s.seed, 1))
	var all [][]job.Result
	for i := range s.texts {
		all = append(all, s.rows(i, r))
	}
	writeResults(t, st, s.margins, all)
	create(t, st, job.RatesKey, func(w io.Writer) error {
		return writeRows(w, columnar.NewFlatParquetWriter[job.Rate], []columnar.Option{columnar.AsInt64("sentence_id")}, func(write func(*job.Rate) error) error {
			return s.rates(all, r, write)
		})
	})
	return st
}

// writeResults makes a job's results.parquet of texts' rows.
func writeResults(t testing.TB, st store.Store, margins bool, all [][]job.Result) {
	t.Helper()
	options := []columnar.Option{columnar.AsInt64("sentence_id"), columnar.Without("engine"), columnar.Without("job"), columnar.Without("ordinal"), columnar.Without("reason"), columnar.Without("stage")}
	if !margins {
		options = append(options, columnar.Without("margin_small"), columnar.Without("margin_reference"))
	}
	create(t, st, ResultsKey, func(w io.Writer) error {
		return writeRows(w, columnar.NewParquetWriter[job.Result], options, func(write func(*job.Result) error) error {
			for _, rows := range all {
				for i := range rows {
					if err := write(&rows[i]); err != nil {
						return err
					}
				}
			}
			return nil
		})
	})
}

// labels are human words on every other result, right as often as the verdict
// is sure, and on one that is not there; they are written to the job as gold.csv too.
func (s synthetic) labels(t testing.TB, st store.Store) agreement.Labels {
	t.Helper()
	labels := agreement.Labels{{SentenceID: "nowhere", Position: 1}: true}
	var text strings.Builder
	text.WriteString("sentence_id,mismatch_position,label\nnowhere,1,true\n")
	r := rand.New(rand.NewPCG(s.seed, 2))
	_, err := each(t.Context(), st, ResultsKey, t.TempDir(), "", func(row *row) error {
		if row.MeaningMatch != nil && r.IntN(2) == 0 {
			sure := 0.8
			if row.Confidence != nil {
				sure = *row.Confidence
			}
			label := *row.MeaningMatch == (r.Float64() < sure)
			labels[agreement.Place{SentenceID: row.SentenceID, Position: row.Position}] = label
			fmt.Fprintf(&text, "%s,%d,%t\n", row.SentenceID, row.Position, label)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	create(t, st, "gold.csv", func(w io.Writer) error { _, err := io.WriteString(w, text.String()); return err })
	return labels
}

func writeRows[T any](w io.Writer, open func(io.Writer, ...columnar.Option) (columnar.Writer[T], error), options []columnar.Option, fill func(func(*T) error) error) error {
	cw, err := open(w, options...)
	if err != nil {
		return err
	}
	if err := fill(cw.Write); err != nil {
		return err
	}
	return cw.Close()
}

func create(t testing.TB, s store.Store, key string, write func(io.Writer) error) {
	t.Helper()
	if err := s.Create(context.WithoutCancel(t.Context()), key, write); err != nil {
		t.Fatal(err)
	}
}

// rates counts the rows as mismatches among about nine times as many positions.
func (s synthetic) rates(all [][]job.Result, r *rand.Rand, write func(*job.Rate) error) error {
	histograms := [6][job.ValueBins][2]int64{}
	for _, rows := range all {
		counts := map[[2]int32][2]int64{}
		for i := range rows {
			k := [2]int32{int32(rows[i].MismatchPosition) / job.PositionBinWidth, int32(job.TokenClass([]byte(rows[i].RealToken)))}
			c := counts[k]
			counts[k] = [2]int64{c[0] + 1 + int64(r.IntN(18)), c[1] + 1}
			for m, v := range [6]*float64{rows[i].SmallEntropy, rows[i].SmallAU, rows[i].SmallEU, rows[i].ReferenceEntropy, rows[i].ReferenceAU, rows[i].ReferenceEU} {
				if v != nil {
					bin := job.ValueBin(*v)
					histograms[m][bin][1]++
					histograms[m][job.ValueBin(*v/4)][0] += int64(r.IntN(16))
				}
			}
		}
		for bin := range int32(64) {
			for class := range job.TokenClasses {
				c := counts[[2]int32{bin, int32(class)}]
				if c[0] == 0 {
					continue
				}
				rate := job.Rate{Measure: job.MeasurePosition, SentenceID: &rows[0].SentenceID, TokenClass: &job.TokenClasses[class], Bin: bin, From: float64(bin * 512), To: float64(bin*512 + 512), Positions: c[0], Mismatches: c[1]}
				if err := write(&rate); err != nil {
					return err
				}
			}
		}
	}
	for m := range histograms {
		for bin, c := range histograms[m] {
			if c[0]+c[1] == 0 {
				continue
			}
			from, to := job.ValueBinEdges(bin)
			if err := write(&job.Rate{Measure: job.Measures[m], Bin: int32(bin), From: from, To: to, Positions: c[0] + c[1], Mismatches: c[1]}); err != nil {
				return err
			}
		}
	}
	return nil
}

// makeReport makes a report in a folder and gives its place.
func makeReport(t testing.TB, st store.Store, resamples int) (dir string, about *About) {
	t.Helper()
	return makeWithGold(t, st, resamples, nil)
}

func makeWithGold(t testing.TB, st store.Store, resamples int, labels agreement.Labels) (dir string, about *About) {
	t.Helper()
	dir = t.TempDir()
	about, err := Make(t.Context(), Options{Store: st, Out: openStore(t, dir), TempDir: t.TempDir(), Seed: 1, Resamples: resamples, Gold: labels, Console: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	return dir, about
}
