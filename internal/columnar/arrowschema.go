package columnar

import (
	"fmt"
	"strings"
	"unicode/utf8"

	flatbuffers "github.com/google/flatbuffers/go"
)

// Types of Arrow's Schema.fbs, in its order.
const (
	arrowNull = iota + 1
	arrowInt
	arrowFloat
	arrowBinary
	arrowUtf8
	arrowBool
	arrowDecimal
	arrowDate
	arrowTime
	arrowTimestamp
	arrowInterval
	arrowList
	arrowStruct
	arrowUnion
	arrowFixedSizeBinary
	arrowFixedSizeList
	arrowMap
	arrowDuration
	arrowLargeBinary
	arrowLargeUtf8
	arrowLargeList
	arrowRunEndEncoded
	arrowBinaryView
	arrowUtf8View
	arrowListView
	arrowLargeListView
)

var arrowNames = [...]string{"no type", "null", "int", "float", "binary", "string", "bool", "decimal", "date", "time", "timestamp", "interval", "list", "struct",
	"union", "fixed-size binary", "fixed-size list", "map", "duration", "large binary", "large string", "large list", "run-end encoded", "binary view", "string view", "list view", "large list view"}

// arrowField is a column of an Arrow file or stream.
type arrowField struct {
	InputColumn
	arrowType
	dictionary bool
	id         int64     // of the dictionary
	entry      arrowType // of its entries; the field's own is that of the indexes

	schema fbTable
	node   int // the first of its own in a batch
	arrowLayout
}

// arrowType says how cells are stored.
type arrowType struct {
	kind    Kind
	width   int  // bytes of a cell, or of an offset in text; 0 for views
	views   bool // text as views
	convert func(dst *cells, b []byte) error
}

// arrowLayout is what a column takes in a batch.
type arrowLayout struct {
	nodes, buffers int
	viewColumns    int  // each with further buffers
	unknown        bool // it cannot be told
}

func (l *arrowLayout) add(m arrowLayout) {
	l.nodes += m.nodes
	l.buffers += m.buffers
	l.viewColumns += m.viewColumns
	l.unknown = l.unknown || m.unknown
}

// fbTable is a table of a flatbuffer.
type fbTable struct{ flatbuffers.Table }

func fbRoot(b []byte) fbTable {
	return fbTable{flatbuffers.Table{Bytes: b, Pos: flatbuffers.GetUOffsetT(b)}}
}

// slot is what the methods of flatbuffers.Table call the k-th field.
func slot(k int) flatbuffers.VOffsetT { return flatbuffers.VOffsetT(4 + 2*k) }

// table is the k-th field, a table or union; false if it is left out.
func (t fbTable) table(k int) (fbTable, bool) {
	o := flatbuffers.UOffsetT(t.Offset(slot(k)))
	if o == 0 {
		return fbTable{}, false
	}
	return fbTable{flatbuffers.Table{Bytes: t.Bytes, Pos: t.Indirect(o + t.Pos)}}, true
}

// vector is where the k-th field, a vector, begins, and its length.
func (t fbTable) vector(k int) (flatbuffers.UOffsetT, int) {
	o := flatbuffers.UOffsetT(t.Offset(slot(k)))
	if o == 0 {
		return 0, 0
	}
	return t.Vector(o), t.VectorLen(o)
}

// tables are the k-th field, a vector of tables.
func (t fbTable) tables(k int) []fbTable {
	at, n := t.vector(k)
	var all []fbTable
	for i := range n {
		all = append(all, fbTable{flatbuffers.Table{Bytes: t.Bytes, Pos: t.Indirect(at + flatbuffers.UOffsetT(4*i))}})
	}
	return all
}

func (t fbTable) text(k int) string {
	if o := flatbuffers.UOffsetT(t.Offset(slot(k))); o != 0 {
		return t.String(o + t.Pos)
	}
	return ""
}

