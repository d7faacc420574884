package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/vllm/vllmtest"
	"tokenfork/judge/merge"
)

// mainJob is the main job on the demo's table, with one real server a side
// behind a recorder, so that runs can be compared byte for byte.
type mainJob struct {
	table            string
	small, reference *vllmtest.Recorder
}

func newMainJob(t *testing.T) *mainJob {
	t.Helper()
	table := filepath.Join(vllmtest.Root(), ".cache/demo.csv")
	if _, err := os.Stat(table); err != nil {
		t.Fatalf("no table: run make setup: %v", err)
	}
	s := vllmtest.Start(t, "small", "reference")
	return &mainJob{table, vllmtest.Record(t, s[0].Endpoint().URL()), vllmtest.Record(t, s[1].Endpoint().URL())}
}

const maxNewTokens = "48"

func (m *mainJob) models() []string {
	return []string{"--small-model", filepath.Join(vllmtest.Models(), "small"), "--reference-model", filepath.Join(vllmtest.Models(), "reference")}
}

func (m *mainJob) servers() []string {
	return []string{"--small-url", m.small.URL, "--reference-url", m.reference.URL, "--in-flight", "16", "--part-every", "100ms"}
}

func (m *mainJob) judge() []string {
	return []string{"--judge", m.reference.URL + "/v1", "--verdict-only", "--judge-context", "mismatch"} // long questions and analyses cost a CPU minutes
}

// command is tokenfork in a process of its own.
func command(args ...string) (*exec.Cmd, *bytes.Buffer) {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "TOKENFORK_TEST_MAIN=1")
	out := new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = out, out
	return cmd, out
}

// must runs tokenfork and wants one of the exit codes.
func must(t *testing.T, codes []int, args ...string) string {
	t.Helper()
	cmd, out := command(args...)
	_ = cmd.Run() // the exit code tells
	for _, c := range codes {
		if cmd.ProcessState.ExitCode() == c {
			return out.String()
		}
	}
	t.Fatalf("tokenfork %s\nexit code %d, want one of %v\n%s", strings.Join(args, " "), cmd.ProcessState.ExitCode(), codes, out)
	return ""
}

// done are the codes of a finished run: a judge of 135 million parameters
// gives answers now and then that can't be read, which are listed.
var done = []int{0, failure.Partial}

func (m *mainJob) plan(t *testing.T, dir string, shards int) {
	t.Helper()
	args := append([]string{"plan", m.table, "--job", dir, "--max-new-tokens", maxNewTokens, "--shards", strconv.Itoa(shards)}, m.models()...)
	must(t, []int{0}, args...)
}

func (m *mainJob) infer(dir string) []string {
	return append([]string{"infer", "--job", dir}, m.servers()...)
}

func (m *mainJob) merge(t *testing.T, dir string) {
	t.Helper()
	must(t, done, append([]string{"merge", "--job", dir}, m.judge()...)...)
}

// sameResults compares every result file with the first run's, byte for byte.
func sameResults(t *testing.T, want, got string) {
	t.Helper()
	for _, key := range []string{merge.ArrowKey, merge.ParquetKey, merge.CSVKey} {
		a, err := os.ReadFile(filepath.Join(want, key))
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(got, key))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) {
			t.Errorf("%s of %s differs from %s's", key, got, want)
		}
	}
}

// python runs one of the project's scripts in the environment of the tests.
func python(t *testing.T, script string, args ...string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join(vllmtest.Venv(), "bin/python"), append([]string{filepath.Join(vllmtest.Root(), "scripts", script)}, args...)...)
	cmd.Env = append(os.Environ(), "OMP_WAIT_POLICY=PASSIVE") // threads that spin take the cores from the tests beside
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

