package columnar

import (
	"fmt"
	"io"
	"reflect"
	"strconv"
	"unsafe"

	"github.com/apache/arrow/go/v15/parquet"
	"github.com/apache/arrow/go/v15/parquet/compress"
	"github.com/apache/arrow/go/v15/parquet/file"
	"github.com/apache/arrow/go/v15/parquet/pqarrow"
)

// flatRows is how many rows are a row group of a flat file.
const flatRows = 64 << 10

// NewFlatParquetWriter writes Parquet for tables of very many rows without
// lists: Snappy instead of zstd, no dictionaries and no statistics, and columns
// without a detour by Arrow, which is ten times as fast. What rows point to must not change.
func NewFlatParquetWriter[T any](w io.Writer, opts ...Option) (Writer[T], error) {
	o := newOptions(opts)
	cols := o.apply(columnsOf[T]())
	props := parquet.NewWriterProperties(parquet.WithCompression(compress.Codecs.Snappy), parquet.WithDictionaryDefault(false),
		parquet.WithStats(false), parquet.WithCreatedBy("tokenfork"))
	s, err := pqarrow.ToParquet(o.schema(cols), props, pqarrow.DefaultWriterProps())
	if err != nil {
		return nil, fmt.Errorf("start Parquet file: %w", err)
	}
	f := &flatWriter[T]{file: file.NewParquetWriter(noClose{w}, s.Root(), file.WithWriterProps(props))}
	t := reflect.TypeFor[T]()
	for _, c := range cols {
		fc := flatColumn{name: c.name, offset: t.Field(c.index).Offset, kind: t.Field(c.index).Type}
		fc.write = flatKinds[fc.kind]
		if o.int64s[c.name] {
			fc.write = numbered(fc.kind)
		}
		if fc.write == nil {
			return nil, fmt.Errorf("start Parquet file: column %s: %s cannot be in a flat file", c.name, fc.kind)
		}
		f.cols = append(f.cols, fc)
	}
	return f, nil
}

type flatWriter[T any] struct {
	file *file.Writer
	cols []flatColumn
	rows []T
}

// flatColumn writes one field of a slice of structs: n values from p, size bytes apart.
type flatColumn struct {
	name   string
	offset uintptr
	kind   reflect.Type
	write  flatWrite
}

type flatWrite func(w file.ColumnChunkWriter, p unsafe.Pointer, size uintptr, n int) error

func (f *flatWriter[T]) Write(row *T) error {
	if f.rows == nil {
		f.rows = make([]T, 0, flatRows)
	}
	f.rows = append(f.rows, *row)
	if len(f.rows) == flatRows {
		return f.flush()
	}
	return nil
}

func (f *flatWriter[T]) flush() error {
	group := f.file.AppendRowGroup()
	for _, c := range f.cols {
		w, err := group.NextColumn()
		if err != nil {
			return fmt.Errorf("write column %s: %w", c.name, err)
		}
		if err := c.write(w, unsafe.Add(unsafe.Pointer(&f.rows[0]), c.offset), unsafe.Sizeof(f.rows[0]), len(f.rows)); err != nil {
			return fmt.Errorf("write column %s: %w", c.name, err)
		}
		if err := w.Close(); err != nil {
			return fmt.Errorf("write column %s: %w", c.name, err)
		}
	}
	clear(f.rows) // lets go of what they point to
	f.rows = f.rows[:0]
	return group.Close()
}

func (f *flatWriter[T]) Close() error {
	if len(f.rows) > 0 {
		if err := f.flush(); err != nil {
			return err
		}
	}
	return f.file.Close()
}

// chunkWriter is what the column writers of a physical type share.
type chunkWriter[V any] interface {
	WriteBatch(values []V, definitions, repetitions []int16) (int64, error)
}

var flatKinds = map[reflect.Type]flatWrite{
	reflect.TypeFor[int32]():    flat(same[int32]),
	reflect.TypeFor[int64]():    flat(same[int64]),
	reflect.TypeFor[float64]():  flat(same[float64]),
	reflect.TypeFor[string]():   flat(viewed),
	reflect.TypeFor[*int32]():   flatNullable(same[int32]),
	reflect.TypeFor[*int64]():   flatNullable(same[int64]),
	reflect.TypeFor[*float64](): flatNullable(same[float64]),
	reflect.TypeFor[*string]():  flatNullable(viewed),
}

func same[V any](v V) (V, error) { return v, nil }

// viewed is a string without a copy: it is written before it can change.
func viewed(s string) (parquet.ByteArray, error) {
	return unsafe.Slice(unsafe.StringData(s), len(s)), nil
}

func flat[F, V any](convert func(F) (V, error)) flatWrite {
	return func(w file.ColumnChunkWriter, p unsafe.Pointer, size uintptr, n int) (err error) {
		values := make([]V, n)
		for i := range values {
			if values[i], err = convert(*(*F)(unsafe.Add(p, uintptr(i)*size))); err != nil {
				return err
			}
		}
		_, err = w.(chunkWriter[V]).WriteBatch(values, nil, nil)
		return err
	}
}

func flatNullable[F, V any](convert func(F) (V, error)) flatWrite {
	return func(w file.ColumnChunkWriter, p unsafe.Pointer, size uintptr, n int) error {
		values, there := make([]V, 0, n), make([]int16, n)
		for i := range there {
			f := *(**F)(unsafe.Add(p, uintptr(i)*size))
			if f == nil {
				continue
			}
			v, err := convert(*f)
			if err != nil {
				return err
			}
			values, there[i] = append(values, v), 1
		}
		_, err := w.(chunkWriter[V]).WriteBatch(values, there, nil)
		return err
	}
}

// numbered writes strings as numbers; equal ones mostly follow each other.
func numbered(kind reflect.Type) flatWrite {
	var last string
	var number int64
	convert := func(s string) (int64, error) {
		if s == last && s != "" {
			return number, nil
		}
		n, err := strconv.ParseInt(s, 10, 64)
		if err == nil {
			last, number = s, n
		}
		return n, err
	}
	if kind.Kind() == reflect.Pointer {
		return flatNullable(convert)
	}
	return flat(convert)
}

// noClose keeps pqarrow from closing the caller's file.
type noClose struct{ io.Writer }
