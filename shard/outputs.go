package shard

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"iter"
	"runtime"

	"golang.org/x/sync/errgroup"

	"tokenfork/internal/columnar"
	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/store"
	"tokenfork/internal/table"
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
}

// stream starts to create an object.
func stream(ctx context.Context, s store.Store, key string) *streamed {
	r, w := io.Pipe()
	st := &streamed{w, make(chan error, 1)}
	go func() {
		err := create(ctx, s, key, func(dst io.Writer) error {
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

func (st *streamed) finish() error {
	st.Close()
	err := <-st.done
	st.done <- err
	return err
}

// create makes an object, or checks that what is there already is the same.
func create(ctx context.Context, s store.Store, key string, write func(io.Writer) error) error {
	var h hash.Hash
	err := s.Create(ctx, key, func(w io.Writer) error {
		h = sha256.New()
		return write(io.MultiWriter(w, h))
	})
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	r, err := s.Open(ctx, key)
	if err != nil {
		return fmt.Errorf("compare with %s: %w", key, err)
	}
	defer r.Close()
	there := sha256.New()
	if _, err := io.Copy(there, r); err != nil {
		return fmt.Errorf("compare with %s: %w", key, err)
	}
	if hex.EncodeToString(there.Sum(nil)) != hex.EncodeToString(h.Sum(nil)) {
		return failure.New(failure.Refused, "plan into another place, or remove what an unfinished plan left at "+s.String(), "%s of %s is there already and says something else", key, s)
	}
	return nil
}

func (p *planner) openOutputs(ctx context.Context) (*outputs, error) {
	o := &outputs{csv: stream(ctx, p.Store, job.MismatchesCSV), parquet: stream(ctx, p.Store, job.MismatchesFile), rates: stream(ctx, p.Store, job.RatesKey)}
	var opts []columnar.Option
	if p.settings.SentenceIDType == table.Int64 {
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
	for _, s := range []*streamed{o.csv, o.parquet, o.rates} {
		if err := s.finish(); err != nil {
			return err
		}
	}
	return nil
}

// histograms are the bins with anything in them.
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

// write commits the job: its files, the manifests, and job.json last.
func (p *planner) write(ctx context.Context) (*job.Job, error) {
	plan := job.Plan{Format: job.Format, Settings: p.settings, Models: p.Models, Ends: p.Ends, Longest: p.total.longest}
	plan.Input = job.Input{Fingerprint: p.fingerprint(), Rows: p.estimate.Rows, Sentences: p.estimate.Sentences}
	for _, s := range p.Sources {
		plan.Input.Sources = append(plan.Input.Sources, s.Name)
	}
	var err error
	if plan.ID, err = plan.Identity(); err != nil {
		return nil, err
	}
	j := &job.Job{Plan: plan, Alignment: p.total.agreement.evidence(), Mismatches: p.estimate.Mismatches, Skipped: p.stitcher.skipped}
	if err := p.out.finish(p.total.rates()); err != nil {
		return nil, err
	}
	if err := create(ctx, p.Store, job.TokenizerKey, writeBytes(p.tokenizer.JSON())); err != nil {
		return nil, err
	}
	if j.Shards, err = p.manifests(ctx, plan); err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", job.Key, err)
	}
	if err := create(ctx, p.Store, job.Key, writeBytes(append(b, '\n'))); err != nil {
		return nil, err
	}
	return j, nil
}

func writeBytes(b []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	}
}

// manifests writes each shard's manifest.
func (p *planner) manifests(ctx context.Context, plan job.Plan) ([]job.Shard, error) {
	dealt := balance(p.all, p.estimate.Shards)
	shards := make([]job.Shard, len(dealt))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for k, s := range dealt {
		g.Go(func() error {
			said := job.Shard{Sentences: len(s), Cost: costOf(s)}
			for _, x := range s {
				said.Mismatches += int(x.mismatches)
			}
			h := job.Header{Plan: plan, Index: k, Of: len(dealt), Shard: said}
			err := create(ctx, p.Store, job.ManifestKey(k), func(w io.Writer) (err error) {
				said.SHA256, err = job.WriteManifest(w, h, p.spooled(ctx, s))
				return err
			})
			shards[k] = said
			return err
		})
	}
	return shards, g.Wait()
}

// spooled yields the sentences from the spool.
func (p *planner) spooled(ctx context.Context, all []planned) iter.Seq2[*job.Sentence, error] {
	return func(yield func(*job.Sentence, error) bool) {
		for _, x := range all {
			s, err := p.spool.read(x.at, int(x.size))
			if err == nil {
				s.Cost = x.cost
				err = ctx.Err()
			}
			if !yield(s, err) || err != nil {
				return
			}
		}
	}
}
