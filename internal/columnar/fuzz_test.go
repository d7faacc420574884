package columnar

import (
	"bytes"
	"runtime"
	"testing"
)

// fuzzRow has a column of each kind.
type fuzzRow struct {
	ID     string    `col:"id"`
	Number *int64    `col:"number"`
	List   []int32   `col:"list"`
	Floats []float64 `col:"floats"`
	Match  *bool     `col:"match"`
}

func fuzzRows(f testing.TB, open func(*bytes.Buffer) (Writer[fuzzRow], error)) []byte {
	f.Helper()
	var b bytes.Buffer
	w, err := open(&b)
	if err != nil {
		f.Fatal(err)
	}
	n, yes := int64(7), true
	for _, row := range []fuzzRow{{ID: "a", Number: &n, List: []int32{1, 2, 3}, Floats: []float64{0.5}, Match: &yes}, {ID: "", List: []int32{}}} {
		if err := w.Write(&row); err != nil {
			f.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	return b.Bytes()
}

// drain reads all that a reader gives.
func drain(r *Reader[fuzzRow], err error) (rows int) {
	if err != nil {
		return 0
	}
	for _, err := range r.Rows() {
		if err != nil {
			return rows
		}
		if rows++; rows > 1<<20 {
			return rows // a small file may well state many equal rows
		}
	}
	return rows
}

func parquetRows(f testing.TB) []byte {
	return fuzzRows(f, func(b *bytes.Buffer) (Writer[fuzzRow], error) { return NewParquetWriter[fuzzRow](b) })
}

func streamRows(f testing.TB) []byte {
	return fuzzRows(f, func(b *bytes.Buffer) (Writer[fuzzRow], error) { return NewStreamWriter[fuzzRow](b) })
}

// FuzzReadParquet: whatever a file holds, it is read or refused.
func FuzzReadParquet(f *testing.F) {
	f.Add(parquetRows(f))
	f.Fuzz(func(_ *testing.T, b []byte) { drain(ReadParquet[fuzzRow](bytes.NewReader(b))) })
}

// FuzzReadStream: whatever a stream holds, it is read or refused.
func FuzzReadStream(f *testing.F) {
	f.Add(streamRows(f))
	f.Fuzz(func(_ *testing.T, b []byte) { drain(ReadStream[fuzzRow](bytes.NewReader(b))) })
}

// Every byte of a small file changed in two ways, and the file cut before it: no panic,
// and no more memory than a few times what one buffer may have.
func TestDamagedFilesAreReadOrRefused(t *testing.T) {
	for name, read := range map[string]func([]byte) int{
		"Parquet": func(b []byte) int { return drain(ReadParquet[fuzzRow](bytes.NewReader(b))) },
		"stream":  func(b []byte) int { return drain(ReadStream[fuzzRow](bytes.NewReader(b))) },
	} {
		whole := map[string][]byte{"Parquet": parquetRows(t), "stream": streamRows(t)}[name]
		if n := read(whole); n != 2 {
			t.Fatalf("%s: %d rows of a sound file", name, n)
		}
		for at := range whole {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for _, flip := range []byte{1, 0xff} {
				bad := bytes.Clone(whole)
				bad[at] ^= flip
				read(bad)
			}
			read(whole[:at])
			runtime.ReadMemStats(&after)
			if n := after.TotalAlloc - before.TotalAlloc; n > 512<<20 {
				t.Errorf("%s, byte %d: %d MiB are allocated", name, at, n>>20)
			}
		}
	}
}
