package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/shell"
	"tokenfork/internal/store"
	"tokenfork/internal/store/storetest"
	"tokenfork/internal/vllm/vllmtest"
	"tokenfork/judge/merge"
	"tokenfork/slurm/slurmtest"
)

// slurmJob is the main job as four tasks on a Slurm of two nodes, with a way
// of its own to the servers.
type slurmJob struct {
	*mainJob
	t       *testing.T
	cluster *slurmtest.Cluster
	folder  string   // where the job's objects lie as files
	where   []string // --job, and how it is reached
	asked   []string // of submit, each time
	env     []string // further, of tokenfork and its tasks
}

// onSlurm runs the job under all that a cluster does to its tasks. Whatever
// that is, the results are those of the first run, byte for byte.
func (m *mainJob) onSlurm(t *testing.T, first string) {
	s3 := storetest.StartS3(t)
	shake(s3)
	c := slurmtest.Start(t, "MaxArraySize=3")
	for _, test := range []struct {
		name string
		node string // "" for both
		s3   bool
		run  func(*slurmJob)
	}{
		{"array beyond MaxArraySize", "", false, func(j *slurmJob) { j.submit() }},
		{"in an S3 that fails now and then, with scontrol requeue", "n1", true, (*slurmJob).requeued},
		{"scontrol requeue", "n1", false, (*slurmJob).requeued},
		{"told that the time limit is near", "n1", false, (*slurmJob).outOfTime},
		{"time limit strikes a hung task", "n1", false, (*slurmJob).timeout},
		{"scancel", "n1", false, (*slurmJob).cancelled},
		{"task killed by -9", "n1", false, (*slurmJob).killed},
		{"preempted by a higher partition", "n2", false, (*slurmJob).preempted},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			j := &slurmJob{mainJob: &mainJob{m.table, m.small.Again(t), m.reference.Again(t)}, t: t, cluster: c.In(t), folder: filepath.Join(t.TempDir(), "job")}
			j.where = []string{"--job", j.folder}
			if test.s3 {
				j.folder = filepath.Join(s3.Folder, "jobs/a")
				j.where = []string{"--job", "s3://" + s3.Bucket + "/jobs/a", "--s3-endpoint", s3.URL, "--s3-path-style"}
				j.asked = []string{"--folder", t.TempDir()}
			}
			judge := m.judge()
			j.asked = append(j.asked, "--infer-flags", strings.Join(j.servers(), " ")+" --stall 20m", "--judge", judge[1], "--judge-flags", strings.Join(judge[2:], " "), "--grace=2s")
			if test.node != "" {
				j.asked = append(j.asked, "--sbatch=--nodelist="+test.node)
			}
			t.Cleanup(j.tell)
			must(t, []int{0}, append(append([]string{"plan", m.table, "--max-new-tokens", maxNewTokens, "--shards", "4"}, m.models()...), j.where...)...)
			test.run(j)
			j.over()
			sameResults(t, first, j.folder)
			must(t, []int{0}, append([]string{"check"}, j.where...)...)
		})
	}
}

// shake makes an S3 server throttle, lose replies and cut connections.
func shake(p *storetest.Proxy) {
	var n atomic.Int64
	each := func(of int64) func(*http.Request) bool {
		return func(*http.Request) bool { return n.Add(1)%of == 0 }
	}
	p.Inject(storetest.Fault{Match: each(23), Status: http.StatusServiceUnavailable, Code: "SlowDown"})
	p.Inject(storetest.Fault{Match: each(29), LoseReply: true})
	p.Inject(storetest.Fault{Match: each(31), CutReplyAt: 100})
	p.Inject(storetest.Fault{Match: each(37), CutRequestAt: 100})
	p.Inject(storetest.Fault{Match: each(3), Delay: 20 * time.Millisecond})
}

// TestPlanProbesTheStore: no job begins where a second writer overwrites the first.
func TestPlanProbesTheStore(t *testing.T) {
	p := storetest.StartS3(t)
	p.Inject(storetest.Fault{Match: storetest.Method(http.MethodPut, ""), Unguard: true})
	m := &mainJob{table: filepath.Join(vllmtest.Root(), ".cache/demo.csv")}
	plan := append([]string{"plan", m.table, "--job", "s3://" + p.Bucket + "/job", "--s3-endpoint", p.URL, "--s3-path-style"}, m.models()...)
	if out := must(t, []int{failure.Refused}, plan...); !strings.Contains(out, "overwrote a guarded key") || !strings.Contains(out, "--single-writer") {
		t.Errorf("got %s", out)
	}
	if left, err := os.ReadDir(filepath.Join(p.Folder, "job")); err == nil && len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	must(t, []int{0}, append(plan, "--single-writer")...)
}

