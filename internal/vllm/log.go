package vllm

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"tokenfork/internal/failure"
	"tokenfork/internal/private"
	"tokenfork/internal/terminal"
)

const (
	tailLines = 20
	tailBytes = 1 << 20 // of the log are read
	lineBytes = 300     // of a line are shown
)

// serverLog is the part of a log file that one start has written.
type serverLog struct {
	path string
	from int64
}

// writable says why the log cannot be written. A server goes on without it, but what
// its answers depend on is then not known.
func (l serverLog) writable() error {
	f, err := private.Append(l.path, 0o666)
	if err == nil {
		_, err = f.WriteString("\n")
		err = errors.Join(err, f.Close())
	}
	return unwritable(l.path, err)
}

func unwritable(path string, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return failure.New(failure.Stopped, "make room there, then run the same command again; what is finished is kept", "disk full at vLLM's log %s: %w", path, err)
	}
	if err != nil {
		return fmt.Errorf("write vLLM's log: %w", err)
	}
	return nil
}

// lines are the log's last ones; what a progress bar overwrote is dropped.
func (l serverLog) lines() []string {
	f, err := os.Open(l.path)
	if err != nil {
		return []string{"log is unreadable: " + err.Error()}
	}
	defer f.Close()
	from := l.from
	if info, err := f.Stat(); err == nil {
		from = max(from, info.Size()-tailBytes)
	}
	data, err := io.ReadAll(io.NewSectionReader(f, from, tailBytes))
	if err != nil {
		return []string{"log is unreadable: " + err.Error()}
	}
	var lines []string
	for line := range strings.Lines(string(data)) {
		line = strings.TrimRight(line, "\r\n \t")
		line = line[strings.LastIndexByte(line, '\r')+1:]
		if line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// last is the newest line, cut to a few words.
func (l serverLog) last() string {
	lines := l.lines()
	if len(lines) == 0 {
		return ""
	}
	return terminal.Clip(lines[len(lines)-1], 100)
}

// DeathError says that a server that tokenfork started did not start or ended
// by itself.
type DeathError struct {
	Name  string   // the server's label
	What  string   // "exited before it was ready: exit status 1"
	Cause string   // the log line that tells most; may be empty
	Log   string   // path of the log
	Tail  []string // its last lines, at most 20
}

func (e *DeathError) Error() string {
	text := fmt.Sprintf("%s vLLM %s", e.Name, e.What)
	if e.Cause != "" {
		text += ": " + e.Cause
	}
	return text + "; log " + e.Log + " ends with:\n  " + strings.Join(e.Tail, "\n  ")
}

// remedies are what to do about known log lines, the surest first.
var remedies = []struct {
	line *regexp.Regexp
	hint string
}{
	{regexp.MustCompile(`CUDA out of memory|OutOfMemoryError|CUDA error: out of memory`),
		"lower --gpu-memory-utilization or --max-model-len, or give the model more GPUs (tensor parallel)"},
	{regexp.MustCompile(`Free memory on device .*is less than desired`),
		"lower --gpu-memory-utilization, or end what else uses the GPU"},
	{regexp.MustCompile(`No available memory for the cache blocks|KV cache is needed, which is larger than the available`),
		"raise --gpu-memory-utilization, lower --max-model-len, or give the model more GPUs (tensor parallel)"},
	{regexp.MustCompile(`Insufficient space in /dev/shm`),
		"give the container the host's shared memory (podman or docker run --ipc=host) or more of its own (--shm-size)"},
	{regexp.MustCompile(`(?i)address already in use`),
		"another server holds the port"},
	{regexp.MustCompile(`error: (unrecognized arguments|argument )`),
		"look at the arguments given for this server; vllm serve --help=all lists what this version takes"},
	{regexp.MustCompile(`Invalid repository ID or local directory|Repo id must be|does not appear to have a file named|LocalEntryNotFound|OfflineModeIsEnabled`),
		"give a folder with config.json, the weights and the tokenizer; nodes are taken to be offline"},
	{regexp.MustCompile(`trust_remote_code=True`),
		"the model brings code of its own: read it, then add --trust-remote-code to the server's arguments"},
	{regexp.MustCompile(`No module named|command not found|executable file not found|cannot execute|No such file or directory: '?vllm`),
		"give the command that runs vLLM here: --vllm, or load the module or environment that has it"},
	{regexp.MustCompile(`Non-integer device ID|invalid literal for int\(\) with base 10: '(MIG|GPU)-|nvmlDeviceGetIndex`),
		"this vLLM takes no MIG slices by their UUID: ask for whole GPUs, or take a newer vLLM"},
	{regexp.MustCompile(`driver version is insufficient|no kernel image is available|libcuda|Found no NVIDIA driver`),
		"this vLLM does not fit this node's driver or GPU; tokenfork doctor shows both"},
}

var errorLine = regexp.MustCompile(`^([\w.]+\.)?[A-Z]\w*(Error|Exception): |^\S+: error: `)

// death makes the error from what the log tells.
func (l serverLog) death(name, what string) error {
	lines := l.lines()
	told := slices.DeleteFunc(slices.Clone(lines), settings.MatchString)
	e := &DeathError{Name: name, What: what, Log: l.path}
	hint := "the log tells more: " + l.path
	if strings.Contains(what, "signal 9") {
		hint = "often the kernel kills for lack of host memory: ask for more (--mem)"
	}
	for _, line := range told {
		// The first error is the cause; later ones tell who suffered.
		if text := logText(line); e.Cause == "" && errorLine.MatchString(text) {
			e.Cause = terminal.Clip(text, lineBytes)
		}
	}
	for _, r := range remedies {
		if i := lastMatch(told, r.line); i >= 0 {
			e.Cause, hint = terminal.Clip(logText(told[i]), lineBytes), r.hint
			break
		}
	}
	for _, line := range lines[max(0, len(lines)-tailLines):] {
		e.Tail = append(e.Tail, terminal.Clip(line, lineBytes))
	}
	return &failure.Error{Code: failure.Other, Err: e, Hint: hint}
}

func lastMatch(lines []string, pattern *regexp.Regexp) int {
	for i := len(lines) - 1; i >= 0; i-- {
		if pattern.MatchString(lines[i]) {
			return i
		}
	}
	return -1
}

// logPrefix is "(EngineCore pid=7) ERROR 11-23 16:12:28 [core.py:12] ".
var logPrefix = regexp.MustCompile(`^(\(.*?pid=\d+\) )?([A-Z]+ \d\d-\d\d \d\d:\d\d:\d\d \[.*?\] ?)?\s*`)

func logText(line string) string { return logPrefix.ReplaceAllString(line, "") }

var (
	unknownFlags = regexp.MustCompile(`error: unrecognized arguments: (.*)`)
	// serving is what vLLM logs when it believes that it can be reached.
	serving = regexp.MustCompile(`Starting vLLM (API )?server|Application startup complete`)
	// settings are lines that list all settings, not what happened.
	settings = regexp.MustCompile(`Initializing a V1 LLM engine|non-default args`)
	engine   = regexp.MustCompile(`Initializing a V1 LLM engine \(v([^)]*)\) with config: (.*)`)
)

// Engine is what a server's answers may depend on, as its log tells it. A
// field that the log does not tell is empty.
type Engine struct {
	Version        string `json:"version"`
	DType          string `json:"dtype"`
	Quantization   string `json:"quantization"`
	KVCacheDType   string `json:"kv_cache_dtype"`
	TensorParallel string `json:"tensor_parallel"`
	MaxModelLen    string `json:"max_model_len"`
	PrefixCaching  string `json:"prefix_caching"`
	EnforceEager   string `json:"enforce_eager"`
}

func (l serverLog) engine() Engine {
	lines := l.lines()
	i := lastMatch(lines, engine)
	if i < 0 {
		return Engine{}
	}
	m := engine.FindStringSubmatch(lines[i])
	field := func(name string) string {
		v := regexp.MustCompile(`[ (]` + name + `=([^,]*)`).FindStringSubmatch(" " + m[2])
		if v == nil {
			return ""
		}
		return v[1]
	}
	return Engine{
		Version: m[1], DType: field("dtype"), Quantization: field("quantization"),
		KVCacheDType: field("kv_cache_dtype"), TensorParallel: field("tensor_parallel_size"),
		MaxModelLen: field("max_seq_len"), PrefixCaching: field("enable_prefix_caching"),
		EnforceEager: field("enforce_eager"),
	}
}
