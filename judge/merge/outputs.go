package merge

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"tokenfork/internal/columnar"
	"tokenfork/internal/job"
	"tokenfork/internal/results"
	"tokenfork/internal/store"
)

// Formats of the results, in the order in which they are named.
var Formats = []string{columnar.Arrow, columnar.Parquet, columnar.CSV}

// PartPrefix is where the parts of results are that are written as a dataset.
const PartPrefix = "results/"

// resultKey is where the results are in a format; part counts from 0 in a dataset.
func (s *Summary) resultKey(format string, part int) string {
	if s.Parts == 0 {
		return "results." + format
	}
	return fmt.Sprintf("%spart-%05d.%s", PartPrefix, part, format)
}

// Results are the keys of the results in a format, in order; none if they were not written.
func (s *Summary) Results(format string) (keys []string) {
	if len(s.Formats) > 0 && !slices.Contains(s.Formats, format) {
		return nil
	}
	for part := range max(1, s.Parts) {
		keys = append(keys, s.resultKey(format, part))
	}
	return keys
}

// Files are the keys of all that the summary is of.
func (s *Summary) Files() (files []string) {
	for _, format := range Formats {
		files = append(files, s.Results(format)...)
	}
	files = append(files, FailuresKey)
	if s.R2R {
		files = append(files, R2RKey)
		for part := range s.R2RParts {
			files = append(files, trainingKey(part))
		}
	}
	return files
}

// output is one file of the results.
type output struct {
	key  string
	open func(io.Writer) (sink, error)
}

// sink takes an output's batches.
type sink interface {
	write(*batch) error
	Close() error
}

// columnSink writes columns as they are.
type columnSink struct {
	columnar.ColumnsWriter[job.Result]
}

func (s columnSink) write(b *batch) error { return s.WriteColumns(b) }

// rowSink writes what it picks of each row; nil for none.
type rowSink[T any] struct {
	columnar.Writer[T]
	wanted func(*batch) bool // whether a batch may have any
	pick   func(*job.Result) *T
}

func (s rowSink[T]) write(b *batch) error {
	if !s.wanted(b) {
		return nil
	}
	rows, err := b.Rows()
	if err != nil {
		return err
	}
	for i := range rows {
		if row := s.pick(&rows[i]); row != nil {
			if err := s.Write(row); err != nil {
				return err
			}
		}
	}
	return nil
}

func toColumns(key, format string, options []columnar.Option) output {
	return output{key, func(w io.Writer) (sink, error) {
		cw, err := columnar.NewColumnsWriter[job.Result](format, w, options...)
		return columnSink{cw}, err
	}}
}

func toRows[T any](key string, options []columnar.Option, wanted func(*batch) bool, pick func(*job.Result) *T) output {
	return output{key, func(w io.Writer) (sink, error) {
		cw, err := columnar.NewCSVWriter[T](w, options...)
		return rowSink[T]{cw, wanted, pick}, err
	}}
}

// write writes the spool's texts, in order, to all files of the results. An
// earlier summary goes first, so that files of two merges are never taken for one's.
func (m *merger) write(ctx context.Context, s *spool) error {
	whole := []output{toRows(FailuresKey, m.csvOptions(), hasFailures, failed)}
	if m.R2R {
		whole = append(whole, toRows(R2RKey, nil, func(*batch) bool { return true }, m.r2r))
		m.sum.R2RLeftOut = m.leftOut()
	}
	if m.sum.Parts > 0 {
		if err := m.Out.Remove(ctx, SummaryKey); err != nil {
			return fmt.Errorf("remove %s of %s: %w", SummaryKey, m.Out, err)
		}
		for part, texts := range split(s.texts, m.sum.Parts) {
			if err := m.writeAll(ctx, m.resultOutputs(part), s, texts, nil); err != nil {
				return err
			}
		}
	} else {
		whole = append(m.resultOutputs(0), whole...)
	}
	if err := m.writeAll(ctx, whole, s, s.texts, m.sum.count); err != nil {
		return err
	}
	if err := m.writeTraining(ctx, s); err != nil {
		return err
	}
	b, err := job.SealJSON(m.sum)
	if err != nil {
		return fmt.Errorf("encode summary: %w", err)
	}
	if err := store.ReplaceBytes(ctx, m.Out, SummaryKey, b); err != nil {
		return err
	}
	return m.removeOthers(ctx)
}

