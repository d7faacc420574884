// Package vllmtest gives tests real vLLM servers, and a proxy that makes what
// they say repeatable.
package vllmtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"tokenfork/internal/vllm"
)

// Root is the checkout's folder, from any package of it.
func Root() string {
	dir, err := os.Getwd()
	for ; err == nil && dir != "/"; dir = filepath.Dir(dir) {
		if _, serr := os.Stat(filepath.Join(dir, "go.mod")); serr == nil {
			return dir
		}
	}
	panic("vllmtest: not inside the checkout")
}

func fromEnv(name, fallback string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return filepath.Join(Root(), fallback)
}

// Venv is the Python environment that scripts/setup-vllm makes.
func Venv() string { return fromEnv("TOKENFORK_VENV", ".venv") }

// Models is the folder of the model pair that scripts/make-pair makes.
func Models() string { return fromEnv("TOKENFORK_MODELS", ".cache/models") }

// Flags serve the pair on a CPU as other float32 implementations compute it.
var Flags = []string{"--dtype", "float32", "--enforce-eager", "--block-size", "32"}

// compact lets no white space through around JSON: a small model may not come to its end.
var compact = []string{"--structured-outputs-config", `{"backend":"xgrammar","disable_any_whitespace":true}`}

// Env is what the CPU build wants to know. Threads that spin while they wait
// would take the cores from another server's. The last one keeps the model in the
// engine's process: one that loads Python's modules less.
var Env = []string{"VLLM_CPU_OMP_THREADS_BIND=nobind", "VLLM_CPU_KVCACHE_SPACE=1", "OMP_WAIT_POLICY=PASSIVE", "VLLM_ENABLE_V1_MULTIPROCESSING=0"}

// Start serves models of the pair, named small or reference, until the test
// ends. They load side by side.
func Start(tb testing.TB, names ...string) []*vllm.Server {
	tb.Helper()
	if _, err := os.Stat(filepath.Join(Venv(), ".ready")); err != nil {
		tb.Fatalf("no vLLM in %s: run make setup", Venv())
	}
	ctx := context.WithoutCancel(tb.Context()) // which ends before clean-up
	servers, logs := make([]*vllm.Server, len(names)), tb.TempDir()
	tb.Cleanup(func() {
		for _, s := range servers {
			if s == nil {
				continue
			}
			if err := s.Stop(ctx); err != nil {
				tb.Error(err)
			}
		}
	})
	var starts errgroup.Group
	for i, name := range names {
		starts.Go(func() (err error) {
			servers[i], err = vllm.Start(ctx, vllm.Config{Command: []string{filepath.Join(Venv(), "bin/vllm")}, Model: filepath.Join(Models(), name), Name: name,
				LogPath: filepath.Join(logs, name+".log"), CacheDir: filepath.Join(filepath.Dir(Models()), "vllm"), Args: slices.Concat([]string{"--max-model-len", "2048"}, compact, Flags), Env: Env,
				StartTimeout: 20 * time.Minute, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
			return err
		})
	}
	if err := starts.Wait(); err != nil {
		tb.Fatal(err)
	}
	return servers
}

// Recorder stands before a server and repeats the first answer to each request
// for good: two runs that ask the same are told the same.
type Recorder struct {
	URL string

	*memory
	down  atomic.Bool
	delay atomic.Int64                // of every answer, recorded ones too
	hold  atomic.Pointer[func() bool] // while it says so, nothing is answered
}

// memory is what the ways to one server share.
type memory struct {
	to       *http.Client
	mu       sync.Mutex
	answers  map[[sha256.Size]byte]*answer
	fresh    atomic.Int64
	work     atomic.Bool
	repeated atomic.Int64
}

type answer struct {
	once   sync.Once
	status int
	kind   string // content type
	body   []byte
	err    error
}

// Record puts a recorder before the server at a unix:///path URL.
func Record(tb testing.TB, unixURL string) *Recorder {
	tb.Helper()
	path, ok := strings.CutPrefix(unixURL, "unix://")
	if !ok {
		tb.Fatalf("%s is no Unix socket", unixURL)
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}
	return serve(tb, &memory{answers: map[[sha256.Size]byte]*answer{},
		to: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 512, IdleConnTimeout: 3 * time.Second, DialContext: dial}}})
}

// Again is another way to the same server and answers, with delays and outages of its own.
func (r *Recorder) Again(tb testing.TB) *Recorder { return serve(tb, r.memory) }

func serve(tb testing.TB, m *memory) *Recorder {
	r := &Recorder{memory: m}
	s := httptest.NewServer(r)
	tb.Cleanup(s.Close)
	r.URL = s.URL
	return r
}

// Fresh is how many questions reached the server.
func (r *memory) Fresh() int64 { return r.fresh.Load() }

// Work has the server work on every request, as long as its client waits: on those too
// whose answer is known and given.
func (r *memory) Work() { r.work.Store(true) }

// Repeated is how many requests the server was sent although their answers were known.
func (r *memory) Repeated() int64 { return r.repeated.Load() }

// Down makes the server seem gone, or back.
func (r *Recorder) Down(down bool) { r.down.Store(down) }

// Delay slows generation down, so that a run can be met half way.
func (r *Recorder) Delay(d time.Duration) { r.delay.Store(int64(d)) }

// Hold keeps generation from being answered while a condition holds; nil lets go.
func (r *Recorder) Hold(while func() bool) { r.hold.Store(&while) }

// held says whether the client is still there when it is let go.
func (r *Recorder) held(client context.Context) bool {
	for {
		while := r.hold.Load()
		if while == nil || *while == nil || !(*while)() {
			return true
		}
		select {
		case <-client.Done():
			return false
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// ServeHTTP forwards a request, or repeats its answer. Only generation is recorded.
func (r *Recorder) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	if r.down.Load() {
		panic(http.ErrAbortHandler) // cuts the connection
	}
	body, err := io.ReadAll(q.Body)
	if err != nil {
		return // the client is gone
	}
	a := &answer{}
	if q.Method == http.MethodPost {
		a = r.known(sha256.Sum256(append([]byte(q.URL.Path+"\n"), body...)))
	}
	known := true
	a.once.Do(func() { // for all who ask, whether or not the first one waits
		known = false
		if q.Method == http.MethodPost {
			r.fresh.Add(1)
		}
		a.err = a.ask(context.WithoutCancel(q.Context()), r.memory, q, body)
	})
	if a.err != nil {
		http.Error(w, fmt.Sprint(a.err), http.StatusBadGateway)
		return
	}
	if q.Method == http.MethodPost {
		if known && r.work.Load() {
			r.repeated.Add(1)
			_ = new(answer).ask(q.Context(), r.memory, q, body) // the client may go
		}
		time.Sleep(time.Duration(r.delay.Load()))
		if !r.held(q.Context()) {
			return
		}
	}
	w.Header().Set("Content-Type", a.kind)
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body) // a client that has gone is told the same next time
}

func (r *memory) known(key [sha256.Size]byte) *answer {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.answers[key] == nil {
		r.answers[key] = &answer{}
	}
	return r.answers[key]
}

func (a *answer) ask(ctx context.Context, r *memory, q *http.Request, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, q.Method, "http://server"+q.URL.Path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header = q.Header.Clone()
	resp, err := r.to.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	a.status, a.kind = resp.StatusCode, resp.Header.Get("Content-Type")
	a.body, err = io.ReadAll(resp.Body)
	return err
}
