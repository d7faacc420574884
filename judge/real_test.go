package judge

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"context"

	"tokenfork/internal/vllm"
	"tokenfork/judge/endpoint"
)

// TestMain makes this binary the guard of the servers that its tests start.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == vllm.GuardCommand {
		os.Exit(vllm.GuardMain(os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == "killed-judge" {
		os.Exit(killedMain())
	}
	os.Exit(m.Run())
}

// setting is an environment variable's folder, or one under the checkout.
func setting(t *testing.T, name, fallback string) string {
	t.Helper()
	dir := os.Getenv(name)
	if dir == "" {
		dir = filepath.Join("..", fallback)
	}
	dir, err := filepath.Abs(dir)
	if err == nil {
		_, err = os.Stat(dir)
	}
	if err != nil {
		t.Fatalf("%v: run make setup, or set %s", err, name)
	}
	return dir
}

// recorder keeps the bodies that went over the wire.
type recorder struct {
	base http.RoundTripper

	mu        sync.Mutex
	requests  []string
	responses []string
}

func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	var sent []byte
	if req.Body != nil {
		var err error
		if sent, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
		req.Body = io.NopCloser(bytes.NewReader(sent))
	}
	resp, err := r.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	got, err := io.ReadAll(resp.Body)
	resp.Body = io.NopCloser(bytes.NewReader(got))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests, r.responses = append(r.requests, string(sent)), append(r.responses, string(got))
	return resp, err
}

// realJudge starts vLLM with the pair's reference model.
func realJudge(t *testing.T) *recorder {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a real vLLM server")
	}
	root, err := os.MkdirTemp("/tmp", "tf") // socket paths must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	server, err := vllm.Start(t.Context(), vllm.Config{
		Command: []string{filepath.Join(setting(t, "TOKENFORK_VENV", ".venv"), "bin", "vllm")},
		Model:   filepath.Join(setting(t, "TOKENFORK_MODELS", ".cache/models"), "reference"),
		Name:    "judge", LogPath: filepath.Join(t.TempDir(), "vllm.log"), RunRoot: root,
		Args:         []string{"--dtype", "float32", "--enforce-eager", "--max-model-len", "2048"},
		Env:          []string{"VLLM_CPU_OMP_THREADS_BIND=nobind", "VLLM_CPU_KVCACHE_SPACE=1"},
		StartTimeout: 10 * time.Minute, StopTimeout: 20 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	socket := strings.TrimPrefix(server.Endpoint().URL(), "unix://")
	return &recorder{base: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
}

func (r *recorder) open(t *testing.T, change func(*Settings)) *Judge {
	t.Helper()
	s := Defaults()
	s.MaxTokens = 200
	if change != nil {
		change(&s)
	}
	p, err := LoadPrompt(s)
	if err != nil {
		t.Fatal(err)
	}
	client, err := endpoint.Open(t.Context(), endpoint.Config{URL: "http://judge.test", HTTP: &http.Client{Transport: r}})
	if err == nil {
		err = client.Negotiate(t.Context(), p.request(s, ""))
	}
	if err != nil {
		t.Fatal(err)
	}
	return newJudge(p, Judging{Model: client.Model(), PromptVersion: p.Version, PromptHash: p.Hash, Settings: s}, client)
}

// TestRealJudge asks a real vLLM. A model of this size judges badly; what is
// tested is that its answers have the form that they must have, and that
// confidence is measured at the verdict.
func TestRealJudge(t *testing.T) {
	r := realJudge(t)
	t.Run("analysis", func(t *testing.T) { testRealAnalysis(t, r) })
}

func testRealAnalysis(t *testing.T, r *recorder) {
	j := r.open(t, nil)
	for n := range 6 {
		q := example()
		q.Forks[1].Rest = fmt.Sprintf(" the house %d times.", n)
		v, err := j.Ask(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		if v.Error != nil {
			fmt.Println(n, *v.Error, *v.Message, *v.Raw)
			continue
		}
		fmt.Println(n, *v.MeaningMatch, *v.Explanation, v.KeyDifferences, v.Confidence, v.ConfidenceSource)
		if v.Confidence != nil {
			fmt.Println(*v.Confidence, *v.ConfidenceSource)
		}
	}
	fmt.Println(r.requests[len(r.requests)-1])
	fmt.Println(r.responses[len(r.responses)-1])
	_ = math.Pi
}
