package judge

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"tokenfork/internal/job"
)

// fakeJudge answers each question by its hash, after a while.
type fakeJudge struct {
	mu    sync.Mutex
	asked map[string]int
	order []string // questions as they came
	delay time.Duration
	after func(total int) // called for each question
}

func (f *fakeJudge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		_, _ = io.WriteString(w, `{"data":[{"id":"fake"}]}`)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	_, _ = io.WriteString(w, f.reply(body))
}

// reply is the answer to a chat request's body.
func (f *fakeJudge) reply(body []byte) string {
	content := `{"explanation":"Hello, dear re`
	if !bytes.Contains(body, []byte("Greet the reader")) {
		f.mu.Lock()
		if f.asked == nil {
			f.asked = map[string]int{}
		}
		f.asked[string(body)]++
		f.order = append(f.order, string(body))
		total := 0
		for _, n := range f.asked {
			total += n
		}
		f.mu.Unlock()
		if f.after != nil {
			f.after(total)
		}
		sum := job.Sum(body)
		time.Sleep(f.delay * time.Duration(sum[1]%8))
		content = fmt.Sprintf(`{"explanation":"%s","key_differences":[],"meaning_match":%t,"confidence":0.5}`, sum[:8], sum[0]%2 == 0)
	}
	return fmt.Sprintf(`{"choices":[{"message":{"content":%q},"finish_reason":"stop"}],"usage":{"prompt_tokens":100,"completion_tokens":10,"total_tokens":110}}`, content)
}

func (f *fakeJudge) counts() (questions, askings int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range f.asked {
		askings += n
	}
	return len(f.asked), askings
}

func (f *fakeJudge) serve(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	return server.URL
}
