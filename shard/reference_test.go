package shard

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tokenfork/internal/columnar"
	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/store"
	"tokenfork/internal/table"
	"tokenfork/internal/table/tabletest"
)

// python runs testdata/reference.py.
func python(t *testing.T, args ...string) []byte {
	t.Helper()
	return runPython(t, "testdata/reference.py", args...)
}

func runPython(t *testing.T, script string, args ...string) []byte {
	t.Helper()
	venv := os.Getenv("TOKENFORK_VENV")
	if venv == "" {
		venv = "../.venv"
	}
	cmd := exec.Command(filepath.Join(venv, "bin", "python"), append([]string{script}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v (scripts/setup-vllm makes the environment)", script, err)
	}
	return out
}

// study writes a generated table of the study layout, with some predictions and measures blank.
func study(t *testing.T, dir string, gaps bool) string {
	t.Helper()
	var b strings.Builder
	if err := tabletest.Write(&b, tabletest.Config{Layout: "study", Rows: 4000, Tokens: 150, Vocab: 480, Mismatch: 0.11, Seed: 3}); err != nil {
		t.Fatal(err)
	}
	content := b.String()
	if gaps {
		content = blanked(t, content)
	}
	return written(t, filepath.Join(dir, "study.csv"), content)
}

func written(t *testing.T, path, content string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

// blanked takes some predictions and measures away.
func blanked(t *testing.T, content string) string {
	t.Helper()
	records, err := csv.NewReader(strings.NewReader(content)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(4, 5))
	for _, record := range records[1:] {
		for i, name := range records[0] {
			ending := name[strings.LastIndex(name, "_")+1:]
			if slices.Contains([]string{"predictions", "entropy", "AU", "EU"}, ending) && r.IntN(20) == 0 {
				record[i] = ""
			}
		}
	}
	var b strings.Builder
	if err := csv.NewWriter(&b).WriteAll(records); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// r2r writes a table of R2R's layout.
func r2r(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	if err := tabletest.Write(&b, tabletest.Config{Layout: "r2r", Rows: 4000, Tokens: 150, Vocab: 480, Mismatch: 0.11, Seed: 3}); err != nil {
		t.Fatal(err)
	}
	return written(t, filepath.Join(dir, "r2r.csv"), b.String())
}

type mismatch struct {
	Text                                  string
	Position, Small, Reference, Real, Row int64
	Context                               []int32
	Measures                              []*float64
}

func TestMismatchesAsPandas(t *testing.T) {
	dir := t.TempDir()
	tables := map[string]string{"study": study(t, dir, true), "r2r": r2r(t, dir)}
	for name, path := range tables {
		var all map[string][]mismatch
		if err := json.Unmarshal(python(t, "mismatches", path), &all); err != nil {
			t.Fatal(err)
		}
		for _, trajectories := range []string{job.Own, job.FromReference, job.Real} {
			for _, alignment := range []string{"next", "same"} {
				t.Run(name+" "+trajectories+" "+alignment, func(t *testing.T) {
					want := all[trajectories+" "+alignment]
					o := options(t, 500, file(path))
					o.Settings.Alignment, o.Settings.Trajectories = alignment, trajectories
					j, _, err := Plan(t.Context(), o)
					if err != nil {
						t.Fatal(err)
					}
					inManifests(t, o.Store, j, want)
					inFiles(t, o, want)
				})
			}
		}
	}
}

// inManifests compares the manifests with pandas' mismatches.
func inManifests(t *testing.T, s store.Store, j *job.Job, want []mismatch) {
	t.Helper()
	byText := map[string][]mismatch{}
	for _, m := range want {
		byText[m.Text] = append(byText[m.Text], m)
	}
	for k := range j.Shards {
		m, err := job.OpenManifest(t.Context(), s, k)
		if err != nil {
			t.Fatal(err)
		}
		for x, err := range m.Texts() {
			if err != nil {
				t.Fatal(err)
			}
			compareText(t, j, x, byText[x.ID])
			delete(byText, x.ID)
		}
	}
	for id := range byText {
		t.Errorf("text %s is in no manifest", id)
	}
}

func compareText(t *testing.T, j *job.Job, x *job.Text, want []mismatch) {
	t.Helper()
	if len(x.Mismatches) != len(want) {
		t.Fatalf("text %s has %d mismatches, want %d", x.ID, len(x.Mismatches), len(want))
	}
	for i, p := range x.Mismatches {
		w := want[i]
		reference := x.ReferencePredictions[p]
		if j.Settings.Trajectories == job.Real {
			reference = x.Real[p]
		}
		row, _ := x.RowID(int64(p) - int64(j.Settings.PredictionOffset()))
		got := mismatch{Text: x.ID, Position: int64(p), Small: int64(x.SmallPredictions[p]), Reference: int64(reference), Real: int64(x.Real[p]), Row: row}
		for k, v := range w.Measures {
			m := (*measuresOf(x)[k])[i]
			if v == nil && m == m || v != nil && *v != m {
				t.Errorf("text %s, position %d, %s: %g, want %v", x.ID, p, job.Measures[k], m, v)
			}
		}
		w.Context, w.Measures = nil, nil
		if fmt.Sprint(got) != fmt.Sprint(w) {
			t.Errorf("got %+v, want %+v", got, w)
		}
	}
}

// inFiles compares mismatches.csv and mismatches.parquet with them, and with
// what internal/columnar would write.
func inFiles(t *testing.T, o Options, want []mismatch) {
	t.Helper()
	text, err := store.ReadAll(t.Context(), o.Store, job.MismatchesCSV)
	if err != nil {
		t.Fatal(err)
	}
	parquet, err := store.ReadAll(t.Context(), o.Store, job.MismatchesFile)
	if err != nil {
		t.Fatal(err)
	}
	r, err := columnar.ReadParquet[job.Mismatch](strings.NewReader(string(parquet)))
	if err != nil {
		t.Fatal(err)
	}
	var again strings.Builder
	w, err := columnar.NewCSVWriter[job.Mismatch](&again)
	if err != nil {
		t.Fatal(err)
	}
	i := 0
	for m, err := range r.Rows() {
		if err != nil {
			t.Fatal(err)
		}
		x := want[i]
		should := job.Mismatch{SentenceID: x.Text, Position: x.Position, TokenID: int32(x.Real), RealToken: o.Tokenizer.Decode([]int32{int32(x.Real)}),
			PredSmall: o.Tokenizer.Decode([]int32{int32(x.Small)}), PredReference: o.Tokenizer.Decode([]int32{int32(x.Reference)}),
			PredSmallTokenID: int32(x.Small), PredReferenceTokenID: int32(x.Reference), Context: o.Tokenizer.Decode(x.Context), RowID: x.Row}
		if *m != should {
			t.Fatalf("row %d: %+v, want %+v", i, *m, should)
		}
		if err := w.Write(m); err != nil {
			t.Fatal(err)
		}
		i++
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if i != len(want) || string(text) != again.String() {
		t.Errorf("%d rows in Parquet, want %d; CSV is the same: %t", i, len(want), string(text) == again.String())
	}
}

func TestFormats(t *testing.T) {
	dir := t.TempDir()
	path := study(t, dir, false)
	python(t, "formats", path, dir)
	fingerprint := func(ids string, paths ...string) string {
		o := options(t, 500)
		o.Settings.SentenceIDType = ids
		for _, p := range paths {
			o.Sources = append(o.Sources, file(filepath.Join(dir, p)))
		}
		j, _, err := Plan(t.Context(), o)
		if err != nil {
			t.Fatal(paths, err)
		}
		return j.Input.Fingerprint
	}
	want := fingerprint("", "study.csv")
	for _, p := range []string{"plain.parquet", "groups.parquet", "narrow.parquet", "unsigned.parquet", "floats.parquet", "gz.csv.gz", "zst.csv.zst", "plain.arrow", "lz4.arrow", "zstd.arrow", "stream.arrows"} {
		if got := fingerprint("", p); got != want {
			t.Errorf("%s: another fingerprint", p)
		}
	}
	if fingerprint("", "part-1.csv", "part-2.parquet") != want {
		t.Error("two parts: another fingerprint")
	}
	for _, p := range []string{"study.csv", "plain.parquet", "text.parquet", "text-large.arrow", "text-category.parquet"} {
		if got := fingerprint(table.String, p); got != want { // the same ids, written the same
			t.Errorf("%s as text: another fingerprint", p)
		}
	}
	cutColumns(t, dir)
}

// cutColumns cuts files of columns short, whose directory is at the end.
func cutColumns(t *testing.T, dir string) {
	t.Helper()
	for _, name := range []string{"plain.parquet", "plain.arrow", "stream.arrows"} {
		whole, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range []int{100, len(whole) / 2} {
			o := options(t, 500, file(written(t, filepath.Join(dir, "cut"), string(whole[:size]))))
			_, _, err := Plan(t.Context(), o)
			if err == nil || !strings.Contains(err.Error(), "/cut: ") || failure.Code(err) != failure.Refused || !strings.Contains(failure.Hint(err), "again") {
				t.Errorf("%s, %d bytes: got %v", name, size, err)
			}
			empty(t, o)
		}
	}
}

func TestBadColumns(t *testing.T) {
	dir := t.TempDir()
	python(t, "bad", study(t, dir, false), dir)
	for name, want := range map[string]string{
		"string":   "column 1.5_real_token is %s, want whole numbers",
		"bool":     "column 32.0_predictions is bool, want whole numbers",
		"float32":  ` row 1: column row_id: "1.6777216e+07" is 2^24 or more in a float32 column`,
		"half":     ` row 1: column 1.5_real_token: "%s" is not a whole number`,
		"negative": ` row 1: column 1.5_real_token: "-`,
		"null":     " row 4: column row_id: is blank",
		"list":     "column 1.5_predictions is list",
	} {
		for _, format := range []string{".arrow", ".parquet"} {
			path := filepath.Join(dir, name+format)
			_, _, err := Plan(t.Context(), options(t, 500, file(path)))
			fixed, _, _ := strings.Cut(want, "%s")
			if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), fixed) || failure.Code(err) != failure.Refused {
				t.Errorf("%s%s: %v", name, format, err)
			}
		}
	}
}

// TestRates compares the sums of rates.parquet with a count by hand.
func TestRates(t *testing.T) {
	path := r2r(t, t.TempDir())
	o := options(t, 500, file(path))
	j, e, err := Plan(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	b, err := store.ReadAll(t.Context(), o.Store, job.RatesKey)
	if err != nil {
		t.Fatal(err)
	}
	r, err := columnar.ReadParquet[job.Rate](strings.NewReader(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	var positions, mismatches int64
	texts := map[string]bool{}
	classes := map[string]int64{}
	for x, err := range r.Rows() {
		if err != nil {
			t.Fatal(err)
		}
		positions += x.Positions
		mismatches += x.Mismatches
		texts[*x.SentenceID] = true
		classes[*x.TokenClass] += x.Positions
		if *x.TokenType == 0 && x.Mismatches > 0 {
			t.Error("mismatches in the instruction")
		}
	}
	if positions != e.Rows-e.Texts || positions != j.Positions || mismatches != j.Mismatches || int64(len(texts)) != e.Texts {
		t.Errorf("%d positions, %d mismatches in %d texts; want %d, %d, %d", positions, mismatches, len(texts), e.Rows-e.Texts, j.Mismatches, e.Texts)
	}
	if len(classes) < 2 {
		t.Errorf("classes %v", slices.Sorted(maps.Keys(classes)))
	}
}
