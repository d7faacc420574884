package vllm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/vllm/fakevllm"
)

const configVar = "TEST_VLLM_CONFIG"

func configToEnv(t *testing.T, c Config) string {
	t.Helper()
	c.Logger = nil
	data, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return configVar + "=" + string(data)
}

func configFromEnv() Config {
	var c Config
	if err := json.Unmarshal([]byte(os.Getenv(configVar)), &c); err != nil {
		panic(err)
	}
	return c
}

func TestStartFailures(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, mode string
		change     func(*Config)
		want, hint string
	}{
		{"out of memory", fakevllm.OutOfMemory, nil,
			"small vLLM exited before it was ready: exit status 1: torch.OutOfMemoryError: CUDA out of memory", "--gpu-memory-utilization"},
		{"no such command", "", func(c *Config) { c.Command = []string{"no-such-vllm"} },
			`start small vLLM: exec: "no-such-vllm": executable file not found`, "--vllm"},
		{"too slow", fakevllm.NeverReady, func(c *Config) { c.StartTimeout = time.Second },
			"was not ready after 1s", ""},
		{"another name", fakevllm.OtherName, nil,
			`answers as "llama-70b", expected "tokenfork-`, "another server"},
		{"an own flag", "", func(c *Config) { c.Args = []string{"--port=80"} },
			"--port of the small server is set by tokenfork", "leave it out"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := fakeConfig(t, tt.mode)
			if tt.change != nil {
				tt.change(&c)
			}
			s, err := Start(t.Context(), c)
			if err == nil || s != nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("Start = %v, want %q", err, tt.want)
			}
			if !strings.Contains(failure.Hint(err), tt.hint) {
				t.Errorf("hint = %q, want %q", failure.Hint(err), tt.hint)
			}
			if left, _ := os.ReadDir(c.RunRoot); len(left) > 0 {
				t.Errorf("%d entries left in %s", len(left), c.RunRoot)
			}
		})
	}
}

// While a server loads, its time and its log's last line are told.
func TestLoadingIsTold(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	c := fakeConfig(t, fakevllm.NeverReady)
	c.StartTimeout, c.Logger = progressEvery+9*time.Second, slog.New(slog.NewTextHandler(&log, nil))
	if _, err := Start(t.Context(), c); err == nil || !strings.Contains(err.Error(), "was not ready after 19s") {
		t.Errorf("Start = %v", err)
	}
	if !regexp.MustCompile(`"loading, 1\ds of 19s"`).MatchString(log.String()) {
		t.Errorf("told:\n%s", &log)
	}
}

func TestDeathErrorShowsLogTail(t *testing.T) {
	_, err := Start(t.Context(), fakeConfig(t, fakevllm.OutOfMemory))
	var death *DeathError
	if !errors.As(err, &death) {
		t.Fatalf("Start = %v", err)
	}
	if n := len(death.Tail); n != 2 || !strings.Contains(death.Tail[1], "See root cause above") {
		t.Errorf("tail = %q", death.Tail)
	}
	if !strings.HasPrefix(death.Cause, "torch.OutOfMemoryError: CUDA out of memory") {
		t.Errorf("cause = %q", death.Cause)
	}
}

