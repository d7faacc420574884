package report

import (
	"context"
	"errors"
	"io/fs"

	"tokenfork/internal/job"
	"tokenfork/internal/store"
)

// tokens is what rates.parquet says of all positions that could have been a
// mismatch, as far as the figures need it.
type tokens struct {
	overall    *grouping
	byBin      *grouping // of job.PositionBinWidth positions
	byClass    *grouping
	histograms map[string][]job.Rate // by measure
	positions  int64
	mismatches int64
	sha256     string
}

// readTokens reads rates.parquet; nil if there is none, as after a merge of several jobs.
func readTokens(ctx context.Context, s store.Store, tempDir string) (*tokens, error) {
	t := &tokens{overall: newGrouping(), byBin: newGrouping(), byClass: newGrouping(), histograms: map[string][]job.Rate{}}
	var open *string
	sum, err := each(ctx, s, job.RatesKey, tempDir, func(r *job.Rate) error {
		if r.Measure != job.MeasurePosition {
			t.histograms[r.Measure] = append(t.histograms[r.Measure], *r)
			return nil
		}
		if open != nil && *open != *r.SentenceID {
			t.next()
		}
		open = r.SentenceID
		t.add(r)
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if open != nil {
		t.next()
	}
	t.sha256 = sum
	return t, err
}

func (t *tokens) next() {
	t.overall.next()
	t.byBin.next()
	t.byClass.next()
}

func (t *tokens) add(r *job.Rate) {
	t.positions += r.Positions
	t.mismatches += r.Mismatches
	t.overall.add(0, r.Positions, r.Mismatches)
	t.byBin.add(r.Bin, r.Positions, r.Mismatches)
	if r.TokenClass != nil {
		t.byClass.add(classNumber(*r.TokenClass), r.Positions, r.Mismatches)
	}
}

func classNumber(name string) int32 {
	for i, c := range job.TokenClasses {
		if c == name {
			return int32(i)
		}
	}
	return job.OtherClass
}

// widen joins the bins to wider ones.
func (g *grouping) widen(by int32) *grouping {
	w := newGrouping()
	from := 0
	for _, to := range g.ends {
		for _, c := range g.cells[from:to] {
			w.add(c.group/by, int64(c.n), int64(c.hits))
		}
		from = to
		w.next()
	}
	return w
}
