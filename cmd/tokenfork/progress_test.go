package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/store/storetest"
	"tokenfork/internal/vllm/fakevllm"
)

// watchedJudge stands before the judge and looks at the runner's metrics, at a socket,
// whenever it is asked.
type watchedJudge struct {
	to     http.Handler
	socket string

	mu   sync.Mutex
	last string
}

func (w *watchedJudge) ServeHTTP(rw http.ResponseWriter, q *http.Request) {
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", w.socket)
	}}}
	if resp, err := c.Get("http://tokenfork/metrics"); err == nil {
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		w.mu.Lock()
		w.last = string(b)
		w.mu.Unlock()
	}
	w.to.ServeHTTP(rw, q)
}

// TestLogFormatAndMetrics runs a job with both: every line of the log is one JSON object, a
// stage's last line has its facts, the metrics say the same, and neither has the servers' key.
func TestLogFormatAndMetrics(t *testing.T) {
	const key = "sk-not-to-be-seen-0123456789"
	t.Setenv("TOKENFORK_SERVER_KEY", key)
	t.Setenv("TOKENFORK_JUDGE_KEY", key)
	j := newFakeJob(t, 6, 60, 2)
	at := slices.Index(j.flags, "--judge") + 1
	to, err := url.Parse(j.flags[at])
	if err != nil {
		t.Fatal(err)
	}
	own, err := os.MkdirTemp("", "tf-") // of a short path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(own) })
	judge := &watchedJudge{to: httputil.NewSingleHostReverseProxy(to), socket: filepath.Join(own, "m")}
	server := httptest.NewServer(judge)
	t.Cleanup(server.Close)
	j.flags[at] = server.URL
	var out, log bytes.Buffer
	place := filepath.Join(j.dir, "job")
	if code := run(t.Context(), append(j.args(place), "--log-format", "json", "--metrics-listen", "unix:"+judge.socket), &out, &log); code != 0 {
		t.Fatalf("exit code %d:\n%s", code, &log)
	}
	type line struct {
		Time, Level, Msg, Stage, Unit string
		Done, Total, Failed           int64
		Ended                         bool
	}
	ended := map[string]line{}
	for _, said := range strings.Split(strings.TrimSpace(log.String()), "\n") {
		var l line
		if err := json.Unmarshal([]byte(said), &l); err != nil || l.Time == "" || l.Level == "" || l.Msg == "" {
			t.Errorf("%v: %s", err, said)
		}
		if l.Ended {
			ended[l.Stage] = l
		}
	}
	forks, questions := ended["infer"], ended["judge"]
	if forks.Done == 0 || forks.Done != forks.Total || forks.Unit != "forks" || questions.Done*2 != forks.Done || questions.Unit != "mismatches" || ended["merge"].Done != questions.Done {
		t.Errorf("%+v", ended)
	}
	for _, want := range []string{
		`tokenfork_done{stage="infer",side="small",unit="forks"} `, `tokenfork_generated_tokens_total{stage="infer",side="reference",unit="forks"} `,
		`tokenfork_replayed_tokens_total{stage="infer",side="reference"`, `tokenfork_planned{stage="judge",side="",unit="mismatches"} `, `tokenfork_servers_up{stage="judge",side="",unit="mismatches"} 1`,
	} {
		if !strings.Contains(judge.last, want) {
			t.Errorf("no %s in\n%s", want, judge.last)
		}
	}
	if strings.Contains(judge.last+log.String(), key) {
		t.Error("the key is in the log or in the metrics")
	}
}

