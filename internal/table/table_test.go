package table

import (
	"bytes"
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"tokenfork/internal/job"
	"tokenfork/internal/table/tabletest"
)

// row is what a reader gives of a row, in words.
type row struct {
	id              string
	rowID, position int64
	real, small     int32
	reference, kind int32
	measures        [6]float64
}

var request = Request{VocabSize: [2]int{152_000, 152_000}, NeedReference: true}

func source(name, content string) Source {
	return Source{Name: name, Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(content)), nil }}
}

// readAll reads a table in chunks of about the size and stops at its first problem.
func readAll(content string, req Request, chunk int) (rows []row, problem string) {
	r := NewReader([]Source{source("t.csv", content)}, req, "")
	r.chunk = chunk
	return rowsOf(r)
}

func rowsOf(r *Reader) (rows []row, problem string) {
	for b, err := range r.Batches(context.Background()) {
		if err != nil {
			return rows, err.Error()
		}
		before := len(rows)
		var follows *Problem
		if last := len(rows) - 1; last >= 0 && rows[last].id == b.Runs[0].ID {
			follows = b.Follows(rows[last].position, rows[last].rowID)
		}
		rows = append(rows, rowsIn(b)...)
		if follows != nil && (len(b.Problems) == 0 || b.Problems[0].Row > 0) {
			return rows[:before], follows.Error()
		}
		if len(b.Problems) > 0 {
			return rows[:before+b.Problems[0].Row], b.Problems[0].Error()
		}
		b.Release()
	}
	return rows, ""
}

func rowsIn(b *Batch) (rows []row) {
	for k, run := range b.Runs {
		to := b.Rows
		if k+1 < len(b.Runs) {
			to = b.Runs[k+1].Row
		}
		for i := run.Row; i < to; i++ {
			x := row{id: run.ID, rowID: b.RowID[i], position: run.Position + int64(i-run.Row), real: b.Real[i], small: b.Small[i]}
			if b.Reference != nil {
				x.reference = b.Reference[i]
			}
			if b.Type != nil {
				x.kind = b.Type[i]
			}
			for m := range x.measures {
				if b.Measures[m] != nil {
					x.measures[m] = b.Measures[m][i]
				}
			}
			rows = append(rows, x)
		}
	}
	return rows
}

// expect reads a study-layout table with encoding/csv and strconv, knowing
// nothing of chunks. It wants a table without problems.
func expect(t testing.TB, content string) []row {
	t.Helper()
	records, err := csv.NewReader(strings.NewReader(content)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	at := func(record []string, name string) string { return record[slices.Index(records[0], name)] }
	number := func(s string) int64 {
		f, err := strconv.ParseFloat(s, 64)
		if s == "" || err != nil {
			return -1
		}
		return int64(f)
	}
	var rows []row
	for _, r := range records[1:] {
		x := row{id: at(r, "1.5_sentence_id"), rowID: number(at(r, "row_id")), position: number(at(r, "1.5_token_id")), real: int32(number(at(r, "1.5_real_token"))),
			small: int32(number(at(r, "1.5_predictions"))), reference: int32(number(at(r, "32.0_predictions")))}
		for i, name := range []string{"1.5_entropy", "1.5_AU", "1.5_EU", "32.0_entropy", "32.0_AU", "32.0_EU"} {
			f, err := strconv.ParseFloat(at(r, name), 64)
			if err != nil {
				f = math.NaN()
			}
			x.measures[i] = f
		}
		rows = append(rows, x)
	}
	return rows
}

func generated(t testing.TB, c tabletest.Config) string {
	t.Helper()
	var b bytes.Buffer
	if err := tabletest.Write(&b, c); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// equal compares rows; measures only by bin where the predictions agree.
func equal(t *testing.T, got, want []row, exact bool) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d rows, want %d", len(got), len(want))
	}
	for i := range got {
		g, w := got[i], want[i]
		for m := range g.measures {
			a, b := g.measures[m], w.measures[m]
			same := a == b || a != a && b != b || !exact && w.small == w.reference && job.ValueBin(a) == job.ValueBin(b)
			if !same {
				t.Fatalf("row %d, measure %d: %g, want %g", i, m, a, b)
			}
		}
		g.measures, w.measures = [6]float64{}, [6]float64{}
		if g != w {
			t.Fatalf("row %d: %+v, want %+v", i, g, w)
		}
	}
}

