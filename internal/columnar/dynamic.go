package columnar

import (
	"encoding/csv"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"unsafe"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/apache/arrow/go/v15/parquet/pqarrow"
)

// Cell is a column of a table whose columns are known only when it is written. Value
// points to what the column has in the next row: an int32, an int64, a string, a *float64,
// of which nil is null, or, in Parquet only, a list of float32 or int64.
type Cell struct {
	Name  string
	Value any
}

// Rows writes a table row by row from its cells. Nothing is complete before Close
// returns nil.
type Rows interface {
	Write() error
	Close() error
}

// NewCSVRows writes CSV with a header.
func NewCSVRows(w io.Writer, cells []Cell) (Rows, error) {
	r := &csvCells{w: csv.NewWriter(w), cells: cells}
	for _, c := range cells {
		r.record = append(r.record, c.Name)
	}
	return r, r.w.Write(r.record)
}

type csvCells struct {
	w      *csv.Writer
	cells  []Cell
	record []string
}

func (r *csvCells) Write() error {
	for i, c := range r.cells {
		switch v := c.Value.(type) {
		case *int32:
			r.record[i] = strconv.Itoa(int(*v))
		case *int64:
			r.record[i] = strconv.FormatInt(*v, 10)
		case *string:
			r.record[i] = *v
		case **float64:
			r.record[i] = ""
			if *v != nil {
				r.record[i] = strconv.FormatFloat(**v, 'g', -1, 64)
			}
		default:
			return fmt.Errorf("column %s: no cell of type %T", c.Name, v)
		}
	}
	return r.w.Write(r.record)
}

func (r *csvCells) Close() error {
	r.w.Flush()
	return r.w.Error()
}

// NewParquetRows writes Parquet as NewParquetWriter does, in row groups of BatchSize rows.
// A table with lists is written by the Arrow library, without checksums.
func NewParquetRows(w io.Writer, cells []Cell) (Rows, error) {
	r := &parquetCells{}
	var cols []column
	for _, c := range cells {
		at := reflect.ValueOf(c.Value)
		codec, ok := columnTypes[at.Type().Elem()]
		if !ok || codec.list {
			return newListRows(w, cells)
		}
		cols, r.cells = append(cols, column{name: c.Name, codec: codec}), append(r.cells, at.UnsafePointer())
	}
	var err error
	r.file, err = newParquetWriter(w, columnsLike[struct{}](cols, newOptions(nil)), BatchSize)
	return r, err
}

type parquetCells struct {
	cells []unsafe.Pointer
	file  *parquetWriter[struct{}]
}

func (r *parquetCells) Write() error {
	if err := r.file.columns.appendRow(r.cells); err != nil {
		return err
	}
	if r.file.columns.Len() == BatchSize {
		return r.file.flush()
	}
	return nil
}

func (r *parquetCells) Close() error { return r.file.Close() }

func newListRows(w io.Writer, cells []Cell) (Rows, error) {
	fields := make([]arrow.Field, len(cells))
	for i, c := range cells {
		fields[i] = arrow.Field{Name: c.Name}
		switch c.Value.(type) {
		case *int32:
			fields[i].Type = arrow.PrimitiveTypes.Int32
		case *int64:
			fields[i].Type = arrow.PrimitiveTypes.Int64
		case *string:
			fields[i].Type = arrow.BinaryTypes.String
		case **float64:
			fields[i].Type, fields[i].Nullable = arrow.PrimitiveTypes.Float64, true
		case *[]float32:
			fields[i].Type = arrow.ListOfNonNullable(arrow.PrimitiveTypes.Float32)
		case *[]int64:
			fields[i].Type = arrow.ListOfNonNullable(arrow.PrimitiveTypes.Int64)
		default:
			return nil, fmt.Errorf("column %s: no cell of type %T", c.Name, c.Value)
		}
	}
	schema := arrow.NewSchema(fields, nil)
	file, err := pqarrow.NewFileWriter(schema, struct{ io.Writer }{w}, parquetProperties(), pqarrow.NewArrowWriterProperties(pqarrow.WithStoreSchema()))
	if err != nil {
		return nil, fmt.Errorf("start Parquet: %w", err)
	}
	return &listCells{cells: cells, builder: array.NewRecordBuilder(memory.DefaultAllocator, schema), file: file}, nil
}

type listCells struct {
	cells   []Cell
	builder *array.RecordBuilder
	file    *pqarrow.FileWriter
	rows    int // in the builder
	begun   bool
}

func (r *listCells) Write() error {
	for i, c := range r.cells {
		switch v := c.Value.(type) {
		case *int32:
			r.builder.Field(i).(*array.Int32Builder).Append(*v)
		case *int64:
			r.builder.Field(i).(*array.Int64Builder).Append(*v)
		case *string:
			r.builder.Field(i).(*array.StringBuilder).Append(*v)
		case **float64:
			if *v == nil {
				r.builder.Field(i).AppendNull()
			} else {
				r.builder.Field(i).(*array.Float64Builder).Append(**v)
			}
		case *[]float32:
			list := r.builder.Field(i).(*array.ListBuilder)
			list.Append(true)
			list.ValueBuilder().(*array.Float32Builder).AppendValues(*v, nil)
		case *[]int64:
			list := r.builder.Field(i).(*array.ListBuilder)
			list.Append(true)
			list.ValueBuilder().(*array.Int64Builder).AppendValues(*v, nil)
		}
	}
	if r.rows++; r.rows == BatchSize {
		return r.flush()
	}
	return nil
}

func (r *listCells) flush() error {
	r.rows, r.begun = 0, true
	record := r.builder.NewRecord()
	defer record.Release()
	return r.file.Write(record)
}

func (r *listCells) Close() error {
	if r.rows > 0 || !r.begun { // a table without rows has a schema all the same
		if err := r.flush(); err != nil {
			return err
		}
	}
	r.builder.Release()
	return r.file.Close()
}
