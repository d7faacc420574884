package columnar

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"sync"
	"unsafe"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
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
	shared   bool // rows may point into a record's memory: nobody writes to it again
	close    func() error
}

// ReadStream opens what NewStreamWriter writes. Columns of T that the file lacks
// are an error, but for those tagged `col:"name,optional"`; columns of the file
// that T lacks are passed over.
func ReadStream[T any](r io.Reader) (*Reader[T], error) {
	return sound(func() (*Reader[T], error) { return readStream[T](r) })
}

func readStream[T any](r io.Reader) (*Reader[T], error) {
	z, err := openZstd(r)
	if err != nil {
		return nil, fmt.Errorf("read compressed Arrow stream: %w", err)
	}
	allocator := newBounded()
	ir, err := ipc.NewReaderFromMessageReader(&messages{r: z, allocator: allocator}, ipc.WithAllocator(allocator))
	if err != nil {
		return nil, fmt.Errorf("read Arrow stream: %w", err)
	}
	read, err := newReader[T](ir.Schema(), nil)
	if err != nil {
		return nil, err
	}
	read.shared = true
	read.close = func() error {
		if z == nil {
			return nil
		}
		err := z.Reset(nil)
		decoders.Put(z)
		z = nil
		return err
	}
	read.next = soundRecords(func() (arrow.Record, error) {
		if z == nil {
			return nil, io.EOF
		}
		rec, err := ir.Read()
		if err == io.EOF {
			err = cmp.Or(read.close(), err)
		}
		return rec, err
	})
	return read, nil
}

// Close lets go of a stream that is not read to its end: there are no more rows.
func (r *Reader[T]) Close() error {
	if r.close == nil {
		return nil
	}
	return r.close()
}

// decoders are those of streams that were closed, or read to their end: a new one takes a window's memory.
var decoders sync.Pool

func openZstd(r io.Reader) (*zstd.Decoder, error) {
	if z, _ := decoders.Get().(*zstd.Decoder); z != nil {
		return z, z.Reset(r)
	}
	return zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxPage))
}

// ReadParquet opens a Parquet file; the rules are ReadStream's. Only T's columns are decoded.
func ReadParquet[T any](r File) (*Reader[T], error) {
	return sound(func() (*Reader[T], error) { return readParquet[T](r) })
}

func readParquet[T any](r File) (*Reader[T], error) {
	g, err := openGroups[T](r)
	if err != nil {
		return nil, err
	}
	return g.read(nil)
}

// ParquetGroups are a Parquet file's row groups, to be read in any order. It belongs
// to one goroutine at a time.
type ParquetGroups[T any] struct {
	Rows   []int64 // of each
	of     File
	file   *pqarrow.FileReader
	leaves []int
}

// OpenParquetGroups opens a Parquet file; the rules are ReadParquet's.
func OpenParquetGroups[T any](r File) (*ParquetGroups[T], error) {
	return sound(func() (*ParquetGroups[T], error) { return openGroups[T](r) })
}

func openGroups[T any](r File) (*ParquetGroups[T], error) {
	if err := checkParquet(r); err != nil {
		return nil, err
	}
	return openChecked[T](r)
}

// Another opens the same file for another goroutine.
func (g *ParquetGroups[T]) Another() (*ParquetGroups[T], error) {
	return sound(func() (*ParquetGroups[T], error) { return openChecked[T](g.of) })
}

func openChecked[T any](r File) (*ParquetGroups[T], error) {
	allocator := newBounded()
	pf, err := file.NewParquetReader(r, file.WithReadProps(parquet.NewReaderProperties(allocator)))
	if err != nil {
		return nil, fmt.Errorf("read Parquet: %w", err)
	}
	fr, err := pqarrow.NewFileReader(pf, pqarrow.ArrowReadProperties{BatchSize: 8192}, allocator)
	if err != nil {
		return nil, fmt.Errorf("read Parquet: %w", err)
	}
	g := &ParquetGroups[T]{of: r, file: fr, leaves: leaves[T](pf)}
	if err := openColumns(fr, g.leaves); err != nil {
		return nil, fmt.Errorf("read Parquet: %w", err)
	}
	for i := range pf.NumRowGroups() {
		g.Rows = append(g.Rows, pf.MetaData().RowGroup(i).NumRows())
	}
	return g, nil
}

// Read opens one row group.
func (g *ParquetGroups[T]) Read(group int) (*Reader[T], error) {
	return sound(func() (*Reader[T], error) { return g.read([]int{group}) })
}

