package columnar

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/float16"
	"github.com/apache/arrow/go/v15/arrow/ipc"
	"github.com/apache/arrow/go/v15/arrow/memory"
)

var mixed = arrow.NewSchema([]arrow.Field{
	{Name: "i32", Type: arrow.PrimitiveTypes.Int32, Nullable: true},
	{Name: "nothing", Type: arrow.Null},
	{Name: "list", Type: arrow.ListOf(arrow.StructOf(arrow.Field{Name: "x", Type: arrow.BinaryTypes.String}, arrow.Field{Name: "y", Type: arrow.FixedWidthTypes.Boolean}))},
	{Name: "u64", Type: arrow.PrimitiveTypes.Uint64},
	{Name: "text", Type: arrow.BinaryTypes.String, Nullable: true},
	{Name: "bool", Type: arrow.FixedWidthTypes.Boolean, Nullable: true},
	{Name: "f64", Type: arrow.PrimitiveTypes.Float64, Nullable: true},
	{Name: "large", Type: arrow.BinaryTypes.LargeString},
	{Name: "f16", Type: arrow.FixedWidthTypes.Float16},
	{Name: "i8", Type: arrow.PrimitiveTypes.Int8, Nullable: true},
}, nil)

// mixedBatch is a batch of many types, every seventh row null where it can be.
func mixedBatch(rows int) arrow.Record {
	b := array.NewRecordBuilder(memory.DefaultAllocator, mixed)
	for i := range rows {
		null := i%7 == 3
		appendOr(null, b.Field(0), func() { b.Field(0).(*array.Int32Builder).Append(int32(i)) })
		b.Field(1).AppendNull()
		list := b.Field(2).(*array.ListBuilder)
		list.Append(true)
		for range i % 3 {
			x := list.ValueBuilder().(*array.StructBuilder)
			x.Append(true)
			x.FieldBuilder(0).(*array.StringBuilder).Append("x")
			x.FieldBuilder(1).(*array.BooleanBuilder).Append(true)
		}
		b.Field(3).(*array.Uint64Builder).Append(uint64(i) << 20)
		appendOr(null, b.Field(4), func() { b.Field(4).(*array.StringBuilder).Append(strings.Repeat("é", i%5)) })
		appendOr(null, b.Field(5), func() { b.Field(5).(*array.BooleanBuilder).Append(i%2 == 0) })
		appendOr(null, b.Field(6), func() { b.Field(6).(*array.Float64Builder).Append(float64(i) / 3) })
		b.Field(7).(*array.LargeStringBuilder).Append(fmt.Sprint(i))
		b.Field(8).(*array.Float16Builder).Append(float16.New(float32(i % 100)))
		appendOr(null, b.Field(9), func() { b.Field(9).(*array.Int8Builder).Append(int8(i)) })
	}
	return b.NewRecord()
}

func appendOr(null bool, b array.Builder, value func()) {
	if null {
		b.AppendNull()
		return
	}
	value()
}

// cells are each column's cells, as text.
func cells(t *testing.T, in *Input, columns []int) [][]string {
	t.Helper()
	all := make([][]string, len(columns))
	for b, err := range in.Batches(columns) {
		if err != nil {
			t.Fatal(err)
		}
		for k, c := range columns {
			whole, float, text := make([]int64, b.Rows), make([]float64, b.Rows), make([]string, b.Rows)
			switch in.Columns[c].Kind {
			case Whole:
				b.Wholes(k, whole, -99)
			case Text:
				b.Texts(k, text)
			default:
				b.Floats(k, float)
			}
			for i := range b.Rows {
				all[k] = append(all[k], fmt.Sprint(whole[i], float[i], text[i]))
			}
		}
		b.Release()
	}
	return all
}

