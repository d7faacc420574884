package judge

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/job/jobtest"
	"tokenfork/internal/store"
	"tokenfork/internal/tasks"
)

// infer again: text 2's last fork of the small side, which had failed.
func inferAgain(t *testing.T, s store.Store) {
	t.Helper()
	j, err := job.Load(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	task := job.Task{Stage: "infer", Shard: 0, Side: "small", Manifest: j.Shards[0].SHA256}
	log, before, err := job.OpenTask[job.Continuation](t.Context(), s, j.ID, task, job.Attempt{}, time.Hour, true)
	if err != nil || log == nil {
		t.Fatal(log, err)
	}
	rows, err := before.Text(t.Context(), 2)
	if err != nil {
		t.Fatal(err)
	}
	fixed := 0
	for i, c := range rows {
		if c.Error != nil {
			rows[i] = job.Continuation{Ordinal: c.Ordinal, Position: c.Position, Fork: c.Fork, IDs: []int32{11}, Finish: new(job.FinishStop), RestAt: -1}
			fixed++
		}
	}
	if err := log.Add(rows); err != nil || fixed != 1 {
		t.Fatal(fixed, err)
	}
	var ordinals []int64
	m, err := job.OpenManifest(t.Context(), s, 0)
	if err != nil {
		t.Fatal(err)
	}
	for x, err := range m.Texts() {
		if err != nil {
			t.Fatal(err)
		}
		ordinals = append(ordinals, x.Ordinal)
	}
	if c, err := log.Commit(t.Context(), ordinals); err != nil || c.Failed != 0 {
		t.Fatal(c, err)
	}
}

// A mismatch whose continuation was generated later counts as not judged, and
// is judged by the next run without being told to retry.
func TestContinuationsMadeLaterAreJudged(t *testing.T) {
	s := jobtest.Make(t, 6, 1)
	f := &fakeJudge{}
	o := options(s, f.serve(t))
	judging, err := Run(t.Context(), o)
	if failure.Code(err) != failure.Partial || !strings.Contains(err.Error(), "1 of 30 mismatches got no verdict, 1 no_continuation") {
		t.Fatalf("got %v", err)
	}
	if open := openTasks(t, s, judging.ID()); len(open) != 0 {
		t.Fatalf("unfinished %v", open)
	}
	questions, _ := f.counts()
	inferAgain(t, s)
	if open := openTasks(t, s, judging.ID()); len(open) != 1 || open[0].Stage != "judge" {
		t.Fatalf("unfinished %v", open)
	}
	if _, err := Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	for _, v := range verdicts(t, s, judging.ID()) {
		if v.Error != nil {
			t.Errorf("got %+v", v)
		}
	}
	if now, _ := f.counts(); now != questions+1 {
		t.Errorf("asked %d questions, then %d", questions, now)
	}
	if open := openTasks(t, s, judging.ID()); len(open) != 0 {
		t.Errorf("unfinished %v", open)
	}
}

// Of two rounds that failed alike the later one counts: its reason is the one that holds.
func TestLaterFailureCounts(t *testing.T) {
	s := jobtest.Make(t, 6, 1)
	f := &fakeJudge{}
	refuse := false
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if refuse && r.Method == http.MethodPost {
			w2 := httptest.NewRecorder()
			if f.ServeHTTP(w2, r); !strings.Contains(w2.Body.String(), "Hello") {
				_, _ = w.Write([]byte(`{"choices":[{"message":{"refusal":"no"},"finish_reason":"stop"}]}`))
				return
			}
			_, _ = w.Write(w2.Body.Bytes())
			return
		}
		f.ServeHTTP(w, r)
	}))
	defer server.Close()
	o := options(s, server.URL)
	judging, err := Run(t.Context(), o)
	if failure.Code(err) != failure.Partial {
		t.Fatal(err)
	}
	inferAgain(t, s)
	refuse = true
	if _, err := Run(t.Context(), o); failure.Code(err) != failure.Partial || !strings.Contains(err.Error(), "1 of 30 mismatches got no verdict, 1 refusal") {
		t.Errorf("got %v", err)
	}
	for _, v := range verdicts(t, s, judging.ID()) {
		if v.Error != nil && *v.Error != "refusal" {
			t.Errorf("got %s", *v.Error)
		}
	}
}

func openTasks(t *testing.T, s store.Store, judging string) []job.Task {
	t.Helper()
	j, err := job.Load(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	table, err := tasks.List(t.Context(), s, tasks.AllShards)
	if err != nil {
		t.Fatal(err)
	}
	open, err := table.Unfinished(t.Context(), j.Tasks(0, judging))
	if err != nil {
		t.Fatal(err)
	}
	return open
}

// Judges of one name at two places are two judgings; each goes on where it was.
func TestJudgesOfOneName(t *testing.T) {
	s := jobtest.Make(t, 2, 1)
	first, second := &fakeJudge{}, &fakeJudge{}
	var ids [2]string
	var at [2]Options
	for i, f := range []*fakeJudge{first, second} {
		at[i] = options(s, f.serve(t))
		at[i].Identity, at[i].Flags = "", []string{"--judge", "URL"}
		judging, err := Run(t.Context(), at[i])
		if err != nil {
			t.Fatal(err)
		}
		ids[i] = judging.ID()
	}
	all, err := Judgings(t.Context(), s)
	if err != nil || len(all) != 2 || ids[0] == ids[1] {
		t.Fatalf("judgings %v, records %v, %v", ids, all, err)
	}
	if d := all[0].Differences(all[1].Judging); len(d) != 1 || !strings.Contains(d[0], "judge identity: http://") {
		t.Errorf("they differ in %q", d)
	}
	for i, f := range []*fakeJudge{first, second} {
		before, _ := f.counts()
		if before == 0 {
			t.Errorf("judge %d was asked nothing", i)
		}
		judging, err := Run(t.Context(), at[i])
		if now, _ := f.counts(); err != nil || judging.ID() != ids[i] || now != before {
			t.Errorf("judging again: %v, %v, asked %d then %d", judging, err, before, now)
		}
	}
}
