package columnar

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/parquet-go/parquet-go/deprecated"
	"github.com/parquet-go/parquet-go/encoding/thrift"
	"github.com/parquet-go/parquet-go/format"

	"tokenfork/internal/failure"
)

// parquetFile is a Parquet file that another program wrote. The library gives
// its metadata; pages are read here, so that each is checked before it is
// decoded: its place, its size, its checksum and its number of rows.
type parquetFile struct {
	r       File
	maxPage int64 // bytes of a page, unpacked
	size    int64 // up to the footer
	meta    format.FileMetaData
	columns []*parquetNode // of the top level
	leaves  []*parquetNode
	held    atomic.Int64 // cells of pages in memory, of all columns
	large   sync.Mutex   // held while a large page is decoded
	bare    atomic.Bool  // a page without a checksum was read
}

// parquetNode is a part of the schema: a column, or what a nested one is made of.
type parquetNode struct {
	InputColumn
	element  *format.SchemaElement
	children []*parquetNode
	path     []string
	index    int            // in a row group, of a leaf
	def, rep int            // levels at which it is there, and of its list
	readable []*parquetNode // the leaves below it that hold text or numbers, or itself
	wraps    bool           // it repeats what its only child is: the middle of three levels of a list
}

func (n *parquetNode) repeated() bool { return n.element.RepetitionType.V == format.Repeated }

func (n *parquetNode) isLeaf() bool { return len(n.children) == 0 }

// flat says that the column has one value, or none, a row.
func (n *parquetNode) flat() bool { return n.isLeaf() && n.rep == 0 && n.def <= 1 && len(n.path) == 1 }

// OpenParquetInput opens a Parquet file. Only the columns asked for are read of it.
func OpenParquetInput(r File) (in *Input, err error) {
	defer recovered(&err)
	f := &parquetFile{r: r, maxPage: maxPage}
	if err := f.footer(); err != nil {
		return nil, err
	}
	if err := f.schema(); err != nil {
		return nil, err
	}
	in = &Input{Rows: f.meta.NumRows, open: f.open, unsummed: f.bare.Load}
	for _, n := range f.columns {
		c := n.InputColumn
		if !n.flat() && c.Kind != Unread {
			c.Kind = Nested
		}
		in.Columns = append(in.Columns, c)
	}
	return in, f.checkRowGroups()
}

func badFooter(text string, args ...any) error {
	return failure.New(failure.Refused, writeAgain, "the footer is damaged: %w", fmt.Errorf(text, args...))
}

// footer reads the file's metadata, which is at its end.
func (f *parquetFile) footer() error {
	end, err := f.r.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	const tail = 8 // the footer's length and PAR1
	b, err := readAt(f.r, end-tail, tail)
	if err != nil {
		return badFooter("%w", err)
	}
	switch string(b[4:]) {
	case "PAR1":
	case "PARE":
		return encrypted()
	default:
		return failure.New(failure.Refused, writeAgain, "the file is cut off: it does not end with PAR1")
	}
	n := int64(binary.LittleEndian.Uint32(b))
	f.size = end - tail - n
	if b, err = readAt(f.r, f.size, n); err != nil {
		return badFooter("%d bytes: %w", n, err)
	}
	if _, err := thriftSize(b); err != nil {
		return badFooter("%w", err)
	}
	var p thrift.CompactProtocol
	if err := thrift.NewDecoder(p.NewReaderFromBytes(b)).Decode(&f.meta); err != nil {
		return badFooter("%w", err)
	}
	if f.meta.EncryptionAlgorithm.Value != nil {
		return encrypted()
	}
	return nil
}

func encrypted() error {
	return failure.New(failure.Refused, "write it without encryption", "the file is encrypted")
}

// schema reads the tree of columns.
func (f *parquetFile) schema() error {
	s := f.meta.Schema
	if len(s) == 0 {
		return badFooter("it has no schema")
	}
	next := 1
	for range s[0].NumChildren.V {
		n, err := f.node(&next, &parquetNode{}, 0)
		if err != nil {
			return err
		}
		f.columns = append(f.columns, n)
	}
	if next != len(s) {
		return badFooter("its schema has %d elements, want %d", len(s), next)
	}
	return nil
}

