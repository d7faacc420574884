package columnar

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go/encoding/thrift"
	"github.com/parquet-go/parquet-go/format"
)

// sameButChecksums compares a Parquet file with the library's: footers, headers of pages
// and pages are equal but for checksums, and for sizes and places, which come with them.
func sameButChecksums(t *testing.T, what string, got, library []byte) {
	t.Helper()
	a, b := pagesOf(t, got, true), pagesOf(t, library, false)
	if len(a) != len(b) {
		t.Errorf("%s: %d pages and footer, want %d", what, len(a), len(b))
		return
	}
	for i := range a {
		if !reflect.DeepEqual(a[i], b[i]) {
			t.Errorf("%s: part %d of %d is\n%s\nwant\n%s", what, i, len(a), short(a[i]), short(b[i]))
			return
		}
	}
}

func short(v any) string { s := fmt.Sprintf("%+v", v); return s[:min(len(s), 2000)] }

// pagesOf lists a file's pages, headers first, and its footer. Sizes that the footer
// states are those of the pages, and each page has its checksum, or none has.
func pagesOf(t *testing.T, b []byte, summed bool) (all []any) {
	t.Helper()
	footer := b[len(b)-8-int(binary.LittleEndian.Uint32(b[len(b)-8:])) : len(b)-8]
	var meta format.FileMetaData
	decode(t, footer, &meta)
	for g := range meta.RowGroups {
		group := &meta.RowGroups[g]
		for c := range group.Columns {
			m := &group.Columns[c].MetaData
			at := m.DataPageOffset
			if m.DictionaryPageOffset > 0 {
				at = m.DictionaryPageOffset
			}
			unpacked := int64(0)
			for end := at + m.TotalCompressedSize; at < end; {
				size, err := thriftSize(b[at:])
				if err != nil {
					t.Fatal(err)
				}
				var head format.PageHeader
				decode(t, b[at:at+int64(size)], &head)
				at += int64(size)
				page := b[at : at+int64(head.CompressedPageSize)]
				if summed != (uint32(head.CRC) == crc32.ChecksumIEEE(page)) || !summed && head.CRC != 0 {
					t.Errorf("a page at byte %d has the checksum %x", at, head.CRC)
				}
				at += int64(len(page))
				unpacked += int64(size) + int64(head.UncompressedPageSize)
				if at > end {
					t.Errorf("a page ends at byte %d, its column at %d", at, end)
				}
				head.CRC = 0
				all = append(all, head, string(page))
			}
			if unpacked != m.TotalUncompressedSize {
				t.Errorf("column %d has %d bytes unpacked, the footer says %d", c, unpacked, m.TotalUncompressedSize)
			}
			group.Columns[c].FileOffset, m.TotalCompressedSize, m.TotalUncompressedSize, m.DataPageOffset, m.DictionaryPageOffset = 0, 0, 0, 0, 0
		}
		group.FileOffset, group.TotalByteSize, group.TotalCompressedSize = 0, 0, 0
	}
	return append(all, meta)
}

func decode(t *testing.T, b []byte, to any) {
	t.Helper()
	var p thrift.CompactProtocol
	if err := thrift.NewDecoder(p.NewReaderFromBytes(b)).Decode(to); err != nil {
		t.Fatal(err)
	}
}

// A table whose columns are known late is read back, of it a page as it was written.
func TestParquetRows(t *testing.T) {
	var id int64
	var token int32
	var text string
	var measure *float64
	var b bytes.Buffer
	w, err := NewParquetRows(&b, []Cell{{"id", &id}, {"token", &token}, {"text", &text}, {"measure", &measure}})
	if err != nil {
		t.Fatal(err)
	}
	type row struct {
		ID      int64    `col:"id"`
		Token   int32    `col:"token"`
		Text    string   `col:"text"`
		Measure *float64 `col:"measure"`
	}
	var want []row
	for i := range BatchSize + 5 {
		id, token, text, measure = int64(i), int32(-i), strings.Repeat("é", i%3), nil
		if i%4 > 0 {
			x := math.Sqrt(float64(i))
			measure = &x
		}
		want = append(want, row{id, token, text, measure})
		if err := w.Write(); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	pagesOf(t, b.Bytes(), true)
	r, err := ReadParquet[row](bytes.NewReader(b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	i := 0
	for got, err := range r.Rows() {
		if err != nil || !reflect.DeepEqual(*got, want[i]) {
			t.Fatalf("row %d: %+v, want %+v, %v", i, got, want[i], err)
		}
		i++
	}
	if i != len(want) {
		t.Errorf("%d rows of %d", i, len(want))
	}
	if _, err := NewParquetRows(io.Discard, []Cell{{"a", new(uint8)}}); err == nil {
		t.Error("no error for a cell of a type that no column has")
	}
}
