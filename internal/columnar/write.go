package columnar

import (
	"errors"
	"fmt"
	"io"
	"unsafe"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/ipc"
	"github.com/klauspost/compress/zstd"
)

// Writer writes rows of T. Nothing is complete before Close returns nil.
type Writer[T any] interface {
	Write(row *T) error
	Close() error
}

// NewArrowWriter writes the Arrow IPC file format, uncompressed: the form that
// every reader takes, also by memory map.
func NewArrowWriter[T any](w io.Writer, opts ...Option) (Writer[T], error) {
	return newBatchWriter[T](opts, func(s *arrow.Schema) (batchSink, error) {
		f := &fileTail{w: w}
		fw, err := ipc.NewFileWriter(f, ipc.WithSchema(s))
		return &fileSink{fw, f}, err
	})
}

// NewStreamWriter writes an Arrow IPC stream, compressed with zstd as a whole,
// for the job's own files: columns that repeat each other, as predictions do
// the text, become smaller than buffer by buffer.
func NewStreamWriter[T any](w io.Writer, opts ...Option) (Writer[T], error) {
	return newBatchWriter[T](opts, func(s *arrow.Schema) (batchSink, error) {
		z, err := zstd.NewWriter(w, streamOptions...)
		if err != nil {
			return nil, err
		}
		return &zstdSink{ipc.NewWriter(z, ipc.WithSchema(s)), z}, nil
	})
}

// streamOptions let zstd look back 1 MiB, which is about half the memory it takes.
var streamOptions = []zstd.EOption{zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1 << 20)}

// zstdSink completes the compressed stream after what is in it.
type zstdSink struct {
	*ipc.Writer
	z *zstd.Encoder
}

func (s *zstdSink) Close() error { return errors.Join(s.Writer.Close(), s.z.Close()) }

func newOptions(opts []Option) *options {
	o := &options{int64s: map[string]bool{}, drop: map[string]bool{}, batch: BatchSize}
	for _, f := range opts {
		f(o)
	}
	return o
}

// ColumnsWriter writes a batch of sealed columns at a time. They may have more
// columns than are written.
type ColumnsWriter[T any] interface {
	WriteColumns(c *Columns[T]) error
	Close() error
}

// Formats of NewColumnsWriter, by the endings of their files.
const (
	Arrow   = "arrow"
	Parquet = "parquet"
	CSV     = "csv"
)

// NewColumnsWriter writes what the format's other writer writes of the same rows,
// if all batches but the last are of BatchSize rows.
func NewColumnsWriter[T any](format string, w io.Writer, opts ...Option) (ColumnsWriter[T], error) {
	open := map[string]func(io.Writer, ...Option) (Writer[T], error){Arrow: NewArrowWriter[T], Parquet: NewParquetWriter[T], CSV: NewCSVWriter[T]}[format]
	cw, err := open(w, opts...)
	if err != nil {
		return nil, err
	}
	return cw.(ColumnsWriter[T]), nil
}

// batchSink is what ipc and pqarrow writers share.
type batchSink interface {
	Write(arrow.Record) error
	Close() error
}

// BatchSize is how many rows a record batch or row group has if nothing else is said.
const BatchSize = 8192

type batchWriter[T any] struct {
	columns *Columns[T]
	sink    batchSink
	begun   bool // a batch was written
	batch   int
}

func newBatchWriter[T any](opts []Option, open func(*arrow.Schema) (batchSink, error)) (Writer[T], error) {
	w := &batchWriter[T]{columns: NewColumns[T](opts...), batch: newOptions(opts).batch}
	var err error
	if w.sink, err = open(w.columns.schema); err != nil {
		return nil, fmt.Errorf("start columnar file: %w", err)
	}
	return w, nil
}

func (w *batchWriter[T]) Write(row *T) error {
	if err := w.columns.Append(unsafe.Slice(row, 1)); err != nil {
		return err
	}
	if w.columns.Len() == w.batch {
		return w.flush()
	}
	return nil
}

func (w *batchWriter[T]) flush() error {
	w.columns.Seal()
	if err := w.WriteColumns(w.columns); err != nil {
		return err
	}
	w.columns.Reset()
	return nil
}

// WriteColumns writes the columns that the file has.
func (w *batchWriter[T]) WriteColumns(c *Columns[T]) error {
	w.begun = true
	rec := c.record
	if c != w.columns {
		arrays := make([]arrow.Array, len(w.columns.cols))
		for i, col := range w.columns.cols {
			arrays[i] = c.record.Column(c.at(col.name))
		}
		rec = array.NewRecord(w.columns.schema, arrays, int64(c.rows))
	}
	return w.sink.Write(rec)
}

func (w *batchWriter[T]) Close() error {
	if w.columns.Len() > 0 || !w.begun { // a table without rows has a schema all the same
		if err := w.flush(); err != nil {
			return err
		}
	}
	return w.sink.Close()
}

// fileSink adds what Arrow 15 leaves out of the file format: the end-of-stream
// marker before the footer (apache/arrow#43837), without which readers that
// stream the file run into the footer.
type fileSink struct {
	*ipc.FileWriter
	tail *fileTail
}

func (s *fileSink) Close() error {
	if _, err := s.tail.Write(endOfStream); err != nil {
		return err
	}
	return s.FileWriter.Close()
}

var endOfStream = []byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}

type fileTail struct {
	w io.Writer
	n int64
}

func (t *fileTail) Write(p []byte) (int, error) {
	n, err := t.w.Write(p)
	t.n += int64(n)
	return n, err
}

// Seek only tells the position, which is all that ipc.FileWriter asks.
func (t *fileTail) Seek(offset int64, whence int) (int64, error) {
	if offset != 0 || whence != io.SeekCurrent {
		return 0, fmt.Errorf("seek to %d: not a seekable output", offset)
	}
	return t.n, nil
}
