package judge

import (
	"reflect"
	"strings"
	"testing"

	"tokenfork/internal/failure"
	"tokenfork/internal/job/jobtest"
	"tokenfork/judge/agreement"
)

// Only what is labelled is asked, and not again by the judging that follows.
func TestGold(t *testing.T) {
	s := jobtest.Make(t, 12, 2)
	f := &fakeJudge{}
	o := options(s, f.serve(t))
	labels := agreement.Labels{{SentenceID: "s0", Position: 3}: true, {SentenceID: "s5", Position: 3}: true, {SentenceID: "s5", Position: 4}: true,
		{SentenceID: "s11", Position: 2}: false, {SentenceID: "s2", Position: 6}: true, {SentenceID: "nowhere", Position: 3}: true}
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
	labels := agreement.Labels{{SentenceID: "t0", Position: 3}: true}
	if _, _, err := Gold(t.Context(), o, labels); failure.Code(err) != failure.Refused || !strings.Contains(err.Error(), "none of the 1 labels has a verdict") {
		t.Errorf("got %v", err)
	}
}