func (m *merger) csvOptions() []columnar.Option {
	if m.CSVSafe {
		return []columnar.Option{columnar.CSVSafe()}
	}
	return nil
}

func (m *merger) resultOutputs(part int) (outs []output) {
	for _, format := range Formats {
		if len(m.sum.Formats) == 0 || slices.Contains(m.sum.Formats, format) {
			outs = append(outs, toColumns(m.sum.resultKey(format, part), format, append(m.written(), m.csvOptions()...)))
		}
	}
	return outs
}

// split cuts the texts into n stretches with about as many rows each.
func split(texts []stretch, n int) [][]stretch {
	total, seen, from := int64(0), int64(0), 0
	for _, t := range texts {
		total += int64(t.rows)
	}
	parts := make([][]stretch, 0, n)
	for part := range n {
		to := from
		for to < len(texts) && (part == n-1 || seen*int64(n) < total*int64(part+1)) {
			seen += int64(texts[to].rows)
			to++
		}
		parts = append(parts, texts[from:to])
		from = to
	}
	return parts
}

// removeOthers removes results of an earlier merge in formats or parts that this
// one does not have.
func (m *merger) removeOthers(ctx context.Context) error {
	ours := m.sum.Files()
	for o, err := range m.Out.List(ctx, "results") {
		if err != nil {
			return fmt.Errorf("list the results in %s: %w", m.Out, err)
		}
		if slices.Contains(ours, o.Key) || !IsResult(o.Key) {
			continue
		}
		if err := m.Out.Remove(ctx, o.Key); err != nil {
			return fmt.Errorf("remove an earlier merge's %s: %w", o.Key, err)
		}
	}
	return nil
}

// IsResult says whether results in some format are written to such a key.
func IsResult(key string) bool {
	name, format, _ := strings.Cut(strings.TrimPrefix(key, PartPrefix), ".")
	var part int
	_, err := fmt.Sscanf(name, "part-%05d", &part)
	return slices.Contains(Formats, format) && (name == "results" || strings.HasPrefix(key, PartPrefix) && err == nil)
}

// hasFailures says whether some row of the batch is not ok.
func hasFailures(b *batch) bool {
	status := b.Text("status")
	for i := range b.Len() {
		if s, _ := status(i); string(s) != results.OK {
			return true
		}
	}
	return false
}

// batchesAtOnce bounds how far an output may be ahead of another.
const batchesAtOnce = 2

// writeAll writes the texts to every output and puts them all in place once all
// are whole: a full disk leaves the earlier ones as they were. The summary gets
// their sha256.
func (m *merger) writeAll(ctx context.Context, outs []output, s *spool, texts []stretch, see func(*batch)) error {
	g, gctx := errgroup.WithContext(ctx)
	sums := make([]hash.Hash, len(outs))
	feeds := make([]chan *batch, len(outs))
	var whole sync.WaitGroup
	whole.Add(len(outs))
	for i, o := range outs {
		feeds[i] = make(chan *batch, batchesAtOnce)
		g.Go(func() error {
			return m.Out.Replace(gctx, o.key, func(w io.Writer) error {
				sums[i] = sha256.New()
				if err := o.copy(gctx, io.MultiWriter(w, sums[i]), feeds[i]); err != nil {
					return fmt.Errorf("write %s: %w", o.key, err)
				}
				whole.Done()
				return waitFor(gctx, &whole)
			})
		})
	}
	g.Go(func() error {
		err := s.batches(texts, m.kept, func(b *batch) error {
			b.Seal()
			if see != nil {
				see(b)
			}
			for _, f := range feeds {
				select {
				case f <- b:
				case <-gctx.Done():
					return context.Cause(gctx)
				}
			}
			return nil
		})
		if err == nil {
			for _, f := range feeds {
				close(f)
			}
		}
		return err
	})
	if err := g.Wait(); err != nil {
		return err
	}
	for i, o := range outs {
		if o.key != FailuresKey {
			m.sum.SHA256[o.key] = hex.EncodeToString(sums[i].Sum(nil))
		}
	}
	return nil
}

func (o *output) copy(ctx context.Context, w io.Writer, feed <-chan *batch) error {
	to, err := o.open(w)
	if err != nil {
		return err
	}
	for {
		select {
		case b, open := <-feed:
			if !open {
				return to.Close()
			}
			if err := to.write(b); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func waitFor(ctx context.Context, wg *sync.WaitGroup) error {
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
