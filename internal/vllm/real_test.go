package vllm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	realVocab  = 49152
	realLength = 512
	realBlock  = 32
)

// setting is an environment variable's folder, or one under the checkout.
func setting(t *testing.T, name, fallback string) string {
	t.Helper()
	dir := os.Getenv(name)
	if dir == "" {
		dir = filepath.Join("..", "..", fallback)
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

// realConfig serves the pair's small model in float32, so that equal questions
// have equal answers outside near ties.
func realConfig(t *testing.T) Config {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a real vLLM server")
	}
	return Config{
		Command: []string{filepath.Join(setting(t, "TOKENFORK_VENV", ".venv"), "bin", "vllm")},
		Model:   filepath.Join(setting(t, "TOKENFORK_MODELS", ".cache/models"), "small"),
		Name:    "small", LogPath: filepath.Join(t.TempDir(), "vllm.log"), RunRoot: shortDir(t),
		Args:         []string{"--dtype", "float32", "--enforce-eager", "--max-model-len", fmt.Sprint(realLength), "--block-size", fmt.Sprint(realBlock)},
		Env:          []string{"VLLM_CPU_OMP_THREADS_BIND=nobind", "VLLM_CPU_KVCACHE_SPACE=1", "OMP_WAIT_POLICY=PASSIVE", "VLLM_ENABLE_V1_MULTIPROCESSING=0"}, // see vllmtest.Env
		CacheDir:     filepath.Join(filepath.Dir(setting(t, "TOKENFORK_MODELS", ".cache/models")), "vllm"),                                                    // later starts are quicker
		StartTimeout: 20 * time.Minute, StopTimeout: 20 * time.Second,
	}
}

// poisoned is a copy of a model folder whose generation_config.json would
// change every continuation.
func poisoned(t *testing.T, model string) string {
	t.Helper()
	dir := t.TempDir()
	files, err := os.ReadDir(model)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if err := os.Symlink(filepath.Join(model, f.Name()), filepath.Join(dir, f.Name())); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "generation_config.json")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	config := `{"eos_token_id": 2, "repetition_penalty": 1.8, "max_new_tokens": 3, "temperature": 0.9, "top_k": 3, "top_p": 0.5, "do_sample": true}`
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// realPrompts are arbitrary, of several lengths, and share prefixes.
func realPrompts() []Prompt {
	ids := make([]int32, 300)
	for i := range ids {
		ids[i] = int32(1000 + i*i*37%20000)
	}
	text := NewSequence(ids)
	var prompts []Prompt
	for n := 4; n <= 300; n += 70 {
		prompts = append(prompts, text.Prompt(n, int32(500+n)))
	}
	return prompts
}

const realTokens = 16

func askReal(c *Client, p Prompt) (Completion, error) {
	return c.Complete(context.Background(), CompletionRequest{Prompt: p, MaxTokens: realTokens, Margins: true})
}

func askAll(t *testing.T, c *Client) []Completion {
	t.Helper()
	prompts := realPrompts()
	choices, errs := make([]Completion, len(prompts)), make([]error, len(prompts))
	var all sync.WaitGroup
	for i, p := range prompts {
		all.Go(func() { choices[i], errs[i] = askReal(c, p) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	return choices
}

// assertSame allows the tokens from the first near tie on to differ.
func assertSame(t *testing.T, what string, got, want []Completion) {
	t.Helper()
	for i := range want {
		n := slices.IndexFunc(want[i].Gaps, func(gap float64) bool { return gap < 1e-3 })
		if n < 0 {
			n = len(want[i].TokenIDs)
		}
		if len(got[i].TokenIDs) < n || !slices.Equal(got[i].TokenIDs[:n], want[i].TokenIDs[:n]) {
			t.Errorf("%s, prompt %d: got %v, want %v", what, i, got[i].TokenIDs, want[i].TokenIDs)
		}
	}
}

// realChoices are the answers of the poisoned folder's server, for the plain
// one's to be compared with.
var realChoices []Completion

// TestRealServer holds all that one server can show; the last part kills it.
func TestRealServer(t *testing.T) {
	c := realConfig(t)
	c.Model = poisoned(t, c.Model)
	c.Args = append(c.Args, "--generation-config", "auto") // as a server by URL may have it
	s, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer stopServer(t, s)
	client := s.Endpoint()
	if client.API != Generate {
		t.Error("Start did not find the generate API")
	}
	client.API = Completions
	realChoices = askAll(t, client)
	t.Run("engine", func(t *testing.T) { testRealEngine(t, s) })
	t.Run("marks", func(t *testing.T) { testRealMarks(t, s) })
	t.Run("check", func(t *testing.T) { testRealCheck(t, client) })
	t.Run("poison takes effect", func(t *testing.T) { testRealPoison(t, client) })
	t.Run("stop tokens and margins", func(t *testing.T) { testRealStop(t, client) })
	t.Run("generate", func(t *testing.T) { testRealGenerate(t, client) })
	t.Run("context length", func(t *testing.T) { testRealLength(t, client) })
	t.Run("cache counters", func(t *testing.T) { testRealCache(t, client) })
	t.Run("hang", func(t *testing.T) { testRealHang(t, s) })
	t.Run("engine killed", func(t *testing.T) { testRealEngineKilled(t, s) })
}

func testRealEngine(t *testing.T, s *Server) {
	version, err := s.Endpoint().Version(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := Engine{Version: version, DType: "torch.float32", Quantization: "None", KVCacheDType: "auto",
		TensorParallel: "1", MaxModelLen: fmt.Sprint(realLength), PrefixCaching: "True", EnforceEager: "True"}
	if got := s.Engine(); got != want || version == "" {
		t.Errorf("engine %+v\nwant   %+v", got, want)
	}
	if len(s.launch.without) > 0 {
		t.Errorf("started without %q", s.launch.without)
	}
}

// Every process of the server must be found by its environment alone, which
// is all that is left when runner and guard are killed at once.
func testRealMarks(t *testing.T, s *Server) {
	marked := live(t, s.launch.nonce)
	guard := s.guarded.cmd.Process.Pid
	all, err := family{nonce: "none", sid: guard, root: guard}.members()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 4 || pidList(all) != pidList(marked) {
		t.Errorf("processes %s, of them marked %s; want guard, API server, engine core, worker and more", pidList(all), pidList(marked))
	}
}

func testRealCheck(t *testing.T, c *Client) {
	defer func() { c.API = Completions }()
	model := c.Model
	defer func() { c.Model = model }()
	fit := Want{Model: model, VocabSize: realVocab}
	got, err := c.Check(t.Context(), fit)
	if err != nil || got.ID != model || got.MaxModelLen != realLength || got.Root == "" {
		t.Errorf("Check = %+v, %v", got, err)
	}
	for want, change := range map[string]func(*Want){
		"answers as":               func(w *Want) { w.Model = "llama-70b" },
		"does not know token id 4": func(w *Want) { w.VocabSize++ },
	} {
		unfit := fit
		change(&unfit)
		if _, err := c.Check(t.Context(), unfit); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Check = %v, want %q", err, want)
		}
	}
}

// The same questions without the parameters that requests state get other
// answers here, so the folder's defaults are in force.
func testRealPoison(t *testing.T, c *Client) {
	differ := 0
	for i, p := range realPrompts()[:2] {
		body := newBody()
		body.b = append(p.appendWire(append(body.b, fmt.Sprintf(`{"model":%q,"prompt":`, c.Model)...)),
			fmt.Sprintf(`,"max_tokens":%d,"temperature":0,"return_token_ids":true}`, realTokens)...)
		data, err := c.do(t.Context(), "POST", "/v1/completions", body, maxAnswer)
		if err != nil {
			t.Fatal(err)
		}
		var answer wireCompletion
		if err := json.Unmarshal(data, &answer); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(answer.Choices[0].TokenIDs, realChoices[i].TokenIDs) {
			differ++
		}
	}
	if differ == 0 {
		t.Error("the model folder's repetition penalty changes nothing: this test proves nothing")
	}
}

func testRealStop(t *testing.T, c *Client) {
	plain := realChoices[2]
	if len(plain.Gaps) != len(plain.TokenIDs) || slices.Min(plain.Gaps) < 0 || math.IsInf(slices.Max(plain.Gaps), 0) {
		t.Errorf("gaps %v of %d tokens", plain.Gaps, len(plain.TokenIDs))
	}
	stop := plain.TokenIDs[5]
	want := plain.TokenIDs[:slices.Index(plain.TokenIDs, stop)+1]
	got, err := c.Complete(t.Context(), CompletionRequest{
		Prompt: realPrompts()[2], MaxTokens: realTokens, StopTokenIDs: NewSequence([]int32{7, stop, 11})})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got.TokenIDs, want) || got.FinishReason != "stop" || got.StopTokenID != stop {
		t.Errorf("got %+v, want ids %v", got, want)
	}
}

func testRealGenerate(t *testing.T, c *Client) {
	c.API = Generate
	defer func() { c.API = Completions }()
	assertSame(t, "generate", askAll(t, c), realChoices)
}

func testRealLength(t *testing.T, c *Client) {
	defer func() { c.API = Completions }()
	text := NewSequence(make([]int32, 2*realLength))
	for _, api := range []API{Completions, Generate} {
		c.API = api
		ask := func(prompt, limit int) error {
			_, err := c.Complete(t.Context(), CompletionRequest{Prompt: text.Prompt(prompt), MaxTokens: limit})
			return err
		}
		for _, n := range []int{realLength - 1, realLength, realLength + 1, 2 * realLength} {
			if err := ask(n, 9); !IsContextLength(err) {
				t.Errorf("api %d, prompt of %d and 9 more: %v, want a context length error", api, n, err)
			}
		}
		if err := ask(realLength-2, 2); err != nil {
			t.Errorf("api %d, a prompt that fits: %v", api, err)
		}
		var status *StatusError
		_, err := c.Complete(t.Context(), CompletionRequest{Prompt: Tokens(1, realVocab), MaxTokens: 1})
		if !errors.As(err, &status) || status.Status != 400 || IsContextLength(err) {
			t.Errorf("api %d, id outside the vocabulary: %v", api, err)
		}
	}
}

func testRealCache(t *testing.T, c *Client) {
	ids := make([]int32, 5*realBlock+1)
	for i := range ids {
		ids[i] = int32(3000 + i)
	}
	before, err := c.Metrics(t.Context())
	if err != nil || before.BlockSize != realBlock || before.KVCapacity < realLength {
		t.Fatalf("metrics %+v, %v", before, err)
	}
	var cached []int
	defer func(api API) { c.API = api }(c.API)
	for _, ask := range []struct {
		api  API
		salt string
	}{{Completions, ""}, {Completions, ""}, {Completions, "a"}, {Generate, "b"}, {Generate, "a"}} {
		c.API = ask.api
		got, err := c.Complete(t.Context(), CompletionRequest{Prompt: Tokens(ids...), MaxTokens: 4, CacheSalt: ask.salt})
		if err != nil {
			t.Fatal(err)
		}
		if got.Usage.PromptTokens != len(ids) || got.Usage.GeneratedTokens != len(got.TokenIDs) {
			t.Errorf("usage %+v", got.Usage)
		}
		cached = append(cached, got.Usage.CachedTokens)
	}
	if !slices.Equal(cached, []int{0, 5 * realBlock, 0, 0, 5 * realBlock}) {
		t.Errorf("cached tokens %v, want %d where the salt was there before, else 0", cached, 5*realBlock)
	}
	after, err := c.Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := after.PromptTokens-before.PromptTokens, int64(5*len(ids)); got != want {
		t.Errorf("prompt tokens counted: %d, want %d", got, want)
	}
	if after.GeneratedTokens-before.GeneratedTokens < 2 || after.FirstTokens-before.FirstTokens < 1 || after.Waiting > 0 {
		t.Errorf("metrics %+v", after)
	}
}

// processNamed finds a server process by the start of its command line.
func processNamed(t *testing.T, s *Server, name string) int {
	t.Helper()
	for _, p := range live(t, s.launch.nonce) {
		if cmdline, err := os.ReadFile(procPath(p.pid, "cmdline")); err == nil && strings.HasPrefix(string(cmdline), name) {
			return p.pid
		}
	}
	t.Fatalf("no process %s", name)
	return 0
}

// inFlight keeps n long requests under way and sends how each ended.
func inFlight(ctx context.Context, c *Client, n int) <-chan error {
	ended := make(chan error, n)
	for i := range n {
		go func() {
			_, err := c.Complete(ctx, CompletionRequest{Prompt: Tokens(int32(100+i), 7), MaxTokens: realLength - 10})
			ended <- err
		}()
	}
	return ended
}

func testRealHang(t *testing.T, s *Server) {
	engine := processNamed(t, s, "VLLM::EngineCore")
	c := s.Endpoint()
	asking, giveUp := context.WithCancel(t.Context())
	ended := inFlight(asking, c, 4)
	time.Sleep(500 * time.Millisecond) // under way
	signalPID(engine, syscall.SIGSTOP)
	defer signalPID(engine, syscall.SIGCONT)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var hang *HangError
	if err := NewWatchdog(c, 2*time.Second, func() int { return 4 - len(ended) }).Watch(ctx); !errors.As(err, &hang) {
		t.Errorf("Watch = %v", err)
	}
	if err := c.Health(t.Context()); err != nil {
		t.Errorf("health of a hung engine: %v; it was 200 so far", err)
	}
	giveUp()
	for range 4 {
		if err := <-ended; !errors.Is(err, context.Canceled) || IsGone(err) {
			t.Errorf("request given up: %v", err)
		}
	}
	signalPID(engine, syscall.SIGCONT)
	if err := c.Probe(t.Context()); err != nil {
		t.Errorf("after the hang: %v", err)
	}
}

func testRealEngineKilled(t *testing.T, s *Server) {
	ended := inFlight(t.Context(), s.Endpoint(), 4)
	time.Sleep(500 * time.Millisecond)
	signalPID(processNamed(t, s, "VLLM::EngineCore"), syscall.SIGKILL)
	for range 4 {
		if err := <-ended; !IsGone(err) {
			t.Errorf("request whose engine was killed: %v, want gone", err)
		}
	}
	select {
	case <-s.Done():
	case <-time.After(time.Minute):
		t.Fatal("server outlives its engine")
	}
	var death *DeathError
	if !errors.As(s.Err(), &death) || len(death.Tail) != tailLines {
		t.Errorf("Err = %v", s.Err())
	}
	t.Log(s.Err())
	assertNothingLeft(t, s)
}

// TestRealRunnerKilled serves the plain folder, compares its answers with the
// poisoned one's, and kills the runner with requests under way.
func TestRealRunnerKilled(t *testing.T) {
	r := startRunner(t, realConfig(t))
	c, err := NewClient("unix://"+r.dir.socket(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Model = "tokenfork-" + r.nonce
	if realChoices != nil {
		assertSame(t, "plain folder", askAll(t, c), realChoices)
	}
	ended := inFlight(t.Context(), c, 4)
	time.Sleep(500 * time.Millisecond)
	r.kill(t)
	awaitLive(t, r.nonce, 0)
	for range 4 {
		if err := <-ended; !IsGone(err) {
			t.Errorf("request whose server was ended: %v, want gone", err)
		}
	}
	if _, err := os.Stat(string(r.dir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("folder %s is left: %v", r.dir, err)
	}
}
