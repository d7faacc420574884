package judge

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/job/jobtest"
	"tokenfork/internal/results"
	"tokenfork/internal/store"
	"tokenfork/judge/endpoint"
)

// fakeBatches is a hosted judge's Batch API, which no local server has. A batch
// ends after some polls.
type fakeBatches struct {
	fakeJudge
	polls  int    // until a batch ends
	status string // how it ends
	lose   int    // every so many-th line has no answer
	onPoll func()

	lock    sync.Mutex
	files   map[string][]byte
	batches map[string]string // id to input file
	polled  map[string]int
}

func (f *fakeBatches) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.lock.Lock()
	defer f.lock.Unlock()
	switch path := strings.TrimPrefix(r.URL.Path, "/v1"); {
	case r.Method == http.MethodPost && path == "/files":
		f.upload(w, r)
	case r.Method == http.MethodPost && path == "/batches":
		var b struct {
			File     string `json:"input_file_id"`
			Endpoint string `json:"endpoint"`
		}
		if err := json.NewDecoder(r.Body).Decode(&b); err != nil || f.files[b.File] == nil || b.Endpoint != "/v1/chat/completions" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		id := fmt.Sprintf("batch_%d", len(f.batches))
		f.batches[id] = b.File
		fmt.Fprintf(w, `{"id":%q,"status":"validating"}`, id)
	case strings.HasPrefix(path, "/batches/"):
		f.poll(w, strings.TrimPrefix(path, "/batches/"))
	case strings.HasSuffix(path, "/content"):
		f.content(w, strings.TrimSuffix(strings.TrimPrefix(path, "/files/out_"), "/content"))
	default:
		f.fakeJudge.ServeHTTP(w, r)
	}
}

func (f *fakeBatches) upload(w http.ResponseWriter, r *http.Request) {
	file, _, err := r.FormFile("file")
	if err != nil || r.FormValue("purpose") != "batch" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	b, err := io.ReadAll(file)
	if err != nil {
		return
	}
	id := fmt.Sprintf("file_%d", len(f.files))
	f.files[id] = b
	fmt.Fprintf(w, `{"id":%q}`, id)
}

func (f *fakeBatches) poll(w http.ResponseWriter, id string) {
	f.polled[id]++
	f.onPoll()
	status, output := "in_progress", "null"
	if f.polled[id] > f.polls {
		status, output = f.status, `"out_`+id+`"`
	}
	fmt.Fprintf(w, `{"id":%q,"status":%q,"output_file_id":%s,"request_counts":{"total":9,"completed":4},"errors":{"data":[{"message":"no such model"}]}}`, id, status, output)
}

func (f *fakeBatches) content(w http.ResponseWriter, batch string) {
	for i, line := range bytes.Split(bytes.TrimSpace(f.files[f.batches[batch]]), []byte("\n")) {
		var l struct {
			ID   string          `json:"custom_id"`
			Body json.RawMessage `json:"body"`
		}
		if err := json.Unmarshal(line, &l); err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		if f.lose > 0 && i%f.lose == 0 {
			fmt.Fprintf(w, `{"custom_id":%q,"response":null,"error":{"code":"batch_expired"}}`+"\n", l.ID)
			continue
		}
		fmt.Fprintf(w, `{"custom_id":%q,"response":{"status_code":200,"body":%s},"error":null}`+"\n", l.ID, f.reply(l.Body))
	}
}

func newFakeBatches(polls int, status string, lose int) *fakeBatches {
	return &fakeBatches{polls: polls, status: status, lose: lose, onPoll: func() {}, files: map[string][]byte{}, batches: map[string]string{}, polled: map[string]int{}}
}

func batchOptions(t *testing.T, f *fakeBatches, shards int) Options {
	t.Helper()
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	o := options(jobtest.Make(t, 12, shards), server.URL)
	o.Batch, o.BatchPoll = true, time.Millisecond
	return o
}

// A batch brings the verdicts that single questions would, in the same bytes.
func TestBatch(t *testing.T) {
	f := newFakeBatches(3, "completed", 0)
	o := batchOptions(t, f, 2)
	judging, err := Run(t.Context(), o)
	if failure.Code(err) != failure.Partial {
		t.Fatal(err)
	}
	questions, askings := f.counts()
	if len(f.batches) != 2 || questions != 3*12-1+2 || askings != questions {
		t.Errorf("%d batches, %d questions, asked %d times", len(f.batches), questions, askings)
	}
	single := options(jobtest.Make(t, 12, 2), "")
	one := &fakeJudge{}
	url := one.serve(t)
	single.Connect = func(context.Context) (Backend, error) { return Backend{Config: endpoint.Config{URL: url}}, nil }
	if _, err := Run(t.Context(), single); failure.Code(err) != failure.Partial {
		t.Fatal(err)
	}
	if got, want := verdicts(t, o.Store, judging.ID()), verdicts(t, single.Store, judging.ID()); !reflect.DeepEqual(got, want) {
		t.Error("verdicts differ from those of single questions")
	}
	if !reflect.DeepEqual(f.asked, one.asked) {
		t.Error("the bodies differ from those of single questions")
	}
}

