package shard

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"

	"tokenfork/internal/columnar"
	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/store"
)

// outputs are the job's files that are written while the table is read. They
// come into being when it was read to the end without complaint.
type outputs struct {
	csv, parquet *streamed
	rates        *streamed
	mismatches   columnar.Writer[job.Mismatch]
	rateWriter   columnar.Writer[job.Rate]
}

// streamed is an object that is created from a pipe.
type streamed struct {
	*io.PipeWriter
	done chan error
	sum  string // once it is finished
}

// stream starts to create an object.
func stream(ctx context.Context, s store.Store, key string) *streamed {
	r, w := io.Pipe()
	st := &streamed{PipeWriter: w, done: make(chan error, 1)}
	go func() {
		var err error
		st.sum, err = create(ctx, s, key, func(dst io.Writer) error {
			_, err := io.CopyBuffer(dst, r, make([]byte, 256<<10))
			return err
		})
		r.CloseWithError(errors.Join(err, errStopped))
		st.done <- err
	}()
	return st
}

var errAborted = errors.New("planning was given up")

func (st *streamed) abort() {
	st.CloseWithError(errAborted)
	<-st.done
}

// finish waits until the object is there.
func (st *streamed) finish() error {
	err := <-st.done
	st.done <- err
	return err
}

// create makes an object, or checks that what is there already is the same. It
// gives the sha256.
func create(ctx context.Context, s store.Store, key string, write func(io.Writer) error) (sum string, err error) {
	var h hash.Hash
	err = s.Create(ctx, key, func(w io.Writer) error {
		h = sha256.New()
		return write(io.MultiWriter(w, h))
	})
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	sum = hex.EncodeToString(h.Sum(nil))
	if err == nil {
		return sum, nil
	}
	there, err := store.Sum(ctx, s, key)
	if err != nil {
		return "", fmt.Errorf("compare with %s: %w", key, err)
	}
	if there != sum {
		return "", failure.New(failure.Refused, "plan into another place, or remove what an unfinished plan left at "+s.String(), "%s of %s is there already and says something else", key, s)
	}
	return sum, nil
}

func openOutputs(ctx context.Context, st store.Store, numbered bool) (*outputs, error) {
	o := &outputs{csv: stream(ctx, st, job.MismatchesCSV), parquet: stream(ctx, st, job.MismatchesFile), rates: stream(ctx, st, job.RatesKey)}
	var opts []columnar.Option
	if numbered {
		opts = append(opts, columnar.AsInt64("sentence_id"))
	}
	var errs [3]error
	_, errs[0] = io.WriteString(o.csv, mismatchHeader)
	o.mismatches, errs[1] = columnar.NewFlatParquetWriter[job.Mismatch](o.parquet, opts...)
	o.rateWriter, errs[2] = columnar.NewFlatParquetWriter[job.Rate](o.rates, opts...)
	if err := errors.Join(errs[:]...); err != nil {
		o.abort()
		return nil, fmt.Errorf("start the mismatches: %w", err)
	}
	return o, nil
}

func (o *outputs) abort() {
	for _, s := range []*streamed{o.csv, o.parquet, o.rates} {
		s.abort()
	}
}

func (o *outputs) add(w *worked) error {
	if _, err := o.csv.Write(w.csv); err != nil {
		return fmt.Errorf("write %s: %w", job.MismatchesCSV, err)
	}
	for i := range w.mismatches {
		if err := o.mismatches.Write(&w.mismatches[i]); err != nil {
			return fmt.Errorf("write %s: %w", job.MismatchesFile, err)
		}
	}
	for i := range w.rates {
		if err := o.rateWriter.Write(&w.rates[i]); err != nil {
			return fmt.Errorf("write %s: %w", job.RatesKey, err)
		}
	}
	return nil
}

// finish completes the files.
func (o *outputs) finish(histograms []job.Rate) error {
	for i := range histograms {
		if err := o.rateWriter.Write(&histograms[i]); err != nil {
			return fmt.Errorf("write %s: %w", job.RatesKey, err)
		}
	}
	if err := errors.Join(o.mismatches.Close(), o.rateWriter.Close()); err != nil {
		return fmt.Errorf("write the mismatches: %w", err)
	}
	all := []*streamed{o.csv, o.parquet, o.rates}
	for _, s := range all { // all at once: each waits for a disk or for S3
		s.Close()
	}
	var errs []error
	for _, s := range all {
		errs = append(errs, s.finish())
	}
	return errors.Join(errs...)
}

// rates are the histograms' bins with anything in them.
func (t *tally) rates() []job.Rate {
	var rates []job.Rate
	for i, name := range job.Measures {
		for bin := range job.ValueBins {
			match, mismatch := t.histograms[i][0][bin], t.histograms[i][1][bin]
			if match+mismatch == 0 {
				continue
			}
			from, to := job.ValueBinEdges(bin)
			rates = append(rates, job.Rate{Measure: name, Bin: int32(bin), From: from, To: to, Positions: match + mismatch, Mismatches: mismatch})
		}
	}
	return rates
}
