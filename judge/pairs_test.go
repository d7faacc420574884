package judge

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"context"

	"tokenfork/internal/failure"
	"tokenfork/judge/agreement"
	"tokenfork/judge/endpoint"
)

func pairOptions(t *testing.T, f *fakeJudge) Options {
	t.Helper()
	url := f.serve(t)
	return Options{Settings: Defaults(), Log: slog.New(slog.DiscardHandler),
		Connect: func(context.Context) (Backend, error) { return Backend{Config: endpoint.Config{URL: url}}, nil }}
}

// The gold set has pairs of at least 300 mismatches and of each kind, all of them can be
// asked about without a job, and those that are the same but for spacing need no judge.
func TestGoldPairs(t *testing.T) {
	pairs, err := agreement.ReadPairs("../testdata/gold.csv")
	if err != nil {
		t.Fatal(err)
	}
	same, total, asked, places := map[string]int{}, map[string]int{}, map[string]bool{}, map[agreement.Place]bool{}
	for _, p := range pairs {
		total[p.Kind]++
		places[p.Place] = true
		if p.Same {
			same[p.Kind]++
		}
		if p.Kind == "paraphrase" || p.Kind == "contradiction" {
			asked[p.Context+"|"+p.Small+"|"+p.Reference] = true
		}
	}
	if len(places) < 300 || same["contradiction"] != 0 || same["paraphrase"] != total["paraphrase"] || min(total["contradiction"], total["paraphrase"]) < 100 {
		t.Errorf("pairs of %d mismatches: %v, of which the same %v", len(places), total, same)
	}
	f := &fakeJudge{}
	report, by, err := GoldPairs(t.Context(), pairOptions(t, f), pairs)
	if err != nil {
		t.Fatal(err)
	}
	if questions, _ := f.counts(); questions != len(asked) || report.Pairs != len(pairs) || report.Missing != 0 || by.Model != "fake" {
		t.Errorf("%d questions for %d pairs, want %d; got %+v", questions, len(pairs), len(asked), report)
	}
	for _, k := range report.Kinds {
		if k.Confusion.N() != total[k.Name] || strings.Contains("identical spacing", k.Name) && k.Confusion.SameSame != total[k.Name] {
			t.Errorf("got %+v, want %d", k, total[k.Name])
		}
	}
	if said := report.String(); !strings.Contains(said, "spacing                   124 of 124 right (1.000)") {
		t.Errorf("got\n%s", said)
	}
}

func TestReadPairsRefuses(t *testing.T) {
	for content, says := range map[string]string{
		"sentence_id,mismatch_position,label\na,3,1\n":                                                         "no column context",
		"sentence_id,mismatch_position,label,context,continuation_small,continuation_reference\n":              "no rows",
		"sentence_id,mismatch_position,label,context,continuation_small,continuation_reference\na,3,x,c,s,r\n": `line 2: label "x"`,
	} {
		path := filepath.Join(t.TempDir(), "p.csv")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := agreement.ReadPairs(path); failure.Code(err) != failure.Refused || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", content, err)
		}
	}
}