func TestCSVForms(t *testing.T) {
	plain := generated(t, tabletest.Config{Layout: "study", Rows: 3000, Tokens: 100, Vocab: 5000, Mismatch: 0.2, Seed: 7})
	want := expect(t, plain)
	gaps := strings.Replace(plain, ",0,0,", ",0,0.0,", 1)
	forms := map[string]string{
		"plain":            plain,
		"CRLF":             strings.ReplaceAll(plain, "\n", "\r\n"),
		"BOM":              "\ufeff" + plain,
		"no last newline":  strings.TrimSuffix(plain, "\n"),
		"blank lines":      strings.ReplaceAll(plain, "\n1", "\n\n1"),
		"quoted":           quoted(plain),
		"some quoted":      strings.Replace(plain, "\n1000,", "\n\"1000\",", 1),
		"floats":           gaps,
		"other columns":    wider(plain),
		"columns reversed": reversed(plain),
	}
	for name, content := range forms {
		for _, chunk := range []int{1 << 10, 10_000, chunkSize} {
			for _, exact := range []bool{false, true} {
				t.Run(fmt.Sprint(name, chunk, exact), func(t *testing.T) {
					req := request
					req.ExactMeasures = exact
					got, problem := readAll(content, req, chunk)
					if problem != "" {
						t.Fatal(problem)
					}
					equal(t, got, want, exact)
				})
			}
		}
	}
}

func quoted(plain string) string {
	lines := strings.Split(strings.TrimSuffix(plain, "\n"), "\n")
	for i, l := range lines {
		lines[i] = `"` + strings.ReplaceAll(l, ",", `","`) + `"`
	}
	return strings.Join(lines, "\n") + "\n"
}

// wider puts columns before, between and after, some with line breaks in them.
func wider(plain string) string {
	lines := strings.Split(strings.TrimSuffix(plain, "\n"), "\n")
	for i, l := range lines {
		note := `"say ""no"", ` + "\n" + `or not"`
		if i == 0 {
			note = "note"
		}
		if i%3 == 1 {
			note = ""
		}
		lines[i] = note + "," + l + ",,x"
		if i == 0 {
			lines[i] = "note," + l + ",empty,last"
		}
	}
	return strings.Join(lines, "\n") + "\n"
}

func reversed(plain string) string {
	lines := strings.Split(strings.TrimSuffix(plain, "\n"), "\n")
	for i, l := range lines {
		cells := strings.Split(l, ",")
		slices.Reverse(cells)
		lines[i] = strings.Join(cells, ",")
	}
	return strings.Join(lines, "\n") + "\n"
}

func TestBlanks(t *testing.T) {
	const head = "row_id,1.5_token_id,1.5_sentence_id,1.5_real_token,1.5_predictions,32.0_token_id,32.0_sentence_id,32.0_real_token,32.0_predictions\n"
	for _, blank := range []string{"", "nan", "NaN", "NA", "<NA>", "None", "null", "NULL", `\N`, "#N/A", "#NA"} {
		got, problem := readAll(head+"0,0,5,10,11,0,5,10,12\n1,1.0,5.0,11.0,"+blank+",1,5,11,12\n2,"+blank+","+blank+","+blank+","+blank+",2,5,12,13\n", request, chunkSize)
		want := []row{{id: "5", real: 10, small: 11, reference: 12}, {id: "5", rowID: 1, position: 1, real: 11, small: -1, reference: 12}, {id: "5", rowID: 2, position: 2, real: 12, small: -1, reference: 13}}
		if problem != "" || !slices.Equal(got, want) {
			t.Errorf("%q: %+v, %s", blank, got, problem)
		}
	}
}

