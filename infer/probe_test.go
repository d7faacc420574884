package infer

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"math"
	"strings"
	"testing"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/fleet"
	"tokenfork/internal/job"
	"tokenfork/internal/job/jobtest"
	"tokenfork/internal/store"
	"tokenfork/internal/vllm/fakevllm"
)

// retried runs the small side of a job whose table a fake model has not made,
// and whose replay is off.
func retried(t *testing.T, s store.Store, atLeast float64, faults ...fakevllm.Fault) error {
	t.Helper()
	m := fakevllm.Model{Seed: 7, Pieces: strings.Split("I|We| see| saw| the| a| dog| cat| hen| now| then|.", "|")}
	url := fakevllm.Serve(t, fakevllm.Config{Model: m, Faults: faults}).URL
	o := Options{Store: s, Sides: []job.Side{job.Small}, Retry: true, PartEvery: time.Hour, Grace: time.Minute, Stall: time.Hour,
		MinAgreement: atLeast, Log: slog.New(slog.DiscardHandler), Console: io.Discard}
	o.Servers[job.Small].URLs = []string{url}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return Run(ctx, o)
}

// A server of another model is refused although nothing is replayed.
func TestAnotherModelIsRefusedWithoutReplay(t *testing.T) {
	err := retried(t, jobtest.Make(t, 6, 1), 0.95)
	if failure.Code(err) != failure.Refused || !strings.Contains(err.Error(), "log probability") ||
		!strings.HasPrefix(failure.Hint(err), "likely, in this order: another model (are the URLs") {
		t.Errorf("got %v (%s)", err, failure.Hint(err))
	}
}

// A busy server is asked again, and the record of its engine says which model it was given.
func TestProbesAreRetried(t *testing.T) {
	s := jobtest.Make(t, 6, 1)
	if err := retried(t, s, 0, fakevllm.Fault{Kind: fakevllm.Refuse, Status: 429, After: 2, Most: 1}, fakevllm.Fault{Kind: fakevllm.Refuse, Status: 503, After: 2, Most: 1}); err != nil {
		t.Fatal(err)
	}
	b, err := store.ReadAll(t.Context(), s, job.EngineKey(job.Small))
	var e fleet.Engine
	if err != nil || json.Unmarshal(b, &e) != nil || e.Root == "" {
		t.Errorf("%s, %v", b, err)
	}
	if err := keepRecord(t, s, fleet.Engine{Root: "elsewhere"}); failure.Code(err) != failure.Refused {
		t.Errorf("another model: %v", err)
	}
}

// A prompt that the server refuses says nothing about its model: the others decide,
// and its own forks are listed. A server that refuses all of them ends the run.
func TestRefusedProbes(t *testing.T) {
	refuse := fakevllm.Fault{Kind: fakevllm.Refuse, Status: 400, After: 2} // all but the first
	if err := retried(t, jobtest.Make(t, 6, 1), 0, refuse); err != nil && failure.Code(err) != failure.Partial {
		t.Errorf("some are refused: %v", err)
	}
	refuse.After = 1
	if err := retried(t, jobtest.Make(t, 6, 1), 0, refuse); err == nil || !strings.Contains(err.Error(), "check the recorded predictions of text") {
		t.Errorf("all are refused: %v", err)
	}
}

// Records of an earlier version do not say which model a server was given.
func TestEngineRecordWithoutRoot(t *testing.T) {
	s := jobtest.Make(t, 1, 1)
	if err := keepRecord(t, s, fleet.Engine{Deterministic: true}); err != nil {
		t.Fatal(err)
	}
	if err := keepRecord(t, s, fleet.Engine{Deterministic: true, Root: "/models/small"}); err != nil {
		t.Error(err)
	}
	if err := keepRecord(t, s, fleet.Engine{Root: "/models/small"}); failure.Code(err) != failure.Refused {
		t.Errorf("got %v", err)
	}
}

func keepRecord(t *testing.T, s store.Store, e fleet.Engine) error {
	t.Helper()
	_, err := e.Keep(t.Context(), s, job.EngineKey(job.Small), false, slog.New(slog.DiscardHandler))
	return err
}

func TestLikelyCause(t *testing.T) {
	for _, c := range []struct {
		agreement float64
		gaps      []float64
		first     string
	}{
		{0.875, []float64{0.01, 0.03, 0.2}, "another precision"},
		{0.875, []float64{0.01, 1.5, 3}, "another model"},
		{0.1, []float64{0.01, 0.02, 0.03}, "another model"},
	} {
		if got := likelyCause(c.agreement, c.gaps); !strings.HasPrefix(got, "likely, in this order: "+c.first) || !strings.Contains(got, "another precision") {
			t.Errorf("%v: %s", c, got)
		}
	}
	if got := gapText([]float64{0.011, 0.5}); got != "0.011, 0.5" {
		t.Error(got)
	}
}

// The token that --decimals only looks at has no part in a margin.
func TestMarginsAreOfKeptTokens(t *testing.T) {
	set := &job.Settings{Trajectories: job.Own, MaxNewTokens: 9}
	s := &job.Text{Real: []int32{word0, word0, word0}, Mismatches: []int32{1}, SmallPredictions: []int32{-1, digit0, -1, -1}, ReferencePredictions: []int32{-1, word0, -1, -1}}
	w := work(s, job.Small, set, ends{decimals: true}, math.MaxInt, 0)
	r := w.rests[0]
	r.take(point, 2)
	r.take(word0, 0.001)
	if row := w.rows("", true)[0]; *row.Finish != job.FinishStop || row.Margin == nil || *row.Margin != 2 {
		t.Errorf("got %+v, margin %v", row, row.Margin)
	}
}

// What plan was told of audits holds in an infer of its own, unless that is told another share.
func TestAuditShare(t *testing.T) {
	planned, told := 0.25, 0.0
	for _, c := range []struct {
		told, planned *float64
		want          float64
	}{{nil, nil, 0.005}, {nil, &planned, 0.25}, {&told, &planned, 0}, {&told, nil, 0}} {
		if got := auditShare(c.told, &job.Plan{Audit: c.planned}); got != c.want {
			t.Errorf("%v: got %g", c, got)
		}
	}
}
