package vllm

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/secret"
)

// Config says how to run one server.
type Config struct {
	Command []string // such as {"vllm"} or {"apptainer", "exec", "--nv", "vllm.sif", "vllm"}; "serve MODEL" and flags follow
	Model   string   // folder
	Name    string   // label for messages: "small", "reference", "judge"
	Served  string   // model name that requests give, see NewName; "" makes one up
	LogPath string   // the server's output is appended here

	TensorParallel int      // GPUs; 0 is 1
	GPUs           []string // CUDA_VISIBLE_DEVICES entries: index or MIG UUID; nil leaves the environment as it is
	MemoryFraction float64  // of the GPUs' memory; 0 leaves it to vLLM
	Args           []string // further vLLM flags, last so that they win
	Env            []string // further NAME=VALUE settings, last so that they win

	// RunRoot takes the folder of the sockets; "" is /tmp. A container must
	// see it at the same path, and it must be short.
	RunRoot string
	// CacheDir keeps compiled kernels for later starts, best on a disk of the
	// node; "" keeps none. Servers that run at once damage a shared one, so
	// each takes a subfolder that no other holds.
	CacheDir string
	// FlagsDir remembers which optional flags a version lacks, so that later starts
	// do not fail for them first; "" leaves that to this process.
	FlagsDir string

	StartTimeout time.Duration // until it answers; 0 is 30 minutes
	StopTimeout  time.Duration // from SIGTERM to SIGKILL; 0 is 15 seconds
	Logger       *slog.Logger  // progress; nil is silence
}

func (c Config) withDefaults() Config {
	c.TensorParallel = max(c.TensorParallel, 1)
	if c.RunRoot == "" {
		c.RunRoot = "/tmp" // not $TMPDIR, which is often too long for sockets
	}
	if c.StartTimeout == 0 {
		c.StartTimeout = 30 * time.Minute
	}
	if c.StopTimeout == 0 {
		c.StopTimeout = 15 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Logger = c.Logger.With("server", c.Name)
	return c
}

// ownFlags are how tokenfork reaches and recognises its server.
var ownFlags = []string{"--served-model-name", "--uds", "--host", "--port", "--api-key"}

func (c *Config) check() error {
	if len(c.Command) == 0 || c.Model == "" || c.Name == "" || c.LogPath == "" {
		return fmt.Errorf("start vLLM: Command, Model, Name and LogPath are needed, have %q, %q, %q, %q",
			c.Command, c.Model, c.Name, c.LogPath)
	}
	for _, arg := range c.Args {
		flag, _, _ := strings.Cut(arg, "=")
		if slices.Contains(ownFlags, flag) {
			return failure.New(failure.Usage, "leave it out", "start vLLM: %s of the %s server is set by tokenfork", flag, c.Name)
		}
	}
	return nil
}

// optionalFlags make the server tell more or work less. Versions that do not
// know one are started without it.
var optionalFlags = []string{
	"--enable-prompt-tokens-details", // cached tokens of each answer
	"--disable-uvicorn-access-log",   // a line for each request
	"--enable-scale-out",             // the Generate API
}

// launch is what one start of a server is made of.
type launch struct {
	nonce   string
	model   string // the served model's name
	dir     runDir
	cache   string   // compile cache
	without []string // optional flags that this version does not know
}

// NewName is a model name that no other server has: one that answers to it is the
// server that was meant.
func NewName() string { return modelName(newNonce()) }

func modelName(nonce string) string { return "tokenfork-" + nonce }

func (l *launch) url() string { return "unix://" + l.dir.socket() }

// argv is the server's command line. It holds no secret.
func (l *launch) argv(c *Config) []string {
	argv := append(slices.Clone(c.Command), "serve", c.Model,
		"--served-model-name", l.model,
		// The model's own sampling defaults would change greedy output.
		"--generation-config", "vllm", "--uds", l.dir.socket())
	if c.TensorParallel > 1 {
		argv = append(argv, "--tensor-parallel-size", strconv.Itoa(c.TensorParallel))
	}
	if c.MemoryFraction > 0 {
		argv = append(argv, "--gpu-memory-utilization", strconv.FormatFloat(c.MemoryFraction, 'g', -1, 64))
	}
	for _, flag := range optionalFlags {
		if !slices.Contains(l.without, flag) {
			argv = append(argv, flag)
		}
	}
	return append(argv, c.Args...)
}

// environ is the environment of the guard and the server.
func (l *launch) environ(c *Config) []string {
	set := []string{
		"VLLM_RPC_BASE_PATH=" + l.dir.rpc(),
		"VLLM_PORT=" + strconv.Itoa(portBase()),
		"VLLM_CACHE_ROOT=" + l.cache,
		"VLLM_HTTP_TIMEOUT_KEEP_ALIVE=600",
		"VLLM_NO_USAGE_STATS=1",
		"HF_HUB_OFFLINE=1",
		"PYTHONUNBUFFERED=1",
		"VLLM_API_KEY=", // the socket needs no key, whatever the user's environment says
	}
	if c.GPUs != nil {
		set = append(set, "CUDA_VISIBLE_DEVICES="+strings.Join(c.GPUs, ","),
			"CUDA_DEVICE_ORDER=PCI_BUS_ID") // nvidia-smi's, by whose indices they were chosen
		if _, hip := os.LookupEnv("HIP_VISIBLE_DEVICES"); hip { // vLLM refuses two that differ
			set = append(set, "HIP_VISIBLE_DEVICES="+strings.Join(c.GPUs, ","))
		}
	}
	set = append(set, c.Env...)
	set = append(set, serverVar+"="+l.nonce, runnerVar+"="+runnerID(),
		// vLLM renames its processes, which overwrites the environment that
		// /proc shows, and the marks in it, unless this is set.
		"SPT_NOENV=1")
	// vLLM runs code that comes with models and lists its environment in logs.
	env := append(secret.Strip(os.Environ()), l.caches(os.Getenv)...)
	env = append(env, set...)
	for _, kv := range set { // containers may pass on nothing but these
		env = append(env, "APPTAINERENV_"+kv, "SINGULARITYENV_"+kv)
	}
	return env
}

// caches keep compiled code, which a server loads and runs, out of /tmp, where their
// default names can be taken by other users. What the user has chosen stays.
func (l *launch) caches(env func(string) string) []string {
	var set []string
	for _, name := range []string{"TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"} {
		if env(name) == "" {
			set = append(set, name+"="+filepath.Join(l.cache, strings.ToLower(strings.TrimSuffix(name, "_CACHE_DIR"))))
		}
	}
	return set
}

// portBase is where vLLM looks for ports for its own processes, upwards. Two
// servers of a node that looked from one base could find the same port free.
func portBase() int { return 15000 + 50*rand.IntN(340) }

// runnerID marks the servers of this process.
var runnerID = sync.OnceValue(newNonce)