// TestMeasuresExact compares with strconv over spellings of all lengths.
func TestMeasuresExact(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	read, exact, rough := 0, 0, 0
	for range 200_000 {
		v := math.Exp(r.NormFloat64() * 5)
		s := strconv.FormatFloat(v, 'f', r.IntN(20), 64)
		if r.IntN(4) == 0 {
			s = strconv.FormatFloat(v, 'g', 1+r.IntN(17), 64)
		}
		want, _ := strconv.ParseFloat(s, 64)
		b := append([]byte(s+","), make([]byte, slack)...)
		var d decimal
		if !d.read(b, 0, len(s)) {
			continue
		}
		read++
		if got, ok := d.exactly(); ok {
			exact++
			if got != want {
				t.Fatalf("%s: %g, want %g", s, got, want)
			}
		}
		if got, ok := d.roughly(); ok && job.ValueBin(got) != job.ValueBin(want) {
			t.Fatalf("%s: %g is in another bin than %g", s, got, want)
		}
		if got, ok := roughly(b, 0, uint32(len(s))); ok {
			rough++
			if job.ValueBin(got) != job.ValueBin(want) {
				t.Fatalf("%s: roughly %g, in another bin than %g", s, got, want)
			}
		}
	}
	if read < 50_000 || exact < read*9/10 || rough < 10_000 {
		t.Errorf("of %d numbers only %d and %d were read the short ways", read, exact, rough)
	}
}

func TestValueBins(t *testing.T) {
	for bin := range job.ValueBins {
		from, to := job.ValueBinEdges(bin)
		for _, v := range []float64{from, math.Nextafter(to, from), (max(from, -1e9) + min(to, 1e9)) / 2} {
			if got := job.ValueBin(v); got != bin && !math.IsInf(v, -1) {
				t.Errorf("%g is in bin %d, want %d (%g to %g)", v, got, bin, from, to)
			}
		}
	}
}

// FuzzScan compares the scanner with the reader it leaves odd rows to, and both
// with encoding/csv, over chunks of all sizes.
func FuzzScan(f *testing.F) {
	const head = "row_id,data_id,x,token_id,real_token,token_type,SLM_predictions,y,LLM_predictions\n"
	for _, s := range []string{"0,1,z,0,5,0,6,,7\n", "0,1,z,0,5,0,6,,7\r\n1,1,,1,5,0,6.0,w,\n", "0,1,\"a\n,b\",0,5,0,6,\"\"\"\",7\n", "0,1,z\n,0,5,0,6,,7\n", "12345678,123456789012345,z,0,5,0,6,,7"} {
		f.Add(s, uint16(40))
	}
	f.Fuzz(func(t *testing.T, body string, chunk uint16) {
		for _, ids := range []string{Int64, String} {
			req := request
			req.SentenceIDType = ids
			got, problem := readAll(head+body, req, int(chunk)+8)
			want, wantProblem := slowly(t, head, body, req)
			if problem != wantProblem || !slices.Equal(got, want) {
				t.Errorf("%q in chunks of %d:\n%+v %s\nwant\n%+v %s", body, chunk, got, problem, want, wantProblem)
			}
		}
	})
}

// slowly reads the body with encoding/csv, as one chunk.
func slowly(t *testing.T, head, body string, req Request) ([]row, string) {
	s, err := resolve(strings.Split(strings.TrimSpace(head), ","), req)
	if err != nil {
		t.Fatal(err)
	}
	p := newParser("t.csv", s, req, ',')
	b := p.parse(&chunk{data: []byte(body), line: 2, lines: strings.Count(body, "\n") + 1, quoted: true, buffer: new([]byte)})
	rows := rowsIn(b)
	if len(b.Problems) > 0 {
		return rows[:b.Problems[0].Row], b.Problems[0].Error()
	}
	return rows, ""
}

// TestSpellings reads whole numbers as other programs write them.
func TestSpellings(t *testing.T) {
	for cell, want := range map[string]int64{"1e+05": 100_000, "15e3": 15_000, "1.5E3": 1500, "3.0": 3, "1e0": 1, "120e-1": 12} {
		if got, err := parseCount([]byte(cell)); err != nil || got != want {
			t.Errorf("%s: %d, %v", cell, got, err)
		}
	}
	for cell, want := range map[string]error{"1e-3": errWhole, "1e16": errLarge, "1e999": errLarge, "1e": errNumber, "e5": errNumber, "0x1p4": errNumber, "1_0e1": errNumber, "-1e3": errNegative} {
		if got, err := parseCount([]byte(cell)); err != want {
			t.Errorf("%s: %d, %v, want %v", cell, got, err, want)
		}
	}
	if got, err := parseID([]byte("-2e3")); err != nil || got != -2000 {
		t.Errorf("-2e3: %d, %v", got, err)
	}
}

