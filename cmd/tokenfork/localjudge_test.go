package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tokenfork/internal/vllm/fakevllm"
)

// ownedFakes are the flags for fake servers that the program starts itself.
func ownedFakes(t *testing.T, dir string, faults ...fakevllm.Fault) []string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(fakevllm.Var, fakevllm.Config{Faults: faults}.Env(t))
	return []string{"--small-model", filepath.Join(dir, "small"), "--reference-model", filepath.Join(dir, "reference"), "--vllm", exe + " " + fakevllm.Command}
}

// starts is how often a server was started.
func starts(log string) int { return strings.Count(log, `msg="starting vLLM"`) }

// A judge that is the reference's model uses the servers that are up; one that is
// served otherwise gets its own. A judge's server that dies is replaced.
func TestLocalJudge(t *testing.T) {
	for name, c := range map[string]struct {
		flags  []string
		faults []fakevllm.Fault
		starts int
	}{
		"the reference's model":  {nil, nil, 2},
		"served otherwise":       {[]string{"--judge-args", "--dtype float32"}, nil, 3},
		"the small model":        {[]string{"--judge-model", "small"}, nil, 3},
		"a judge that dies":      {[]string{"--judge-args", "--dtype float32"}, []fakevllm.Fault{{Kind: fakevllm.Die, Server: fakevllm.Chat, After: 6, Most: 1}}, 4},
		"a shared one that dies": {nil, []fakevllm.Fault{{Kind: fakevllm.Die, Server: fakevllm.Chat, Most: 1}}, 3},
		"an answer without end":  {nil, []fakevllm.Fault{{Kind: fakevllm.Endless, Server: fakevllm.Chat, Most: 1}}, 2},
		"its engine alone":       {nil, []fakevllm.Fault{{Kind: fakevllm.Engine, Server: fakevllm.Chat, Most: 1}}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDifferential(t, 3)
			d.trajectories = "own"
			d.writeTable(t)
			for side, name := range []string{"small", "reference"} {
				d.models[side].Write(t, filepath.Join(d.dir, name))
			}
			args := append([]string{"run", d.table, "--job", filepath.Join(d.dir, "job"), "--alignment", d.alignment, "--judge", "local"}, ownedFakes(t, d.dir, c.faults...)...)
			judge := filepath.Join(d.dir, "reference")
			for i, f := range c.flags {
				if f == "small" {
					c.flags[i] = filepath.Join(d.dir, "small")
				}
			}
			var out bytes.Buffer
			if code := run(t.Context(), append(append(args, "--judge-model", judge), c.flags...), &out, &out); code != 0 {
				t.Fatalf("exit code %d\n%s", code, &out)
			}
			if n := starts(out.String()); n != c.starts {
				t.Errorf("%d servers were started, want %d\n%s", n, c.starts, &out)
			}
		})
	}
}
