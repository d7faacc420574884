package slurm_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tokenfork/slurm/slurmtest"
)

// One cluster for all: each test has a job of its own on it. Windows of 4 tasks.
// What a real runner shows on cue is tested with one, in cmd/tokenfork.
func TestOnSlurm(t *testing.T) {
	t.Parallel()
	c := slurmtest.Start(t, "MaxArraySize=4")
	for _, test := range []struct {
		name string
		run  func(*testing.T, *slurmtest.Cluster)
	}{
		{"windows beyond MaxArraySize, each stage after the former", windows},
		{"missing shards are submitted again", missing},
		{"USR1 with progress requeues", requeue},
		{"sbatch refuses", refused},
		{"scripts printed for hand editing", printed},
	} {
		t.Run(test.name, func(t *testing.T) { t.Parallel(); test.run(t, c.In(t)) })
	}
}

// Losing a node takes a cluster of its own.
func TestOnLosingSlurm(t *testing.T) {
	t.Parallel()
	lost(t, slurmtest.Start(t))
}

func windows(t *testing.T, c *slurmtest.Cluster) {
	b := newBench(t, c, 10, nil)
	out := b.submit("--judge=local", "--judge-model=M", "--throttle=9")
	b.over()
	if n := b.count("infer"); n != 20 {
		t.Errorf("%d calls of infer, want start and end of 10", n)
	}
	calls := b.calls()
	for _, call := range []string{"judge 9 commits=20", "merge commits=20", "report"} {
		if !slices.Contains(calls, call) {
			t.Errorf("no %q: each stage waits for all arrays of the former; calls:\n%s", call, strings.Join(calls, "\n"))
		}
	}
	if last := calls[len(calls)-2:]; last[0] != "merge commits=20" || last[1] != "report" {
		t.Errorf("the last two calls were %q", last)
	}
	s := b.submission(1)
	var stages []string
	for _, a := range s.Arrays {
		stages = append(stages, a.Stage)
		if !strings.Contains(out, a.ID) {
			t.Errorf("id %s is not in the output:\n%s", a.ID, out)
		}
	}
	if got, want := strings.Join(stages, " "), "infer infer infer judge judge judge merge report"; got != want {
		t.Errorf("arrays %s, want %s", got, want)
	}
	if small := b.small(); small.Shards["done"] != 10 || small.Done != 10*perShard {
		t.Errorf("status after the end: %+v", small)
	}
}

func missing(t *testing.T, c *slurmtest.Cluster) {
	b := newBench(t, c, 6, map[int]string{1: "fail", 5: "real"})
	b.submit()
	b.over()
	if b.count("merge commits=8") != 1 || b.count("report") != 0 {
		t.Errorf("merge should have refused and report not run: %v", b.calls())
	}
	small := b.small()
	if small.Shards["done"] != 4 || len(small.Tasks) != 1 {
		t.Fatalf("status: %+v", small)
	}
	task := small.Tasks[0] // 1's stand-in left no record at all; 5 was the real program, without a manifest
	if task.Shard != 5 || task.State != "failed" || !strings.Contains(task.Error, "00005.arrow") || task.Slurm == "" || task.Host == "" {
		t.Errorf("shard 5: %+v", task)
	}
	if raw, err := os.ReadFile(task.Log); err != nil || !strings.Contains(string(raw), "shard 5 on ") {
		t.Errorf("log %q: %v\n%s", task.Log, err, raw)
	}
	if next := b.status().Next; len(next) != 1 || !strings.HasSuffix(next[0], b.job+" --missing") {
		t.Errorf("next: %q", next)
	}
	if code, _, stderr := b.tokenfork("submit"); code != 4 || !strings.Contains(stderr, "--missing") {
		t.Errorf("a second submit: exit %d, %s", code, stderr)
	}
	b.steer("1", "ok")
	b.steer("5", "ok")
	b.submit("--missing")
	b.over()
	if got := b.submission(2).Arrays[0].Shards; !slices.Equal(got, []int{1, 5}) {
		t.Errorf("submitted again: %v, want 1 and 5", got)
	}
	if b.count("report") != 1 || b.small().Shards["done"] != 6 {
		t.Errorf("not finished: %v", b.calls())
	}
}