// node reads the schema's next element and those below it.
func (f *parquetFile) node(next *int, parent *parquetNode, depth int) (*parquetNode, error) {
	if *next >= len(f.meta.Schema) || depth > 100 {
		return nil, badFooter("its schema lacks columns")
	}
	e := &f.meta.Schema[*next]
	*next++
	n := &parquetNode{element: e, path: append(slices.Clip(parent.path), e.Name), def: parent.def, rep: parent.rep}
	n.Name, n.Type, n.Kind = e.Name, "list, map or struct", Nested
	switch e.RepetitionType.V {
	case format.Repeated:
		n.def, n.rep = n.def+1, n.rep+1
	case format.Optional:
		n.def++
	}
	if n.def > maxLevel || n.rep > maxLevel {
		return nil, badFooter("column %s is nested too deeply", n.Name)
	}
	if e.Type.Valid {
		n.index = len(f.leaves)
		f.leaves = append(f.leaves, n)
		if n.Type, n.Kind = parquetType(e); n.Kind != Unread {
			n.readable = []*parquetNode{n}
		}
		return n, nil
	}
	if e.NumChildren.V <= 0 {
		return nil, badFooter("column %s has neither a type nor columns", n.Name)
	}
	for range e.NumChildren.V {
		child, err := f.node(next, n, depth+1)
		if err != nil {
			return nil, err
		}
		n.children, n.readable = append(n.children, child), append(n.readable, child.readable...)
	}
	if len(n.readable) == 0 {
		n.Kind = Unread
	}
	n.wraps = n.repeated() && len(n.children) == 1 && n.Name != "array" && !strings.HasSuffix(n.Name, "_tuple")
	return n, nil
}

// maxLevel bounds how deeply columns are nested.
const maxLevel = 32

// parquetType names a column's type and says what its cells are.
func parquetType(e *format.SchemaElement) (name string, kind Kind) {
	name = typeNames[e.Type.V]
	if v := e.LogicalType.Value; v != nil {
		name += " as " + v.String()
	} else if e.ConvertedType.Valid {
		name += " as " + convertedNames[e.ConvertedType.V]
	}
	scale, isDecimal := decimalScale(e)
	switch {
	case isDecimal && scale < 0:
		return name, Unread
	case isDecimal && scale == 0:
		return name, Whole
	case isDecimal:
		return name, Fraction
	}
	switch e.Type.V {
	case format.Int32, format.Int64:
		if isInteger(e) {
			return name, Whole
		}
	case format.Float:
		return name, Single
	case format.Double:
		return name, Double
	case format.FixedLenByteArray:
		if _, ok := e.LogicalType.Value.(*format.Float16Type); ok && e.TypeLength.V == 2 {
			return name, Half
		}
	case format.ByteArray:
		if isText(e) {
			return name, Text
		}
	}
	return name, Unread
}

var typeNames = map[format.Type]string{
	format.Boolean: "bool", format.Int32: "int32", format.Int64: "int64", format.Int96: "int96", format.Float: "float32", format.Double: "float64",
	format.ByteArray: "binary", format.FixedLenByteArray: "fixed-size binary",
}

// convertedNames are the older annotations of types that tables can have.
var convertedNames = map[deprecated.ConvertedType]string{
	deprecated.UTF8: "STRING", deprecated.Enum: "ENUM", deprecated.Decimal: "DECIMAL", deprecated.Json: "JSON", deprecated.Bson: "BSON",
	deprecated.Date: "DATE", deprecated.TimeMillis: "TIME", deprecated.TimeMicros: "TIME", deprecated.TimestampMillis: "TIMESTAMP", deprecated.TimestampMicros: "TIMESTAMP",
	deprecated.Uint8: "UINT_8", deprecated.Uint16: "UINT_16", deprecated.Uint32: "UINT_32", deprecated.Uint64: "UINT_64",
	deprecated.Int8: "INT_8", deprecated.Int16: "INT_16", deprecated.Int32: "INT_32", deprecated.Int64: "INT_64", deprecated.Interval: "INTERVAL",
}

