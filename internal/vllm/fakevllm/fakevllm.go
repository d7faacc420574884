// Package fakevllm is a fake vLLM server for tests: it speaks what tokenfork uses
// of vLLM over HTTP, its "model" is a hash of the prompt, and it shows faults on
// cue that a real server can't be made to show. What a real server answers is for
// tests with package vllmtest.
//
// In a test's own process, as a server that somebody else runs:
//
//	url := fakevllm.Serve(t, fakevllm.Config{Model: m}).URL
//
// As a server that the task starts and restarts: TestMain calls Main, the model
// is a folder, and the configuration goes through the environment.
//
//	func TestMain(m *testing.M) {
//		if len(os.Args) > 1 && os.Args[1] == fakevllm.Command {
//			os.Exit(fakevllm.Main(os.Args[2:]))
//		}
//		…
//	}
//
//	m.Write(t, dir)                                          // config.json, tokenizer.json
//	t.Setenv(fakevllm.Var, fakevllm.Config{Faults: …}.Env(t))
//	… --vllm "/path/of/the/test/binary fakevllm" --small-model dir
//
// The answers depend on the model and the prompt alone, so that all runs over one
// table give the same results whatever faults they met.
package fakevllm

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Command is the first argument with which a test binary must call Main.
const Command = "fakevllm"

// Var is the environment variable that holds a server's Config as JSON.
const Var = "FAKEVLLM"

// Config describes a server. The zero value of a field is what its comment says.
type Config struct {
	Model       Model         // of Serve, and of a process whose folder has none
	Name        string        // served model name; "fake"
	MaxModelLen int           // tokens; the model's MaxPositions, else 4096
	BlockSize   int           // tokens of a KV cache block; 16
	KVTokens    int           // that the KV cache holds; 1 << 20
	TokenTime   time.Duration // for each token generated; none
	Logits      bool          // scores are logits: --logprobs-mode raw_logits
	Old         bool          // a version without the Generate API and its flag

	Faults []Fault
	// State is a folder in which processes keep which faults they have shown, so
	// that a restarted one goes on counting. Env makes one.
	State string
	// Modes are how a process behaves, see Main.
	Modes []string
}

// Fault is something that goes wrong with requests for tokens. A request meets the
// first fault whose cue it fits.
type Fault struct {
	Kind   Kind
	Status int           // of Refuse
	For    time.Duration // how long Late waits; how long a served server stays away after Die, 0 for good
	// The cue. All conditions that are set must hold.
	Server string  // base name of the model's folder, or the model name of Serve
	Suffix []int32 // the prompt ends in these ids
	Every  int     // one prompt in so many, by its hash
	After  int     // so many requests for tokens came before, since the server started
	Times  int     // at most so often with the same prompt, over all restarts
	Most   int     // at most so often, over all restarts
}

// Kind says what happens.
type Kind string

// The kinds of faults.
const (
	Late     Kind = "late"      // the answer comes after For
	Slow     Kind = "slow"      // the answer comes in pieces, over For
	Hang     Kind = "hang"      // the engine stops: no answer to this request and all later ones, while /health is well
	Die      Kind = "die"       // the process ends; Serve's server cuts all connections
	Refuse   Kind = "refuse"    // an answer with Status
	Engine   Kind = "engine"    // 500 EngineDeadError for this request and all later ones
	Endless  Kind = "endless"   // 200 with an answer that does not end
	Cut      Kind = "cut"       // the connection breaks within the answer
	Short    Kind = "short"     // 200 with a token less than asked for, and no stop token
	WrongID  Kind = "wrong id"  // 200 with an id that the model does not have
	OtherID  Kind = "other id"  // 200 whose first id is another than the model's
	WrongEnd Kind = "wrong end" // 200 that names another stop token than the last one
)

// Server is a fake server. It is an http.Handler.
type Server struct {
	URL string // of Serve

	config  Config
	mux     *http.ServeMux
	process bool // Die ends it

	asked     atomic.Int64 // requests for tokens
	prompt    atomic.Int64 // tokens
	cached    atomic.Int64
	generated atomic.Int64
	answered  atomic.Int64 // requests for tokens
	running   atomic.Int64
	hung      atomic.Bool
	engine    atomic.Bool  // dead
	away      atomic.Int64 // end of a death in Unix nanoseconds

	mu     sync.Mutex
	life   context.Context // ends when the server dies
	end    context.CancelFunc
	blocks map[state]bool // prefixes of whole blocks that were computed
	shown  map[string]int
}