// TestMainJob is the whole of it, from the table to what readers see.
func TestMainJob(t *testing.T) {
	t.Parallel()
	m := newMainJob(t)
	first := filepath.Join(t.TempDir(), "first")
	run := append([]string{"run", m.table, "--job", first, "--max-new-tokens", maxNewTokens}, m.models()...)
	run = append(append(run, m.servers()...), m.judge()...)
	must(t, done, run...)

	t.Run("each prefix is computed once", func(t *testing.T) { computedOnce(t, first) })
	t.Run("readers see the same rows", func(t *testing.T) { t.Log(python(t, "read-results", first)) })
	t.Run("R2R reads the verdicts", func(t *testing.T) { m.r2r(t, first) })
	t.Run("again changes nothing", func(t *testing.T) {
		asked := m.small.Fresh() + m.reference.Fresh()
		before := stamp(t, first)
		must(t, done, run...)
		if now := m.small.Fresh() + m.reference.Fresh(); now != asked {
			t.Errorf("%d requests were made for a finished job", now-asked)
		}
		if after := stamp(t, first); after != before {
			t.Errorf("results changed from %s to %s", before, after)
		}
	})
	t.Run("log-probabilities are transformers'", func(t *testing.T) { m.scores(t) })
	t.Run("whatever happens", func(t *testing.T) { m.whatever(t, first) })
	t.Run("every damage is named", func(t *testing.T) { m.damaged(t, first) })
}

// whatever is all that befalls a run, and what is compared with it; each has a way of
// its own to the servers. Most of them wait most of the time: the longest are first, and
// those that compute fill the time.
func (m *mainJob) whatever(t *testing.T, first string) {
	for _, test := range []struct {
		name string
		run  func(*mainJob, *testing.T, string)
	}{
		{"on Slurm", (*mainJob).onSlurm},
		{"R2R's trajectories, with decimals", (*mainJob).likeR2R},
		{"another implementation agrees", (*mainJob).oracle},
		{"four shards, and killed at any moment", (*mainJob).killed},
		{"a table from texts", (*mainJob).predicted},
		{"in a bucket", (*mainJob).inBucket},
		{"two at once", (*mainJob).twice},
		{"a zombie wakes", (*mainJob).zombie},
		{"stopped by SIGTERM", func(m *mainJob, t *testing.T, first string) { m.stopped(t, first, syscall.SIGTERM) }},
		{"stopped by SIGUSR1", func(m *mainJob, t *testing.T, first string) { m.stopped(t, first, syscall.SIGUSR1) }},
		{"servers gone for a while", (*mainJob).gone},
		{"servers that come late or never", (*mainJob).late},
		{"a server hangs", (*mainJob).hung},
		{"a task needs its manifest alone", (*mainJob).alone},
		{"merged early", (*mainJob).early},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(&mainJob{m.table, m.small.Again(t), m.reference.Again(t)}, t, first)
		})
	}
}

// oracle compares the first run with another implementation.
func (m *mainJob) oracle(t *testing.T, first string) {
	t.Log(python(t, "oracle", append([]string{filepath.Join(first, merge.ParquetKey), m.table, "--max-new-tokens", maxNewTokens}, m.models()...)...))
}

// likeR2R has R2R's trajectories over half of the texts: a third of all positions are
// mismatches here.
func (m *mainJob) likeR2R(t *testing.T, _ string) {
	dir, half := filepath.Join(t.TempDir(), "job"), filepath.Join(t.TempDir(), "half.csv")
	shorten(t, m.table, half, 8, 1000)
	kind := []string{"--trajectories", "real", "--decimals", "--ends", "r2r", "--max-new-tokens", "12"}
	args := append(append([]string{"run", half, "--job", dir}, kind...), m.models()...)
	must(t, []int{0}, append(args, "--reference-url", m.reference.URL, "--judge", "none")...)
	t.Log(python(t, "oracle", append(append([]string{filepath.Join(dir, merge.ParquetKey), half}, kind...), m.models()...)...))
}