// What a batch leaves out is asked singly.
func TestBatchThatExpires(t *testing.T) {
	f := newFakeBatches(1, "expired", 4)
	o := batchOptions(t, f, 1)
	judging, err := Run(t.Context(), o)
	if failure.Code(err) != failure.Partial {
		t.Fatal(err)
	}
	for _, v := range verdicts(t, o.Store, judging.ID()) {
		if v.Error != nil && *v.Error != results.NoContinuation {
			t.Errorf("got %+v", v)
		}
	}
	if questions, askings := f.counts(); len(f.batches) != 1 || askings != questions {
		t.Errorf("%d questions, asked %d times", questions, askings)
	}
}

// Stopped while a batch works, a run goes on with it and makes no other.
func TestBatchOutlivesTheRun(t *testing.T) {
	f := newFakeBatches(1<<30, "completed", 0)
	o := batchOptions(t, f, 2)
	ctx, stop := context.WithCancel(t.Context())
	f.onPoll = stop
	if _, err := Run(ctx, o); failure.Code(err) != failure.Stopped {
		t.Fatalf("got %v", err)
	}
	f.lock.Lock() // the last poll's reply, for which the run did not wait, may be on its way
	f.polls, f.onPoll = 0, func() {}
	f.lock.Unlock()
	if _, err := Run(t.Context(), o); failure.Code(err) != failure.Partial {
		t.Fatal(err)
	}
	if questions, askings := f.counts(); len(f.batches) != 2 || askings != questions {
		t.Errorf("%d batches, %d questions, asked %d times", len(f.batches), questions, askings)
	}
}

// A damaged manifest costs no batch and stops no other shard.
func TestBatchPassesOverDamagedManifest(t *testing.T) {
	f := newFakeBatches(0, "completed", 0)
	o := batchOptions(t, f, 3)
	whole, err := store.ReadAll(t.Context(), o.Store, job.ManifestKey(1))
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(whole)
	bad[len(bad)/2] ^= 4
	put := func(b []byte) {
		t.Helper()
		if err := store.ReplaceBytes(t.Context(), o.Store, job.ManifestKey(1), b); err != nil {
			t.Fatal(err)
		}
	}
	put(bad)
	_, err = Run(t.Context(), o)
	if failure.Code(err) != failure.Refused || !strings.Contains(err.Error(), "shards 1 cannot be worked on, the others are finished") || len(f.batches) != 2 {
		t.Errorf("%d batches, %v", len(f.batches), err)
	}
	put(whole)
	judging, err := Run(t.Context(), o) // of shard 1 no question fails
	if err != nil || len(f.batches) != 3 {
		t.Fatalf("%d batches, %v", len(f.batches), err)
	}
	clean := batchOptions(t, newFakeBatches(0, "completed", 0), 3)
	clean.Identity = judging.Identity
	if _, err := Run(t.Context(), clean); failure.Code(err) != failure.Partial {
		t.Fatal(err)
	}
	if got, want := verdicts(t, o.Store, judging.ID()), verdicts(t, clean.Store, judging.ID()); len(want) == 0 || !reflect.DeepEqual(got, want) {
		t.Errorf("%d verdicts differ from the %d of an undisturbed run", len(got), len(want))
	}
}

func TestBatchThatFails(t *testing.T) {
	o := batchOptions(t, newFakeBatches(0, "failed", 0), 1)
	if _, err := Run(t.Context(), o); failure.Code(err) != failure.Refused || !strings.Contains(err.Error(), "no such model") {
		t.Errorf("got %v", err)
	}
}

func TestBatchWithinBudget(t *testing.T) {
	f := newFakeBatches(0, "completed", 0)
	o := batchOptions(t, f, 1)
	connect := o.Connect
	o.Connect = func(ctx context.Context) (Backend, error) {
		server, err := connect(ctx)
		server.Budget.Tokens = 20_000
		return server, err
	}
	if _, err := Run(t.Context(), o); !errors.Is(err, endpoint.ErrBudget) || len(f.files) != 0 {
		t.Errorf("got %v, %d files", err, len(f.files))
	}
}

func TestBatchWithVotes(t *testing.T) {
	f := newFakeBatches(0, "completed", 0)
	o := batchOptions(t, f, 1)
	o.Settings.Swap, o.Settings.Blind = true, true
	judging, err := Run(t.Context(), o)
	if failure.Code(err) != failure.Partial {
		t.Fatal(err)
	}
	questions, askings := f.counts()
	if askings != questions || questions != 2*(3*12-1+2) {
		t.Errorf("%d questions, asked %d times", questions, askings)
	}
	for _, v := range verdicts(t, o.Store, judging.ID()) {
		if v.Error == nil && *v.ConfidenceSource == ByVotes && !strings.HasPrefix(*v.Explanation, "(A: ") {
			t.Errorf("got %+v", v)
		}
	}
}
