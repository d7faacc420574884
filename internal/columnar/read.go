package columnar

import (
	"context"
	"fmt"
	"io"
	"iter"
	"reflect"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/ipc"
	"github.com/apache/arrow/go/v15/parquet"
	"github.com/apache/arrow/go/v15/parquet/file"
	"github.com/apache/arrow/go/v15/parquet/pqarrow"
	"github.com/klauspost/compress/zstd"
)

// Reader yields rows of T, one batch in memory at a time.
type Reader[T any] struct {
	metadata map[string]string
	cols     []column
	fields   []int // the file's column of each of cols
	next     func() (arrow.Record, error)
}

// ReadStream opens what NewStreamWriter writes. Columns of T that the file lacks
// are an error, but for those tagged `col:"name,optional"`; columns of the file
// that T lacks are passed over.
func ReadStream[T any](r io.Reader) (*Reader[T], error) {
	return sound(func() (*Reader[T], error) { return readStream[T](r) })
}

func readStream[T any](r io.Reader) (*Reader[T], error) {
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(MaxBuffer/8))
	if err != nil {
		return nil, fmt.Errorf("read compressed Arrow stream: %w", err)
	}
	ir, err := ipc.NewReader(z, ipc.WithAllocator(allocator))
	if err != nil {
		return nil, fmt.Errorf("read Arrow stream: %w", err)
	}
	return newReader[T](ir.Schema(), ir.Read)
}

// ReaderAtSeeker is what Parquet's footer-first layout needs.
type ReaderAtSeeker interface {
	io.ReaderAt
	io.Seeker
}

// ReadParquet opens a Parquet file; the rules are ReadStream's. Only T's columns are decoded.
func ReadParquet[T any](r ReaderAtSeeker) (*Reader[T], error) {
	return sound(func() (*Reader[T], error) { return readParquet[T](r) })
}

func readParquet[T any](r ReaderAtSeeker) (*Reader[T], error) {
	pf, err := file.NewParquetReader(r, file.WithReadProps(parquet.NewReaderProperties(allocator)))
	if err != nil {
		return nil, fmt.Errorf("read Parquet: %w", err)
	}
	fr, err := pqarrow.NewFileReader(pf, pqarrow.ArrowReadProperties{BatchSize: 8192}, allocator)
	if err != nil {
		return nil, fmt.Errorf("read Parquet: %w", err)
	}
	if err := openColumns(fr, leaves[T](pf)); err != nil {
		return nil, fmt.Errorf("read Parquet: %w", err)
	}
	rr, err := fr.GetRecordReader(context.Background(), leaves[T](pf), nil)
	if err != nil {
		return nil, fmt.Errorf("read Parquet: %w", err)
	}
	return newReader[T](rr.Schema(), rr.Read)
}

// openColumns opens every column once: GetRecordReader does so in goroutines of its own,
// where no caller can catch a panic over damaged metadata.
func openColumns(fr *pqarrow.FileReader, leaves []int) error {
	fields, err := fr.Manifest.GetFieldIndices(leaves)
	if err != nil {
		return err
	}
	included, groups := map[int]bool{}, make([]int, fr.ParquetReader().NumRowGroups())
	for _, leaf := range leaves {
		included[leaf] = true
	}
	for i := range groups {
		groups[i] = i
	}
	for _, field := range fields {
		if _, err := fr.GetFieldReader(context.Background(), field, included, groups); err != nil {
			return err
		}
	}
	return nil
}

// leaves are the file's physical columns that T has.
func leaves[T any](pf *file.Reader) []int {
	wanted := map[string]bool{}
	for _, c := range columnsOf[T]() {
		wanted[c.name] = true
	}
	var at []int
	schema := pf.MetaData().Schema
	for i := range schema.NumColumns() {
		if wanted[schema.Column(i).ColumnPath()[0]] {
			at = append(at, i)
		}
	}
	return at
}

func newReader[T any](s *arrow.Schema, next func() (arrow.Record, error)) (*Reader[T], error) {
	r := &Reader[T]{next: soundRecords(next), metadata: map[string]string{}}
	for i, k := range s.Metadata().Keys() {
		r.metadata[k] = s.Metadata().Values()[i]
	}
	for _, c := range columnsOf[T]() {
		at := s.FieldIndices(c.name)
		if len(at) == 0 && c.optional {
			continue
		}
		if len(at) != 1 {
			return nil, fmt.Errorf("column %q is there %d times, want once", c.name, len(at))
		}
		r.cols = append(r.cols, c)
		r.fields = append(r.fields, at[0])
	}
	return r, nil
}

// Metadata is what the file's schema holds.
func (r *Reader[T]) Metadata() map[string]string { return r.metadata }

// Rows yields each row, newly allocated. A truncated or damaged file yields an error last.
func (r *Reader[T]) Rows() iter.Seq2[*T, error] {
	return func(yield func(*T, error) bool) {
		for {
			rec, err := r.next()
			if err == io.EOF {
				return
			}
			if err != nil {
				yield(nil, fmt.Errorf("read record batch: %w", err))
				return
			}
			for i := range int(rec.NumRows()) {
				row, err := sound(func() (*T, error) { return r.row(rec, i) })
				if !yield(row, err) || err != nil {
					return
				}
			}
		}
	}
}

// row reads the i-th of a record.
func (r *Reader[T]) row(rec arrow.Record, i int) (*T, error) {
	row := new(T)
	v := reflect.ValueOf(row).Elem()
	for j, c := range r.cols {
		if err := c.read(rec.Column(r.fields[j]), i, v.Field(c.index).Addr().Interface()); err != nil {
			return nil, fmt.Errorf("column %s %w", c.name, err)
		}
	}
	return row, nil
}
