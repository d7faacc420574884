package judge

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"tokenfork/internal/job"
	"tokenfork/internal/job/jobtest"
	"tokenfork/internal/store"
)

var loadQuestions = flag.Int("judge.load", 4*jobtest.LargePerText, "questions of TestJudgeLoad")

// fakeFastJudge answers at once, and closes each of its marks when so many questions were asked.
type fakeFastJudge struct {
	mu    sync.Mutex
	asked map[string]int // by the end of the question
	marks map[int]chan struct{}
}

func (f *fakeFastJudge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var q struct{ Messages []struct{ Content string } }
	if r.Method == http.MethodGet {
		_, _ = io.WriteString(w, `{"data":[{"id":"fake"}]}`)
		return
	}
	if json.NewDecoder(r.Body).Decode(&q) != nil || len(q.Messages) == 0 {
		return
	}
	f.mu.Lock()
	f.asked[q.Messages[0].Content[max(0, len(q.Messages[0].Content)-24):]]++
	if mark := f.marks[len(f.asked)]; mark != nil {
		close(mark)
		delete(f.marks, len(f.asked))
	}
	f.mu.Unlock()
	_, _ = io.WriteString(w, `{"choices":[{"message":{"content":"{\"explanation\":\"Both say the same in other words.\",\"key_differences\":[],\"meaning_match\":true,\"confidence\":0.5}"},"finish_reason":"stop"}],"usage":{"prompt_tokens":100,"completion_tokens":10}}`)
}

// TestJudgeLoad judges many questions, all different, is killed by -9 twice on the way,
// and goes on: every question gets its verdict, and no process holds more for more questions.
//
//	go test ./judge -run TestJudgeLoad -v -timeout 2h -judge.load 1000000
func TestJudgeLoad(t *testing.T) {
	texts := max(1, *loadQuestions/jobtest.LargePerText)
	shards := (texts + 24) / 25
	s := jobtest.LargeJudged(t, texts, shards, jobtest.LargeContinuation, "", nil)
	questions := texts * jobtest.LargePerText
	prompt := filepath.Join(t.TempDir(), "prompt.tmpl")
	if err := os.WriteFile(prompt, []byte("Context: {{.Context}}\nA: {{.A.Text}}\nB: {{.B.Text}}\n{{.Answer}}\n{{.Row.SentenceID}} at {{.Row.MismatchPosition}}"), 0o600); err != nil {
		t.Fatal(err)
	}
	first, second := make(chan struct{}), make(chan struct{})
	f := &fakeFastJudge{asked: map[string]int{}, marks: map[int]chan struct{}{1 + questions/3: first, 1 + 2*questions/3: second}}
	server := httptest.NewServer(f)
	defer server.Close()
	for i, mark := range []chan struct{}{first, second, nil} {
		cmd := exec.Command(os.Args[0], "killed-judge", s.String(), server.URL, prompt)
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		began := time.Now()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		files := 0
		if mark != nil {
			<-mark
			open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", cmd.Process.Pid))
			if err != nil || cmd.Process.Kill() != nil {
				t.Fatal(err)
			}
			files = len(open)
		}
		_ = cmd.Wait() // the exit code tells
		held := cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss >> 10
		t.Logf("process %d: %s, %d MiB, %d files", i+1, time.Since(began).Round(time.Second), held, files)
		if code := cmd.ProcessState.ExitCode(); mark == nil && code != 0 {
			t.Fatalf("exit code %d", code)
		}
		if held > 512 || files > 600 {
			t.Errorf("process %d held %d MiB and %d files", i+1, held, files)
		}
	}
	again := 0
	for _, n := range f.asked {
		again += n - 1
	}
	done, err := commits(t, s)
	t.Logf("%d questions asked, %d again; %d verdicts in %d shards", len(f.asked), again, done, shards)
	if err != nil || done != questions || len(f.asked) < questions {
		t.Errorf("%d verdicts on %d questions, %d asked: %v", done, questions, len(f.asked), err)
	}
}

// commits counts the verdicts of the only judging's finished shards.
func commits(t *testing.T, s store.Store) (verdicts int, err error) {
	t.Helper()
	records, err := Judgings(t.Context(), s)
	if err != nil || len(records) != 1 {
		return 0, fmt.Errorf("%d judgings: %w", len(records), err)
	}
	j, err := job.Load(t.Context(), s)
	if err != nil {
		return 0, err
	}
	for k, shard := range j.Shards {
		c, err := job.OpenCommitted[job.Verdict](t.Context(), s, job.Task{Stage: "judge", Shard: k, Side: records[0].ID(), Manifest: shard.SHA256})
		if err != nil {
			return verdicts, err
		}
		verdicts += int(c.Commit().Rows)
	}
	return verdicts, nil
}
