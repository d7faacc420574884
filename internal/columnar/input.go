package columnar

import (
	"context"
	"fmt"
	"io"
	"iter"
	"math"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/apache/arrow/go/v15/parquet"
	"github.com/apache/arrow/go/v15/parquet/file"
	"github.com/apache/arrow/go/v15/parquet/pqarrow"
)

// Kind is what the cells of an input's column can be read as.
type Kind int

// Kinds of columns.
const (
	Whole  Kind = iota // integers of any width
	Narrow             // float32, float16
	Wide               // float64
	Text               // strings, also of a dictionary
	Unread             // anything else
)

// InputColumn is a column of a file that was not written by this program.
type InputColumn struct {
	Name string
	Kind Kind
	Type string // as Arrow spells it, for messages
}

// Input is such a file.
type Input struct {
	Columns []InputColumn
	Rows    int64 // 0 if not known
	open    func(columns []int) (func() (arrow.Record, error), error)
}

// batchRows is how many rows are read at once.
const batchRows = 16 << 10

// OpenParquetInput opens a Parquet file. Only what is asked for is read of it.
func OpenParquetInput(r ReaderAtSeeker) (*Input, error) {
	props := parquet.NewReaderProperties(memory.DefaultAllocator)
	props.BufferedStreamEnabled = true // else whole column chunks are held
	pf, err := file.NewParquetReader(r, file.WithReadProps(props))
	if err != nil {
		return nil, fmt.Errorf("read Parquet: %w", err)
	}
	fr, err := pqarrow.NewFileReader(pf, pqarrow.ArrowReadProperties{BatchSize: batchRows, Parallel: true}, memory.DefaultAllocator)
	if err != nil {
		return nil, fmt.Errorf("read Parquet: %w", err)
	}
	s, err := fr.Schema()
	if err != nil {
		return nil, fmt.Errorf("read Parquet schema: %w", err)
	}
	in := &Input{Columns: inputColumns(s), Rows: pf.NumRows()}
	in.open = func(columns []int) (func() (arrow.Record, error), error) {
		leaves := make([]int, len(columns))
		for i, c := range columns { // nested columns have several leaves
			leaves[i] = pf.MetaData().Schema.ColumnIndexByName(in.Columns[c].Name)
		}
		rr, err := fr.GetRecordReader(context.Background(), leaves, nil)
		if err != nil {
			return nil, fmt.Errorf("read Parquet: %w", err)
		}
		return rr.Read, nil
	}
	return in, nil
}

// File is an opened local file.
type File interface {
	io.Reader
	io.Seeker
	io.ReaderAt
}

// picked reads records and keeps some of their columns.
func picked(read func() (arrow.Record, error)) func([]int) (func() (arrow.Record, error), error) {
	return func(columns []int) (func() (arrow.Record, error), error) {
		return func() (arrow.Record, error) {
			rec, err := read()
			if err != nil {
				return nil, err
			}
			fields, arrays := make([]arrow.Field, len(columns)), make([]arrow.Array, len(columns))
			for i, c := range columns {
				fields[i], arrays[i] = rec.Schema().Field(c), rec.Column(c)
			}
			return array.NewRecord(arrow.NewSchema(fields, nil), arrays, rec.NumRows()), nil
		}, nil
	}
}

func inputColumns(s *arrow.Schema) []InputColumn {
	cols := make([]InputColumn, len(s.Fields()))
	for i, f := range s.Fields() {
		cols[i] = InputColumn{f.Name, kindOf(f.Type), f.Type.String()}
	}
	return cols
}

func kindOf(t arrow.DataType) Kind {
	switch t.ID() {
	case arrow.INT8, arrow.INT16, arrow.INT32, arrow.INT64, arrow.UINT8, arrow.UINT16, arrow.UINT32, arrow.UINT64:
		return Whole
	case arrow.FLOAT16, arrow.FLOAT32:
		return Narrow
	case arrow.FLOAT64:
		return Wide
	case arrow.STRING, arrow.LARGE_STRING:
		return Text
	case arrow.DICTIONARY:
		if kindOf(t.(*arrow.DictionaryType).ValueType) == Text {
			return Text
		}
	}
	return Unread
}

