package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tokenfork/internal/failure"
	"tokenfork/internal/vllm/fakevllm"
)

// ownServers plans the job and carries it on with servers that the task starts, which
// show a fault. It gives the exit code and what was said.
func (j *fakeJob) ownServers(t *testing.T, at string, c fakevllm.Config, more ...string) (int, string) {
	t.Helper()
	t.Setenv(fakevllm.Var, c.Env(t))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	infer := append([]string{"infer", "--job", at, "--vllm", self + " " + fakevllm.Command}, j.planned(t, at)...)
	cmd, out := command(append(infer, more...)...)
	_ = cmd.Run() // the exit code tells
	return cmd.ProcessState.ExitCode(), out.String()
}

// planned plans the job and gives the flags that name its models.
func (j *fakeJob) planned(t *testing.T, at string) (models []string) {
	t.Helper()
	var plan []string
	for i := 0; i < len(j.flags); i += 2 {
		switch flag := j.flags[i]; {
		case strings.HasSuffix(flag, "-model") && flag != "--judge-model":
			models = append(models, j.flags[i:i+2]...)
		case slices.Contains([]string{"--shards", "--max-new-tokens", "--alignment"}, flag):
			plan = append(plan, j.flags[i:i+2]...)
		}
	}
	var said bytes.Buffer
	if code := run(t.Context(), slices.Concat([]string{"plan", j.table, "--job", at}, models, plan), &said, &said); code != 0 {
		t.Fatalf("plan: %d\n%s", code, &said)
	}
	return models
}

// A server that dies again and again ends the task with an exit code of its own.
func TestRestartsUsedUp(t *testing.T) {
	j := newFakeJob(t, 8, 60, 1)
	code, said := j.ownServers(t, filepath.Join(j.dir, "job"), fakevllm.Config{Faults: []fakevllm.Fault{{Kind: fakevllm.Die, Server: "small", After: 3}}})
	if code != failure.Server || !strings.Contains(said, "the small server died more than 5 times") || !strings.Contains(said, "restart 5 of 5") {
		t.Errorf("exit code %d, want %d:\n%s", code, failure.Server, said)
	}
}
