package judge

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"tokenfork/internal/columnar"
	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/job/jobtest"
	"tokenfork/internal/results"
	"tokenfork/internal/store"
	"tokenfork/internal/tokenizer"
	"tokenfork/judge/endpoint"
)

func options(s store.Store, url string) Options {
	return Options{Store: s, Settings: Defaults(), Identity: "the same wherever it is served", PartEvery: time.Hour, Grace: 10 * time.Second, Log: slog.New(slog.DiscardHandler), Console: io.Discard,
		Connect: func(context.Context) (Backend, error) { return Backend{Config: endpoint.Config{URL: url}}, nil }}
}

// verdicts reads what is committed of the judging, checked against its questions.
func verdicts(t *testing.T, s store.Store, judging string) []job.Verdict {
	t.Helper()
	j, err := job.Load(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	var all []job.Verdict
	for k, shard := range j.Shards {
		c, err := job.OpenCommitted[job.Verdict](t.Context(), s, job.Task{Stage: "judge", Shard: k, Side: judging, Manifest: shard.SHA256})
		if err != nil {
			t.Fatal(err)
		}
		m, err := job.OpenManifest(t.Context(), s, k)
		if err != nil {
			t.Fatal(err)
		}
		for x, err := range m.Texts() {
			if err != nil {
				t.Fatal(err)
			}
			rows, err := c.Text(t.Context(), x.Ordinal)
			if err != nil {
				t.Fatal(err)
			}
			for i, v := range rows {
				if len(rows) != jobtest.PerText || v.Ordinal != x.Ordinal || v.Position != x.Mismatches[i] {
					t.Fatalf("text %s: %d verdicts, the %d. at %d", x.ID, len(rows), i, v.Position)
				}
			}
			all = append(all, rows...)
		}
	}
	return all
}

func TestRun(t *testing.T) {
	s := jobtest.Make(t, 20, 3)
	f := &fakeJudge{delay: time.Millisecond}
	o := options(s, f.serve(t))
	judging, err := Run(t.Context(), o)
	if failure.Code(err) != failure.Partial || !strings.Contains(err.Error(), "1 of 100 mismatches got no verdict, 1 no_continuation") {
		t.Fatalf("got %v", err)
	}
	// Of 5: position 3 is identical, position 4 the same in 2 kinds of texts; one has failed.
	if questions, askings := f.counts(); questions != 3*20-1+2 || askings != questions {
		t.Errorf("%d questions, asked %d times", questions, askings)
	}
	all := verdicts(t, s, judging.ID())
	sources, classes := map[string]int{}, map[string]int{}
	for _, v := range all {
		if v.Error != nil {
			classes[*v.Error]++
		} else {
			sources[*v.ConfidenceSource]++
		}
		if v.JudgeModel != "fake" || v.PromptVersion != "seed-2" {
			t.Errorf("got %+v", v)
		}
	}
	if want := map[string]int{Identical: 20, Self: 79}; !reflect.DeepEqual(sources, want) || classes[results.NoContinuation] != 1 {
		t.Errorf("got %v, %v", sources, classes)
	}

	o.Model = "fake"
	o.Connect = func(context.Context) (Backend, error) {
		t.Error("connected for nothing")
		return Backend{}, errors.New("no")
	}
	if again, err := Run(t.Context(), o); err != nil || again.ID() != judging.ID() {
		t.Errorf("judging again: %v", err)
	}
	records, err := Judgings(t.Context(), s)
	if err != nil || len(records) != 1 || records[0].ID() != judging.ID() || records[0].Prompt == "" {
		t.Errorf("got %+v, %v", records, err)
	}
}

// Whatever the shards, the order and the number at once, the verdicts are the same.
func TestSameVerdictsHoweverItRuns(t *testing.T) {
	collect := func(shards int, change func(*Options)) map[[2]int64]job.Verdict {
		s := jobtest.Make(t, 12, shards)
		f := &fakeJudge{delay: time.Millisecond}
		o := options(s, f.serve(t))
		change(&o)
		judging, err := Run(t.Context(), o)
		if failure.Code(err) != failure.Partial {
			t.Fatal(err)
		}
		m := map[[2]int64]job.Verdict{}
		for _, v := range verdicts(t, s, judging.ID()) {
			m[[2]int64{v.Ordinal, int64(v.Position)}] = v
		}
		return m
	}
	one := collect(1, func(*Options) {})
	five := collect(5, func(o *Options) {
		o.Connect = func(ctx context.Context) (Backend, error) {
			server, err := options(nil, "").Connect(ctx)
			f := &fakeJudge{}
			server.URL, server.InFlight = f.serve(t), 1
			return server, err
		}
	})
	if len(one) != 60 || !reflect.DeepEqual(one, five) {
		t.Errorf("%d and %d verdicts differ", len(one), len(five))
	}
}

func TestStoppedRunGoesOn(t *testing.T) {
	s := jobtest.Make(t, 30, 2)
	ctx, stop := context.WithCancel(t.Context())
	f := &fakeJudge{delay: time.Millisecond, after: func(total int) {
		if total == 25 {
			stop()
		}
	}}
	o := options(s, f.serve(t))
	_, err := Run(ctx, o)
	if failure.Code(err) != failure.Stopped {
		t.Fatalf("got %v", err)
	}
	if _, askings := f.counts(); askings < 25 || askings > 80 {
		t.Errorf("asked %d times before it stopped", askings)
	}
	judging, err := Run(t.Context(), o)
	if failure.Code(err) != failure.Partial {
		t.Fatal(err)
	}
	if questions, askings := f.counts(); questions != 3*30-1+2 || askings != questions {
		t.Errorf("%d questions, asked %d times: verdicts were lost", questions, askings)
	}
	verdicts(t, s, judging.ID())
}

// The grace over, what is in flight is given up, and only that is asked again.
func TestGraceOver(t *testing.T) {
	s := jobtest.Make(t, 10, 1)
	ctx, stop := context.WithCancel(t.Context())
	var once sync.Once
	hang := make(chan struct{})
	f := &fakeJudge{after: func(total int) {
		if total == 20 {
			once.Do(stop)
			<-hang
		}
	}}
	o := options(s, f.serve(t))
	o.Grace = 50 * time.Millisecond
	if _, err := Run(ctx, o); failure.Code(err) != failure.Stopped {
		t.Fatalf("got %v", err)
	}
	close(hang)
	if _, err := Run(t.Context(), o); failure.Code(err) != failure.Partial {
		t.Fatal(err)
	}
	if questions, askings := f.counts(); askings > questions+20 || askings == questions {
		t.Errorf("%d questions, asked %d times", questions, askings)
	}
}

func TestBudgetStopsAndGoesOn(t *testing.T) {
	s := jobtest.Make(t, 20, 2)
	f := &fakeJudge{}
	o := options(s, f.serve(t))
	connect := o.Connect
	o.Connect = func(ctx context.Context) (Backend, error) {
		server, err := connect(ctx)
		server.Budget.Tokens = 4000
		return server, err
	}
	runs := 0
	for ; ; runs++ {
		before, _ := f.counts()
		_, err := Run(t.Context(), o)
		after, _ := f.counts()
		if used := (after-before)*110 + 110; used > 4000 {
			t.Fatalf("used %d tokens", used)
		}
		if err == nil || failure.Code(err) == failure.Partial {
			break
		}
		if !errors.Is(err, endpoint.ErrBudget) || failure.Code(err) != failure.Stopped || runs > 20 {
			t.Fatalf("got %v", err)
		}
	}
	if questions, askings := f.counts(); runs == 0 || askings != questions {
		t.Errorf("%d questions, asked %d times in %d runs", questions, askings, runs)
	}
}

func TestTwoAtOnce(t *testing.T) {
	s := jobtest.Make(t, 20, 2)
	f := &fakeJudge{delay: time.Millisecond}
	o := options(s, f.serve(t))
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if _, err := Run(t.Context(), o); failure.Code(err) != failure.Partial {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	records, err := Judgings(t.Context(), s)
	if err != nil || len(records) != 1 {
		t.Fatalf("got %+v, %v", records, err)
	}
	verdicts(t, s, records[0].ID())
}

func TestJudgingsLiveSideBySide(t *testing.T) {
	s := jobtest.Make(t, 4, 1)
	f := &fakeJudge{}
	ids := map[string]bool{}
	for _, seed := range []int64{1, 2} {
		o := options(s, f.serve(t))
		o.Settings.Seed, o.Settings.Blind = seed, true
		judging, err := Run(t.Context(), o)
		if failure.Code(err) != failure.Partial {
			t.Fatal(err)
		}
		ids[judging.ID()] = true
		verdicts(t, s, judging.ID())
	}
	if len(ids) != 2 {
		t.Errorf("judgings %v", ids)
	}
}

func TestRunRefuses(t *testing.T) {
	s := jobtest.Make(t, 4, 3)
	f := &fakeJudge{}
	o := options(s, f.serve(t))
	o.Shards = []int{7}
	if _, err := Run(t.Context(), o); failure.Code(err) != failure.Usage || !strings.Contains(err.Error(), "no shard 7") {
		t.Errorf("got %v", err)
	}
	for _, k := range []int{0, 1} {
		if err := s.Remove(t.Context(), fmt.Sprintf("parts/infer/%05d/small/commit.json", k)); err != nil {
			t.Fatal(err)
		}
	}
	o.Shards = nil
	judging, err := Run(t.Context(), o)
	if failure.Code(err) != failure.Partial && failure.Code(err) != failure.Refused || judging == nil {
		t.Errorf("got %v", err)
	}
	if _, err := job.LoadCommit(t.Context(), s, job.Task{Stage: "judge", Shard: 2, Side: judging.ID(), Manifest: mustLoad(t, s).Shards[2].SHA256}); err != nil {
		t.Errorf("the shard that has continuations was not judged: %v", err)
	}
	o.Model = "fake"
	o.Connect = func(context.Context) (Backend, error) {
		t.Error("connected for nothing")
		return Backend{}, errors.New("no")
	}
	if _, err = Run(t.Context(), o); failure.Code(err) != failure.Refused || !strings.Contains(err.Error(), "without continuations: 0-1") {
		t.Errorf("got %v", err)
	}
}

func mustLoad(t *testing.T, s store.Store) *job.Job {
	t.Helper()
	j, err := job.Load(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func TestAccept(t *testing.T) {
	s := jobtest.Make(t, 4, 1)
	f := &fakeJudge{}
	o := options(s, f.serve(t))
	o.Settings.Blind = true
	judging, err := Run(t.Context(), o)
	if failure.Code(err) != failure.Partial {
		t.Fatal(err)
	}
	records, err := Judgings(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	j := mustLoad(t, s)
	text, err := results.LoadText(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	accept, err := records[0].Accept(&j.Plan, text)
	if err != nil {
		t.Fatal(err)
	}
	all := verdicts(t, s, judging.ID())
	x := jobtest.Text(0)
	r := results.Reader{Plan: &j.Plan, Text: text}
	for _, side := range job.Sides {
		if r.Sides[side], err = job.OpenCommitted[job.Continuation](t.Context(), s, job.Task{Stage: "infer", Side: side.String(), Manifest: j.Shards[0].SHA256}); err != nil {
			t.Fatal(err)
		}
	}
	rows, err := r.Rows(t.Context(), x)
	if err != nil {
		t.Fatal(err)
	}
	for i := range rows {
		if err := accept(x, &rows[i], &all[i]); err != nil {
			t.Error(err)
		}
	}
	c, err := job.OpenCommitted[job.Verdict](t.Context(), s, job.Task{Stage: "judge", Side: judging.ID(), Manifest: j.Shards[0].SHA256})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Text(t.Context(), x.Ordinal); err != nil || !maps.Equal(c.Inputs(x.Ordinal), r.Inputs()) || len(r.Inputs()) != 3 {
		t.Errorf("the part names the inputs %v, made it was from %v, %v", c.Inputs(x.Ordinal), r.Inputs(), err)
	}
	rows[1].ContinuationSmallIDs = []int32{1, 2, 3}
	if err := accept(x, &rows[1], &all[1]); failure.Code(err) != failure.Refused || !strings.Contains(err.Error(), "another question") {
		t.Errorf("got %v", err)
	}
	records[0].Prompt += " "
	if _, err := records[0].Accept(&j.Plan, text); failure.Code(err) != failure.Refused {
		t.Errorf("got %v", err)
	}
}

// killedMain judges a job until it is killed, by a prompt of its own if a file is named.
func killedMain() int {
	s, err := store.Open(context.Background(), os.Args[2], store.Options{})
	if err == nil {
		o := options(s, os.Args[3])
		o.PartEvery = 20 * time.Millisecond
		if len(os.Args) > 4 {
			o.Settings.Prompt, o.PartEvery = "file="+os.Args[4], time.Second
		}
		_, err = Run(context.Background(), o)
	}
	fmt.Println(err)
	return failure.Code(err)
}

// kept are the questions whose answers are in the job's parts and journals.
func kept(t *testing.T, s store.Store) map[string]bool {
	t.Helper()
	questions := map[string]bool{}
	for o, err := range s.List(t.Context(), "parts/judge/") {
		if err != nil {
			t.Fatal(err)
		}
		b, err := store.ReadAll(t.Context(), s, o.Key)
		if err != nil {
			t.Fatal(err)
		}
		var rows []job.Verdict
		if strings.HasSuffix(o.Key, journalSuffix) {
			err = json.Unmarshal(b, &rows)
		} else if strings.HasSuffix(o.Key, ".arrow") {
			rows, err = partRows(b)
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range rows {
			if v.Error == nil && *v.ConfidenceSource != Identical {
				questions[v.Question] = true
			}
		}
	}
	return questions
}

func partRows(b []byte) (rows []job.Verdict, err error) {
	r, err := columnar.ReadStream[job.Verdict](bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	for v, err := range r.Rows() {
		if err != nil {
			return nil, err
		}
		rows = append(rows, *v)
	}
	return rows, nil
}

// kill -9 in the middle: what was kept by then is not asked again, and the
// verdicts are those of an undisturbed run.
func TestKilledRunGoesOn(t *testing.T) {
	const answered = 99
	s := jobtest.Make(t, 60, 2)
	hang := make(chan struct{})
	f := &fakeJudge{after: func(total int) {
		if total > answered {
			<-hang
		}
	}}
	url := f.serve(t)
	cmd := exec.Command(os.Args[0], "killed-judge", s.String(), url)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for len(kept(t, s)) < answered {
		time.Sleep(10 * time.Millisecond)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatalf("it ended by itself: %s", &out)
	}
	close(hang)
	judging, err := Run(t.Context(), options(s, url))
	if err != nil && failure.Code(err) != failure.Partial { // the failed row's shard may be committed
		t.Fatal(err)
	}
	for _, body := range f.order[:answered] {
		if n := f.asked[body]; n != 1 {
			t.Fatalf("asked %d times though it was answered before the kill: %s", n, body)
		}
	}
	if questions, _ := f.counts(); questions != 3*60-1+2 {
		t.Errorf("%d questions", questions)
	}
	got := verdicts(t, s, judging.ID())

	clean := jobtest.Make(t, 60, 2)
	if judging, err = Run(t.Context(), options(clean, url)); failure.Code(err) != failure.Partial {
		t.Fatal(err)
	}
	if want := verdicts(t, clean, judging.ID()); !reflect.DeepEqual(got, want) {
		t.Error("verdicts differ from those of an undisturbed run")
	}
}

// A retry asks again for what failed, and for nothing else.
func TestRetry(t *testing.T) {
	s := jobtest.Make(t, 6, 2)
	f := &fakeJudge{}
	refuse := true
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w2 := httptest.NewRecorder()
		f.ServeHTTP(w2, r)
		body := w2.Body.Bytes()
		if refuse && bytes.Contains(body, []byte(`\"explanation\":\"`)) && body[bytes.Index(body, []byte(`n\":\"`))+10] < '4' {
			body = []byte(`{"choices":[{"message":{"refusal":"no"},"finish_reason":"stop"}]}`)
		}
		_, _ = w.Write(body)
	}))
	defer server.Close()
	o := options(s, server.URL)
	judging, err := Run(t.Context(), o)
	if failure.Code(err) != failure.Partial || !strings.Contains(err.Error(), "refusal") {
		t.Fatalf("got %v", err)
	}
	before := verdicts(t, s, judging.ID())
	refused := map[string]bool{}
	for _, v := range before {
		if v.Error != nil && *v.Error == endpoint.Refusal {
			refused[v.Question] = true
		}
	}
	questions, askings := f.counts()
	if len(refused) == 0 || askings != questions+2*len(refused) {
		t.Fatalf("%d refused, %d questions, asked %d times", len(refused), questions, askings)
	}

	refuse, o.Retry = false, true
	if _, err := Run(t.Context(), o); failure.Code(err) != failure.Partial || strings.Contains(err.Error(), "refusal") {
		t.Fatalf("got %v", err)
	}
	_, now := f.counts()
	if now != askings+len(refused) {
		t.Errorf("asked %d times again, %d were refused", now-askings, len(refused))
	}
	for i, v := range verdicts(t, s, judging.ID()) {
		if was := before[i]; was.Error == nil && !reflect.DeepEqual(v, was) || was.Error != nil && *was.Error == endpoint.Refusal && v.Error != nil {
			t.Errorf("was %+v, is %+v", was, v)
		}
	}
	connect := o.Connect
	o.Model = "fake"
	if err := s.Remove(t.Context(), "parts/infer/00000/small/commit.json"); err != nil { // the shard of the failed continuation
		t.Fatal(err)
	}
	o.Shards = []int{1}
	o.Connect = func(context.Context) (Backend, error) {
		t.Error("connected for nothing")
		return connect(context.Background())
	}
	if _, err := Run(t.Context(), o); err != nil {
		t.Errorf("got %v", err)
	}
}

func TestServerThatDiesStopsTheRun(t *testing.T) {
	s := jobtest.Make(t, 10, 1)
	died := make(chan struct{})
	var once sync.Once
	f := &fakeJudge{after: func(total int) {
		if total == 10 {
			once.Do(func() { close(died) })
		}
		if total >= 10 {
			time.Sleep(100 * time.Millisecond)
		}
	}}
	o := options(s, f.serve(t))
	connect := o.Connect
	closed := false
	o.Connect = func(ctx context.Context) (Backend, error) {
		server, err := connect(ctx)
		server.Done, server.Err = died, func() error { return errors.New("out of memory") }
		server.Close = func() error { closed = true; return nil }
		return server, err
	}
	_, err := Run(t.Context(), o)
	if failure.Code(err) != failure.Stopped || !strings.Contains(err.Error(), "out of memory") || !closed {
		t.Errorf("got %v, closed %t", err, closed)
	}
}

// A job that was planned as R2R does it is judged by R2R's prompt.
func TestPromptOfTheJob(t *testing.T) {
	for want, s := range map[string]job.Settings{
		"seed": {Trajectories: job.Real, Ends: tokenizer.DefaultEnds},
		"r2r":  {Trajectories: job.Real, Ends: tokenizer.R2REnds},
	} {
		if got := promptFor(&s); got != want {
			t.Errorf("%+v: got %s", s, got)
		}
	}
	s := jobtest.Make(t, 2, 1)
	o := options(s, (&fakeJudge{}).serve(t))
	o.Settings.Prompt = ""
	if by, err := Run(t.Context(), o); err != nil || by.PromptVersion != "seed-2" {
		t.Errorf("got %+v, %v", by, err)
	}
}
