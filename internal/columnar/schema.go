package columnar

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
)

// codec moves one field between a struct and an Arrow column. p points to the field.
type codec struct {
	arrow    arrow.DataType
	nullable bool
	write    func(b array.Builder, p any)
	read     func(a arrow.Array, i int, p any) error
	text     func(p any) string // a CSV cell; null is ""
}

type column struct {
	name     string
	index    int  // of the struct's field
	optional bool // a file without it is read, and the field left alone
	codec
}

var elements = map[reflect.Type]codec{
	reflect.TypeFor[bool]():    scalar(arrow.FixedWidthTypes.Boolean, strconv.FormatBool),
	reflect.TypeFor[int32]():   scalar(arrow.PrimitiveTypes.Int32, func(v int32) string { return strconv.Itoa(int(v)) }),
	reflect.TypeFor[int64]():   scalar(arrow.PrimitiveTypes.Int64, func(v int64) string { return strconv.FormatInt(v, 10) }),
	reflect.TypeFor[float64](): scalar(arrow.PrimitiveTypes.Float64, func(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }),
	reflect.TypeFor[string]():  text(),
}

var composites = map[reflect.Type]codec{
	reflect.TypeFor[*bool]():     nullable[bool](),
	reflect.TypeFor[*int32]():    nullable[int32](),
	reflect.TypeFor[*int64]():    nullable[int64](),
	reflect.TypeFor[*float64]():  nullable[float64](),
	reflect.TypeFor[*string]():   nullable[string](),
	reflect.TypeFor[[]int32]():   numbers(func(a *array.Int32) []int32 { return a.Int32Values() }),
	reflect.TypeFor[[]int64]():   numbers(func(a *array.Int64) []int64 { return a.Int64Values() }),
	reflect.TypeFor[[]float64](): numbers(func(a *array.Float64) []float64 { return a.Float64Values() }),
	reflect.TypeFor[[]string]():  list[string](),
}

func scalar[T any](t arrow.DataType, format func(T) string) codec {
	return codec{
		arrow: t,
		write: func(b array.Builder, p any) { b.(interface{ Append(T) }).Append(*p.(*T)) },
		read: func(a arrow.Array, i int, p any) error {
			v, ok := a.(interface{ Value(int) T })
			if !ok {
				return fmt.Errorf("is %s, not %s", a.DataType(), t)
			}
			if a.IsNull(i) {
				return fmt.Errorf("row %d is null", i)
			}
			*p.(*T) = v.Value(i)
			return nil
		},
		text: func(p any) string { return format(*p.(*T)) },
	}
}

// text reads int64 columns too: a sentence_id is a number in files whose input's are (see AsInt64).
func text() codec {
	c := scalar(arrow.BinaryTypes.String, func(v string) string { return v })
	read := c.read
	c.read = func(a arrow.Array, i int, p any) error {
		s := p.(*string)
		if n, ok := a.(*array.Int64); ok && n.IsValid(i) {
			*s = strconv.FormatInt(n.Value(i), 10)
			return nil
		}
		err := read(a, i, p)
		*s = strings.Clone(*s) // else it keeps the whole batch
		return err
	}
	return c
}

func nullable[T any]() codec {
	of := elements[reflect.TypeFor[T]()]
	return codec{
		arrow:    of.arrow,
		nullable: true,
		write: func(b array.Builder, p any) {
			if v := *p.(**T); v != nil {
				of.write(b, v)
			} else {
				b.AppendNull()
			}
		},
		read: func(a arrow.Array, i int, p any) error {
			if a.IsNull(i) {
				*p.(**T) = nil
				return nil
			}
			v := new(T)
			*p.(**T) = v
			return of.read(a, i, v)
		},
		text: func(p any) string {
			if v := *p.(**T); v != nil {
				return of.text(v)
			}
			return ""
		},
	}
}

func list[T any]() codec {
	of := elements[reflect.TypeFor[T]()]
	return codec{
		arrow:    arrow.ListOfNonNullable(of.arrow),
		nullable: true,
		write: func(b array.Builder, p any) {
			lb, vs := b.(*array.ListBuilder), *p.(*[]T)
			if vs == nil {
				lb.AppendNull()
				return
			}
			lb.Append(true)
			for i := range vs {
				of.write(lb.ValueBuilder(), &vs[i])
			}
		},
		read: func(a arrow.Array, i int, p any) error {
			*p.(*[]T) = nil
			l, ok := a.(*array.List)
			if !ok {
				return fmt.Errorf("is %s, not a list", a.DataType())
			}
			if a.IsNull(i) {
				return nil
			}
			from, to := l.ValueOffsets(i)
			vs := make([]T, to-from)
			for j := range vs {
				if err := of.read(l.ListValues(), int(from)+j, &vs[j]); err != nil {
					return err
				}
			}
			*p.(*[]T) = vs
			return nil
		},
		text: func(p any) string {
			if vs := *p.(*[]T); vs != nil {
				return jsonText(vs)
			}
			return ""
		},
	}
}

// numbers are lists that are moved whole, not number by number.
func numbers[T any, A arrow.Array](values func(A) []T) codec {
	c := list[T]()
	c.write = func(b array.Builder, p any) {
		lb, vs := b.(*array.ListBuilder), *p.(*[]T)
		if vs == nil {
			lb.AppendNull()
			return
		}
		lb.Append(true)
		lb.ValueBuilder().(interface{ AppendValues([]T, []bool) }).AppendValues(vs, nil)
	}
	read := c.read
	c.read = func(a arrow.Array, i int, p any) error {
		l, ok := a.(*array.List)
		if !ok || l.IsNull(i) {
			return read(a, i, p)
		}
		vs, ok := l.ListValues().(A)
		if !ok || vs.NullN() > 0 {
			return read(a, i, p)
		}
		from, to := l.ValueOffsets(i)
		*p.(*[]T) = slices.Clone(values(vs)[from:to])
		if from == to {
			*p.(*[]T) = []T{}
		}
		return nil
	}
	return c
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
		tag, ok := t.Field(i).Tag.Lookup("col")
		if !ok {
			continue
		}
		c, ok := elements[t.Field(i).Type]
		if !ok {
			if c, ok = composites[t.Field(i).Type]; !ok {
				panic(fmt.Sprintf("columnar: %s.%s: no column type for %s", t, t.Field(i).Name, t.Field(i).Type))
			}
		}
		name, option, _ := strings.Cut(tag, ",")
		cols = append(cols, column{name: name, index: i, optional: option == "optional", codec: c})
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
// that begins with = + - @ or a control character.
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
			c.codec = numberedText(c.codec)
		}
		kept = append(kept, c)
	}
	return kept
}

func numberedText(c codec) codec {
	c.arrow = arrow.PrimitiveTypes.Int64
	c.write = func(b array.Builder, p any) {
		n, err := strconv.ParseInt(*p.(*string), 10, 64)
		if err != nil {
			panic(rowError{err})
		}
		b.(*array.Int64Builder).Append(n)
	}
	return c
}

// rowError carries a cell's error out of a builder callback; Write recovers it.
type rowError struct{ error }

func (o *options) schema(cols []column) *arrow.Schema {
	fields := make([]arrow.Field, len(cols))
	for i, c := range cols {
		fields[i] = arrow.Field{Name: c.name, Type: c.arrow, Nullable: c.nullable}
	}
	md := arrow.MetadataFrom(o.metadata)
	return arrow.NewSchema(fields, &md)
}
