package columnar

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/apache/arrow/go/v15/parquet"
	"github.com/apache/arrow/go/v15/parquet/compress"
	"github.com/apache/arrow/go/v15/parquet/pqarrow"
)

// wide has a column of every kind.
type wide struct {
	ID      string    `col:"id"`
	Plain   string    `col:"plain"`
	Small   int32     `col:"small"`
	N       int64     `col:"n"`
	Real    float64   `col:"real"`
	Truth   bool      `col:"truth"`
	Flag    *bool     `col:"flag"`
	Maybe   *float64  `col:"maybe"`
	Count   *int64    `col:"count"`
	Few     *int32    `col:"few"`
	Note    *string   `col:"note"`
	IDs     []int32   `col:"ids"`
	Runs    []int64   `col:"runs"`
	Reals   []float64 `col:"reals"`
	Words   []string  `col:"words"`
	Never   *string   `col:"never"`
	Nowhere []string  `col:"nowhere"` // of numbers, the library gives a smallest value of none
}

var awkward = []string{"", " lead", "a,b", "a\"b", "line\nend", "\r", `\.`, "é…", "\u00a0x", "\u2028", "<&>", "\x7f", "\x00", "plain", "plain", "plain", "\xff\xfe"}

func randomWide(r *rand.Rand, n int) []wide {
	text := func() string { return awkward[r.IntN(len(awkward))] }
	rows := make([]wide, n)
	for i := range rows {
		w := &rows[i]
		*w = wide{ID: strconv.Itoa(r.IntN(50) - 25), Plain: text(), Small: r.Int32(), N: -r.Int64(), Real: r.NormFloat64() * math.Pow(10, float64(r.IntN(60)-30)), Truth: r.IntN(2) == 0}
		if r.IntN(3) > 0 {
			w.Flag, w.Maybe, w.Count, w.Few, w.Note = ptr(r.IntN(2) == 0), ptr(r.Float64()), ptr(r.Int64()), ptr(int32(i)), ptr(text())
		}
		// Enough elements: the library leaves a list's values out of the statistics where
		// there are as many as null lists.
		for range r.IntN(4) / 3 * (10 + r.IntN(4)) {
			w.IDs, w.Runs, w.Reals, w.Words = append(w.IDs, r.Int32()), append(w.Runs, r.Int64()), append(w.Reals, r.Float64()), append(w.Words, text())
		}
		if r.IntN(9) == 0 {
			w.IDs, w.Words = []int32{}, []string{}
		}
	}
	return rows
}

// byLibrary builds a batch cell by cell with Arrow's own builders.
func byLibrary(t *testing.T, s *arrow.Schema, cols []column, rows []wide) arrow.Record {
	t.Helper()
	b := array.NewRecordBuilder(memory.DefaultAllocator, s)
	for i := range rows {
		for k, c := range cols {
			appendByLibrary(t, b.Field(k), reflect.ValueOf(rows[i]).Field(c.index))
		}
	}
	return b.NewRecord()
}

