package judge

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"tokenfork/internal/columnar"
	"tokenfork/internal/failure"
	"tokenfork/internal/job/jobtest"
)

func goldFile(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReadGold(t *testing.T) {
	got, err := ReadGold(goldFile(t, "g.csv", "\ufeffannotator,label,sentence_id,mismatch_position\nme,True,a,3\nme,different,-7,4.0\nme,1,b,5\n"))
	if want := []Label{{"a", 3, true}, {"-7", 4, false}, {"b", 5, true}}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	for _, c := range []struct{ content, says string }{
		{"sentence_id,label\n", "no column mismatch_position"},
		{"sentence_id,mismatch_position,label\na,3,maybe\n", `line 2: label "maybe"`},
		{"sentence_id,mismatch_position,label\na,x,1\n", `line 2: position "x"`},
		{"", "EOF"},
	} {
		if _, err := ReadGold(goldFile(t, "g.csv", c.content)); failure.Code(err) != failure.Refused || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q: got %v", c.content, err)
		}
	}
}

func goldParquetFile[T any](t *testing.T, labels ...T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "g.parquet")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := columnar.NewParquetWriter[goldRow[T]](f)
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range labels {
		if err := w.Write(&goldRow[T]{fmt.Sprint("s", i), int64(i), l}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReadGoldParquet(t *testing.T) {
	want := []Label{{"s0", 0, true}, {"s1", 1, false}}
	for name, path := range map[string]string{
		"bool": goldParquetFile(t, true, false), "int": goldParquetFile[int64](t, 1, 0), "text": goldParquetFile(t, "same", "different"),
	} {
		if got, err := ReadGold(path); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
	if _, err := ReadGold(goldParquetFile(t, 0.5)); failure.Code(err) != failure.Refused {
		t.Errorf("got %v", err)
	}
}

// Only what is labelled is asked, and not again by the judging that follows.
func TestGold(t *testing.T) {
	s := jobtest.Make(t, 12, 2)
	f := &fakeJudge{}
	o := options(s, f.serve(t))
	labels := []Label{{"s0", 3, true}, {"s5", 3, true}, {"s5", 4, true}, {"s11", 2, false}, {"s2", 6, true}, {"s2", 6, true}, {"nowhere", 3, true}}
	report, judging, err := Gold(t.Context(), o, labels)
	if err != nil {
		t.Fatal(err)
	}
	// Position 4, 3 from 0, is identical; 6 of s2 has failed, "nowhere" is not there.
	if questions, askings := f.counts(); questions != 3 || askings != 3 {
		t.Errorf("asked %d questions %d times", questions, askings)
	}
	if report.Pairs != 4 || report.Missing != 2 || report.Clusters != 3 {
		t.Errorf("got %+v", report)
	}
	if records, err := Judgings(t.Context(), s); err != nil || len(records) != 0 {
		t.Errorf("judgings %v, %v", records, err)
	}

	whole, err := Run(t.Context(), o)
	if failure.Code(err) != failure.Partial || whole.ID() != judging.ID() {
		t.Fatal(err)
	}
	if questions, askings := f.counts(); questions != 3*12-1+2 || askings != questions {
		t.Errorf("%d questions, asked %d times", questions, askings)
	}
	again, _, err := Gold(t.Context(), o, labels)
	if err != nil || !reflect.DeepEqual(again, report) {
		t.Errorf("from the job's verdicts: %+v, %v; want %+v", again, err, report)
	}
	if questions, askings := f.counts(); askings != questions {
		t.Errorf("%d questions, asked %d times", questions, askings)
	}
	for _, v := range verdicts(t, s, whole.ID()) {
		if v.Ordinal == 5 && v.Position == 3 && *v.ConfidenceSource != Identical {
			t.Errorf("got %+v", v)
		}
	}
}

func TestGoldRefuses(t *testing.T) {
	s := jobtest.Make(t, 4, 1)
	o := options(s, (&fakeJudge{}).serve(t))
	for _, c := range []struct {
		labels []Label
		says   string
	}{
		{[]Label{{"s0", 3, true}, {"s0", 3, false}}, "disagree on position 3 of sentence s0"},
		{[]Label{{"t0", 3, true}}, "none of the 1 labels has a verdict"},
	} {
		if _, _, err := Gold(t.Context(), o, c.labels); failure.Code(err) != failure.Refused || !strings.Contains(err.Error(), c.says) {
			t.Errorf("got %v", err)
		}
	}
}