func (m *mainJob) early(t *testing.T, _ string) {
	dir := filepath.Join(t.TempDir(), "job")
	m.plan(t, dir, 2)
	must(t, []int{0}, append(m.infer(dir), "--shard", "1")...)
	out := must(t, []int{failure.Refused}, "merge", "--job", dir, "--judge", "none")
	if !strings.Contains(out, "infer of shard 0, small") {
		t.Errorf("what is missing is not named:\n%s", out)
	}
	must(t, []int{failure.Partial}, "merge", "--job", dir, "--judge", "none", "--allow-missing")
}

// late gives the small model two further servers: work begins without them, and
// does not wait for the one that never comes.
func (m *mainJob) late(t *testing.T, first string) {
	to, err := url.Parse(m.small.URL)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	late := &http.Server{Handler: httputil.NewSingleHostReverseProxy(to)}
	t.Cleanup(func() { _ = late.Close() })
	time.AfterFunc(time.Second, func() { _ = late.Serve(listener) })
	dir := filepath.Join(t.TempDir(), "job")
	m.plan(t, dir, 2)
	out := must(t, []int{0}, append(m.infer(dir), "--small-url", "http://"+listener.Addr().String(), "--small-url", "http://127.0.0.1:1")...)
	if !strings.Contains(out, "server does not answer, waiting") {
		t.Errorf("nothing is said of the server that never came:\n%s", out)
	}
	m.merge(t, dir)
	sameResults(t, first, dir)
}

// computedOnce compares what a cold server computed, by its own count, with the
// least that any order of the requests takes.
func computedOnce(t *testing.T, dir string) {
	b, err := os.ReadFile(filepath.Join(dir, merge.SummaryKey))
	if err != nil {
		t.Fatal(err)
	}
	var summary merge.Summary
	if err := json.Unmarshal(b, &summary); err != nil {
		t.Fatal(err)
	}
	for _, side := range job.Sides {
		c := [...]job.Counters{summary.Run.Small, summary.Run.Reference}[side]
		computed, ideal := c["computed_tokens"], c["ideal_tokens"]
		if ideal == 0 || computed*100 > ideal*110 {
			t.Errorf("%s: %d prompt tokens were computed, ideal are %d", side, computed, ideal)
		}
	}
}

// step4 reads r2r.csv as step 4 of R2R's data labelling does: verdicts are
// joined to the index of all tokens at the token before, and blanks are 0.
const step4 = `
import json, sys
import pandas as pd
table, folder = sys.argv[1:]
index = pd.read_csv(table).rename(columns={"1.5_sentence_id": "data_id", "1.5_token_id": "token_id", "1.5_predictions": "prediction"})
verdicts = pd.read_csv(folder + "/r2r.csv")
results = pd.read_parquet(folder + "/results.parquet")
left_out = set(json.load(open(folder + "/summary.json")).get("r2r_left_out", []))
assert not left_out & set(verdicts.data_id.astype(str)), "a text that is left out is there"
kept = results[~results.sentence_id.astype(str).isin(left_out)]
assert len(kept) == len(verdicts) > 0, (len(kept), len(verdicts))
verdicts["token_id"] -= 1
verdicts["mismatch"] = 1
merged = pd.merge(index, verdicts, on=["data_id", "token_id"], how="left")
assert merged.mismatch.sum() == len(verdicts), "verdicts without a token"
assert (merged[merged.mismatch == 1].prediction == verdicts.pred_small_token.values).all(), "a verdict is at another token's prediction"
assert pd.to_numeric(verdicts.divergent).isin([0, 1]).all()
assert (verdicts.divergent.values == (~kept.meaning_match.astype(bool)).astype(int).values).all()
print(len(verdicts), "verdicts,", len(left_out), "texts left out")
`

