package progress

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/vllm/vllmtest"
)

// stages gives a console with a stage that has ended and one under way, with names that a
// label has to escape.
func stages(t *testing.T) *Console {
	t.Helper()
	c := NewConsole(io.Discard, Text)
	over := NewLanes(c, "predict", "texts", NewLane(`a "b" \`, 3, 0, nil))
	over.Add(3)
	over.Close()
	small, reference := NewLane("small", 10, 0, func() Reading {
		return Reading{Servers: 2, InFlight: 64, Counters: map[string]int64{job.CachedTokens: 90, job.ComputedTokens: 10}}
	}), NewLane("reference", -1, 0, nil)
	m := NewLanes(c, "infer", "forks", small, reference)
	t.Cleanup(m.Close)
	small.Resumed(2, 0)
	small.Add(3, 1, 0)
	return c
}

// TestMetricsAsPrometheusReadsThem has Prometheus' own Python library parse them.
func TestMetricsAsPrometheusReadsThem(t *testing.T) {
	var b bytes.Buffer
	if err := stages(t).WriteMetrics(&b); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(vllmtest.Venv(), "bin", "python"), "-c", `
import json, sys
from prometheus_client.parser import text_string_to_metric_families as parse
print(json.dumps([[f.type, f.documentation, s.name, s.labels, s.value] for f in parse(sys.stdin.read()) for s in f.samples]))`)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(b.Bytes()), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var samples [][]any
	if err := json.Unmarshal(out, &samples); err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, s := range samples {
		labels, name := s[3].(map[string]any), s[2].(string)
		if (s[0] == "counter") != strings.HasSuffix(name, "_total") || s[1] == "" {
			t.Errorf("%v", s)
		}
		stage, _ := labels["stage"].(string)
		side, _ := labels["side"].(string)
		got[strings.TrimPrefix(name, "tokenfork_")+" "+stage+" "+side] = s[4].(float64)
	}
	for name, want := range map[string]float64{`done predict a "b" \`: 3, `eta_seconds predict a "b" \`: 0, "done infer small": 5, "planned infer small": 10, "resumed infer small": 2, "failed infer small": 1,
		"requests_in_flight infer small": 64, "servers_up infer small": 2, "server_restarts_total infer small": 0, "cached_tokens_total infer small": 90,
		"computed_tokens_total infer small": 10, "done infer reference": 0, "build_info  ": 1} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s is %v (%v), want %v; all: %v", name, v, ok, want, got)
		}
	}
	if v, ok := got["planned infer reference"]; ok {
		t.Errorf("%v planned of a number that is not known", v)
	}
}

func get(t *testing.T, network, at string) (status int, body string) {
	t.Helper()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, at)
	}}}
	resp, err := c.Get("http://tokenfork/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// TestSocket: nobody but the user gets at it, and one that a killed process left is replaced.
func TestSocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "tf-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	at, c := filepath.Join(dir, "m"), stages(t)
	dead, err := net.Listen("unix", at)
	if err != nil {
		t.Fatal(err)
	}
	dead.(*net.UnixListener).SetUnlinkOnClose(false)
	dead.Close()
	stop, err := c.Serve("unix:" + at)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(at)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if status, body := get(t, "unix", at); status != http.StatusOK || !strings.Contains(body, `tokenfork_done{stage="infer",side="small",unit="forks"} 5`) {
		t.Errorf("%d: %s", status, body)
	}
	if _, err := c.Serve("unix:" + at); failure.Code(err) != failure.Usage || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second one: %v", err)
	}
	stop()
	if _, err := os.Stat(at); !os.IsNotExist(err) {
		t.Errorf("it is left: %v", err)
	}
}

func TestListenRefuses(t *testing.T) {
	open := t.TempDir()
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	for at, want := range map[string]string{
		":9100": "other machines", "0.0.0.0:9100": "other machines", "[::]:9100": "other machines", "10.0.0.1:9100": "other machines", "example.org:9100": "other machines",
		"9100": "not an address", "127.0.0.1": "not an address", "127.0.0.1:": "not an address",
		"unix:m": "unix:m", "unix:/" + strings.Repeat("long/", 30): "unix:/long", "unix:" + open + "/m": "other users can write", "unix:" + open + "/none/m": "no such file",
		"unix:" + file: "in use",
	} {
		stop, err := NewConsole(io.Discard, Text).Serve(at)
		if err == nil {
			stop()
		}
		if failure.Code(err) != failure.Usage || failure.Hint(err) == "" || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", at, err)
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "mine" {
		t.Errorf("%s, %v", b, err)
	}
	for _, at := range []string{"127.0.0.1:0", "localhost:0", "127.9.9.9:0"} {
		stop, err := NewConsole(io.Discard, Text).Serve(at)
		if err != nil {
			t.Fatalf("%s: %v", at, err)
		}
		stop()
	}
}