// packedBy compresses with a program of the system.
func packedBy(t *testing.T, program, content string) string {
	t.Helper()
	cmd := exec.Command(program, "-c")
	cmd.Stdin = strings.NewReader(content)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", program, err)
	}
	return string(out)
}

// TestOtherForms reads tables as R, spreadsheets and compressors write them.
func TestOtherForms(t *testing.T) {
	plain := generated(t, tabletest.Config{Layout: "study", Rows: 2000, Tokens: 100, Vocab: 5000, Mismatch: 0.2, Seed: 7})
	want := expect(t, plain)
	semicolons := strings.ReplaceAll(plain, ",", ";")
	head, rows, _ := strings.Cut(plain, "\n")
	for name, c := range map[string]struct {
		content   string
		delimiter byte
	}{
		"CR":             {strings.ReplaceAll(plain, "\n", "\r"), 0},
		"CR, gzip":       {packedBy(t, "gzip", strings.ReplaceAll(plain, "\n", "\r")), 0},
		"gzip":           {packedBy(t, "gzip", plain), 0},
		"xz":             {packedBy(t, "xz", plain), 0},
		"bzip2":          {packedBy(t, "bzip2", plain), 0},
		"two bzip2":      {packedBy(t, "bzip2", plain[:5000]) + packedBy(t, "bzip2", plain[5000:]), 0},
		"semicolons":     {semicolons, ';'},
		"quoted, tabs":   {strings.ReplaceAll(quoted(plain), ",", "\t"), '\t'},
		"tabs":           {strings.ReplaceAll(plain, ",", "\t"), '\t'},
		"semicolons, xz": {packedBy(t, "xz", semicolons), ';'},
		"zstd of pzstd":  {"\x50\x2a\x4d\x18\x04\x00\x00\x00size" + packedBy(t, "zstd", plain), 0},
		"spaces":         {head + "\n" + strings.NewReplacer("\n", " \n", ",", " ,\t").Replace(rows), 0},
	} {
		s := source("t", c.content)
		s.Delimiter = c.delimiter
		got, problem := rowsOf(NewReader([]Source{s}, request, ""))
		if problem != "" {
			t.Errorf("%s: %s", name, problem)
			continue
		}
		equal(t, got, want, false)
	}
}

// TestOtherWriters reads tables that arrow-rs, polars and old libraries wrote as no writer of the matrix does.
func TestOtherWriters(t *testing.T) {
	for _, name := range []string{"arrow-rs.arrow", "polars-int128.arrow", "before-2019.arrows"} {
		s := Source{Name: name, Open: func(context.Context) (io.ReadCloser, error) { return os.Open(filepath.Join("testdata", name)) }}
		got, problem := rowsOf(NewReader([]Source{s}, request, ""))
		want := []row{{"5", 0, 0, 10, 11, 11, 1, [6]float64{}}, {"5", 1, 1, 11, 12, 13, 1, [6]float64{}}, {"5", 2, 2, 12, 14, 14, 1, [6]float64{}}}
		if problem != "" || !slices.Equal(got, want) {
			t.Errorf("%s: %+v, %s", name, got, problem)
		}
	}
}

func TestPartitionsByFolder(t *testing.T) {
	for name, want := range map[string]string{"out/token_type=1/part.csv": `the column "token_type" stands in the folder's name`, "run=3/part.csv": `column "token_type" is missing`} {
		_, problem := rowsOf(NewReader([]Source{source(name, "row_id,data_id,token_id,real_token,SLM_predictions,LLM_predictions\n0,5,0,1,2,3\n")}, request, ""))
		if !strings.Contains(problem, want) {
			t.Errorf("%s: %q, want %q", name, problem, want)
		}
	}
}