func (m *mainJob) r2r(t *testing.T, first string) {
	must(t, done, append([]string{"merge", "--job", first, "--format", "r2r"}, m.judge()...)...)
	out, err := exec.Command(filepath.Join(vllmtest.Venv(), "bin/python"), "-c", step4, m.table, first).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

func partsOf(t *testing.T, dir string) []string {
	t.Helper()
	parts, err := filepath.Glob(filepath.Join(dir, "parts/infer/*/*/*/*.arrow"))
	if err != nil {
		t.Fatal(err)
	}
	return parts
}

// killEngine kills the vLLM engine process that descends from the runner.
func killEngine(t *testing.T, runner int) {
	t.Helper()
	out, err := exec.Command("ps", "-eo", "pid=,ppid=,comm=").Output()
	if err != nil {
		t.Fatal(err)
	}
	parent, engines := map[int]int{}, []int{}
	for line := range strings.Lines(string(out)) {
		var pid, ppid int
		var name string
		if n, _ := fmt.Sscan(line, &pid, &ppid, &name); n < 3 {
			continue
		}
		parent[pid] = ppid
		if strings.HasPrefix(name, "VLLM::Engine") {
			engines = append(engines, pid)
		}
	}
	for _, engine := range engines {
		for p := engine; p > 1; p = parent[p] {
			if p == runner {
				if err := syscall.Kill(engine, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				return
			}
		}
	}
	t.Fatalf("no engine of %d among %v", runner, engines)
}

func stamp(t *testing.T, dir string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, merge.CSVKey))
	if err != nil {
		t.Fatal(err)
	}
	return job.Sum(b)
}

// slow makes runs last long enough to be met half way: a part is written
// between two rounds of answers.
func (m *mainJob) slow(t *testing.T) { m.delay(t, 200*time.Millisecond) }

func (m *mainJob) delay(t *testing.T, by time.Duration) {
	for _, r := range []*vllmtest.Recorder{m.small, m.reference} {
		r.Delay(by)
		t.Cleanup(func() { r.Delay(0) })
	}
}

// halfWay starts infer and returns once it has put a part in the job.
func halfWay(t *testing.T, dir string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	before := len(partsOf(t, dir))
	cmd, out := command(args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(2 * time.Minute); len(partsOf(t, dir)) == before; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no part after two minutes\n%s", out)
		}
	}
	return cmd, out
}

// kills is enough for every stage to be struck, most times.
const kills = 12

// killed runs the job once in peace, to learn how long it takes, and once with
// a -9 at moments drawn from that time: anew, if it was done before the last.
func (m *mainJob) killed(t *testing.T, first string) {
	run := func(dir string) []string {
		args := append([]string{"run", m.table, "--job", dir, "--max-new-tokens", maxNewTokens, "--shards", "4"}, m.models()...)
		return append(append(args, m.servers()...), m.judge()...)
	}
	m.delay(t, 20*time.Millisecond)
	whole, dir := filepath.Join(t.TempDir(), "whole"), filepath.Join(t.TempDir(), "job")
	start := time.Now()
	must(t, done, run(whole)...)
	takes := time.Since(start)
	sameResults(t, first, whole)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range kills {
		cmd, _ := command(run(dir)...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		moment := r.Float64()
		time.Sleep(time.Duration(moment * moment * float64(takes))) // each start has less to do
		_ = cmd.Process.Kill()                                      // unless it has ended
		_ = cmd.Wait()
		t.Log("killed with", left(t, dir))
		if cmd.ProcessState.Exited() {
			sameResults(t, first, dir)
			dir = filepath.Join(t.TempDir(), "job")
		}
	}
	must(t, done, run(dir)...)
	sameResults(t, first, dir)
	must(t, []int{0}, "check", "--job", dir)
}

// left says how far a job has come.
func left(t *testing.T, dir string) string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"mismatches.csv", "job.json", "parts/infer/*/*/*/*.arrow", "parts/infer/*/*/commit.json", "parts/judge/*/*/commit.json", "results.*"} {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, fmt.Sprint(len(files), " ", pattern))
	}
	return strings.Join(all, ", ")
}