// TestTasksStartServers is a job on Slurm whose task starts a server of its own,
// from a model that it copies to the node. The server's engine is killed:
// another takes its place and nothing is lost. The reference continues both
// forks here. Tasks that follow one another on a node: TestPredictOnSlurm.
func TestTasksStartServers(t *testing.T) {
	t.Parallel()
	m := &mainJob{table: filepath.Join(vllmtest.Root(), ".cache/demo.csv")}
	scratch := t.TempDir()
	j := &slurmJob{mainJob: m, t: t, cluster: slurmtest.Start(t), folder: filepath.Join(t.TempDir(), "job"), env: vllmtest.Env}
	j.where = []string{"--job", j.folder}
	t.Cleanup(j.tell)
	kind := []string{"--trajectories", "reference", "--max-new-tokens", "10"}
	must(t, []int{0}, append(append([]string{"plan", m.table, "--job", j.folder, "--replay", "off", "--shards", "1"}, kind...), m.models()...)...)
	j.submit("--stage-model", "--scratch", scratch, "--vllm", filepath.Join(vllmtest.Venv(), "bin/vllm"), "--reference-model", m.models()[3],
		"--infer-flags", shell.Join([]string{"--reference-args", strings.Join(vllmtest.Flags, " "), "--part-every", "200ms"}))
	j.cluster.Within(40*time.Minute, "part of shard 0", func() bool { return len(partsOf(t, j.folder)) > 0 }) // then it is generating
	killEngine(t, j.runner())
	j.cluster.Within(40*time.Minute, "end of the job", j.isOver)
	if log := j.log(); !strings.Contains(log, "restart 1 of") {
		t.Errorf("no restart is told:\n%s", log)
	}
	if staged, err := filepath.Glob(filepath.Join(scratch, "tokenfork-models-*/*/reference/config.json")); err != nil || len(staged) != 1 {
		t.Errorf("staged: %v, %v", staged, err)
	}
	t.Log(python(t, "oracle", append(append([]string{filepath.Join(j.folder, merge.ParquetKey), m.table}, kind...), m.models()...)...))
}

// command is one of tokenfork's about the job, on a host of the cluster.
func (j *slurmJob) command(args ...string) *exec.Cmd {
	cmd, _ := command(append(args, j.where...)...)
	cmd.Env = append(append(j.cluster.Env(), "TOKENFORK_TEST_MAIN=1"), j.env...)
	return cmd
}

func (j *slurmJob) submit(more ...string) {
	j.t.Helper()
	args := []string{"submit", "--tokenfork", os.Args[0], "--gpus=0", "--cpus=1", "--mem=10"}
	cmd := j.command(append(append(args, j.asked...), more...)...)
	if err := cmd.Run(); err != nil {
		j.t.Fatalf("submit: %v\n%s", err, cmd.Stdout)
	}
}

// halfWay lets the job run until its first shard has kept something, and holds
// it there.
func (j *slurmJob) halfWay(submit ...string) {
	j.t.Helper()
	j.slow(j.t)
	for _, r := range []*vllmtest.Recorder{j.small, j.reference} {
		r.Hold(func() bool { return len(j.files("parts/infer/00000/*/*/*.arrow")) > 0 })
	}
	j.t.Cleanup(j.goOn)
	j.submit(submit...)
	j.cluster.Wait("part of shard 0", func() bool { return len(j.files("parts/infer/00000/*/*/*.arrow")) > 0 })
	if done := j.files("parts/infer/00000/*/commit.json"); len(done) > 1 {
		j.t.Fatal("the shard is done already: too short for this test")
	}
}

func (j *slurmJob) goOn() {
	for _, r := range []*vllmtest.Recorder{j.small, j.reference} {
		r.Hold(nil)
		r.Delay(0)
	}
}

// stopped waits until the first shard's runner has said why it ended.
func (j *slurmJob) stopped() {
	j.t.Helper()
	ends := "attempts/infer/00000/*.end.json"
	j.cluster.Wait("end of shard 0's runner", func() bool { return len(j.files(ends)) > 0 })
	var e job.Ending
	j.read(j.files(ends)[0], &e)
	if e.Code != failure.Stopped {
		j.t.Errorf("the runner ended with %+v", e)
	}
}

// restarted wants Slurm to have started the first shard's task again.
func (j *slurmJob) restarted() {
	j.t.Helper()
	j.over()
	most := 0
	for _, f := range j.files("attempts/infer/00000/*.start.json") {
		var a job.Attempt
		j.read(f, &a)
		most = max(most, a.Restart)
	}
	if most == 0 {
		j.t.Error("Slurm has not started it again")
	}
}

func (j *slurmJob) requeued() {
	j.halfWay()
	j.cluster.Run("scontrol", "requeue", j.task())
	j.stopped()
	j.goOn()
	j.restarted()
}