func appendByLibrary(t *testing.T, b array.Builder, v reflect.Value) {
	t.Helper()
	if k := v.Kind(); (k == reflect.Pointer || k == reflect.Slice) && v.IsNil() {
		b.AppendNull()
		return
	}
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	switch b := b.(type) {
	case *array.BooleanBuilder:
		b.Append(v.Bool())
	case *array.Int32Builder:
		b.Append(int32(v.Int()))
	case *array.Int64Builder:
		if v.Kind() == reflect.String {
			n, err := strconv.ParseInt(v.String(), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			b.Append(n)
			return
		}
		b.Append(v.Int())
	case *array.Float64Builder:
		b.Append(v.Float())
	case *array.StringBuilder:
		b.Append(v.String())
	case *array.ListBuilder:
		b.Append(true)
		for i := range v.Len() {
			appendByLibrary(t, b.ValueBuilder(), v.Index(i))
		}
	}
}

// libraryFile writes rows as the library alone does.
func libraryFile(t *testing.T, format string, rows []wide, opts []Option) []byte {
	t.Helper()
	var b bytes.Buffer
	if format == CSV {
		libraryCSV(t, &b, rows)
		return b.Bytes()
	}
	columns, sink := NewColumns[wide](opts...), batchSink(nil)
	if format == Parquet {
		props := parquet.NewWriterProperties(parquet.WithCompression(compress.Codecs.Zstd), parquet.WithCreatedBy("tokenfork"),
			parquet.WithDataPageVersion(parquet.DataPageV2), parquet.WithDictionaryPageSizeLimit(math.MaxInt64))
		w, err := pqarrow.NewFileWriter(columns.schema, struct{ io.Writer }{&b}, props, pqarrow.NewArrowWriterProperties(pqarrow.WithStoreSchema()))
		if err != nil {
			t.Fatal(err)
		}
		sink = w
	} else {
		w, err := NewArrowWriter[wide](&b, opts...)
		if err != nil {
			t.Fatal(err)
		}
		sink = w.(*batchWriter[wide]).sink
	}
	for from := 0; from == 0 || from < len(rows); from += BatchSize {
		if err := sink.Write(byLibrary(t, columns.schema, columns.cols, rows[from:min(from+BatchSize, len(rows))])); err != nil {
			t.Fatal(err)
		}
	}
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func libraryCSV(t *testing.T, b io.Writer, rows []wide) {
	t.Helper()
	w := csv.NewWriter(b)
	cells := make([]string, 0, 20)
	for _, c := range columnsOf[wide]() {
		cells = append(cells, c.name)
	}
	for i := -1; i < len(rows); i++ {
		if i >= 0 {
			v := reflect.ValueOf(rows[i])
			for k := range v.NumField() {
				cells[k] = cellByLibrary(v.Field(k))
			}
		}
		if err := w.Write(cells); err != nil {
			t.Fatal(err)
		}
	}
	w.Flush()
}

func cellByLibrary(v reflect.Value) string {
	switch v.Kind() {
	case reflect.Pointer, reflect.Slice:
		if v.IsNil() {
			return ""
		}
		if v.Kind() == reflect.Slice {
			return jsonText(v.Interface())
		}
		return cellByLibrary(v.Elem())
	case reflect.Float64:
		return strconv.FormatFloat(v.Float(), 'g', -1, 64)
	}
	return fmt.Sprint(v.Interface())
}

// TestSameBytesAsLibrary writes tables of many lengths in three ways: by the
// library's builders, row by row, and from columns that were kept as bytes in
// pieces of any size.
func TestSameBytesAsLibrary(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	opts := []Option{AsInt64("id"), Metadata(map[string]string{"k": "v"})}
	for _, n := range []int{0, 1, 5, 9, 17, 32, 33, 300, 511, 513, 1100, BatchSize, BatchSize + 777} {
		rows := randomWide(r, n)
		for _, format := range []string{Arrow, Parquet, CSV} {
			want := libraryFile(t, format, rows, opts)
			if format == Parquet {
				got := rowByRow(t, format, rows, opts)
				sameButChecksums(t, fmt.Sprintf("Parquet of %d rows", n), got, want)
				want = got
			}
			if got := rowByRow(t, format, rows, opts); !bytes.Equal(got, want) {
				t.Errorf("%s of %d rows, row by row: %d bytes, want %d, from byte %d on", format, n, len(got), len(want), firstDifference(got, want))
			}
			if got := byColumns(t, r, format, rows, opts); !bytes.Equal(got, want) {
				t.Errorf("%s of %d rows, by columns: %d bytes, want %d, from byte %d on", format, n, len(got), len(want), firstDifference(got, want))
			}
		}
	}
}

func firstDifference(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

func rowByRow(t *testing.T, format string, rows []wide, opts []Option) []byte {
	t.Helper()
	open := map[string]func(io.Writer, ...Option) (Writer[wide], error){Arrow: NewArrowWriter[wide], Parquet: NewParquetWriter[wide], CSV: NewCSVWriter[wide]}[format]
	return write(t, rows, func(b *bytes.Buffer) (Writer[wide], error) { return open(b, opts...) }).Bytes()
}

func byColumns(t *testing.T, r *rand.Rand, format string, rows []wide, opts []Option) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := NewColumnsWriter[wide](format, &b, opts...)
	if err != nil {
		t.Fatal(err)
	}
	batch, piece, view := NewColumns[wide](opts...), NewColumns[wide](opts...), NewColumns[wide](opts...)
	write := func() {
		batch.Seal()
		if err := w.WriteColumns(batch); err != nil {
			t.Fatal(err)
		}
		again, err := batch.Rows()
		if err != nil {
			t.Fatal(err)
		}
		done := len(rows) - len(again)
		if !reflect.DeepEqual(again, rows[:len(again)]) {
			t.Fatalf("%d rows are not what they were", len(again))
		}
		rows = rows[len(rows)-done:]
		batch.Reset()
	}
	for at := 0; at < len(rows); {
		n := min(1+r.IntN(500), len(rows)-at)
		piece.Reset()
		if err := piece.Append(rows[at : at+n]); err != nil {
			t.Fatal(err)
		}
		view.View(piece.Encode(nil))
		if !view.Equal(piece) {
			t.Fatal("encoded rows are others")
		}
		for from := 0; from < n; {
			to := min(n, from+BatchSize-batch.Len())
			if err := batch.AppendColumns(view, from, to); err != nil {
				t.Fatal(err)
			}
			from = to
			if batch.Len() == BatchSize {
				at -= BatchSize
				write()
			}
		}
		at += n
	}
	if batch.Len() > 0 {
		write()
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestParquetPages has lists that fill several pages and some that are longer than
// a batch of levels.
func TestParquetPages(t *testing.T) {
	type row struct {
		IDs   []int32  `col:"ids"`
		Words []string `col:"words"`
	}
	rows := make([]row, 3000)
	for i := range rows {
		for k := range 250 {
			rows[i].IDs = append(rows[i].IDs, int32(i*1000+k))
		}
		if i%1000 == 3 {
			rows[i] = row{IDs: make([]int32, 5000), Words: strings.Split(strings.Repeat("a b ", 3000), " ")}
		}
	}
	var b bytes.Buffer
	w, err := NewParquetWriter[row](&b)
	if err != nil {
		t.Fatal(err)
	}
	for i := range rows {
		if err := w.Write(&rows[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil || w.(*parquetWriter[row]).chunks[0].count < 2 {
		t.Fatalf("%d pages, %v", w.(*parquetWriter[row]).chunks[0].count, err)
	}
	r, err := ReadParquet[row](bytes.NewReader(b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	var got []row
	for x, err := range r.Rows() {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, *x)
	}
	if !reflect.DeepEqual(got, rows) {
		t.Errorf("%d rows came back, not the %d that were written", len(got), len(rows))
	}
}

func TestColumnsEqual(t *testing.T) {
	make := func(change func(*wide)) *Columns[wide] {
		c := NewColumns[wide]()
		rows := randomWide(rand.New(rand.NewPCG(5, 6)), 20)
		change(&rows[7])
		if err := c.Append(rows); err != nil {
			t.Fatal(err)
		}
		return c
	}
	a := make(func(*wide) {})
	for name, change := range map[string]func(*wide){
		"plain": func(w *wide) { w.Plain += "x" }, "small": func(w *wide) { w.Small++ }, "ids": func(w *wide) { w.IDs = append(w.IDs, 1) },
		"words": func(w *wide) { w.Words = []string{"another"} }, "never": func(w *wide) { w.Never = new(string) }, "truth": func(w *wide) { w.Truth = !w.Truth },
	} {
		b := make(change)
		if a.Equal(b) || !a.Equal(b, name) || a.Equal(b, "n") {
			t.Errorf("a change of %s", name)
		}
	}
	if !a.Equal(make(func(*wide) {})) || a.Equal(NewColumns[wide]()) {
		t.Error("equal rows are not, or others are")
	}
	if err := NewColumns[wide](AsInt64("id")).Append([]wide{{ID: strings.Repeat("9", 30)}}); err == nil {
		t.Error("a text is no number, and no error")
	}
}
