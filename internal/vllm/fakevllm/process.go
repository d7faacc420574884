package fakevllm

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Modes of a process.
const (
	OutOfMemory = "out of memory" // ends while it starts
	NeverReady  = "never ready"
	OtherName   = "other name" // serves another model than it was told
	Elsewhere   = "elsewhere"  // serves where nobody looks, as a container may
	Stubborn    = "stubborn"   // heeds no SIGTERM, nor does its engine
	Detach      = "detach"     // its engine has a session of its own
	Invariant   = "invariant"  // ends while it starts, unless it is told to be batch-invariant
	NoInvariant = "varying"    // ends while it starts, if it is told to be batch-invariant
	Drifting    = "drifting"   // its log probabilities depend on what the prefix cache held
	Warm        = "warm"       // every prompt is in the prefix cache, as an earlier stage leaves it
	OneStart    = "one start"  // starts once; later starts end as by OutOfMemory
	Together    = "together"   // starts once a second one does
	Measuring   = "measuring"  // ends as by OutOfMemory if the size of its KV cache is given
	engineArg   = "fakeengine" // of the child process, which a real server has too
	startedMark = "started"    // in State

	togetherMark, secondMark = "together", "second" // in State
)

// Main is a server process with a vLLM command line, "serve DIR …", and Var in its
// environment. It returns the exit code.
func Main(args []string) int {
	if len(args) > 0 && args[0] == engineArg {
		if stubborn := len(args) > 1; stubborn {
			signal.Ignore(syscall.SIGTERM)
		}
		time.Sleep(time.Hour)
		return 0
	}
	if err := run(args); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func run(args []string) error {
	var c Config
	if text := os.Getenv(Var); text != "" {
		if err := json.Unmarshal([]byte(text), &c); err != nil {
			return fmt.Errorf("read $%s: %w", Var, err)
		}
	}
	socket, err := c.readFlags(args)
	if err != nil {
		return err
	}
	network, address := "unix", socket
	mode := func(m string) bool { return slices.Contains(c.Modes, m) }
	fixed := slices.Contains(args, "--kv-cache-memory-bytes")
	if mode(OutOfMemory) || mode(OneStart) && !c.first(startedMark) || mode(Measuring) && fixed {
		fmt.Fprintln(os.Stderr, "(EngineCore pid=7) ERROR 11-23 16:12:28 [core.py:12] torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.")
		return errors.New("(APIServer pid=6) RuntimeError: Engine core initialization failed. See root cause above") // vLLM's words
	}
	if told := os.Getenv("VLLM_BATCH_INVARIANT") == "1"; told && mode(NoInvariant) || !told && mode(Invariant) {
		return fmt.Errorf("(EngineCore pid=7) RuntimeError: VLLM_BATCH_INVARIANT=%q does not do here", os.Getenv("VLLM_BATCH_INVARIANT"))
	}
	if mode(Together) && !c.first(togetherMark) {
		c.first(secondMark)
	} else if mode(Together) {
		for ; !c.has(secondMark); time.Sleep(10 * time.Millisecond) {
		}
	}
	if mode(NeverReady) {
		time.Sleep(time.Hour)
	}
	if mode(OtherName) {
		c.Name = "llama-70b"
	}
	if mode(Elsewhere) {
		network, address = "tcp", "127.0.0.1:0"
	}
	listener, err := net.Listen(network, address)
	if err != nil {
		return err
	}
	if err := startEngine(mode(Stubborn), mode(Detach)); err != nil {
		return err
	}
	s := New(c)
	s.process = true
	fmt.Fprintf(os.Stderr, "INFO 11-23 16:10:35 [core.py:133] Initializing a V1 LLM engine (v%s) with config: dtype=torch.float32, max_seq_len=%d, tensor_parallel_size=1, quantization=None, enforce_eager=True, kv_cache_dtype=auto, enable_prefix_caching=True\n",
		version, s.config.MaxModelLen)
	fmt.Fprintln(os.Stderr, "INFO:     Application startup complete.")
	return http.Serve(listener, s)
}

// readFlags reads those that tokenfork gives, and passes over vLLM's others.
func (c *Config) readFlags(args []string) (socket string, err error) {
	if len(args) < 2 || args[0] != "serve" {
		return "", fmt.Errorf("vllm: error: want serve DIR, have %q", args)
	}
	flags := flag.NewFlagSet(Command, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	uds := flags.String("uds", "", "")
	flags.StringVar(&c.Name, "served-model-name", "", "")
	maxLen := flags.Int("max-model-len", 0, "")
	mode := flags.String("logprobs-mode", "", "")
	for _, name := range []string{"generation-config", "dtype", "block-size", "tensor-parallel-size", "gpu-memory-utilization", "kv-cache-memory-bytes", "api-server-count", "max-logprobs"} {
		flags.String(name, "", "")
	}
	known := []string{"enable-prompt-tokens-details", "disable-uvicorn-access-log", "enforce-eager"}
	if !c.Old {
		known = append(known, "enable-scale-out")
	}
	for _, name := range known {
		flags.Bool(name, false, "")
	}
	if err := flags.Parse(args[2:]); err != nil {
		name := err.Error()[strings.LastIndex(err.Error(), "-")+1:]
		for _, a := range args {
			if strings.HasSuffix(a, name) {
				name = a
			}
		}
		return "", fmt.Errorf("vllm: error: unrecognized arguments: %s", name)
	}
	if m, ok, err := readModel(args[1]); err != nil {
		return "", err
	} else if ok {
		c.Model = m
	}
	c.Model.name = filepath.Base(args[1])
	c.Logits = c.Logits || *mode == "raw_logits"
	if *maxLen > 0 {
		c.MaxModelLen = *maxLen
	}
	return *uds, nil
}

// first says whether this process is the first to leave the mark.
func (c *Config) first(mark string) bool {
	f, err := os.OpenFile(filepath.Join(c.State, mark), os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return false
	}
	return f.Close() == nil
}

func (c *Config) has(mark string) bool {
	_, err := os.Stat(filepath.Join(c.State, mark))
	return err == nil
}

func startEngine(stubborn, detach bool) error {
	args := []string{Command, engineArg}
	if stubborn {
		signal.Ignore(syscall.SIGTERM)
		args = append(args, "stubborn")
	}
	engine := exec.Command("/proc/self/exe", args...)
	engine.SysProcAttr = &syscall.SysProcAttr{Setsid: detach}
	return engine.Start()
}