func create(t *testing.T, name string) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// TestArrowFileAsTheLibrary reads batches longer than what is read at once, and
// compares with what the library reads.
func TestArrowFileAsTheLibrary(t *testing.T) {
	columns := []int{0, 3, 4, 6, 7, 8, 9}
	for name, opts := range map[string][]ipc.Option{"plain": nil, "lz4": {ipc.WithLZ4()}, "zstd": {ipc.WithZstd()}} {
		t.Run(name, func(t *testing.T) {
			f, stream := create(t, "t.arrow"), create(t, "t.arrows")
			opts := append([]ipc.Option{ipc.WithSchema(mixed)}, opts...)
			fw, err := ipc.NewFileWriter(f, opts...)
			if err != nil {
				t.Fatal(err)
			}
			sw := ipc.NewWriter(stream, opts...)
			for _, rows := range []int{2*batchRows + 77, 0, 5, batchRows} {
				batch := mixedBatch(rows).NewSlice(int64(min(rows, 3)), int64(rows)) // text that begins at an offset
				for _, w := range []interface{ Write(arrow.Record) error }{fw, sw} {
					if err := w.Write(batch); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := errors.Join(fw.Close(), sw.Close()); err != nil {
				t.Fatal(err)
			}
			if _, err := stream.Seek(0, io.SeekStart); err != nil {
				t.Fatal(err)
			}
			library, err := ipc.NewReader(stream)
			if err != nil {
				t.Fatal(err)
			}
			want := cells(t, &Input{Columns: inputColumns(mixed), open: picked(library.Read)}, columns)
			if len(want[0]) < 3*batchRows {
				t.Errorf("%d rows", len(want[0]))
			}
			for kind, open := range map[string]func() (*Input, error){
				"file":   func() (*Input, error) { return OpenArrowInput(f) },
				"stream": func() (*Input, error) { return OpenArrowStream(stream) },
			} {
				in, err := open()
				if err != nil {
					t.Fatal(err)
				}
				got := cells(t, in, columns)
				for k, c := range columns {
					if !slices.Equal(got[k], want[k]) {
						t.Errorf("%s: column %s differs", kind, in.Columns[c].Name)
					}
				}
			}
		})
	}
}

// TestArrowStreamCut cuts a stream at any place: without the marker of its end it
// is whole, between messages too, and an error anywhere else.
func TestArrowStreamCut(t *testing.T) {
	f := create(t, "t.arrows")
	w := ipc.NewWriter(f, ipc.WithSchema(mixed))
	var ends []int64
	for range 2 {
		if err := w.Write(mixedBatch(50)); err != nil {
			t.Fatal(err)
		}
		at, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, at)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	rows := map[int64]int{ends[0]: 50, ends[1]: 100, ends[1] + 8: 100}
	for at := ends[1] + 8; at >= ends[0]; at -= 4 {
		cut := create(t, "cut.arrows")
		if _, err := cut.Write(whole[:at]); err != nil {
			t.Fatal(err)
		}
		got, err := countRows(cut)
		if want, ok := rows[at]; ok != (err == nil) || ok && got != want {
			t.Errorf("cut at %d of %d, batches end at %d: %d rows, %v", at, len(whole), ends, got, err)
		}
	}
}

// countRows reads a stream.
func countRows(f *os.File) (rows int, err error) {
	in, err := OpenArrowStream(f)
	if err != nil {
		return 0, err
	}
	for b, err := range in.Batches([]int{0, 4, 9}) {
		if err != nil {
			return rows, err
		}
		rows += b.Rows
		b.Release()
	}
	return rows, nil
}

// A stream of which a byte is turned, after the schema, which the library reads,
// gives an error or rows, and comes to an end.
func TestArrowStreamGarbled(t *testing.T) {
	f := create(t, "t.arrows")
	w := ipc.NewWriter(f, ipc.WithSchema(mixed))
	for range 3 {
		if err := w.Write(mixedBatch(20)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	batches, err := messages(f)
	if err != nil || len(batches) != 3 {
		t.Fatal(batches, err)
	}
	complaints := 0
	for at := batches[0].at; at < int64(len(whole)); at += 5 {
		garbled := create(t, "garbled.arrows")
		if _, err := garbled.WriteAt(whole, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := garbled.WriteAt([]byte{whole[at] ^ 0x80}, at); err != nil {
			t.Fatal(err)
		}
		if _, err := countRows(garbled); err != nil {
			complaints++
		}
		garbled.Close()
	}
	if complaints < 30 {
		t.Errorf("%d of %d garbled streams complained about", complaints, len(whole))
	}
}

// TestArrowFileDamaged cuts a file and garbles its metadata: an error, no panic.
func TestArrowFileDamaged(t *testing.T) {
	f := create(t, "t.arrow")
	w, err := ipc.NewFileWriter(f, ipc.WithSchema(mixed))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Write(mixedBatch(100)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	first := bytes.Index(whole[200:], []byte{0xff, 0xff, 0xff, 0xff}) + 200 // the batch's metadata
	garbled := bytes.Clone(whole)
	for i := first + 8; i < first+100; i++ {
		garbled[i] = 0x7f
	}
	if _, err := f.WriteAt(garbled, 0); err != nil {
		t.Fatal(err)
	}
	in, err := OpenArrowInput(f)
	if err != nil {
		t.Fatal(err)
	}
	var last error
	for _, err := range in.Batches([]int{0, 4}) {
		last = err
	}
	if last == nil || !strings.Contains(last.Error(), "its metadata is damaged") {
		t.Errorf("got %v", last)
	}
}
