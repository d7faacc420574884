package columnar

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"hash"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// written is a file that another program wrote, as pyarrow reads it.
type written struct {
	File    string
	Rows    int64
	Columns []struct{ Name, Type, Kind, SHA256 string }
}

// TestAsPyarrowReads has files written by pyarrow, pandas, polars, DuckDB and
// fastparquet in many settings, and compares each cell with what pyarrow reads.
func TestAsPyarrowReads(t *testing.T) {
	venv := os.Getenv("TOKENFORK_VENV")
	if venv == "" {
		venv = filepath.Join("..", "..", ".venv")
	}
	dir := t.TempDir()
	cmd := exec.Command(filepath.Join(venv, "bin", "python"), "testdata/matrix.py", dir)
	var problems bytes.Buffer
	cmd.Stderr = &problems
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatalf("matrix.py: %v (the Python environment is made by scripts/setup-vllm)", err)
	}
	files, cells := 0, int64(0)
	for lines := bufio.NewScanner(out); lines.Scan(); files++ {
		var w written
		if err := json.Unmarshal(lines.Bytes(), &w); err != nil {
			t.Fatalf("%v in %s", err, lines.Text())
		}
		cells += compareWritten(t, filepath.Join(dir, w.File), &w)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("matrix.py: %v\n%s", err, problems.String())
	}
	if files < 213 || cells < 18e6 {
		t.Errorf("only %d files and %d cells were compared", files, cells)
	}
	t.Logf("%d files, %d cells", files, cells)
}

func compareWritten(t *testing.T, name string, w *written) (cells int64) {
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	in, err := openWritten(f)
	if err != nil {
		t.Errorf("%s: %v", w.File, err)
		return 0
	}
	if in.Rows != w.Rows || len(in.Columns) != len(w.Columns) {
		t.Errorf("%s: %d rows of %d columns, want %d of %d", w.File, in.Rows, len(in.Columns), w.Rows, len(w.Columns))
		return 0
	}
	for c, want := range w.Columns {
		got := in.Columns[c]
		if got.Name != want.Name || kindName(got.Kind) != want.Kind {
			t.Errorf("%s: column %s is %s, read as %q; pyarrow: %s %s, %q", w.File, got.Name, got.Type, kindName(got.Kind), want.Name, want.Type, want.Kind)
			continue
		}
		if want.Kind == "" {
			continue
		}
		rows, sum, err := digest(in, c)
		if err != nil {
			t.Errorf("%s: column %s (%s): %v", w.File, want.Name, want.Type, err)
			continue
		}
		if rows != w.Rows || sum != want.SHA256 {
			t.Errorf("%s: column %s (%s): %d of %d rows, or other cells than pyarrow reads", w.File, want.Name, want.Type, rows, w.Rows)
		}
		cells += rows
	}
	return cells
}

func openWritten(f *os.File) (*Input, error) {
	switch filepath.Ext(f.Name()) {
	case ".parquet":
		return OpenParquetInput(f)
	case ".stream":
		return OpenArrowStream(f)
	}
	return OpenArrowInput(f)
}

func kindName(k Kind) string {
	switch k {
	case Unread:
		return ""
	case Whole:
		return "whole"
	case Text:
		return "text"
	case Nested:
		return "nested"
	}
	return "float"
}

// digest is the SHA-256 of a column's cells, as matrix.py makes it.
func digest(in *Input, column int) (rows int64, sum string, err error) {
	h := sha256.New()
	for b, err := range in.Batches([]int{column}, InputRows) {
		if err != nil {
			return rows, "", err
		}
		rows += int64(b.Rows)
		switch in.Columns[column].Kind {
		case Whole:
			hashNumbers(h, b.Whole(0), func(v int64) uint64 { return uint64(v) })
		case Text, Nested:
			for _, s := range b.Text(0) {
				h.Write(append(binary.LittleEndian.AppendUint32(nil, uint32(len(s))), s...))
			}
		default:
			hashNumbers(h, b.Floats(0), func(v float64) uint64 {
				if v != v {
					return 0x7ff8000000000000
				}
				return math.Float64bits(v)
			})
		}
		b.Release()
	}
	return rows, hex.EncodeToString(h.Sum(nil)), nil
}

func hashNumbers[T any](h hash.Hash, values []T, bits func(T) uint64) {
	b := make([]byte, 0, 8*len(values))
	for _, v := range values {
		b = binary.LittleEndian.AppendUint64(b, bits(v))
	}
	h.Write(b)
}