// TestErrorsInJSON: what is wrong, its way out and the exit code are fields, of a wrong
// command line too.
func TestErrorsInJSON(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		code int
	}{
		{[]string{"status", "--job", filepath.Join(t.TempDir(), "none"), "--log-format", "json"}, failure.Refused},
		{[]string{"status", "--log-format=json"}, failure.Usage},
		{[]string{"status", "--job", filepath.Join(t.TempDir(), "none"), "--config", writeConfig(t, "log-format: json\n")}, failure.Refused},
		{[]string{"infer", "--job", t.TempDir(), "--log-format=json", "--metrics-listen", "0.0.0.0:9100"}, failure.Usage},
	} {
		var out, log bytes.Buffer
		code := run(t.Context(), c.args, &out, &log)
		var said struct {
			Level, Msg, Hint string
			ExitCode         int `json:"exit_code"`
		}
		if err := json.Unmarshal(log.Bytes(), &said); err != nil || code != c.code || said.ExitCode != code || said.Level != "ERROR" || said.Msg == "" || said.Hint == "" {
			t.Errorf("%v: %d, %v:\n%s", c.args, code, err, &log)
		}
	}
}

// until is written to until something was seen.
type until struct {
	want *regexp.Regexp
	seen chan struct{}
	once sync.Once
	said bytes.Buffer
}

func (u *until) Write(p []byte) (int, error) {
	n, err := u.said.Write(p)
	if u.want.Match(u.said.Bytes()) {
		u.once.Do(func() { close(u.seen) })
	}
	return n, err
}

// heldServer stands before a server and, after some requests, keeps all others waiting
// until they are let go.
func heldServer(t *testing.T, before string, after int64, let <-chan struct{}) string {
	t.Helper()
	to, err := url.Parse(before)
	if err != nil {
		t.Fatal(err)
	}
	proxy, asked := httputil.NewSingleHostReverseProxy(to), atomic.Int64{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Method == http.MethodPost && asked.Add(1) > after {
			select {
			case <-let:
			case <-q.Context().Done():
				return
			}
		}
		proxy.ServeHTTP(w, q)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// TestWatch watches a job in a folder and one in S3 while a task works on it: its rate and
// the hour at which it will be done are there.
func TestWatch(t *testing.T) {
	t.Parallel()
	for _, where := range []string{"folder", "S3"} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			j := newFakeJobOf(t, fakevllm.Config{TokenTime: 4 * time.Millisecond}, 30, 60, 1)
			place, flags := filepath.Join(j.dir, "job"), []string(nil)
			if where == "S3" {
				s3 := storetest.StartS3(t)
				place, flags = "s3://"+s3.Bucket+"/job", []string{"--s3-endpoint", s3.URL, "--s3-path-style"}
			}
			on := func(words ...string) []string {
				return slices.Concat(words[:1], []string{"--job", place}, flags, words[1:])
			}
			models := slices.Clone(j.flags[slices.Index(j.flags, "--small-model"):slices.Index(j.flags, "--judge")])
			must(t, []int{0}, on(slices.Concat([]string{"plan", j.table, "--shards", "1", "--max-new-tokens", "8", "--alignment", "next"}, models[0:2], models[4:6])...)...)
			status := &until{seen: make(chan struct{}),
				want: regexp.MustCompile(`  infer small shard 0: running, \d+ of \d+ mismatches done, [0-9.e+-]+/s, \S+ left, done at .*\d\d:\d\d, on `)}
			models[3] = heldServer(t, models[3], 250, status.seen) // parts of some seconds, as S3 counts time, were kept by then
			ended := make(chan int, 1)
			var said bytes.Buffer
			go func() {
				ended <- run(t.Context(), on(append([]string{"infer", "--shard", "0", "--part-every", "5ms", "--in-flight", "1"}, models...)...), &said, &said)
			}()
			for {
				if code := run(t.Context(), on("status", "--watch", "--every", "200ms"), status, status); code != 0 {
					t.Fatalf("exit code %d:\n%s", code, &status.said)
				}
				select {
				case code := <-ended:
					if code != 0 {
						t.Fatalf("infer: %d\n%s", code, &said)
					}
					select {
					case <-status.seen:
					default:
						t.Errorf("no line like %s in\n%s", status.want, &status.said)
					}
					return
				case <-time.After(50 * time.Millisecond): // it has not begun, or ends
				}
			}
		})
	}
}
