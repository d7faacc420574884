package agreement

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"tokenfork/internal/columnar"
	"tokenfork/internal/failure"
)

func labelFile(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReadLabels(t *testing.T) {
	got, err := ReadLabels(labelFile(t, "g.csv", "\ufeff\"annotator\",label,sentence_id,mismatch_position\nme,True,a,3\nme,different,-7,4.0\nme,1,b,5\n"))
	if want := (Labels{{"a", 3}: true, {"-7", 4}: false, {"b", 5}: true}); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	for _, c := range []struct{ content, says string }{
		{"sentence_id,label\n", "no column mismatch_position"},
		{"sentence_id,mismatch_position,label\na,3,maybe\n", `line 2: label "maybe"`},
		{"sentence_id,mismatch_position,label\na,x,1\n", `line 2: position "x"`},
		{"sentence_id,mismatch_position,label\ns0,3,1\ns0,3,0\n", "disagree on position 3 of text s0"},
		{"sentence_id,mismatch_position,label\n,3,1\n", "line 2: the sentence_id is blank"},
		{"sentence_id,mismatch_position,label,label\na,3,1,0\n", "two columns label"},
		{"sentence_id,mismatch_position,label\n", "no rows"},
		{"sentence_id;mismatch_position;label\na;3;1\n", `no column sentence_id; there are "sentence_id;mismatch_position;label"`},
		{"", "EOF"},
	} {
		if _, err := ReadLabels(labelFile(t, "g.csv", c.content)); failure.Code(err) != failure.Refused || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q: got %v", c.content, err)
		}
	}
}

// anyRow is a row of labels with columns of any types.
type anyRow[I, P, L any] struct {
	SentenceID I `col:"sentence_id"`
	Position   P `col:"mismatch_position"`
	Label      L `col:"label"`
}

func labelParquet[I, P, L any](t *testing.T, rows ...anyRow[I, P, L]) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "g") // the content says that it is Parquet
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := columnar.NewParquetWriter[anyRow[I, P, L]](f)
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
	return path
}

func TestReadLabelsParquet(t *testing.T) {
	want := Labels{{"7", 0}: true, {"8", 1}: false}
	for name, path := range map[string]string{
		"bool":   labelParquet(t, anyRow[string, int64, bool]{"7", 0, true}, anyRow[string, int64, bool]{"8", 1, false}),
		"int":    labelParquet(t, anyRow[int64, int32, int64]{7, 0, 1}, anyRow[int64, int32, int64]{8, 1, 0}),
		"float":  labelParquet(t, anyRow[float64, float64, float64]{7, 0, 1}, anyRow[float64, float64, float64]{8, 1, 0}),
		"text":   labelParquet(t, anyRow[int32, int64, string]{7, 0, "same"}, anyRow[int32, int64, string]{8, 1, "different"}),
		"split":  "testdata/byte-stream-split.parquet",
		"pandas": "testdata/pandas3.parquet",
	} {
		if got, err := ReadLabels(path); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
	if _, err := ReadLabels(labelParquet(t, anyRow[string, int64, float64]{"7", 0, 0.5})); failure.Code(err) != failure.Refused || !strings.Contains(err.Error(), `row 1: label "0.5" is not true or false`) {
		t.Errorf("got %v", err)
	}
}