func TestRemedies(t *testing.T) {
	for line, hint := range map[string]string{
		"ValueError: invalid literal for int() with base 10: 'MIG-2222-b'":                                                            "takes no MIG slices",
		"RuntimeError: Insufficient space in /dev/shm for shared-memory allocation: 160 MiB required, 62 MiB free. Increase /dev/shm": "--ipc=host",
	} {
		path := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(path, []byte("(EngineCore pid=7) ERROR 11-23 16:10:35 [core.py:133] "+line+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		err := serverLog{path: path}.death("small", "exited before it was ready: exit status 1")
		if !strings.Contains(failure.Hint(err), hint) {
			t.Errorf("hint %q of %v", failure.Hint(err), err)
		}
	}
}

func TestStartCancelled(t *testing.T) {
	c := fakeConfig(t, fakevllm.NeverReady)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, err := Start(ctx, c)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Start = %v", err)
	}
	if left, _ := os.ReadDir(c.RunRoot); len(left) > 0 {
		t.Errorf("%d entries left in %s", len(left), c.RunRoot)
	}
}

func TestSocketNotVisible(t *testing.T) {
	t.Parallel()
	for command, want := range map[string]string{"apptainer": "--bind ", "docker": "-v "} {
		c := fakeConfig(t, fakevllm.Elsewhere)
		wrapper := filepath.Join(t.TempDir(), command)
		script := "#!/bin/sh\nexec \"$@\"\n"
		if err := os.WriteFile(wrapper, []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		c.Command = append([]string{wrapper}, c.Command...)
		_, err := Start(t.Context(), c)
		if err == nil || !strings.Contains(err.Error(), "not visible outside its container") {
			t.Fatalf("Start = %v", err)
		}
		if want += c.RunRoot + ":" + c.RunRoot; !strings.Contains(failure.Hint(err), want) {
			t.Errorf("hint = %q, want %q", failure.Hint(err), want)
		}
	}
}

// One start fails for a flag that an old version lacks; the next process knows. Another
// version behind the same command is asked anew.
func TestOldVersionStartsWithoutNewFlags(t *testing.T) {
	c := fakeOf(t, fakevllm.Config{Old: true})
	wrapper := filepath.Join(t.TempDir(), "vllm")
	install := func(version string) {
		t.Helper()
		if err := os.WriteFile(wrapper, []byte("#!/bin/sh\n# "+version+"\nexec \"$@\"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	install("0.20")
	c.Command, c.FlagsDir = append([]string{wrapper}, c.Command...), t.TempDir()
	for _, starts := range []int{2, 1} {
		var log bytes.Buffer
		c.Logger = slog.New(slog.NewTextHandler(&log, nil))
		s, err := Start(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		stopServer(t, s)
		if n := strings.Count(log.String(), `"starting vLLM"`); n != starts || !slices.Equal(s.launch.without, []string{"--enable-scale-out"}) {
			t.Errorf("%d starts, want %d, the last without %q", n, starts, s.launch.without)
		}
		lacking.Clear() // as in another process
	}
	if l := loadLacks(c.Command, c.FlagsDir); len(l.flags) != 1 {
		t.Errorf("remembered: %q", l.flags)
	}
	install("0.33.0")
	if l := loadLacks(c.Command, c.FlagsDir); len(l.flags) > 0 {
		t.Errorf("remembered of another version: %q", l.flags)
	}
	install("0.20")
	l := loadLacks(c.Command, c.FlagsDir) // of a new time
	l.add(c.Logger, "--enable-scale-out")
	lacking.Clear()
	week := time.Now().Add(-lacksFor - time.Minute)
	if err := os.Chtimes(l.path, week, week); err != nil {
		t.Fatal(err)
	}
	if l := loadLacks(c.Command, c.FlagsDir); len(l.flags) > 0 {
		t.Errorf("remembered for longer than a week: %q", l.flags)
	}
}

func TestCommandLine(t *testing.T) {
	c := Config{Command: []string{"apptainer", "exec", "v.sif", "vllm"}, Model: "/m", TensorParallel: 2, Args: []string{"--dtype", "float32"}}
	l := launch{nonce: "n", model: "tokenfork-n", dir: "/tmp/d", without: []string{"--enable-scale-out"}}
	want := "apptainer exec v.sif vllm serve /m --served-model-name tokenfork-n --generation-config vllm --uds /tmp/d/s" +
		" --tensor-parallel-size 2 --enable-prompt-tokens-details --disable-uvicorn-access-log --dtype float32"
	if got := strings.Join(l.argv(&c), " "); got != want {
		t.Errorf("argv:\n got %s\nwant %s", got, want)
	}
}

func TestEnvironment(t *testing.T) {
	c := Config{GPUs: []string{"GPU-7", "3"}, Env: []string{"HF_HUB_OFFLINE=0"}}
	l := launch{nonce: "n", dir: "/tmp/d", cache: "/tmp/d/cache"}
	env := l.environ(&c)
	for _, want := range []string{
		"CUDA_VISIBLE_DEVICES=GPU-7,3", "APPTAINERENV_CUDA_VISIBLE_DEVICES=GPU-7,3", "SINGULARITYENV_TOKENFORK_SERVER=n",
		"VLLM_RPC_BASE_PATH=/tmp/d/z", "VLLM_CACHE_ROOT=/tmp/d/cache", "SPT_NOENV=1", "TOKENFORK_SERVER=n",
	} {
		if !slices.Contains(env, want) {
			t.Errorf("environment lacks %s", want)
		}
	}
	if slices.ContainsFunc(env, func(kv string) bool { return strings.HasPrefix(kv, "HIP_VISIBLE_DEVICES=") }) {
		t.Error("HIP_VISIBLE_DEVICES is set where it was not")
	}
	t.Setenv("HIP_VISIBLE_DEVICES", "0,1,2,3")
	if env := l.environ(&c); slices.Index(env, "HIP_VISIBLE_DEVICES=GPU-7,3") < slices.Index(env, "HIP_VISIBLE_DEVICES=0,1,2,3") {
		t.Error("HIP_VISIBLE_DEVICES differs from CUDA_VISIBLE_DEVICES, which vLLM refuses")
	}
	if slices.Index(env, "HF_HUB_OFFLINE=0") < slices.Index(env, "HF_HUB_OFFLINE=1") {
		t.Error("the user's setting does not win")
	}
}

func TestEngineFromLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	line := "(EngineCore pid=7) INFO 11-23 16:10:35 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: model='tiny', " +
		"dtype=torch.float32, max_seq_len=512, tensor_parallel_size=2, quantization=None, enforce_eager=True, kv_cache_dtype=auto, enable_prefix_caching=True, x=1\n"
	if err := os.WriteFile(path, []byte("earlier start\n"+line), 0o600); err != nil {
		t.Fatal(err)
	}
	want := Engine{Version: "0.32.0", DType: "torch.float32", Quantization: "None", KVCacheDType: "auto",
		TensorParallel: "2", MaxModelLen: "512", PrefixCaching: "True", EnforceEager: "True"}
	if got := (serverLog{path: path}).engine(); got != want {
		t.Errorf("engine = %+v", got)
	}
}

func TestFakeHangIsFound(t *testing.T) {
	t.Parallel()
	s, err := Start(t.Context(), fakeOf(t, fakevllm.Config{Faults: []fakevllm.Fault{{Kind: fakevllm.Hang, After: 1}}})) // it is asked once while it starts
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan error, 1)
	go func() {
		_, err := s.Endpoint().Complete(context.Background(), CompletionRequest{Prompt: Tokens(1), MaxTokens: 1})
		asked <- err
	}()
	if err := s.Endpoint().Health(t.Context()); err != nil {
		t.Fatalf("health of a hung server: %v", err)
	}
	err = NewWatchdog(s.Endpoint(), 300*time.Millisecond, func() int { return 1 }).Watch(t.Context())
	var hang *HangError
	if !errors.As(err, &hang) || hang.InFlight != 1 {
		t.Fatalf("Watch = %v", err)
	}
	stopServer(t, s)
	if err := <-asked; !errors.Is(err, ErrClosed) || !IsGone(err) {
		t.Errorf("open request ended with %v", err)
	}
}

func TestPoisonRowOnlyFailsItself(t *testing.T) {
	c := startFake(t).Endpoint()
	ask := func(id int32) (Completion, error) {
		return c.Complete(t.Context(), CompletionRequest{Prompt: Tokens(id), MaxTokens: 1})
	}
	var status *StatusError
	if _, err := ask(40); !errors.As(err, &status) || status.Status != 400 || IsContextLength(err) || IsGone(err) {
		t.Errorf("poison: %v", err)
	}
	if got, err := ask(5); err != nil || len(got.TokenIDs) != 1 {
		t.Errorf("row after poison: %v, %v", got, err)
	}
}

func TestCompileCachesAreNotShared(t *testing.T) {
	t.Parallel()
	c := fakeConfig(t, fakevllm.Stubborn)
	c.CacheDir = t.TempDir()
	r := startRunner(t, c)
	next, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(c.CacheDir, "1"); next.launch.cache != want {
		t.Errorf("second server's cache is %s, want %s", next.launch.cache, want)
	}
	stopServer(t, next)
	signalPID(r.guard, syscall.SIGKILL) // only the server itself is left to hold the first
	r.kill(t)
	if _, lock, err := takeCache(c.CacheDir); err != nil || lock.Name() != filepath.Join(c.CacheDir, "1.lock") {
		t.Errorf("a cache beside an orphan: %v, %v", lock.Name(), err)
	}
	sweepAndCheck(t, r)
	if _, lock, err := takeCache(c.CacheDir); err != nil || lock.Name() != filepath.Join(c.CacheDir, "0.lock") {
		t.Errorf("a cache after all ended: %v, %v", lock.Name(), err)
	}
}

// What the guard and all of the server's processes know, by /proc.
func TestServerKnowsNoSecret(t *testing.T) {
	secrets := map[string]string{"TOKENFORK_JUDGE_KEY": "judge-key-1", "TOKENFORK_SERVER_KEY": "server-key-2", "OPENAI_API_KEY": "openai-key-3",
		"AWS_ACCESS_KEY_ID": "aws-id-4", "AWS_SECRET_ACCESS_KEY": "aws-secret-5", "AWS_SESSION_TOKEN": "aws-token-6", "HF_TOKEN": "hf-token-7", "https_proxy": "http://me:proxy-pass-8@proxy"}
	for name, value := range secrets {
		t.Setenv(name, value)
	}
	t.Setenv("CUDA_HOME", "/kept")
	s := startFake(t, "")
	members := live(t, s.launch.nonce)
	if len(members) != 3 {
		t.Fatalf("%d processes, want guard, server and engine", len(members))
	}
	for _, p := range members {
		for _, file := range []string{"environ", "cmdline"} {
			b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.pid), file))
			if err != nil {
				t.Fatal(err)
			}
			for name, value := range secrets {
				if bytes.Contains(b, []byte(value)) {
					t.Errorf("%s of process %d holds %s", file, p.pid, name)
				}
			}
			if file == "environ" && !bytes.Contains(b, []byte("CUDA_HOME=/kept")) {
				t.Errorf("process %d lacks what the server needs", p.pid)
			}
		}
	}
}

// Compiled code is loaded and run, so it comes from the server's own folder.
func TestCompileCachesAreTheServersOwn(t *testing.T) {
	l := launch{nonce: "n", dir: "/tmp/d", cache: "/tmp/d/cache"}
	for _, want := range []string{"TORCHINDUCTOR_CACHE_DIR=/tmp/d/cache/torchinductor", "TRITON_CACHE_DIR=/tmp/d/cache/triton", "VLLM_CACHE_ROOT=/tmp/d/cache"} {
		if !slices.Contains(l.environ(&Config{}), want) {
			t.Errorf("environment lacks %s", want)
		}
	}
	t.Setenv("TRITON_CACHE_DIR", "/mine")
	if env := l.environ(&Config{}); slices.Contains(env, "TRITON_CACHE_DIR=/tmp/d/cache/triton") {
		t.Error("the user's choice is overridden")
	}
}

// A log is never written through a link that somebody put in its place.
func TestLogThroughLink(t *testing.T) {
	c := fakeConfig(t)
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, c.LogPath); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), c); failure.Code(err) != failure.Refused || !strings.Contains(err.Error(), "is a symbolic link") {
		t.Errorf("Start = %v", err)
	}
	if b, err := os.ReadFile(victim); err != nil || string(b) != "precious" {
		t.Errorf("the file behind the link holds %q, %v", b, err)
	}
}
