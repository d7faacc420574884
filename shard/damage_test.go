package shard

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"tokenfork/internal/failure"
	"tokenfork/internal/table"
	"tokenfork/internal/table/tabletest"
)

var (
	damageN    = flag.Int("damage.n", 100, "damages to each file by TestDamagedTables")
	damageSeed = flag.Uint64("damage.seed", 1, "seed of the damages")
)

const damagedRows = 100

// maxTaken is what reading a damaged file of a few KiB may allocate, all in all.
const maxTaken = 256 << 20

// TestDamagedTables clears, flips and cuts at many places of tables in every
// format, compression and form. Each is refused or gives the same plan; where the
// file holds no checksums, cells of the damaged column may differ instead, but
// every row is there.
//
//	go test ./shard -run TestDamagedTables -damage.n 2000
func TestDamagedTables(t *testing.T) {
	dir := t.TempDir()
	var b strings.Builder
	if err := tabletest.Write(&b, tabletest.Config{Layout: "study", Rows: damagedRows, Tokens: 20, Vocab: 480, Mismatch: 0.11, Seed: 3}); err != nil {
		t.Fatal(err)
	}
	runPython(t, "testdata/damage.py", written(t, filepath.Join(dir, "table.csv"), b.String()), dir)
	os.Remove(filepath.Join(dir, "table.csv"))
	summed(t, dir)
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 25 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	d := &damagedTable{o: options(t, 500), r: rand.New(rand.NewPCG(*damageSeed, 1)), outcomes: map[string]int{}}
	for _, f := range files {
		d.sweep(t, filepath.Join(dir, f.Name()))
	}
}

// summed writes the CSV as zstd with a checksum.
func summed(t *testing.T, dir string) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(dir, "plain.csv"))
	if err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	written(t, filepath.Join(dir, "sums.csv.zst"), string(z.EncodeAll(content, nil)))
}

// damagedTable is a table that is damaged again and again.
type damagedTable struct {
	o        Options
	r        *rand.Rand
	name     string
	content  []byte // at hand
	rows     []tableRow
	outcomes map[string]int
}

// tableRow are the cells of a row by column.
type tableRow [12]string

func (d *damagedTable) sweep(t *testing.T, path string) {
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d.name, d.content = filepath.Base(path), whole
	clear(d.outcomes)
	if d.rows, err = d.read(t); err != nil || len(d.rows) != damagedRows {
		t.Fatalf("%s: %d rows, %v", d.name, len(d.rows), err)
	}
	for range *damageN {
		what := d.damage(whole)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		d.judge(t, what)
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > maxTaken {
			t.Errorf("%s, %s: %d MiB are allocated", d.name, what, n>>20)
		}
	}
	t.Logf("%-24s %6d bytes: %v", d.name, len(whole), d.outcomes)
}

// damage does to the content what disks and networks do.
func (d *damagedTable) damage(whole []byte) (what string) {
	d.content = bytes.Clone(whole)
	for bytes.Equal(d.content, whole) {
		at := d.r.IntN(len(whole))
		switch d.r.IntN(5) {
		case 0, 1:
			d.content[at] ^= 1 << d.r.IntN(8)
			what = fmt.Sprintf("a bit of byte %d", at)
		case 2:
			at &^= 7 // within a value, and within one column
			clear(d.content[at:min(at+8, len(whole))])
			what = fmt.Sprintf("8 zeros at %d", at)
		case 3:
			end := min(at+512, len(whole))
			clear(d.content[at:end])
			what = fmt.Sprintf("zeros from %d to %d", at, end)
		case 4:
			d.content = d.content[:at]
			what = fmt.Sprintf("cut at %d", at)
		}
	}
	return what
}

// judge compares what is made of a damaged table with what may be made of it.
func (d *damagedTable) judge(t *testing.T, what string) {
	t.Helper()
	rows, err := d.read(t)
	switch {
	case err != nil && failure.Code(err) != failure.Refused:
		t.Errorf("%s, %s: exit code %d: %v", d.name, what, failure.Code(err), err)
		return
	case err != nil:
		d.outcomes["refused"]++
		return
	case slices.Equal(rows, d.rows):
		d.outcomes["same"]++
		return
	case len(rows) != len(d.rows):
		if d.cutBetweenRows(what, rows) {
			d.outcomes["cut"]++
			return
		}
		t.Errorf("%s, %s: %d rows are read", d.name, what, len(rows))
		return
	}
	d.outcomes["changed"]++
	o := d.o
	o.Sources = []table.Source{d.source()}
	if _, err := DryRun(t.Context(), o); err != nil && failure.Code(err) != failure.Refused {
		t.Errorf("%s, %s: %v", d.name, what, err)
	}
	changed := map[int]int{}
	for i, row := range rows {
		for k, cell := range row {
			if cell != d.rows[i][k] {
				changed[k]++
			}
		}
	}
	most := 1
	switch {
	case strings.Contains(d.name, "sums"):
		most = 0
	case d.name == "bare.csv.zst" || strings.HasPrefix(what, "zeros"):
		most = len(tableRow{})
	}
	if len(changed) > most {
		t.Errorf("%s, %s: cells differ in silence, by column: %v", d.name, what, changed)
	}
}

// cutBetweenRows is what no reader can see: a CSV file that ends where a row does,
// and an Arrow stream that ends between two batches.
func (d *damagedTable) cutBetweenRows(what string, rows []tableRow) bool {
	text, stream := strings.HasSuffix(d.name, ".csv"), strings.HasSuffix(d.name, ".arrows")
	return (text || stream) && strings.HasPrefix(what, "cut") && len(rows) < len(d.rows) && slices.Equal(rows, d.rows[:len(rows)])
}

func (d *damagedTable) source() table.Source {
	return table.Source{Name: d.name, Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(d.content)), nil }}
}

// read is every cell of the table.
func (d *damagedTable) read(t *testing.T) (rows []tableRow, err error) {
	r := table.NewReader([]table.Source{d.source()}, table.Request{VocabSize: [2]int{500, 500}, ExactMeasures: true}, d.o.Tmp)
	id := ""
	for b, err := range r.Batches(t.Context()) {
		if err != nil {
			return nil, err
		}
		if len(b.Problems) > 0 {
			return nil, failure.New(failure.Refused, "", "%w", b.Problems[0].Clone())
		}
		runs := b.Runs
		for i := range b.Rows {
			if len(runs) > 0 && runs[0].Row == i {
				id, runs = runs[0].ID, runs[1:]
			}
			row := tableRow{id, fmt.Sprint(b.RowID[i]), fmt.Sprint(b.Real[i]), fmt.Sprint(b.Small[i]), fmt.Sprint(b.Reference[i])}
			if b.Type != nil {
				row[5] = fmt.Sprint(b.Type[i])
			}
			for k, m := range b.Measures {
				if m != nil {
					row[6+k] = fmt.Sprint(math.Float64bits(m[i]))
				}
			}
			rows = append(rows, row)
		}
		b.Release()
	}
	return rows, nil
}