func (m *mainJob) twice(t *testing.T, first string) {
	m.slow(t)
	dir := filepath.Join(t.TempDir(), "job")
	m.plan(t, dir, 2)
	var cmds [2]*exec.Cmd
	var outs [2]*bytes.Buffer
	for i := range cmds {
		cmds[i], outs[i] = command(m.infer(dir)...)
		if err := cmds[i].Start(); err != nil {
			t.Fatal(err)
		}
	}
	for i := range cmds {
		if err := cmds[i].Wait(); err != nil {
			t.Errorf("copy %d: %v\n%s", i, err, outs[i])
		}
	}
	m.merge(t, dir)
	sameResults(t, first, dir)
}

// zombie: an attempt that was taken for dead goes on after another one has
// finished its task.
func (m *mainJob) zombie(t *testing.T, first string) {
	m.slow(t)
	dir := filepath.Join(t.TempDir(), "job")
	m.plan(t, dir, 1)
	cmd, out := halfWay(t, dir, append(m.infer(dir), "--stall", "20m")...)
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	must(t, []int{0}, m.infer(dir)...)
	m.merge(t, dir)
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || !strings.Contains(out.String(), "another attempt committed first") {
		t.Errorf("the first attempt: %v\n%s", err, out)
	}
	sameResults(t, first, dir)
	must(t, []int{0}, "check", "--job", dir)
}

func (m *mainJob) stopped(t *testing.T, first string, sig os.Signal) {
	m.slow(t)
	dir := filepath.Join(t.TempDir(), "job")
	m.plan(t, dir, 1)
	cmd, out := halfWay(t, dir, append(m.infer(dir), "--grace", "500ms")...)
	if err := cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if c := cmd.ProcessState.ExitCode(); c != failure.Stopped {
		t.Errorf("exit code %d, want %d\n%s", c, failure.Stopped, out)
	}
	must(t, []int{0}, m.infer(dir)...)
	m.merge(t, dir)
	sameResults(t, first, dir)
}

func (m *mainJob) gone(t *testing.T, first string) {
	m.slow(t)
	dir := filepath.Join(t.TempDir(), "job")
	m.plan(t, dir, 1)
	cmd, out := halfWay(t, dir, m.infer(dir)...)
	m.reference.Down(true)
	time.Sleep(2 * time.Second)
	m.reference.Down(false)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	m.merge(t, dir)
	sameResults(t, first, dir)
}

// hung has a server that says it is well, and answers nothing.
func (m *mainJob) hung(t *testing.T, first string) {
	m.slow(t)
	dir := filepath.Join(t.TempDir(), "job")
	m.plan(t, dir, 1)
	cmd, out := halfWay(t, dir, append(m.infer(dir), "--stall", "1s")...)
	m.reference.Delay(10 * time.Second)
	m.small.Delay(10 * time.Second)
	_ = cmd.Wait()
	if c := cmd.ProcessState.ExitCode(); c != failure.Stopped || !strings.Contains(out.String(), "hangs") {
		t.Errorf("exit code %d, want %d and a word of the hang\n%s", c, failure.Stopped, out)
	}
	m.reference.Delay(0)
	m.small.Delay(0)
	must(t, []int{0}, m.infer(dir)...)
	m.merge(t, dir)
	sameResults(t, first, dir)
}

func (m *mainJob) alone(t *testing.T, _ string) {
	whole, bare := filepath.Join(t.TempDir(), "job"), filepath.Join(t.TempDir(), "bare")
	m.plan(t, whole, 3)
	manifest := job.ManifestKey(1)
	b, err := os.ReadFile(filepath.Join(whole, manifest))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(bare, job.ShardPrefix), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bare, manifest), b, 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, []int{0}, append(m.infer(bare), "--shard", "1")...)
	for _, side := range job.Sides {
		if _, err := os.Stat(filepath.Join(bare, fmt.Sprintf("parts/infer/00001/%s/commit.json", side))); err != nil {
			t.Error(err)
		}
	}
}
