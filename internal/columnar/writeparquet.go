package columnar

import (
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"unsafe"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/flight"
	"github.com/apache/arrow/go/v15/parquet"
	"github.com/apache/arrow/go/v15/parquet/compress"
	"github.com/apache/arrow/go/v15/parquet/metadata"
	"github.com/apache/arrow/go/v15/parquet/pqarrow"
	"github.com/apache/arrow/go/v15/parquet/schema"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
)

const parquetMagic = "PAR1"

// NewParquetWriter writes zstd-compressed Parquet with checksums and the Arrow schema
// kept in it, a row group for each batch. The columns of a batch are encoded side by side.
func NewParquetWriter[T any](w io.Writer, opts ...Option) (Writer[T], error) {
	return newParquetWriter(w, NewColumns[T](opts...), newOptions(opts).batch)
}

func newParquetWriter[T any](w io.Writer, columns *Columns[T], rowGroup int) (*parquetWriter[T], error) {
	pw := &parquetWriter[T]{w: w, columns: columns, rowGroup: rowGroup}
	if err := pw.open(); err != nil {
		return nil, fmt.Errorf("start Parquet: %w", err)
	}
	return pw, nil
}

type parquetWriter[T any] struct {
	w        io.Writer
	at       int64       // what was written
	columns  *Columns[T] // of Write
	rowGroup int
	meta     *metadata.FileMetaDataBuilder
	chunks   []*chunk
	groups   int
}

// parquetProperties: all columns but flags have a dictionary, of any size. One that fell
// back to plain values half way would have both encodings listed in the order of a Go map,
// and equal tables would differ in bytes. Pages are of version 2: of version 1 the library's
// own writer moves all levels so far with every few hundred of them.
func parquetProperties() *parquet.WriterProperties {
	return parquet.NewWriterProperties(parquet.WithCompression(compress.Codecs.Zstd), parquet.WithCreatedBy("tokenfork"),
		parquet.WithDataPageVersion(parquet.DataPageV2), parquet.WithDictionaryPageSizeLimit(math.MaxInt64))
}

func (w *parquetWriter[T]) open() error {
	props := parquetProperties()
	sc, err := pqarrow.ToParquet(w.columns.schema, props, pqarrow.DefaultWriterProps())
	if err != nil {
		return err
	}
	sc = schema.NewSchema(sc.Root())
	w.meta = metadata.NewFileMetadataBuilder(sc, props, keptSchema(w.columns.schema, props))
	z, err := zstd.NewWriter(nil, zstd.WithZeroFrames(true))
	if err != nil {
		return err
	}
	for i, c := range w.columns.cols {
		w.chunks = append(w.chunks, newChunk(c.codec, sc.Column(i), z))
	}
	return w.write([]byte(parquetMagic))
}

// keptSchema is the file's metadata: the Arrow schema's own, and the schema itself.
func keptSchema(s *arrow.Schema, props *parquet.WriterProperties) metadata.KeyValueMetadata {
	kept := metadata.NewKeyValueMetadata()
	for i, key := range s.Metadata().Keys() {
		_ = kept.Append(key, s.Metadata().Values()[i]) // refuses what is not UTF-8 only
	}
	_ = kept.Append("ARROW:schema", base64.StdEncoding.EncodeToString(flight.SerializeSchema(s, props.Allocator())))
	return kept
}

func (w *parquetWriter[T]) write(b []byte) error {
	n, err := w.w.Write(b)
	w.at += int64(n)
	return err
}

// Write keeps the row until a row group is full.
func (w *parquetWriter[T]) Write(row *T) error {
	if err := w.columns.Append(unsafe.Slice(row, 1)); err != nil {
		return err
	}
	if w.columns.Len() == w.rowGroup {
		return w.flush()
	}
	return nil
}

func (w *parquetWriter[T]) flush() error {
	err := w.WriteColumns(w.columns)
	w.columns.Reset()
	return err
}

// WriteColumns writes a row group of the columns that the file has.
func (w *parquetWriter[T]) WriteColumns(c *Columns[T]) error {
	order := make([]int, len(w.chunks)) // large ones first, so that all end at once
	at := make([]int, len(w.chunks))
	for i, col := range w.columns.cols {
		order[i], at[i] = i, c.at(col.name)
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(len(c.values[at[b]].data), len(c.values[at[a]].data)) })
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, i := range order {
		g.Go(func() error { return w.chunks[i].encode(&c.values[at[i]], c.rows) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	group, size := w.meta.AppendRowGroup(), int64(0)
	for _, k := range w.chunks {
		m := group.NextColumnChunk()
		if err := k.finish(m, w.at); err != nil {
			return err
		}
		size += k.info.CompressedSize
		if err := w.write(k.dictionary); err != nil {
			return err
		}
		if err := w.write(k.pages); err != nil {
			return err
		}
		if _, err := m.WriteTo(writerFunc(w.write)); err != nil {
			return err
		}
	}
	group.SetNumRows(c.rows)
	w.groups++
	return group.Finish(size, int16(w.groups-1))
}

// writerFunc is an io.Writer.
type writerFunc func([]byte) error

func (f writerFunc) Write(b []byte) (int, error) {
	if err := f(b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Close writes what is left and the footer.
func (w *parquetWriter[T]) Close() error {
	if w.columns.Len() > 0 || w.groups == 0 { // a table without rows has a row group all the same
		if err := w.flush(); err != nil {
			return err
		}
	}
	footer, err := w.meta.Finish()
	if err != nil {
		return err
	}
	n, err := footer.WriteTo(writerFunc(w.write), nil)
	if err != nil {
		return err
	}
	return w.write(append(binary.LittleEndian.AppendUint32(nil, uint32(n)), parquetMagic...))
}
