package report

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"tokenfork/internal/job"
	"tokenfork/internal/stats"
	"tokenfork/internal/store"
)

// tokens is what rates.parquet says of all positions that could have been a
// mismatch, as far as the figures need it.
type tokens struct {
	overall    *stats.Grouping
	byBin      *stats.Grouping // of job.PositionBinWidth positions
	byClass    *stats.Grouping
	histograms map[string][]job.Rate // by measure
	positions  int64
	mismatches int64
	sha256     string
}

// readTokens reads rates.parquet; nil if there is none, as after a merge of several jobs.
func readTokens(ctx context.Context, s store.Store, tempDir, want string) (*tokens, error) {
	t := &tokens{overall: stats.NewGrouping(), byBin: stats.NewGrouping(), byClass: stats.NewGrouping(), histograms: map[string][]job.Rate{}}
	var open *string
	sum, err := each(ctx, s, job.RatesKey, tempDir, want, func(r *job.Rate) error {
		if r.Measure != job.MeasurePosition {
			t.histograms[r.Measure] = append(t.histograms[r.Measure], *r)
			return nil
		}
		if r.SentenceID == nil || r.Bin < 0 {
			return fmt.Errorf("a count by position without a text, or in bin %d", r.Bin)
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
	t.overall.Next()
	t.byBin.Next()
	t.byClass.Next()
}

func (t *tokens) add(r *job.Rate) {
	t.positions += r.Positions
	t.mismatches += r.Mismatches
	t.overall.Add(0, r.Positions, r.Mismatches)
	t.byBin.Add(r.Bin, r.Positions, r.Mismatches)
	if r.TokenClass != nil {
		t.byClass.Add(classNumber(*r.TokenClass), r.Positions, r.Mismatches)
	}
}

func classNumber(name string) int32 {
	if i := slices.Index(job.TokenClasses[:], name); i >= 0 {
		return int32(i)
	}
	return job.ClassOther
}
