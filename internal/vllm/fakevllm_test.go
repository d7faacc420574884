package vllm

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// fakeModesVar lists the faults, joined by commas, that the fake server shows.
const fakeModesVar = "FAKEVLLM"

func fakeMode(mode string) bool {
	return slices.Contains(strings.Split(os.Getenv(fakeModesVar), ","), mode)
}

// fakeVLLM is a server that shows the faults which a real one can't be made to
// show. Like a real one it has a child process, the engine.
func fakeVLLM(args []string) int {
	flags := flag.NewFlagSet("fakevllm", flag.ContinueOnError)
	uds, host, port := flags.String("uds", "", ""), flags.String("host", "", ""), flags.String("port", "", "")
	name := flags.String("served-model-name", "", "")
	flags.String("generation-config", "", "")
	flags.Bool("enable-prompt-tokens-details", false, "")
	flags.Bool("disable-uvicorn-access-log", false, "")
	if fakeMode("new") {
		flags.Bool("enable-scale-out", false, "")
	}
	flags.SetOutput(io.Discard)
	if err := flags.Parse(args[2:]); err != nil { // after "serve MODEL"
		fmt.Fprintln(os.Stderr, "vllm: error: unrecognized arguments: --enable-scale-out")
		return 2
	}
	if fakeMode("oom") {
		fmt.Fprintln(os.Stderr, "(EngineCore pid=7) ERROR 11-23 16:12:28 [core.py:12] torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.")
		fmt.Fprintln(os.Stderr, "(APIServer pid=6) RuntimeError: Engine core initialization failed. See root cause above.")
		return 1
	}
	if fakeMode("slow") {
		time.Sleep(time.Hour)
	}
	if fakeMode("lie") {
		*name = "llama-70b"
	}
	network, address := "unix", *uds
	if *uds == "" {
		network, address = "tcp", *host+":"+*port
	}
	if fakeMode("elsewhere") {
		network, address = "tcp", "127.0.0.1:0"
	}
	return serveFake(network, address, *name)
}

func serveFake(network, address, name string) int {
	if mark := os.Getenv("FAKEVLLM_TAKEN"); mark != "" && os.Remove(mark) == nil {
		fmt.Fprintln(os.Stderr, "OSError: [Errno 98] Address already in use")
		return 1
	}
	listener, err := net.Listen(network, address)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if fakeMode("stubborn") {
		signal.Ignore(syscall.SIGTERM)
	}
	engine := exec.Command("/proc/self/exe", "fakeengine")
	engine.SysProcAttr = &syscall.SysProcAttr{Setsid: fakeMode("detach")}
	if err := engine.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Fprintln(os.Stderr, "INFO:     Application startup complete.")
	if err := http.Serve(listener, fakeHandler(name)); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return 1
}

func fakeEngine() {
	if fakeMode("stubborn") {
		signal.Ignore(syscall.SIGTERM)
	}
	time.Sleep(time.Hour)
}

func fakeHandler(name string) http.Handler {
	mux := http.NewServeMux()
	answer := func(pattern string, f func(w http.ResponseWriter, r *http.Request)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if key := os.Getenv("VLLM_API_KEY"); strings.HasPrefix(r.URL.Path, "/v1") && key != "" &&
				r.Header.Get("Authorization") != "Bearer "+key {
				http.Error(w, `{"error":"Unauthorized"}`, http.StatusUnauthorized)
				return
			}
			f(w, r)
		})
	}
	answer("GET /health", func(http.ResponseWriter, *http.Request) {})
	answer("GET /v1/models", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"data":[{"id":%q,"root":"m","max_model_len":64}]}`, name)
	})
	var generated atomic.Int64
	answer("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "vllm:generation_tokens_total{engine=\"0\"} %d\n", generated.Load())
	})
	answer("POST /v1/completions", func(w http.ResponseWriter, r *http.Request) { fakeComplete(w, r, &generated) })
	return mux
}

// fakeComplete answers a prompt with its last id plus one, and shows the fault
// that its first id asks for.
func fakeComplete(w http.ResponseWriter, r *http.Request, generated *atomic.Int64) {
	var request struct {
		Prompt []int32 `json:"prompt"`
	}
	if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	choice := fmt.Sprintf(`"finish_reason":"length","token_ids":[%d]`, request.Prompt[len(request.Prompt)-1]+1)
	switch {
	case fakeMode("hang"):
		<-r.Context().Done()
		return
	case request.Prompt[0] == 400:
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `{"error":{"message":"poison","type":"BadRequestError"}}`)
		return
	case request.Prompt[0] == 9:
		os.Exit(9)
	}
	generated.Add(1)
	fmt.Fprintf(w, `{"choices":[{"index":0,"text":"",%s}],"usage":{"prompt_tokens":1,"completion_tokens":1}}`, choice)
}
