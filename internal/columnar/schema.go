package columnar

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"github.com/apache/arrow/go/v15/arrow"
)

// kind is a value's, or that of a list's elements.
type kind uint8

const (
	boolKind kind = iota
	int32Kind
	int64Kind
	float64Kind
	textKind
)

// size of a value in memory; texts have none.
func (k kind) size() int { return [...]int{1, 4, 8, 8, 0}[k] }

func (k kind) arrow() arrow.DataType {
	return [...]arrow.DataType{arrow.FixedWidthTypes.Boolean, arrow.PrimitiveTypes.Int32, arrow.PrimitiveTypes.Int64, arrow.PrimitiveTypes.Float64, arrow.BinaryTypes.String}[k]
}

// codec says how a Go type is a column.
type codec struct {
	of      kind
	list    bool // a slice: nil is null
	pointer bool // nil is null
	number  bool // a text that is a 64-bit number in the column (AsInt64)
}

func (c codec) nullable() bool { return c.list || c.pointer }

// isText says whether the column's values are texts.
func (c codec) isText() bool { return c.of == textKind && !c.list && !c.number }

// width of a value in the column's data.
func (c codec) width() int {
	if c.number {
		return int64Kind.size()
	}
	return c.of.size()
}

func (c codec) arrow() arrow.DataType {
	switch {
	case c.list:
		return arrow.ListOfNonNullable(c.of.arrow())
	case c.number:
		return int64Kind.arrow()
	}
	return c.of.arrow()
}

var columnTypes = map[reflect.Type]codec{
	reflect.TypeFor[bool]():      {of: boolKind},
	reflect.TypeFor[int32]():     {of: int32Kind},
	reflect.TypeFor[int64]():     {of: int64Kind},
	reflect.TypeFor[float64]():   {of: float64Kind},
	reflect.TypeFor[string]():    {of: textKind},
	reflect.TypeFor[*bool]():     {of: boolKind, pointer: true},
	reflect.TypeFor[*int32]():    {of: int32Kind, pointer: true},
	reflect.TypeFor[*int64]():    {of: int64Kind, pointer: true},
	reflect.TypeFor[*float64]():  {of: float64Kind, pointer: true},
	reflect.TypeFor[*string]():   {of: textKind, pointer: true},
	reflect.TypeFor[[]int32]():   {of: int32Kind, list: true},
	reflect.TypeFor[[]int64]():   {of: int64Kind, list: true},
	reflect.TypeFor[[]float64](): {of: float64Kind, list: true},
	reflect.TypeFor[[]string]():  {of: textKind, list: true},
}

type column struct {
	name     string
	index    int     // of the struct's field
	offset   uintptr // of the field in the struct
	optional bool    // a file without it is read, and the field left alone
	codec
}

func jsonText(v any) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return err.Error() // lists of numbers and strings always encode, but for NaN
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// columnsOf lists the tagged fields of T in order.
func columnsOf[T any]() []column {
	t := reflect.TypeFor[T]()
	var cols []column
	for i := range t.NumField() {
		f := t.Field(i)
		tag, ok := f.Tag.Lookup("col")
		if !ok {
			continue
		}
		c, ok := columnTypes[f.Type]
		if !ok {
			panic(fmt.Sprintf("columnar: %s.%s: no column type for %s", t, f.Name, f.Type))
		}
		name, option, _ := strings.Cut(tag, ",")
		cols = append(cols, column{name: name, index: i, offset: f.Offset, optional: option == "optional", codec: c})
	}
	return cols
}

// Option changes how a table is written.
type Option func(*options)

type options struct {
	metadata map[string]string
	int64s   map[string]bool
	drop     map[string]bool
	batch    int
	csvSafe  bool
}

// Metadata is kept in the file's schema.
func Metadata(m map[string]string) Option { return func(o *options) { o.metadata = m } }

// AsInt64 writes a string column as 64-bit numbers; a cell that is none is an error.
func AsInt64(column string) Option { return func(o *options) { o.int64s[column] = true } }

// Without leaves a column out.
func Without(column string) Option { return func(o *options) { o.drop[column] = true } }

// CSVSafe writes ' before text in CSV that a spreadsheet would take for a formula:
// that begins with = + - @, as ASCII or wide, a tab or a line break.
func CSVSafe() Option { return func(o *options) { o.csvSafe = true } }

// BatchRows sets the rows of a record batch or row group.
func BatchRows(n int) Option { return func(o *options) { o.batch = n } }

func (o *options) apply(cols []column) []column {
	kept := cols[:0]
	for _, c := range cols {
		if o.drop[c.name] {
			continue
		}
		if o.int64s[c.name] {
			c.number = true
		}
		kept = append(kept, c)
	}
	return kept
}

func (o *options) schema(cols []column) *arrow.Schema {
	fields := make([]arrow.Field, len(cols))
	for i, c := range cols {
		fields[i] = arrow.Field{Name: c.name, Type: c.arrow(), Nullable: c.nullable()}
	}
	md := arrow.MetadataFrom(o.metadata)
	return arrow.NewSchema(fields, &md)
}