func requeue(t *testing.T, c *slurmtest.Cluster) {
	b := newBench(t, c, 2, map[int]string{0: "part", 1: "nothing"})
	b.submit()
	b.await("infer", 2)
	small := b.small()
	if small.Shards["running"] != 2 {
		t.Errorf("status during the run: %+v", small)
	}
	b.signal("USR1", 0)
	b.signal("USR1", 1)
	b.await("infer 0 end", 1)
	b.over()
	if b.count("infer 0 start restart=1") != 1 || b.count("infer 1 start") != 1 {
		t.Errorf("calls: %v", b.calls())
	}
	if log := b.log("infer", 0); !strings.Contains(log, "; requeued") || !strings.Contains(log, "restart 1") {
		t.Errorf("log of both starts:\n%s", log)
	}
	if log := b.log("infer", 1); !strings.Contains(log, "without anything finished since the start; not requeued") {
		t.Errorf("log:\n%s", log)
	}
	if b.count("merge commits=2") != 1 {
		t.Errorf("merge should have waited for the requeued task: %v", b.calls())
	}
}

// fakeSbatch refuses its second call and answers the third without an id.
const fakeSbatch = `#!/bin/sh
n=$(($(cat "$FAKE/sbatch" 2>/dev/null || echo 0) + 1))
echo $n >"$FAKE/sbatch"
case $n in
  2) echo "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy" >&2; exit 1 ;;
  4) exit 0 ;;
esac
exec /usr/bin/sbatch "$@"
`

func refused(t *testing.T, c *slurmtest.Cluster) {
	twin := newBench(t, c, 10, map[int]string{0: "wait"}) // the same plan in another folder: what Slurm has of it is not ours
	twin.submit()
	b := newBench(t, c, 10, map[int]string{0: "wait"})
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "sbatch"), []byte(fakeSbatch), 0o755); err != nil {
		t.Fatal(err)
	}
	b.path = bin + ":" + os.Getenv("PATH")
	code, _, stderr := b.tokenfork("submit")
	for _, say := range []string{"infer both array 0-3 (shards 4-7) refused", "QOS policy", "resume with", b.first("infer")} {
		if code != 4 || !strings.Contains(stderr, say) {
			t.Errorf("exit %d without %q:\n%s", code, say, stderr)
		}
	}
	code, _, stderr = b.tokenfork("submit") // third call is taken, the fourth gives no id
	if code != 4 || !strings.Contains(stderr, "no job id") {
		t.Errorf("empty id: exit %d: %s", code, stderr)
	}
	twin.steer("go", "")
	b.submit()
	b.await("infer 0 start", 1)
	b.steer("go", "")
	b.over()
	for k := range 10 {
		if n := b.count("infer " + string(rune('0'+k)) + " end"); n != 1 {
			t.Errorf("shard %d ran %d times", k, n)
		}
	}
	if b.count("merge commits=20") != 1 {
		t.Errorf("merge should have waited for the first submission's array too: %v", b.calls())
	}
	twin.over()
}

func printed(t *testing.T, c *slurmtest.Cluster) {
	b := newBench(t, c, 5, nil)
	dir := filepath.Join(t.TempDir(), "by hand")
	b.submit("--print", dir, "--prologue", "export HERE='is a prologue'")
	cmd := c.Command("bash", filepath.Join(dir, "submit.bash"))
	cmd.Env = append(cmd.Env, "FAKE="+b.fake, "TOKENFORK_REAL="+program)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("submit.bash: %v\n%s", err, out)
	}
	b.await("report", 1)
	if b.count("infer") != 10 {
		t.Errorf("calls: %v", b.calls())
	}
	if _, err := os.Stat(filepath.Join(b.job, "submissions")); err == nil {
		t.Error("printing left a submission")
	}
}

// A node that is lost comes to Slurm's notice after SlurmdTimeout. What ran on it
// may run on, unknown to Slurm, and wake when another has taken over.
func lost(t *testing.T, c *slurmtest.Cluster) {
	b := newBench(t, c, 1, map[int]string{0: "wait"})
	b.submit()
	b.await("infer 0 start restart=0", 1)
	c.LoseNode(c.NodeOf(b.first("infer") + "_0"))
	b.await("infer 0 start restart=1", 1)
	b.steer("go", "")
	b.over()
	b.await("infer 0 end", 2) // the lost node's runner too
	if b.count("merge commits=2") != 1 || b.count("report") != 1 {
		t.Errorf("calls: %v", b.calls())
	}
}
