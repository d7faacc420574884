package agreement

import (
	"fmt"
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
	got, err := ReadLabels(labelFile(t, "g.csv", "\ufeffannotator,label,sentence_id,mismatch_position\nme,True,a,3\nme,different,-7,4.0\nme,1,b,5\n"))
	if want := (Labels{{"a", 3}: true, {"-7", 4}: false, {"b", 5}: true}); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	for _, c := range []struct{ content, says string }{
		{"sentence_id,label\n", "no column mismatch_position"},
		{"sentence_id,mismatch_position,label\na,3,maybe\n", `line 2: label "maybe"`},
		{"sentence_id,mismatch_position,label\na,x,1\n", `line 2: position "x"`},
		{"sentence_id,mismatch_position,label\ns0,3,1\ns0,3,0\n", "disagree on position 3 of text s0"},
		{"", "EOF"},
	} {
		if _, err := ReadLabels(labelFile(t, "g.csv", c.content)); failure.Code(err) != failure.Refused || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q: got %v", c.content, err)
		}
	}
}

func labelParquet[T any](t *testing.T, labels ...T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "g.parquet")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := columnar.NewParquetWriter[labelRow[T]](f)
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range labels {
		if err := w.Write(&labelRow[T]{fmt.Sprint("s", i), int64(i), l}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReadLabelsParquet(t *testing.T) {
	want := Labels{{"s0", 0}: true, {"s1", 1}: false}
	for name, path := range map[string]string{
		"bool": labelParquet(t, true, false), "int": labelParquet[int64](t, 1, 0), "text": labelParquet(t, "same", "different"),
	} {
		if got, err := ReadLabels(path); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
	if _, err := ReadLabels(labelParquet(t, 0.5)); failure.Code(err) != failure.Refused {
		t.Errorf("got %v", err)
	}
}
