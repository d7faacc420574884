package infer_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tokenfork/infer"
	"tokenfork/internal/failure"
	"tokenfork/internal/fleet"
	"tokenfork/internal/job"
	"tokenfork/internal/vllm/fakevllm"
)

// owned are options for fake servers that the task starts itself.
func (j *planned) owned(t *testing.T, fake fakevllm.Config) infer.Options {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	fake.BlockSize = 4
	o, logs := j.plain(), t.TempDir()
	for side := range models {
		// The environment is the process's: the command sets it for each server alone.
		o.Servers[side] = infer.Servers{Command: []string{"env", fakevllm.Var + "=" + fake.Env(t), exe, fakevllm.Command}, Model: j.folders[side],
			StartTimeout: time.Minute, LogDir: logs, Args: []string{"--dtype", "float32"}}
	}
	return o
}

func TestOwnedServers(t *testing.T) {
	t.Parallel()
	for name, faults := range map[string][]fakevllm.Fault{
		"well":                      nil,
		"dies":                      {{Kind: fakevllm.Die, Server: "small", After: 60, Most: 1}},
		"dies twice at one prompt":  {{Kind: fakevllm.Die, Server: "small", Every: 60, Times: 2, Most: 2}},
		"hangs":                     {{Kind: fakevllm.Hang, Server: "reference", After: 60, Most: 1}},
		"its engine dies":           {{Kind: fakevllm.Engine, Server: "small", After: 60, Most: 1}},
		"answers 500 for a while":   {{Kind: fakevllm.Refuse, Status: 500, After: 60, Most: 3}},
		"breaks connections, works": {{Kind: fakevllm.Cut, After: 60, Most: 3}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := plan(t, nil)
			o := j.owned(t, fakevllm.Config{Faults: faults})
			o.Stall = time.Second
			wants(t, o, 0, "")
			j.check(t)
			restarted := strings.Contains(j.log.String(), "restart 1 of 5")
			if lasting := len(faults) > 0 && (faults[0].Kind == fakevllm.Die || faults[0].Kind == fakevllm.Hang || faults[0].Kind == fakevllm.Engine); restarted != lasting {
				t.Errorf("restarted: %v\n%s", restarted, j.log)
			}
			r, err := j.store.Open(t.Context(), job.EngineKey(job.Small))
			if err != nil {
				t.Fatal(err)
			}
			r.Close()
		})
	}
}

func TestOwnedServerCrashesAtOnePrompt(t *testing.T) {
	t.Parallel()
	j := plan(t, nil)
	o := j.owned(t, fakevllm.Config{Faults: []fakevllm.Fault{{Kind: fakevllm.Die, Server: "small", Every: 60, After: 3}}})
	err := infer.Run(t.Context(), o)
	switch failure.Code(err) {
	case failure.Partial:
		if failed := j.check(t, fleet.ClassServerCrash); failed[fleet.ClassServerCrash] == 0 {
			t.Errorf("no fork of class %s", fleet.ClassServerCrash)
		}
	default: // several such prompts use the restarts up
		if err == nil || !strings.Contains(err.Error(), "died more than 5 times") {
			t.Errorf("infer ended with %v", err)
		}
	}
}

func TestOwnedServerThatDoesNotCome(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fake  fakevllm.Config
		code  int
		words string
	}{
		"at the start": {fakevllm.Config{Modes: []string{fakevllm.OutOfMemory}}, failure.Other, "CUDA out of memory"},
		"any more":     {fakevllm.Config{Faults: []fakevllm.Fault{{Kind: fakevllm.Die, After: 20}}}, failure.Server, "died more than 5 times"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := plan(t, nil)
			wants(t, j.owned(t, c.fake), c.code, c.words)
		})
	}
}

func TestOwnedModelIsThePlanned(t *testing.T) {
	t.Parallel()
	j := plan(t, nil)
	o := j.owned(t, fakevllm.Config{})
	o.Servers[job.Small].Model = j.folders[job.Reference]
	wants(t, o, failure.Refused, "not the small model that the job was planned for")
	o.Servers[job.Small].Model = filepath.Join(t.TempDir(), "none")
	wants(t, o, failure.Refused, "find the small model")
}

// Stopped while servers load, it waits for none of them.
func TestStoppedWhileServersLoad(t *testing.T) {
	t.Parallel()
	j := plan(t, func(s *job.Settings) { s.Deterministic = true })
	ctx, stop := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer stop()
	wantsIn(ctx, t, j.owned(t, fakevllm.Config{Modes: []string{fakevllm.NeverReady}}), failure.Stopped, "run the same command")
}

// Servers that share a GPU load side by side, and one after the other where the size
// that was reckoned for a KV cache does not do.
func TestServersShareAGPU(t *testing.T) {
	dir := t.TempDir()
	const fakeSMI = `#!/bin/sh
case "$1" in
*memory.total*) echo '0, GPU-aaaa-1, NVIDIA H100 80GB HBM3, 81559' ;;
*memory.used*) echo '0, GPU-aaaa-1, 600' ;;
esac
`
	if err := os.WriteFile(filepath.Join(dir, "nvidia-smi"), []byte(fakeSMI), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Setenv("CUDA_VISIBLE_DEVICES", "0")
	for mode, warns := range map[string]bool{fakevllm.Together: false, fakevllm.Measuring: true} {
		j := plan(t, nil)
		wants(t, j.owned(t, fakevllm.Config{Modes: []string{mode}, State: t.TempDir()}), 0, "")
		j.check(t)
		if !strings.Contains(j.log.String(), "of the memory") || strings.Contains(j.log.String(), "of a given size") != warns {
			t.Errorf("%s:\n%s", mode, j.log)
		}
	}
}
