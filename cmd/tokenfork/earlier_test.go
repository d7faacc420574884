package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/vllm/fakevllm"
)

// earlierProgram is a tokenfork of the format that the fixture is to have.
var earlierProgram = flag.String("earlier.make", "", "make testdata/earlier anew with this tokenfork")

const earlier = "testdata/earlier"

// TestJobOfEarlierVersion finishes a job that an earlier tokenfork planned and
// left half done: its results are those of a job that this one planned and ran.
func TestJobOfEarlierVersion(t *testing.T) {
	t.Parallel()
	if *earlierProgram != "" {
		makeEarlier(t, *earlierProgram)
	}
	dir := t.TempDir()
	ok(t, os.CopyFS(dir, os.DirFS(earlier)))
	var models [2]fakevllm.Model
	b, err := os.ReadFile(earlier + "/models.json")
	ok(t, err)
	ok(t, json.Unmarshal(b, &models))
	broken := false
	judge, servers := fakeJudge(t, &broken), ""
	for side, name := range []string{"small", "reference"} {
		models[side].Write(t, filepath.Join(dir, name))
		servers += fmt.Sprintf(" --%s-url %s", name, fakevllm.Serve(t, fakevllm.Config{Model: models[side]}).URL)
	}
	tokenfork(t, 0, earlierPlan(dir, dir+"/new"))
	for _, job := range []string{dir + "/job", dir + "/new"} {
		tokenfork(t, 0, "infer --job "+job+servers)
		tokenfork(t, 0, "judge --job "+job+" --judge "+judge)
		tokenfork(t, 0, "merge --job "+job)
		tokenfork(t, 0, "check --job "+job)
	}
	for _, name := range []string{"results.csv", "results.arrow", "results.parquet", "failures.csv"} {
		a, err := os.ReadFile(filepath.Join(dir, "job", name))
		ok(t, err)
		b, err := os.ReadFile(filepath.Join(dir, "new", name))
		ok(t, err)
		if len(a) == 0 || !bytes.Equal(a, b) {
			t.Errorf("%s: %d bytes differ from the %d of a job planned now", name, len(a), len(b))
		}
	}
}

func earlierPlan(dir, job string) string {
	return fmt.Sprintf("plan %s/table.csv --job %s --alignment next --max-new-tokens 16 --shards 2 --small-model %s/small --reference-model %s/reference", dir, job, dir, dir)
}

// makeEarlier plans with the earlier program, lets it finish one shard, and stops it within the other.
func makeEarlier(t *testing.T, program string) {
	t.Helper()
	dir := t.TempDir()
	d := earlierTable(t)
	d.table = filepath.Join(dir, "table.csv")
	d.dir = dir
	d.writeTable(t)
	servers := []string{}
	for side, name := range []string{"small", "reference"} {
		d.models[side].Write(t, filepath.Join(dir, name))
		servers = append(servers, "--"+name+"-url", fakevllm.Serve(t, fakevllm.Config{Model: d.models[side], TokenTime: 10 * time.Millisecond}).URL)
	}
	start := func(args ...string) *exec.Cmd {
		cmd := exec.Command(program, args...)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		ok(t, cmd.Start())
		return cmd
	}
	job := filepath.Join(dir, "job")
	ok(t, start(strings.Fields(earlierPlan(dir, job))...).Wait())
	ok(t, start(append([]string{"infer", "--job", job, "--shard", "0"}, servers...)...).Wait())
	half := start(append([]string{"infer", "--job", job, "--shard", "1", "--part-every", "50ms", "--in-flight", "1", "--grace", "1ms"}, servers...)...)
	for parts := []string(nil); len(parts) == 0; time.Sleep(20 * time.Millisecond) {
		var err error
		parts, err = filepath.Glob(job + "/parts/infer/00001/*/*/*.arrow")
		ok(t, err)
	}
	ok(t, half.Process.Signal(syscall.SIGTERM))
	if err := half.Wait(); half.ProcessState.ExitCode() != failure.Stopped {
		t.Fatalf("the earlier program was not stopped half way: %v", err)
	}
	b, err := json.Marshal(d.models)
	ok(t, err)
	ok(t, os.RemoveAll(earlier))
	ok(t, os.CopyFS(earlier+"/job", os.DirFS(job)))
	ok(t, os.RemoveAll(earlier+"/job/logs"))
	copyFile(t, d.table, earlier+"/table.csv")
	ok(t, os.WriteFile(earlier+"/models.json", b, 0o644))
}

// earlierTable is the first random table that is large enough and has what the plan's flags say.
func earlierTable(t *testing.T) *differential {
	t.Helper()
	for seed := uint64(1); ; seed++ {
		d := newDifferential(t, seed)
		tokens := 0
		for _, x := range d.texts {
			tokens += len(x.real)
		}
		if len(d.texts) >= 6 && tokens > 300 && d.layout == "study" && d.alignment == "next" && d.maxLen == 4096 {
			return d
		}
	}
}