// New makes a server that is not yet reachable.
func New(c Config) *Server {
	if c.Name == "" {
		c.Name = "fake"
	}
	if c.MaxModelLen == 0 {
		c.MaxModelLen = 4096
		if c.Model.MaxPositions > 0 {
			c.MaxModelLen = c.Model.MaxPositions
		}
	}
	if c.BlockSize == 0 {
		c.BlockSize = 16
	}
	if c.KVTokens == 0 {
		c.KVTokens = 1 << 20
	}
	s := &Server{config: c, blocks: map[state]bool{}, shown: map[string]int{}}
	s.life, s.end = context.WithCancel(context.Background())
	s.mux = s.routes()
	return s
}

// Serve serves c from this process until the test ends.
func Serve(tb testing.TB, c Config) *Server {
	tb.Helper()
	s := New(c)
	h := httptest.NewServer(s)
	tb.Cleanup(func() {
		s.Kill(0) // ends what hangs
		h.Close()
	})
	s.URL = h.URL
	return s
}

// Asked is how many requests for tokens came.
func (s *Server) Asked() int64 { return s.asked.Load() }

// Kill makes the server cut every connection for so long; 0 is for good.
func (s *Server) Kill(d time.Duration) {
	until := time.Now().Add(d)
	if d == 0 {
		until = time.Now().Add(24 * time.Hour)
	}
	s.away.Store(until.UnixNano())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end()
	s.life, s.end = context.WithCancel(context.Background())
}

func (s *Server) dead() bool { return time.Now().UnixNano() < s.away.Load() }

// ServeHTTP answers as vLLM does.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.dead() {
		panic(http.ErrAbortHandler) // cuts the connection
	}
	s.mux.ServeHTTP(w, r)
}

// Env is the value of Var for c. It makes c.State where there is none.
func (c Config) Env(tb testing.TB) string {
	tb.Helper()
	if c.State == "" {
		c.State = tb.TempDir()
	}
	b, err := json.Marshal(c)
	if err != nil {
		tb.Fatal(err)
	}
	return string(b)
}

func (s *Server) routes() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		if s.engine.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"version":%q}`, version)
	})
	mux.HandleFunc("GET /v1/models", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"object":"list","data":[{"id":%q,"object":"model","root":"fake","max_model_len":%d}]}`, s.config.Name, s.config.MaxModelLen)
	})
	mux.HandleFunc("GET /metrics", s.metrics)
	mux.HandleFunc("POST /tokenize", s.tokenize)
	mux.HandleFunc("POST /v1/completions", func(w http.ResponseWriter, r *http.Request) { s.complete(w, r, false) })
	if !s.config.Old {
		mux.HandleFunc("POST /inference/v1/generate", func(w http.ResponseWriter, r *http.Request) { s.complete(w, r, true) })
	}
	mux.HandleFunc("POST /v1/chat/completions", s.chat)
	return mux
}

// version is what the fake calls itself.
const version = "0.0.0+fake"

func (s *Server) metrics(w http.ResponseWriter, _ *http.Request) {
	for _, m := range []struct {
		name  string
		value int64
	}{
		{"prompt_tokens_total", s.prompt.Load()}, {"prompt_tokens_cached_total", s.cached.Load()}, {"generation_tokens_total", s.generated.Load()},
		{"time_to_first_token_seconds_count", s.answered.Load()},
		{"prefix_cache_queries_total", s.prompt.Load()}, {"prefix_cache_hits_total", s.cached.Load()}, {"num_preemptions_total", 0},
		{"num_requests_running", s.running.Load()}, {"num_requests_waiting", 0}, {"kv_cache_usage_perc", 0},
	} {
		fmt.Fprintf(w, "vllm:%s{engine=\"0\",model_name=%q} %d\n", m.name, s.config.Name, m.value)
	}
	fmt.Fprintf(w, "vllm:cache_config_info{block_size=\"%d\",cache_dtype=\"auto\",num_gpu_blocks=\"%d\",engine=\"0\"} 1.0\n",
		s.config.BlockSize, s.config.KVTokens/s.config.BlockSize)
}
