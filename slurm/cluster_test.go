package slurm_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"tokenfork/internal/job"
	"tokenfork/internal/survey"
	"tokenfork/slurm/slurmtest"
)

// program is the real tokenfork, built once.
var program string

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "tokenfork-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "tokenfork")
	if out, err := exec.Command("go", "build", "-o", program, "../cmd/tokenfork").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build tokenfork: %v\n%s", err, out)
		return 1
	}
	if err := flag.Set("test.parallel", "12"); err != nil { // parallel tests wait for Slurm
		panic(err)
	}
	return m.Run()
}

// bench is a planned job on a cluster, whose tasks run the fake runner.
type bench struct {
	t       *testing.T
	cluster *slurmtest.Cluster
	job     string // folder
	at      string // the same as --job has it
	flags   []string
	fake    string // folder that steers the fake runner
	path    string // PATH of submit; "" is this process's
}

const perShard = 5 // mismatches

func newBench(t *testing.T, c *slurmtest.Cluster, shards int, acts map[int]string) *bench {
	t.Helper()
	dir := t.TempDir()
	b := &bench{t: t, cluster: c, job: filepath.Join(dir, "job"), fake: filepath.Join(dir, "fake")}
	for _, d := range []string{b.job, b.fake} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	writeJob(t, b.job, shards)
	b.steer("shards", strconv.Itoa(shards))
	for k, act := range acts {
		b.steer(strconv.Itoa(k), act)
	}
	b.at = b.job
	return b
}

// writeJob writes a job.json of so many shards.
func writeJob(t *testing.T, folder string, shards int) {
	t.Helper()
	j := job.Job{Plan: job.Plan{Format: job.Format, ID: "0123456789abcdef", Settings: job.Settings{Trajectories: job.Own}}, Mismatches: int64(perShard * shards)}
	for range shards {
		j.Shards = append(j.Shards, job.Shard{Mismatches: perShard, Texts: 1})
	}
	raw, err := job.SealJSON(j)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, job.Key), raw, 0o644); err != nil {
		t.Fatal(err)
	}
}

func (b *bench) steer(name, content string) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.fake, name), []byte(content), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// tokenfork runs the real program and gives its exit code and both outputs.
func (b *bench) tokenfork(args ...string) (code int, out, stderr string) {
	b.t.Helper()
	fakeRunner, err := filepath.Abs("testdata/fakerunner")
	if err != nil {
		b.t.Fatal(err)
	}
	if args[0] == "submit" {
		args = append(args, "--tokenfork", fakeRunner, "--gpus=0", "--cpus=1", "--grace=1s", "--mem=10")
	}
	cmd := exec.Command(program, append(append(args, "--job", b.at), b.flags...)...)
	cmd.Env = append(b.cluster.Env(), "FAKE="+b.fake, "TOKENFORK_REAL="+program)
	if b.path != "" {
		cmd.Env = append(cmd.Env, "PATH="+b.path)
	}
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		b.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), o.String(), e.String()
}

func (b *bench) submit(args ...string) string {
	b.t.Helper()
	code, out, stderr := b.tokenfork(append([]string{"submit"}, args...)...)
	if code != 0 {
		b.t.Fatalf("submit %v: exit %d\n%s%s", args, code, out, stderr)
	}
	return out
}

func (b *bench) status() *survey.Report {
	b.t.Helper()
	code, out, stderr := b.tokenfork("status", "--json")
	var r survey.Report
	if err := json.Unmarshal([]byte(out), &r); code != 0 || err != nil {
		b.t.Fatalf("status: exit %d, %v\n%s%s", code, err, out, stderr)
	}
	return &r
}

// small is the small side's row of the status.
func (b *bench) small() *survey.Stage {
	b.t.Helper()
	for _, s := range b.status().Stages {
		if s.Side == "small" {
			return s
		}
	}
	b.t.Fatal("status has no small side")
	return nil
}

// calls are what the fake runner noted so far.
func (b *bench) calls() []string {
	raw, err := os.ReadFile(filepath.Join(b.fake, "calls"))
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSpace(string(raw)), "\n")
}

func (b *bench) count(prefix string) int {
	n := 0
	for _, c := range b.calls() {
		if strings.HasPrefix(c, prefix) {
			n++
		}
	}
	return n
}

func (b *bench) await(call string, n int) {
	b.t.Helper()
	b.cluster.Wait(fmt.Sprintf("%q, %d times, in %s", call, n, b.fake), func() bool { return b.count(call) >= n })
}

func (b *bench) submission(n int) *job.Submission {
	b.t.Helper()
	raw, err := os.ReadFile(filepath.Join(b.job, "submissions", strconv.Itoa(n)+".json"))
	if err != nil {
		b.t.Fatal(err)
	}
	var s job.Submission
	if err := json.Unmarshal(raw, &s); err != nil {
		b.t.Fatal(err)
	}
	return &s
}

// first is the id of the stage's first array in submission 1.
func (b *bench) first(stage string) string {
	b.t.Helper()
	for _, a := range b.submission(1).Arrays {
		if a.Stage == stage {
			return a.ID
		}
	}
	b.t.Fatalf("no %s in submission 1", stage)
	return ""
}

// signal has Slurm signal the task's batch shell.
func (b *bench) signal(name string, task int) {
	b.t.Helper()
	b.cluster.Run("scancel", "--batch", "--signal="+name, b.first("infer")+"_"+strconv.Itoa(task))
}

// over waits until Slurm is done with the bench's arrays.
func (b *bench) over() {
	b.t.Helper()
	b.cluster.Wait("end of "+b.job, func() bool {
		for n := 1; ; n++ {
			if _, err := os.Stat(filepath.Join(b.job, "submissions", strconv.Itoa(n)+".json")); err != nil {
				return true
			}
			for _, a := range b.submission(n).Arrays {
				out, err := b.cluster.Command("squeue", "-h", "-j", a.ID).Output()
				if err == nil && len(bytes.TrimSpace(out)) > 0 {
					return false
				}
			}
		}
	})
}

func (b *bench) log(stage string, task int) string {
	b.t.Helper()
	s := b.submission(1)
	for _, a := range s.Arrays {
		if a.Stage == stage {
			raw, err := os.ReadFile(filepath.Join(s.Folder, "logs", a.LogOf(task)))
			if err != nil {
				b.t.Fatal(err)
			}
			return string(raw)
		}
	}
	b.t.Fatalf("no %s in submission 1", stage)
	return ""
}
