package doctor_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/store"
	"tokenfork/internal/vllm/vllmtest"
	"tokenfork/slurm"
	"tokenfork/slurm/doctor"
	"tokenfork/slurm/slurmtest"
)

// examine gives all lines, and what Check returned.
func examine(t *testing.T, o doctor.Options) (string, error) {
	t.Helper()
	var b bytes.Buffer
	o.Env = os.Getenv
	err := doctor.Check(t.Context(), o, func(f doctor.Finding) error { return f.Write(&b) })
	return b.String(), err
}

func wants(t *testing.T, out string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains(out, line) {
			t.Errorf("no %q in\n%s", line, out)
		}
	}
}

func TestOnSlurm(t *testing.T) {
	c := slurmtest.Start(t, "MaxArraySize=77", "JobRequeue=0", "KillWait=15")
	out, err := examine(t, doctor.Options{Cluster: slurm.Cluster{Env: c.Env()}, Tmp: t.TempDir(), Sockets: "/tmp", Grace: 20 * time.Second,
		VLLM: []string{"/bin/bash"}})
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	wants(t, out, "arrays of up to 77 tasks, preemption REQUEUE", "warn  slurm: JobRequeue is 0", "KillWait is 15s", "hint: --grace 5s", "ok    sockets", "ok    vllm: ")
}

func TestTroubles(t *testing.T) {
	dir := t.TempDir()
	s, err := store.Open(t.Context(), dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", t.TempDir())
	out, err := examine(t, doctor.Options{Store: s, Tmp: filepath.Join(dir, "none"), Sockets: "/" + strings.Repeat("long", 12),
		VLLM: []string{"/bin/false"}, Models: [2]string{dir, "org/name"}})
	if failure.Code(err) != failure.Other || !strings.Contains(err.Error(), "6 checks failed") {
		t.Errorf("%v\n%s", err, out)
	}
	wants(t, out, "fail  vllm: /bin/false --version: exit status 1", "fail  small model: ", "give the folder that holds config.json",
		"fail  reference model: ", "hf download org/name", "fail  job: no job at", "ok    store: ", "warn  slurm: no scontrol", "fail  sockets: ", "fail  temporary files: ")
}

// A job that this node cannot write is told before a task fails there.
func TestStoreThatCannotBeWritten(t *testing.T) {
	blocked := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(blocked, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), blocked, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	out, err := examine(t, doctor.Options{Store: s, Tmp: t.TempDir(), Sockets: "/tmp"})
	if err == nil {
		t.Error("no failure")
	}
	wants(t, out, "fail  store: ", "can this node write there?")
}

// A fake nvidia-smi, for GPUs that a machine of the tests lacks.
func TestLayoutOnFakeGPUs(t *testing.T) {
	dir := t.TempDir()
	script := "#!/bin/sh\nprintf '0, GPU-a, NVIDIA L4, 23034\\n1, GPU-b, NVIDIA L4, 23034\\n'\n"
	if err := os.WriteFile(filepath.Join(dir, "nvidia-smi"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	models := [2]string{filepath.Join(vllmtest.Models(), "small"), filepath.Join(vllmtest.Models(), "reference")}
	out, err := examine(t, doctor.Options{Tmp: t.TempDir(), Sockets: "/tmp", Models: models})
	if err != nil {
		t.Error(err)
	}
	wants(t, out, "ok    gpus: 0: NVIDIA L4, 23034 MiB", "ok    layout: small on GPU 1, KV cache of about ", "ok    layout: reference on GPU 0, KV cache of about ")
	t.Setenv("CUDA_VISIBLE_DEVICES", "7")
	out, err = examine(t, doctor.Options{Tmp: t.TempDir(), Sockets: "/tmp", Models: models})
	if err != nil {
		t.Error(err)
	}
	wants(t, out, `warn  gpus: none are visible (CUDA_VISIBLE_DEVICES is "7")`)
}