func (g *ParquetGroups[T]) read(groups []int) (*Reader[T], error) {
	rr, err := g.file.GetRecordReader(context.Background(), g.leaves, groups)
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

// Rows yields each row. Rows of a batch share memory: whoever keeps one keeps all
// of them. A truncated or damaged file yields an error last.
func (r *Reader[T]) Rows() iter.Seq2[*T, error] {
	return func(yield func(*T, error) bool) {
		for rows, err := range r.Batches() {
			if err != nil {
				yield(nil, err)
				return
			}
			for i := range rows {
				if !yield(&rows[i], nil) {
					return
				}
			}
		}
	}
}

// Batches yields the rows of each batch, newly allocated. A truncated or damaged
// file yields an error last.
func (r *Reader[T]) Batches() iter.Seq2[[]T, error] {
	return func(yield func([]T, error) bool) {
		for {
			rec, err := r.next()
			if err == io.EOF {
				return
			}
			if err != nil {
				yield(nil, fmt.Errorf("read record batch: %w", err))
				return
			}
			if rows, err := sound(func() ([]T, error) { return r.rows(rec) }); !yield(rows, err) || err != nil {
				return
			}
		}
	}
}

// rows makes a batch's rows, column by column.
func (r *Reader[T]) rows(rec arrow.Record) ([]T, error) {
	newBounded().check(int(min(rec.NumRows(), maxBuffer)) * int(unsafe.Sizeof(*new(T))))
	rows := make([]T, rec.NumRows())
	for j := range r.cols {
		c := &r.cols[j]
		if n := rec.Column(r.fields[j]).Len(); n != len(rows) { // the library lets a column be longer
			return nil, fmt.Errorf("column %s has %d values for %d rows", c.name, n, len(rows))
		}
		f := fields{size: unsafe.Sizeof(*new(T)), pointer: c.pointer, shared: r.shared}
		if len(rows) > 0 {
			f.first = unsafe.Add(unsafe.Pointer(&rows[0]), c.offset)
		}
		if err := f.read(c.codec, rec.Column(r.fields[j])); err != nil {
			return nil, fmt.Errorf("column %s %w", c.name, err)
		}
	}
	return rows, nil
}

// fields are those of one column in consecutive rows.
type fields struct {
	first   unsafe.Pointer
	size    uintptr // from one to the next
	pointer bool    // nil for null
	shared  bool    // see Reader
}

func (f *fields) read(c codec, a arrow.Array) error {
	if c.list {
		return f.readLists(c, a)
	}
	switch a := a.(type) {
	case *array.Boolean:
		if c.of == boolKind {
			return fill(f, a, a.Value)
		}
	case *array.Int32:
		if c.of == int32Kind {
			return fill(f, a, a.Value)
		}
	case *array.Int64:
		switch c.of {
		case int64Kind:
			return fill(f, a, a.Value)
		case textKind: // a sentence_id is a number in files whose input's are (see AsInt64)
			return fill(f, a, func(i int) string { return strconv.FormatInt(a.Value(i), 10) })
		}
	case *array.Float64:
		if c.of == float64Kind {
			return fill(f, a, a.Value)
		}
	case *array.String:
		if c.of == textKind {
			return fill(f, a, f.texts(a))
		}
	}
	return fmt.Errorf("is %s, not %s", a.DataType(), c.of.arrow())
}

// texts gives an array's values.
func (f *fields) texts(a *array.String) func(int) string {
	if a.Len() == 0 {
		return nil
	}
	first, b := a.ValueOffset(0), kept(f, a.ValueBytes())
	all := unsafe.String(unsafe.SliceData(b), len(b))
	return func(i int) string { return all[a.ValueOffset(i)-first : a.ValueOffset(i+1)-first] }
}

// kept are a record's values in memory that rows may point to.
func kept[V any](f *fields, of []V) []V {
	if f.shared {
		return of
	}
	return slices.Clone(of)
}

// fill sets each field to its value.
func fill[V any](f *fields, a arrow.Array, value func(int) V) error {
	n := a.Len()
	if f.pointer {
		values := make([]V, n)
		for i := range n {
			if a.IsValid(i) {
				values[i] = value(i)
				*(**V)(unsafe.Add(f.first, uintptr(i)*f.size)) = &values[i]
			}
		}
		return nil
	}
	for i := range n {
		if a.IsNull(i) {
			return fmt.Errorf("row %d is null", i)
		}
		*(*V)(unsafe.Add(f.first, uintptr(i)*f.size)) = value(i)
	}
	return nil
}

func (f *fields) readLists(c codec, a arrow.Array) error {
	l, ok := a.(*array.List)
	if !ok {
		return fmt.Errorf("is %s, not a list", a.DataType())
	}
	switch v := l.ListValues().(type) {
	case *array.Int32:
		if c.of == int32Kind {
			return slice(f, l, kept(f, v.Int32Values()))
		}
	case *array.Int64:
		if c.of == int64Kind {
			return slice(f, l, kept(f, v.Int64Values()))
		}
	case *array.Float64:
		if c.of == float64Kind {
			return slice(f, l, kept(f, v.Float64Values()))
		}
	case *array.String:
		if c.of == textKind {
			all, value := make([]string, v.Len()), f.texts(v)
			for i := range all {
				all[i] = value(i)
			}
			return slice(f, l, all)
		}
	}
	return fmt.Errorf("is %s, not a list of %s", a.DataType(), c.of.arrow())
}

// slice sets each field to its part of all lists' elements.
func slice[V any](f *fields, l *array.List, all []V) error {
	if n := l.ListValues().NullN(); n > 0 {
		return fmt.Errorf("has %d nulls in its lists", n)
	}
	for i := range l.Len() {
		if l.IsValid(i) {
			from, to := l.ValueOffsets(i)
			if from == to { // also where there are no elements at all: empty is not null
				*(*[]V)(unsafe.Add(f.first, uintptr(i)*f.size)) = []V{}
				continue
			}
			*(*[]V)(unsafe.Add(f.first, uintptr(i)*f.size)) = all[from:to:to]
		}
	}
	return nil
}

// ParquetField is a column of a Parquet file of ours.
type ParquetField struct {
	Name string
	Type string // int32, int64, float64, bool or string
	List bool   // of Type
}

// Fields are the file's columns, in order, whether T has them or not.
func (g *ParquetGroups[T]) Fields() ([]ParquetField, error) {
	schema, err := g.file.Schema()
	if err != nil {
		return nil, fmt.Errorf("read Parquet: %w", err)
	}
	var fields []ParquetField
	for _, f := range schema.Fields() {
		one := ParquetField{Name: f.Name}
		kind := f.Type
		if l, ok := kind.(*arrow.ListType); ok {
			kind, one.List = l.Elem(), true
		}
		if one.Type = kind.Name(); kind.ID() == arrow.STRING {
			one.Type = "string"
		} else if kind.ID() == arrow.FLOAT64 {
			one.Type = "float64"
		}
		fields = append(fields, one)
	}
	return fields, nil
}