// InputBatch is consecutive rows of the columns that were asked for. It may be
// read by another goroutine while the next one is fetched.
type InputBatch struct {
	Rows   int
	record arrow.Record
}

// Batches yields the rows of the columns, given by their index in Columns,
// ascending. The receiver releases each batch.
func (in *Input) Batches(columns []int) iter.Seq2[*InputBatch, error] {
	return func(yield func(*InputBatch, error) bool) {
		read, err := in.open(columns)
		if err != nil {
			yield(nil, err)
			return
		}
		for {
			rec, err := read()
			if err == io.EOF {
				return
			}
			if err != nil {
				yield(nil, fmt.Errorf("read record batch: %w", err))
				return
			}
			rec.Retain()
			for from := int64(0); from < rec.NumRows(); from += batchRows {
				part := rec.NewSlice(from, min(from+batchRows, rec.NumRows()))
				if !yield(&InputBatch{int(part.NumRows()), part}, nil) {
					rec.Release()
					return
				}
			}
			rec.Release()
		}
	}
}

// Release gives the batch's memory back.
func (b *InputBatch) Release() { b.record.Release() }

// Wholes copies the k-th column asked for, of kind Whole, to dst; null cells
// become null. Numbers of 2^63 and more become 2^63-1.
func (b *InputBatch) Wholes(k int, dst []int64, null int64) {
	switch a := b.record.Column(k).(type) {
	case *array.Int64:
		copy(dst, a.Int64Values())
	case *array.Int32:
		widen(dst, a.Int32Values())
	case *array.Int16:
		widen(dst, a.Int16Values())
	case *array.Int8:
		widen(dst, a.Int8Values())
	case *array.Uint32:
		widen(dst, a.Uint32Values())
	case *array.Uint16:
		widen(dst, a.Uint16Values())
	case *array.Uint8:
		widen(dst, a.Uint8Values())
	case *array.Uint64:
		for i, v := range a.Uint64Values() {
			dst[i] = int64(min(v, math.MaxInt64))
		}
	}
	nulls(b.record.Column(k), dst, null)
}

func widen[T, U int64 | float64 | int32 | int16 | int8 | uint32 | uint16 | uint8 | float32](dst []T, src []U) {
	for i, v := range src {
		dst[i] = T(v)
	}
}

func nulls[T any](a arrow.Array, dst []T, null T) {
	if a.NullN() == 0 {
		return
	}
	for i := range a.Len() {
		if a.IsNull(i) {
			dst[i] = null
		}
	}
}

// Floats copies the k-th column, of kind Narrow or Wide, to dst; null cells become NaN.
func (b *InputBatch) Floats(k int, dst []float64) {
	switch a := b.record.Column(k).(type) {
	case *array.Float64:
		copy(dst, a.Float64Values())
	case *array.Float32:
		widen(dst, a.Float32Values())
	case *array.Float16:
		for i, v := range a.Values() {
			dst[i] = float64(v.Float32())
		}
	}
	nulls(b.record.Column(k), dst, math.NaN())
}

// Texts copies the k-th column, of kind Text, to dst; null cells become "".
// The strings are views that end with the batch.
func (b *InputBatch) Texts(k int, dst []string) {
	switch a := b.record.Column(k).(type) {
	case *array.String:
		for i := range dst {
			dst[i] = a.Value(i)
		}
	case *array.LargeString:
		for i := range dst {
			dst[i] = a.Value(i)
		}
	case *array.Dictionary:
		values := a.Dictionary().(interface{ Value(int) string })
		for i := range dst {
			if a.IsValid(i) {
				dst[i] = values.Value(a.GetValueIndex(i))
			}
		}
	}
	nulls(b.record.Column(k), dst, "")
}
