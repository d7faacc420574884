package table

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"runtime"

	"github.com/klauspost/compress/zstd"

	"tokenfork/internal/failure"
	"tokenfork/internal/ordered"
)

// Source is a file of the table.
type Source struct {
	Name string // for messages
	Open func(context.Context) (io.ReadCloser, error)
}

// Reader reads a table of one or more files, in their order, as one.
type Reader struct {
	sources []Source
	req     Request
	tmp     string
	schema  *Schema
}

// NewReader prepares to read; tmp is the folder for files that have to be
// stored to be read, such as Parquet from a pipe.
func NewReader(sources []Source, req Request, tmp string) *Reader {
	return &Reader{sources: sources, req: req, tmp: tmp}
}

// Schema is known once the first batch was given.
func (r *Reader) Schema() *Schema { return r.schema }

// Request is the request with what the table settled.
func (r *Reader) Request() Request { return r.req }

// Batches yields the table's rows. The receiver releases each batch.
func (r *Reader) Batches(ctx context.Context) iter.Seq2[*Batch, error] {
	return func(yield func(*Batch, error) bool) {
		for _, s := range r.sources {
			err := r.file(ctx, s, yield)
			if errors.Is(err, errStopped) {
				return
			}
			if err != nil {
				yield(nil, err)
				return
			}
		}
	}
}

var errStopped = errors.New("the receiver stopped")

func (r *Reader) file(ctx context.Context, s Source, yield func(*Batch, error) bool) error {
	in, err := s.Open(ctx)
	if err != nil {
		return fmt.Errorf("open %s: %w", s.Name, err)
	}
	defer in.Close()
	plain, err := decompress(s.Name, in)
	if err != nil {
		return err
	}
	defer plain.Close()
	f, err := openCSV(s.Name, plain, r.req)
	if err != nil {
		return err
	}
	if err := r.agree(s.Name, f.schema); err != nil {
		return err
	}
	first, err := r.settleIDs(f)
	if err != nil || first == nil {
		return err
	}
	p := newParser(s.Name, f.schema, r.req)
	chunks := func(yield func(*chunk, error) bool) {
		if yield(first, nil) {
			f.chunks()(yield)
		}
	}
	return ordered.Map(ctx, runtime.GOMAXPROCS(0), chunks, p.parse, func(b *Batch) error {
		if !yield(b, nil) {
			return errStopped
		}
		return nil
	})
}

// agree checks a further file's columns against the first one's.
func (r *Reader) agree(name string, s *Schema) error {
	if r.schema == nil {
		r.schema = s
		return nil
	}
	if d := s.same(r.schema); d != "" {
		return failure.New(failure.Refused, "plan files of one kind together", "%s differs from %s: %s", name, r.sources[0].Name, d)
	}
	return nil
}

// settleIDs reads the first chunk and, if nobody has said it, sees from its
// first row whether sentence ids are numbers. It gives nil for a file without rows.
func (r *Reader) settleIDs(f *csvFile) (*chunk, error) {
	c, err := f.next()
	if err == io.EOF {
		return nil, nil
	}
	if err != nil || r.req.SentenceIDType != "" {
		return c, err
	}
	r.req.SentenceIDType = String
	id, err := firstCell(c.data, f.schema.fields[smallSentence])
	if err == nil && isNumber(id) {
		r.req.SentenceIDType = Int64
	}
	return c, nil
}

func isNumber(id []byte) bool {
	n, err := parseID(id)
	return err == nil && n != blank
}

// decompress undoes gzip and zstd, told by their first bytes.
func decompress(name string, in io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(in, 256<<10)
	magic, err := b.Peek(4)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, readError(name, err)
		}
		return z, nil
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(b)
		if err != nil {
			return nil, readError(name, err)
		}
		return z.IOReadCloser(), nil
	}
	return io.NopCloser(b), nil
}