// arrowFields reads a schema.
func arrowFields(schema fbTable) ([]arrowField, error) {
	if schema.GetInt16Slot(slot(0), 0) != 0 {
		return nil, notRead("big-endian Arrow files")
	}
	var fields []arrowField
	nodes := 0
	for _, t := range schema.tables(1) {
		f := arrowField{schema: t, node: nodes, arrowLayout: layoutOf(t, 0)}
		f.Name = t.text(0)
		nodes += f.nodes
		f.Type, f.arrowType = typeOf(t)
		if f.Kind = f.kind; isNested(t) {
			f.Kind = Nested
		}
		if strings.HasPrefix(f.Type, "no type") || !utf8.ValidString(f.Name) || strings.ContainsRune(f.Name, 0) {
			return nil, badArrow("the column %q is of %s", f.Name, f.Type)
		}
		if d, ok := t.table(4); ok {
			f.Type, f.dictionary, f.id, f.entry = "dictionary of "+f.Type, true, d.GetInt64Slot(slot(0), 0), f.arrowType
			f.arrowType = arrowType{kind: Whole, width: 4, convert: integers(4, false)}
			if index, ok := d.table(1); ok {
				f.width = int(index.GetInt32Slot(slot(0), 0)) / 8
				f.convert = integers(f.width, !index.GetBoolSlot(slot(1), false))
			}
			if w := f.width; w != 1 && w != 2 && w != 4 && w != 8 {
				return nil, badArrow("a dictionary with indexes of %d bytes", w)
			}
		}
		fields = append(fields, f)
	}
	return fields, nil
}

// typeOf names a field's type and says how its cells are read.
func typeOf(field fbTable) (name string, t arrowType) {
	id := int(field.GetByteSlot(slot(2), 0))
	if id >= len(arrowNames) {
		return fmt.Sprint("the unknown type ", id), t
	}
	name = arrowNames[id]
	p, _ := field.table(3)
	switch id {
	case arrowInt:
		bits, signed := int(p.GetInt32Slot(slot(0), 0)), p.GetBoolSlot(slot(1), false)
		name = fmt.Sprint("int", bits)
		if !signed {
			name = "u" + name
		}
		switch bits {
		case 8, 16, 32, 64:
			t = arrowType{kind: Whole, width: bits / 8, convert: integers(bits/8, !signed)}
		case 128: // of polars
		default:
			name = "no type of integers"
		}
	case arrowFloat:
		precision := min(uint(p.GetInt16Slot(slot(0), 0)), 2)
		name = [...]string{"float16", "float32", "float64"}[precision]
		t = [...]arrowType{{kind: Half, width: 2, convert: appendFloats16}, {kind: Single, width: 4, convert: appendFloats32}, {kind: Double, width: 8, convert: appendFloats64}}[precision]
	case arrowDecimal:
		scale, bits := int(p.GetInt32Slot(slot(1), 0)), int(p.GetInt32Slot(slot(2), 128))
		name = fmt.Sprintf("decimal%d(%d, %d)", bits, p.GetInt32Slot(slot(0), 0), scale)
		if scale < 0 || bits != 32 && bits != 64 && bits != 128 && bits != 256 {
			return name, t
		}
		t = arrowType{kind: Fraction, width: bits / 8}
		if scale == 0 {
			t.kind = Whole
		}
		t.convert = decimals(t.kind, t.width, scale, false)
	case arrowUtf8:
		t = arrowType{kind: Text, width: 4}
	case arrowLargeUtf8:
		t = arrowType{kind: Text, width: 8}
	case arrowUtf8View:
		t = arrowType{kind: Text, views: true}
	}
	return name, t
}

// layoutOf is what a field takes in a batch, its children too.
func layoutOf(field fbTable, depth int) arrowLayout {
	l := arrowLayout{nodes: 1, buffers: 2}
	if _, ok := field.table(4); ok {
		return l // the indexes of a dictionary
	}
	switch id := field.GetByteSlot(slot(2), 0); id {
	case arrowNull, arrowRunEndEncoded:
		l.buffers = 0
	case arrowStruct, arrowFixedSizeList:
		l.buffers = 1
	case arrowBinary, arrowUtf8, arrowLargeBinary, arrowLargeUtf8, arrowListView, arrowLargeListView:
		l.buffers = 3
	case arrowBinaryView, arrowUtf8View:
		l.viewColumns = 1
	case arrowUnion:
		p, _ := field.table(3)
		if l.buffers = 2; p.GetInt16Slot(slot(0), 0) == 0 { // sparse: no offsets
			l.buffers = 1
		}
	default:
		l.unknown = id == 0 || int(id) >= len(arrowNames)
	}
	if depth > 100 {
		l.unknown = true
		return l
	}
	for _, child := range field.tables(5) {
		l.add(layoutOf(child, depth+1))
	}
	return l
}