func isInteger(e *format.SchemaElement) bool {
	if e.LogicalType.Value != nil {
		_, ok := e.LogicalType.Value.(*format.IntType)
		return ok
	}
	return !e.ConvertedType.Valid || e.ConvertedType.V >= deprecated.Uint8 && e.ConvertedType.V <= deprecated.Int64
}

func isUnsigned(e *format.SchemaElement) bool {
	if t, ok := e.LogicalType.Value.(*format.IntType); ok {
		return !t.IsSigned
	}
	return e.ConvertedType.Valid && e.ConvertedType.V >= deprecated.Uint8 && e.ConvertedType.V <= deprecated.Uint64
}

func isText(e *format.SchemaElement) bool {
	switch e.LogicalType.Value.(type) {
	case *format.StringType, *format.EnumType, *format.JsonType:
		return true
	case nil:
		return e.ConvertedType.Valid && (e.ConvertedType.V == deprecated.UTF8 || e.ConvertedType.V == deprecated.Enum || e.ConvertedType.V == deprecated.Json)
	}
	return false
}

func decimalScale(e *format.SchemaElement) (scale int, ok bool) {
	if t, ok := e.LogicalType.Value.(*format.DecimalType); ok {
		return int(t.Scale), true
	}
	return int(e.Scale.V), e.ConvertedType.Valid && e.ConvertedType.V == deprecated.Decimal
}

// checkRowGroups compares the footer's counts of rows with each other.
func (f *parquetFile) checkRowGroups() error {
	rows, leaves := int64(0), len(f.leaves)
	for i := range f.meta.RowGroups {
		g := &f.meta.RowGroups[i]
		if g.NumRows < 0 || len(g.Columns) != leaves {
			return badFooter("row group %d has %d rows of %d columns, want %d columns", i+1, g.NumRows, len(g.Columns), leaves)
		}
		rows += g.NumRows
		for k, l := range f.leaves {
			meta := &g.Columns[k].MetaData
			if encrypted := len(g.Columns[k].EncryptedColumnMetadata) > 0; !encrypted && (meta.Type != l.element.Type.V || !slices.Equal(meta.PathInSchema, l.path)) {
				return badFooter("the column is called %s %s in the schema, but %s %s in row group %d", l.element.Type.V, strings.Join(l.path, "."), meta.Type, strings.Join(meta.PathInSchema, "."), i+1)
			}
		}
	}
	if rows != f.meta.NumRows {
		return badFooter("%d rows in all, %d in the row groups", f.meta.NumRows, rows)
	}
	return nil
}

// chunk finds a column's part of a row group.
func (f *parquetFile) chunk(l *parquetNode, group int) (meta *format.ColumnMetaData, from, to int64, err error) {
	g := &f.meta.RowGroups[group]
	c := &g.Columns[l.index]
	meta = &c.MetaData
	from = meta.DataPageOffset
	if d := meta.DictionaryPageOffset; d > 0 && d < from {
		from = d
	}
	to = from + meta.TotalCompressedSize
	switch {
	case c.FilePath != "":
		return nil, 0, 0, failure.New(failure.Refused, "name that file, and the others that hold rows, in its place", "the data is in another file, %q", c.FilePath)
	case len(c.EncryptedColumnMetadata) > 0 || c.CryptoMetadata.Value != nil:
		return nil, 0, 0, encrypted()
	case l.flat() && meta.NumValues != g.NumRows || meta.NumValues < g.NumRows:
		return nil, 0, 0, badFooter("the row group has %d rows, the column %d", g.NumRows, meta.NumValues)
	case g.NumRows > 0 && (from < 4 || to < from || to > f.size):
		return nil, 0, 0, badFooter("the column is said to be at bytes %d to %d of %d", from, to, f.size)
	}
	return meta, from, to, nil
}