// TestRefusedForms names what is wrong with a file, and where.
func TestRefusedForms(t *testing.T) {
	plain := generated(t, tabletest.Config{Layout: "study", Rows: 2000, Tokens: 100, Vocab: 5000, Mismatch: 0.2, Seed: 7})
	head, rows, _ := strings.Cut(plain, "\n")
	packed := packedBy(t, "gzip", plain)
	flipped := []byte(packed)
	flipped[len(flipped)-6] ^= 1 // in the checksum
	utf16 := "\xff\xfe" + strings.Join(strings.Split(plain, ""), "\x00")
	for name, c := range map[string][2]string{
		"header again":          {plain + plain, `t:2002: column row_id: "row_id" is the column's name: the header stands here again`},
		"header again, quoted":  {plain + quoted(plain), `t:2002: column row_id: "row_id" is the column's name: the header stands here again`},
		"header a name short":   {strings.TrimPrefix(head, "row_id,") + "\n" + rows, `column "row_id" is missing`},
		"row names":             {head + "\n\"1\"," + strings.ReplaceAll(rows, "\n", "\n\"2\","), "t:2: 30 fields, the header has 29"},
		"semicolons":            {strings.ReplaceAll(plain, ",", ";"), `the header is one column with ";" in it`},
		"header after a mark":   {plain + "\ufeff" + plain, `t:2002: column row_id: "\ufeffrow_id" is the column's name: the header stands here again`},
		"header in upper case":  {plain + strings.ToUpper(plain), `t:2002: column row_id: "ROW_ID" is the column's name: the header stands here again`},
		"another header":        {plain + reversed(plain), "is the name of a column: a header with another order of columns stands here"},
		"quoted semicolons":     {strings.ReplaceAll(quoted(plain), ",", ";"), `the header is one column with ";" in it`},
		"spaces":                {strings.ReplaceAll(plain, ",", " "), `the header is one column with " " in it`},
		"decimal commas":        {head + "\n" + strings.ReplaceAll(quoted(rows), ".", ","), "has a decimal comma"},
		"UTF-16":                {utf16, "t is text in UTF-16"},
		"UTF-32":                {"\xff\xfe\x00\x00r\x00\x00\x00", "t is text in UTF-32"},
		"JSON":                  {`{"row_id":0}`, "t is JSON"},
		"HTML":                  {"<!DOCTYPE html>", "t is HTML"},
		"tar in gzip":           {packedBy(t, "gzip", "demo.csv"+strings.Repeat("\x00", 249)+"ustar"+plain), "t is a tar archive"},
		"gzip in gzip":          {packedBy(t, "gzip", packed), "t is compressed twice"},
		"another compression":   {"x\x9c\xed\xd8\n", "t: the header is no text in UTF-8"},
		"wide zstd":             {"\x28\xb5\x2f\xfd\x00\xa8\x03\x00\x00", "it needs a window of more than 128 MiB"},
		"filtered xz":           {"\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4\x46\x02\x01\x03\x01\x00" + strings.Repeat("\x00", 40), "it has a filter before LZMA2"},
		"no lines":              {"\n\n", "t is empty"},
		"zip":                   {"PK\x03\x04 and so on", "t is a zip archive"},
		"Parquet in gzip":       {packedBy(t, "gzip", "PAR1 and so on"), "t is a compressed Parquet file"},
		"cut gzip":              {packed[:len(packed)/2], "read t: the compressed data is damaged or cut off"},
		"flipped gzip":          {string(flipped), "read t: the compressed data is damaged or cut off"},
		"cut xz":                {packedBy(t, "xz", plain)[:3000], "read t: the compressed data is damaged or cut off"},
		"cut bzip2":             {packedBy(t, "bzip2", plain)[:3000], "read t: the compressed data is damaged or cut off"},
		"sentence id no UTF-8":  {"row_id,data_id,token_id,real_token,token_type,SLM_predictions,LLM_predictions\n0,caf\xe9,0,1,1,2,3\n", "is not UTF-8"},
		"sentence id no number": {strings.Replace(plain, "\n50,", "\n50x,", 1), `t:52: column row_id: "50x" is not a number`},
	} {
		req := request
		if strings.Contains(name, "UTF-8") {
			req.SentenceIDType = String
		}
		_, problem := rowsOf(NewReader([]Source{source("t", c[0])}, req, ""))
		if !strings.Contains(problem, c[1]) {
			t.Errorf("%s: %q, want %q", name, problem, c[1])
		}
	}
}