func (j *slurmJob) preempted() {
	j.halfWay()
	j.cluster.Run("sbatch", "--partition=urgent", "--nodelist=n2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 1")
	j.stopped()
	j.goOn()
	j.restarted()
}

// outOfTime: a task is told that its two minutes will soon be over.
func (j *slurmJob) outOfTime() {
	j.halfWay("--time=2m", "--signal-lead=32s")
	j.stopped()
	j.goOn()
	j.restarted()
	j.submit("--missing")
	if log := j.log(); !strings.Contains(log, "stopped by USR1 with work left; requeued") {
		j.t.Errorf("log of the first shard:\n%s", log)
	}
}

// runner is the first shard's.
func (j *slurmJob) runner() int {
	j.t.Helper()
	var a job.Attempt
	j.read(j.files("attempts/infer/00000/*.start.json")[0], &a)
	return a.PID
}

// signal reaches the first shard's runner, past Slurm.
func (j *slurmJob) signal(sig syscall.Signal) {
	j.t.Helper()
	if err := syscall.Kill(j.runner(), sig); err != nil {
		j.t.Fatal(err)
	}
}

// timeout: a runner that hears nothing is killed when its time is over.
func (j *slurmJob) timeout() {
	j.halfWay("--time=2m", "--signal-lead=32s")
	j.signal(syscall.SIGSTOP)
	j.cluster.Wait("time limit", func() bool { return j.cluster.State(j.task()) == "TIMEOUT" })
	j.goOn()
	j.over()
	if log := j.log(); strings.Contains(log, "requeued") {
		j.t.Errorf("log of the first shard:\n%s", log)
	}
	j.submit("--missing")
}

// cancelled: what a user ends stays down.
func (j *slurmJob) cancelled() {
	j.halfWay()
	j.cluster.Run("scancel", j.submissions()[0].Arrays[0].ID)
	j.stopped()
	j.goOn()
	j.over()
	if state, starts := j.cluster.State(j.task()), j.files("attempts/infer/00000/*.start.json"); state != "CANCELLED" || len(starts) != 1 {
		j.t.Errorf("%s, started %d times", state, len(starts))
	}
	j.submit("--missing")
}

func (j *slurmJob) killed() {
	j.halfWay()
	j.signal(syscall.SIGKILL)
	j.goOn()
	j.over()
	if results := j.files("results.*"); len(results) > 0 {
		j.t.Errorf("merged without a shard: %v", results)
	}
	j.submit("--missing")
}

// files are those of the job that match.
func (j *slurmJob) files(pattern string) []string {
	files, err := filepath.Glob(filepath.Join(j.folder, pattern))
	if err != nil {
		j.t.Error(err)
	}
	return files
}

func (j *slurmJob) read(file string, v any) {
	j.t.Helper()
	b, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		j.t.Fatalf("%s: %v", file, err)
	}
}

func (j *slurmJob) submissions() []job.Submission {
	j.t.Helper()
	ctx := context.WithoutCancel(j.t.Context()) // which ends before clean-up
	s, err := store.Open(ctx, j.folder, store.Options{})
	if err != nil {
		j.t.Fatal(err)
	}
	all, err := job.Submissions(ctx, s)
	if err != nil {
		j.t.Fatal(err)
	}
	return all
}

// task is the first shard's at Slurm.
func (j *slurmJob) task() string { return j.submissions()[0].Arrays[0].ID + "_0" }

func (j *slurmJob) log() string {
	sub := j.submissions()[0]
	b, err := os.ReadFile(filepath.Join(sub.Folder, "logs", sub.Arrays[0].LogOf(0)))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// over waits until Slurm is done with all that was submitted.
func (j *slurmJob) over() {
	j.t.Helper()
	j.cluster.Wait("end of "+j.folder, j.isOver)
}

func (j *slurmJob) isOver() bool {
	var ids []string
	for _, s := range j.submissions() {
		for _, a := range s.Arrays {
			ids = append(ids, a.ID)
		}
	}
	out, err := j.cluster.Command("squeue", "-h", "-j", strings.Join(ids, ",")).CombinedOutput()
	return err == nil && len(bytes.TrimSpace(out)) == 0 || bytes.Contains(out, []byte("Invalid job id"))
}

// tell shows the logs of a job that failed.
func (j *slurmJob) tell() {
	if !j.t.Failed() {
		return
	}
	for _, s := range j.submissions() {
		logs, err := filepath.Glob(filepath.Join(s.Folder, "logs", "*"))
		if err != nil {
			j.t.Error(err)
		}
		for _, log := range logs {
			b, err := os.ReadFile(log)
			j.t.Logf("--- %s, %v\n%s", filepath.Base(log), err, b)
		}
	}
}
