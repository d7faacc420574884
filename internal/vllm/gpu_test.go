package vllm

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tokenfork/internal/failure"
)

// fakeSMI puts an nvidia-smi in front of PATH that lists two GPUs of 80 GiB
// and the processes given, until a file named free appears.
func fakeSMI(t *testing.T, processes string) (free string) {
	t.Helper()
	dir := t.TempDir()
	free = filepath.Join(dir, "free")
	used := 0
	for line := range strings.Lines(processes) {
		var mib int
		_, _ = fmt.Sscan(line[strings.LastIndexByte(line, ',')+1:], &mib)
		used += mib
	}
	script := fmt.Sprintf(`#!/bin/sh
case "$1" in
*compute-apps*) [ -e %[1]q ] || printf '%%b' %[2]q ;;
*memory.total*) printf '0, GPU-aaaa-1, NVIDIA H100 80GB HBM3, 81559\n1, GPU-bbbb-2, NVIDIA H100 80GB HBM3, 81559\n' ;;
*) [ -e %[1]q ] && u=600 || u=%[3]d; printf '0, GPU-aaaa-1, 600\n1, GPU-bbbb-2, %%s\n' $u ;;
esac
`, free, processes, used)
	if err := os.WriteFile(filepath.Join(dir, "nvidia-smi"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return free
}

// sleeper is a live process with the environment.
func sleeper(t *testing.T, env ...string) int {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	cmd.Env = env
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}

func TestForeignGPUUse(t *testing.T) {
	foreign, ours := sleeper(t), sleeper(t, runnerVar+"="+runnerID())
	row := func(pid, mib int) string { return fmt.Sprintf("GPU-bbbb-2, %d, %d\n", pid, mib) }
	tests := []struct {
		name, processes string
		entries         []string
		want            string
	}{
		{"foreign process", row(foreign, 71680), []string{"0", "1"}, fmt.Sprintf("GPU 1 has 70.0 GiB in use by pid %d (not ours)", foreign)},
		{"named by a short UUID", row(foreign, 71680), []string{"GPU-bbbb"}, "GPU 1 has 70.0 GiB"},
		{"beside a server of ours", row(ours, 30000) + row(foreign, 5000), []string{"1"}, fmt.Sprintf("4.9 GiB in use by pid %d", foreign)},
		{"ours alone", row(ours, 71680), []string{"1"}, ""},
		{"a little", row(foreign, 500), []string{"1"}, ""},
		{"another GPU", row(foreign, 71680), []string{"0"}, ""},
		{"MIG device", row(foreign, 71680), []string{"MIG-cccc"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			fakeSMI(t, tt.processes)
			err := checkForeign(t.Context(), tt.entries)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("checkForeign = %v, want %q", err, tt.want)
			}
		})
	}
}

func TestStartRefusesForeignGPU(t *testing.T) {
	pid := sleeper(t)
	fakeSMI(t, fmt.Sprintf("GPU-bbbb-2, %d, 71680\n", pid))
	c := fakeConfig(t, "")
	c.GPUs = []string{"1"}
	_, err := Start(t.Context(), c)
	if err == nil || !strings.Contains(err.Error(), "start small vLLM: GPU 1 has 70.0 GiB") || !strings.Contains(failure.Hint(err), "CUDA_VISIBLE_DEVICES") {
		t.Fatalf("Start = %v", err)
	}
	var log bytes.Buffer
	c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	c.Args = []string{"--gpu-memory-utilization=0.1"}
	if err := c.checkGPUs(t.Context()); err != nil || !strings.Contains(log.String(), "starting beside others") {
		t.Errorf("with the user's own share: %v, log %s", err, &log)
	}
	c.GPUs, c.Args, c.TensorParallel = nil, nil, 1
	for visible, refused := range map[string]bool{"1,0": true, "0,1": false} { // vLLM takes the first
		t.Setenv("CUDA_VISIBLE_DEVICES", visible)
		if err := c.checkGPUs(t.Context()); (err != nil) != refused {
			t.Errorf("CUDA_VISIBLE_DEVICES=%s: %v", visible, err)
		}
	}
}

func TestWaitsForGPUMemory(t *testing.T) {
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	pid := gone.Process.Pid
	free := fakeSMI(t, fmt.Sprintf("GPU-bbbb-2, %d, 71680\n", pid))
	if err, dying := foreignUse(t.Context(), []string{"1"}); err == nil || !dying {
		t.Errorf("ended process: %v, dying %v", err, dying)
	}
	time.AfterFunc(500*time.Millisecond, func() { _ = os.WriteFile(free, nil, 0o600) })
	if err := checkForeign(t.Context(), []string{"1"}); err != nil {
		t.Errorf("memory that comes back: %v", err)
	}
	if err := awaitFree(t.Context(), map[int]bool{pid: true}); err != nil {
		t.Errorf("awaitFree: %v", err)
	}
}

// The guard asks nvidia-smi too, while it collects its children.
func TestStopAsksForGPUMemory(t *testing.T) {
	fakeSMI(t, "")
	for range 5 {
		s := startFake(t, "")
		stopServer(t, s)
		assertNothingLeft(t, s)
	}
}
