package report

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"

	"tokenfork/internal/columnar"
	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/ordered"
	"tokenfork/internal/store"
)

// row is what the report reads of a result.
type row struct {
	SentenceID            string   `col:"sentence_id"`
	Context               string   `col:"context"`
	Position              int64    `col:"mismatch_position"`
	PredSmall             string   `col:"pred_small"`
	PredReference         string   `col:"pred_reference"`
	ContinuationSmall     *string  `col:"continuation_small"`
	SmallIDs              []int32  `col:"continuation_small_ids"`
	ContinuationReference *string  `col:"continuation_reference"`
	ReferenceIDs          []int32  `col:"continuation_reference_ids"`
	MeaningMatch          *bool    `col:"meaning_match"`
	Explanation           *string  `col:"verify_explanation"`
	Confidence            *float64 `col:"verify_confidence"`
	KeyDifferences        []string `col:"key_differences"`
	RealToken             string   `col:"real_token"`
	FinishSmall           *string  `col:"finish_small"`
	FinishReference       *string  `col:"finish_reference"`
	SmallEntropy          *float64 `col:"small_entropy"`
	SmallAU               *float64 `col:"small_au"`
	SmallEU               *float64 `col:"small_eu"`
	ReferenceEntropy      *float64 `col:"reference_entropy"`
	ReferenceAU           *float64 `col:"reference_au"`
	ReferenceEU           *float64 `col:"reference_eu"`
	ConfidenceSource      *string  `col:"confidence_source"`
	JudgeModel            *string  `col:"judge_model"`
	PromptVersion         *string  `col:"prompt_version"`
	MarginSmall           *float64 `col:"margin_small,optional"`
	MarginReference       *float64 `col:"margin_reference,optional"`
	Job                   *string  `col:"job,optional"`
	Status                string   `col:"status"`
}

// measures are the row's uncertainties in the order of job.Measures.
func (r *row) measures() [6]*float64 {
	return [6]*float64{r.SmallEntropy, r.SmallAU, r.SmallEU, r.ReferenceEntropy, r.ReferenceAU, r.ReferenceEU}
}

// local is an object that can be read from any place in it.
type local struct {
	*os.File
	sha256 string
	remove bool
}

// fetch opens a Parquet object, whose sha256 must be want where that is known. One that is
// not in a folder is copied to tempDir first: its footer comes last and has to be read first.
func fetch(ctx context.Context, s store.Store, key, tempDir, want string) (*local, error) {
	r, err := s.Open(ctx, key)
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	l := &local{}
	if f, ok := r.(*os.File); ok {
		l.File = f
		_, err = io.Copy(h, f)
	} else {
		l.remove = true
		if l.File, err = os.CreateTemp(tempDir, "tokenfork-report-"); err == nil {
			_, err = io.Copy(io.MultiWriter(l.File, h), r)
		}
		err = errors.Join(err, r.Close())
	}
	if err == nil {
		_, err = l.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("fetch %s of %s: %w", key, s, err), l.close())
	}
	if l.sha256 = hex.EncodeToString(h.Sum(nil)); want != "" && want != l.sha256 {
		return nil, errors.Join(damaged(s, key, fmt.Errorf("its sha256 is %s, not %s", l.sha256, want)), l.close())
	}
	return l, nil
}

func (l *local) close() error {
	if l.File == nil {
		return nil
	}
	err := l.Close()
	if l.remove {
		err = errors.Join(err, os.Remove(l.Name()))
	}
	return err
}

// each reads a Parquet object's rows, one after the other, and gives its sha256, which
// must be want where that is known.
func each[T any](ctx context.Context, s store.Store, key, tempDir, want string, f func(*T) error) (sum string, err error) {
	l, err := fetch(ctx, s, key, tempDir, want)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	groups, err := columnar.OpenParquetGroups[T](l)
	if err != nil {
		return "", damaged(s, key, err)
	}
	if err := eachGroup(ctx, groups, func(rows []T, err error) error {
		if err != nil {
			return damaged(s, key, err)
		}
		for i := range rows {
			if err := f(&rows[i]); err != nil {
				return fmt.Errorf("read %s of %s: %w", key, s, err)
			}
		}
		return nil
	}); err != nil {
		return "", err
	}
	return l.sha256, nil
}

// eachGroup gives the rows of each row group, in order. All cores decode.
func eachGroup[T any](ctx context.Context, groups *columnar.ParquetGroups[T], see func([]T, error) error) error {
	type decoded struct {
		rows []T
		err  error
	}
	workers := runtime.GOMAXPROCS(0)
	idle := make(chan *columnar.ParquetGroups[T], workers)
	for range workers {
		g, err := groups.Another()
		if err != nil {
			return see(nil, err)
		}
		idle <- g
	}
	return ordered.Map(ctx, workers, ordered.Upto(len(groups.Rows)), func(i int) (d decoded) {
		mine := <-idle
		defer func() { idle <- mine }()
		r, err := mine.Read(i)
		if err != nil {
			return decoded{err: err}
		}
		for rows, err := range r.Batches() {
			if err != nil {
				return decoded{err: err}
			}
			d.rows = append(d.rows, rows...)
		}
		return d
	}, func(d decoded) error { return see(d.rows, d.err) })
}

// unmerged says, of an error that results are not there, how they come about.
func unmerged(s store.Store, key string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return failure.New(failure.Refused, "run `"+job.Command(s, "merge")+"` first", "no %s at %s", key, s)
	}
	return err
}

// engineRecord is what is recorded of a side's engine; nil without a record.
func engineRecord(ctx context.Context, s store.Store, side job.Side) (e map[string]any, err error) {
	key := job.EngineKey(side)
	b, err := store.ReadAll(ctx, s, key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s of %s: %w", key, s, err)
	}
	if err := json.Unmarshal(b, &e); err != nil {
		return nil, damaged(s, key, err)
	}
	return e, nil
}

// judgeName names who gave a verdict.
func judgeName(model, prompt string) string { return model + ", prompt " + prompt }

// damaged says that an object of the results is.
func damaged(s store.Store, key string, err error) error {
	return failure.New(failure.Refused, job.Command(s, "check")+" names all that is damaged, and how it comes back", "%s of %s is damaged: %w", key, s, err)
}
