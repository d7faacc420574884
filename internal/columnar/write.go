package columnar

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"strings"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/ipc"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/apache/arrow/go/v15/parquet"
	"github.com/apache/arrow/go/v15/parquet/compress"
	"github.com/apache/arrow/go/v15/parquet/pqarrow"
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

// NewParquetWriter writes zstd-compressed Parquet with the Arrow schema kept in it.
func NewParquetWriter[T any](w io.Writer, opts ...Option) (Writer[T], error) {
	return newBatchWriter[T](opts, func(s *arrow.Schema) (batchSink, error) {
		// Version 2: in one of version 1 the library moves all levels so far with every few hundred of them.
		// No limit for dictionaries: of a column that exceeds it half way, the library lists both
		// encodings in the order of a Go map, and equal tables differ in bytes.
		props := parquet.NewWriterProperties(parquet.WithCompression(compress.Codecs.Zstd), parquet.WithCreatedBy("tokenfork"),
			parquet.WithDataPageVersion(parquet.DataPageV2), parquet.WithDictionaryPageSizeLimit(math.MaxInt64))
		return pqarrow.NewFileWriter(s, noClose{w}, props, pqarrow.NewArrowWriterProperties(pqarrow.WithStoreSchema()))
	})
}

// NewCSVWriter writes CSV with a header: null is an empty cell, a list a JSON array.
func NewCSVWriter[T any](w io.Writer, opts ...Option) (Writer[T], error) {
	o := newOptions(opts)
	cw := &csvWriter[T]{w: csv.NewWriter(w), cols: o.apply(columnsOf[T]())}
	for _, c := range cw.cols {
		cw.cells = append(cw.cells, c.name)
		cw.safe = append(cw.safe, o.csvSafe && textColumn(reflect.TypeFor[T]().Field(c.index).Type) && !o.int64s[c.name])
	}
	return cw, cw.w.Write(cw.cells)
}

func newOptions(opts []Option) *options {
	o := &options{int64s: map[string]bool{}, drop: map[string]bool{}, batch: 8192}
	for _, f := range opts {
		f(o)
	}
	return o
}

type csvWriter[T any] struct {
	w     *csv.Writer
	cols  []column
	cells []string
	safe  []bool // by column: formulas are quoted
}

func textColumn(t reflect.Type) bool {
	return t.Kind() == reflect.String || t.Kind() == reflect.Pointer && t.Elem().Kind() == reflect.String
}

func (w *csvWriter[T]) Write(row *T) error {
	v := reflect.ValueOf(row).Elem()
	for i, c := range w.cols {
		w.cells[i] = c.text(v.Field(c.index).Addr().Interface())
		if w.safe[i] && w.cells[i] != "" && strings.Contains("=+-@\t\r\n", w.cells[i][:1]) {
			w.cells[i] = "'" + w.cells[i]
		}
	}
	return w.w.Write(w.cells)
}

func (w *csvWriter[T]) Close() error {
	w.w.Flush()
	return w.w.Error()
}

// batchSink is what ipc and pqarrow writers share.
type batchSink interface {
	Write(arrow.Record) error
	Close() error
}

type batchWriter[T any] struct {
	cols    []column
	builder *array.RecordBuilder
	sink    batchSink
	rows    int  // in the builder
	begun   bool // a batch was written
	batch   int
}

func newBatchWriter[T any](opts []Option, open func(*arrow.Schema) (batchSink, error)) (*batchWriter[T], error) {
	o := newOptions(opts)
	cols := o.apply(columnsOf[T]())
	schema := o.schema(cols)
	sink, err := open(schema)
	if err != nil {
		return nil, fmt.Errorf("start columnar file: %w", err)
	}
	return &batchWriter[T]{cols: cols, builder: array.NewRecordBuilder(memory.DefaultAllocator, schema), sink: sink, batch: o.batch}, nil
}

func (w *batchWriter[T]) Write(row *T) (err error) {
	v := reflect.ValueOf(row).Elem()
	for i, c := range w.cols {
		if err := w.append(i, c, v); err != nil {
			return err
		}
	}
	if w.rows++; w.rows == w.batch {
		return w.flush()
	}
	return nil
}

func (w *batchWriter[T]) append(i int, c column, v reflect.Value) (err error) {
	defer func() {
		if r := recover(); r != nil {
			e, ok := r.(rowError)
			if !ok {
				panic(r)
			}
			err = fmt.Errorf("column %s: %w", c.name, e.error)
		}
	}()
	c.write(w.builder.Field(i), v.Field(c.index).Addr().Interface())
	return nil
}

func (w *batchWriter[T]) flush() error {
	w.rows, w.begun = 0, true
	rec := w.builder.NewRecord()
	defer rec.Release()
	return w.sink.Write(rec)
}

func (w *batchWriter[T]) Close() error {
	if w.rows > 0 || !w.begun { // a table without rows has a schema all the same
		if err := w.flush(); err != nil {
			return err
		}
	}
	w.builder.Release()
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

// noClose keeps pqarrow from closing the caller's file.
type noClose struct{ io.Writer }
