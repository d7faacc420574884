package columnar

import (
	"bytes"
	"encoding/csv"
	"errors"
	"reflect"
	"strings"
	"testing"
)

type row struct {
	ID    string    `col:"id"`
	N     int64     `col:"n"`
	Maybe *float64  `col:"maybe"`
	Flag  *bool     `col:"flag"`
	IDs   []int32   `col:"ids"`
	Words []string  `col:"words"`
	Real  []float64 `col:"real"`
	Note  *string   `col:"note"`
}

func ptr[T any](v T) *T { return &v }

var rows = []row{
	{ID: "1", N: 1 << 40, Maybe: ptr(0.1), Flag: ptr(true), IDs: []int32{1, 2}, Words: []string{"a\"b", "é,\n"}, Real: []float64{}, Note: ptr("")},
	{ID: "-7"},
	{ID: "3", N: -1, IDs: []int32{}, Note: ptr("x")},
}

func write[T any](t *testing.T, rows []T, open func(b *bytes.Buffer) (Writer[T], error)) *bytes.Buffer {
	t.Helper()
	b := new(bytes.Buffer)
	w, err := open(b)
	if err != nil {
		t.Fatal(err)
	}
	for i := range rows {
		if err := w.Write(&rows[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b
}

func collect(t *testing.T, r *Reader[row], err error) []row {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	var got []row
	for v, err := range r.Rows() {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, *v)
	}
	return got
}

func TestRoundTrip(t *testing.T) {
	for _, opts := range [][]Option{nil, {AsInt64("id")}, {BatchRows(2), Metadata(map[string]string{"k": "v"})}} {
		b := write(t, rows, func(b *bytes.Buffer) (Writer[row], error) { return NewStreamWriter[row](b, opts...) })
		r, err := ReadStream[row](bytes.NewReader(b.Bytes()))
		if got := collect(t, r, err); !reflect.DeepEqual(got, rows) {
			t.Errorf("stream: got %+v", got)
		}
		b = write(t, rows, func(b *bytes.Buffer) (Writer[row], error) { return NewParquetWriter[row](b, opts...) })
		r, err = ReadParquet[row](bytes.NewReader(b.Bytes()))
		if got := collect(t, r, err); !reflect.DeepEqual(got, rows) {
			t.Errorf("parquet: got %+v", got)
		}
	}
}

func TestStreamTruncated(t *testing.T) {
	b := write(t, rows, func(b *bytes.Buffer) (Writer[row], error) { return NewStreamWriter[row](b) })
	for n := range b.Len() - 8 { // without the end marker the rows are whole
		r, err := ReadStream[row](bytes.NewReader(b.Bytes()[:n]))
		if err != nil {
			continue
		}
		var last error
		count := 0
		for _, err := range r.Rows() {
			last = err
			count++
		}
		if last == nil && count == len(rows) {
			t.Fatalf("cut at %d of %d bytes read as whole", n, b.Len())
		}
	}
}

func TestCSV(t *testing.T) {
	b := write(t, rows, func(b *bytes.Buffer) (Writer[row], error) { return NewCSVWriter[row](b, Without("real")) })
	want := "id,n,maybe,flag,ids,words,note\n" +
		"1,1099511627776,0.1,true,\"[1,2]\",\"[\"\"a\\\"\"b\"\",\"\"é,\\n\"\"]\",\n" +
		"-7,0,,,,,\n" +
		"3,-1,,,[],,x\n"
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b, want)
	}
}

// Text that a spreadsheet would take for a formula, and nothing else, gets a '.
func TestCSVSafe(t *testing.T) {
	type cell struct {
		ID    string   `col:"id"`
		Text  string   `col:"text"`
		Note  *string  `col:"note"`
		N     int64    `col:"n"`
		Words []string `col:"words"`
	}
	for text, want := range map[string]string{"=1+1": "'=1+1", "+1": "'+1", "-2+3": "'-2+3", "@SUM(A1)": "'@SUM(A1)", "＝1": "'＝1", "\t=1": "'\t=1", "\n=1": "'\n=1",
		"": "", "'=1": "'=1", " = 1": " = 1", "a=1": "a=1", "\xff": "\xff", "é": "é"} {
		var b bytes.Buffer
		w, err := NewCSVWriter[cell](&b, CSVSafe(), AsInt64("id"))
		if err != nil {
			t.Fatal(err)
		}
		c := cell{"-7", text, &text, -3, []string{text}}
		if err := errors.Join(w.Write(&c), w.Write(&c), w.Close()); err != nil {
			t.Fatal(err)
		}
		rows, err := csv.NewReader(&b).ReadAll()
		if err != nil || len(rows) != 3 {
			t.Fatalf("%q: %v, %v", text, rows, err)
		}
		for _, got := range rows[1:] {
			if got[0] != "-7" || got[1] != want || got[2] != want || got[3] != "-3" || !strings.HasPrefix(got[4], "[") {
				t.Errorf("%q: %q", text, got)
			}
		}
	}
}

func TestMissingColumn(t *testing.T) {
	b := write(t, rows, func(b *bytes.Buffer) (Writer[row], error) { return NewStreamWriter[row](b, Without("note")) })
	if _, err := ReadStream[row](b); err == nil || !strings.Contains(err.Error(), `"note"`) {
		t.Errorf("got %v", err)
	}
}

func TestAsInt64RefusesText(t *testing.T) {
	w, err := NewArrowWriter[row](new(bytes.Buffer), AsInt64("id"))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Write(&row{ID: "x"}); err == nil || !strings.Contains(err.Error(), "id") {
		t.Errorf("got %v", err)
	}
}

func TestOptionalColumn(t *testing.T) {
	type part struct {
		Note  *string `col:"note,optional"`
		N     int64   `col:"n"`
		Words []string
		IDs   []int32 `col:"ids"`
	}
	for _, options := range [][]Option{nil, {Without("note")}} {
		b := write(t, rows, func(b *bytes.Buffer) (Writer[row], error) { return NewParquetWriter[row](b, options...) })
		r, err := ReadParquet[part](bytes.NewReader(b.Bytes()))
		if err != nil {
			t.Fatal(err)
		}
		var got []part
		for v, err := range r.Rows() {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, *v)
		}
		want := []part{{Note: rows[0].Note, N: 1 << 40, IDs: []int32{1, 2}}, {}, {Note: rows[2].Note, N: -1, IDs: []int32{}}}
		if options != nil {
			want[0].Note, want[2].Note = nil, nil
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}
