package slurm

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tokenfork/internal/job"
	"tokenfork/internal/job/jobtest"
)

// fakeSite puts commands first in PATH that imitate what sites' users report.
func fakeSite(t *testing.T, sbatch string) (calls func(command string) string) {
	t.Helper()
	bin, err := filepath.Abs("testdata/fakesite")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	t.Setenv("FAKE", dir)
	t.Setenv("FAKE_SBATCH", sbatch)
	return func(command string) string {
		b, err := os.ReadFile(filepath.Join(dir, command+".log"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		return string(b)
	}
}

// The id is found whatever else sbatch or a wrapper prints.
func TestIDsOfSites(t *testing.T) {
	for kind, want := range map[string]JobID{
		"banner": {"5001", ""}, "footer": {"5001", "gpu"}, "words": {"5001", "gpu"}, "cluster": {"5001", "gpu"},
		"silent": {"5001", ""}, "timeout": {"5001", ""}, "numbers": {"5001", ""}, "fails": {"5001", ""}, // squeue knows the name
		"colours": {"5001", ""},
	} {
		t.Run(kind, func(t *testing.T) {
			fakeSite(t, kind)
			id, err := Cluster{}.sbatch(t.Context(), "", "tokenfork-infer-x-1.0", []string{"infer.sbatch"})
			if err != nil || id != want {
				t.Errorf("got %+v, %v; want %+v", id, err, want)
			}
		})
	}
}

// A refusal is one only if squeue says so; without its word the user is sent to look.
func TestRefusedOrUnknown(t *testing.T) {
	fakeSite(t, "refused")
	_, err := Cluster{}.sbatch(t.Context(), "", "tokenfork-infer-x-1.0", nil)
	if err == nil || !strings.Contains(err.Error(), "QOSMax") || !strings.Contains(err.Error(), "squeue has no job named tokenfork-infer-x-1.0") {
		t.Errorf("refused: %v", err)
	}
	t.Setenv("FAKE_SBATCH", "denied")
	if _, err := (Cluster{}).sbatch(t.Context(), "", "tokenfork-infer-x-1.0", nil); err == nil || !strings.Contains(err.Error(), "Checking project abc...FAILED") {
		t.Errorf("refused on stdout: %v", err)
	}
	t.Setenv("FAKE_SBATCH", "silent")
	t.Setenv("FAKE_SQUEUE_FAILS", "1")
	_, err = Cluster{}.sbatch(t.Context(), "", "tokenfork-infer-x-1.0", nil)
	if err == nil || !strings.Contains(err.Error(), "could not be asked whether Slurm has taken the job") {
		t.Errorf("unknown: %v", err)
	}
}

// A job on another cluster than the default is found again: nothing is queued twice.
func TestMultiCluster(t *testing.T) {
	calls := fakeSite(t, "cluster")
	s := jobtest.Make(t, 4, 2) // infer is done
	var out strings.Builder
	o := Options{Store: s, Settings: settings(), Folder: t.TempDir(), Args: []string{"submit", "--job", "/shared/job"}, Out: &out, Warn: &out}
	o.Judge, o.JudgeModel, o.Sbatch = "local", "m", []string{"--clusters=gpu"}
	if err := Submit(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"squeue --clusters=gpu --jobs=5001,", "scancel --clusters=gpu 5001 "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
	subs, err := job.Submissions(t.Context(), s)
	if err != nil || len(subs) != 1 || subs[0].Arrays[0].Cluster != "gpu" {
		t.Fatalf("submissions: %+v, %v", subs, err)
	}
	live, _, err := Cluster{}.Live(t.Context(), subs)
	if err != nil || len(live) == 0 || live[0].Slurm != "5001_0" {
		t.Errorf("live: %+v, %v", live, err)
	}
	before := strings.Count(calls("sbatch"), "judge.sbatch")
	o.Missing = true
	if err := Submit(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if after := strings.Count(calls("sbatch"), "judge.sbatch"); after != before {
		t.Errorf("judge was submitted %d times, then %d", before, after)
	}
}

// The tasks that squeue lists count in whatever form it names them; an answer that cannot be read is an
// error, not an empty queue, after which all would be submitted twice.
func TestAnswersOfSqueue(t *testing.T) {
	fakeSite(t, "")
	t.Setenv("SQUEUE_STATES", "RUNNING") // must not reach squeue
	subs := []job.Submission{{Arrays: []job.SlurmJob{{Stage: Judge, ID: "7", Shards: []int{10, 11, 12, 13}}, {Stage: Merge, ID: "8"}}}}
	for _, c := range []struct{ answer, exit, want string }{
		{"7|1|RUNNING|n1\n8|N/A|PENDING|(Dependency)", "0", "judge 11 RUNNING, merge -1 PENDING"},
		{"   7|  1 | RUNNING |n[1-2],x|y  ", "0", "judge 11 RUNNING"},
		{"7|[0-1,3%2]|PENDING|(Priority)", "0", "judge 10 PENDING, judge 11 PENDING, judge 13 PENDING"},
		{"7_[1-3:2]|N/A|PENDING|(Priority)", "0", "judge 11 PENDING, judge 13 PENDING"},
		{"7_2|2|REQUEUE_HOLD|(JobHeldUser)", "0", "judge 12 REQUEUE_HOLD"},
		{"7|N/A|PENDING|(Priority)", "0", "judge 10 PENDING, judge 11 PENDING, judge 12 PENDING, judge 13 PENDING"},
		{"7|1|COMPLETED|\n7|2|TIMEOUT|\n7|3|NODE_FAIL|", "0", "judge 13 NODE_FAIL"},
		{"9|N/A|RUNNING|another's\n8|N/A|RUNNING|n1", "0", "merge -1 RUNNING"},
		{"Maintenance | on | Monday | 5th\n8|N/A|RUNNING|n1", "0", "merge -1 RUNNING"},
		{" JOBID PARTITION NAME USER ST TIME NODES NODELIST(REASON)", "0", "error: another format"},
		{"  7_[0-3] gpu tokenfor me PD 0:00 1 (Priority)", "0", "error: another format"},
		{"7|1|RUNNING", "0", "error: another format"},
		{"7|0,2,...|PENDING|(Priority)", "0", `error: as "0,2,..."`},
		{"7|1|RUNNING|n1", "1", "error: exit status 1"},
	} {
		t.Setenv("FAKE_SQUEUE", c.answer)
		t.Setenv("FAKE_SQUEUE_EXIT", c.exit)
		live, _, err := Cluster{}.Live(t.Context(), subs)
		var got []string
		for _, l := range live {
			got = append(got, fmt.Sprintf("%s %d %s", l.Stage, l.Shard, l.State))
		}
		want, fails := strings.CutPrefix(c.want, "error: ")
		if fails != (err != nil) || fails && !strings.Contains(err.Error(), want) || !fails && strings.Join(got, ", ") != want {
			t.Errorf("%q: %q, %v; want %q", c.answer, got, err, c.want)
		}
	}
}

// Where Slurm hides jobs of other users, theirs are not taken for ended.
func TestJobsOfOthers(t *testing.T) {
	fakeSite(t, "")
	t.Setenv("FAKE_SQUEUE", " ")
	for _, c := range []struct {
		private string
		uid     int
		refused bool
	}{{"usage,jobs", os.Getuid() + 1, true}, {"usage,jobs", os.Getuid(), false}, {"accounts", os.Getuid() + 1, false}} {
		t.Setenv("FAKE_PRIVATE", c.private)
		_, _, err := Cluster{}.Live(t.Context(), []job.Submission{{N: 1, UID: c.uid, Arrays: []job.SlurmJob{{Stage: Merge, ID: "7"}}}})
		if refused := err != nil && strings.Contains(err.Error(), "PrivateData"); refused != c.refused || err != nil && !refused {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// What the scripts say holds against the variables of sbatch, and the others stay.
func TestVariablesOfSbatch(t *testing.T) {
	fakeSite(t, "banner")
	for _, v := range []string{"SBATCH_TIMELIMIT", "SBATCH_PARTITION", "SBATCH_WAIT", "SBATCH_QOS"} {
		t.Setenv(v, "1")
	}
	var out strings.Builder
	o := Options{Store: jobtest.Make(t, 4, 2), Settings: settings(), Folder: t.TempDir(), Args: []string{"submit"}, Out: &out, Warn: &out}
	o.Partition = "gpu"
	if err := Submit(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(os.Getenv("FAKE"), "env.log"))
	if err != nil || strings.Trim(strings.ReplaceAll(string(b), "SBATCH_QOS=1", ""), "\n") != "" {
		t.Errorf("%v, sbatch saw %s", err, b)
	}
	for _, v := range []string{"SBATCH_TIMELIMIT is not used", "SBATCH_PARTITION is not used", "SBATCH_WAIT is not used"} {
		if strings.Count(out.String(), v) != 1 {
			t.Errorf("no %q, once, in\n%s", v, &out)
		}
	}
}

// A submit that was killed while sbatch had the job, or that still runs, is not repeated; neither is a merge
// that waits for all there is.
func TestNothingTwice(t *testing.T) {
	calls := fakeSite(t, "banner")
	s := jobtest.Make(t, 4, 2)
	var out strings.Builder
	o := Options{Store: s, Settings: settings(), Folder: t.TempDir(), Args: []string{"submit"}, Out: &out, Warn: &out}
	o.Judge, o.JudgeModel = "local", "m"
	if err := Submit(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	subs, err := job.Submissions(t.Context(), s)
	if err != nil || len(subs) != 1 || len(subs[0].Arrays) != 3 || subs[0].Asked != nil {
		t.Fatalf("%+v, %v", subs, err)
	}
	before, sub := calls("sbatch"), subs[0]
	var queue []string
	for _, a := range sub.Arrays {
		queue = append(queue, a.ID+"|N/A|PENDING|(Priority)")
	}
	t.Setenv("FAKE_SQUEUE", strings.Join(queue, "\n"))
	o.Missing = true
	merge := sub.Arrays[1]
	sub.Asked, sub.Arrays = &merge, sub.Arrays[:1] // as the record was while sbatch had the merge
	sub.Asked.ID = ""
	if err := sub.Save(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if err := Submit(t.Context(), o); err == nil || !strings.Contains(err.Error(), "submission 1 of "+s.String()+" is under way") {
		t.Errorf("while the other runs: %v", err)
	}
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	sub.PID = ended.Process.Pid
	if err := sub.Save(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if err := Submit(t.Context(), o); err != nil || !strings.Contains(out.String(), "nothing to submit") {
		t.Errorf("after the other was killed: %v\n%s", err, &out)
	}
	if now := calls("sbatch"); now != before {
		t.Errorf("submitted again: %s", strings.TrimPrefix(now, before))
	}
	if subs, err := job.Submissions(t.Context(), s); err != nil || len(subs) != 1 || len(subs[0].Arrays) != 2 || subs[0].Arrays[1].ID != "5002" {
		t.Errorf("the record: %+v, %v", subs, err)
	}
	if err := (&job.Submission{}).Claim(t.Context(), s, 1); err == nil || !strings.Contains(err.Error(), "another submit") {
		t.Errorf("a number was claimed twice: %v", err)
	}
}

// What a task asks for, unless the user says it: its GPUs' share of the smallest node.
func TestShareOfTheNode(t *testing.T) {
	fakeSite(t, "")
	for _, c := range []struct {
		partition, kind string
		want            Node
	}{
		{"gpu", "h100", Node{192, 2000000, 8}}, {"gpu", "", Node{96, 1000000, 8}}, {"", "", Node{}},
	} {
		if n, err := (Cluster{}).GPUNode(t.Context(), "", c.partition, c.kind); err != nil || n != c.want {
			t.Errorf("partition %q, type %q: %+v, %v; want %+v", c.partition, c.kind, n, err, c.want)
		}
	}
	if cpus, memory := (Node{192, 2000000, 8}).share(2); cpus != 48 || memory != 450000 {
		t.Errorf("share of 2 of 8 GPUs: %d CPUs, %d MiB", cpus, memory)
	}
}

// What the user gives replaces the scripts' own requests, and stages without
// GPUs never ask for any.
func TestGPURequests(t *testing.T) {
	s := settings()
	s.GPUs, s.Node = GPUs{"h100", 4}, Node{192, 2000000, 8}
	script := func(stage string) string {
		text, err := s.script(stage, "", "/f")
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	has := func(stage, text string, want bool, lines ...string) {
		for _, line := range lines {
			if got := strings.Contains(text, "\n#SBATCH --"+line+"\n"); got != want {
				t.Errorf("%s: line --%s there: %t", stage, line, got)
			}
		}
	}
	has("infer", script(Infer), true, "gres=gpu:h100:4", "cpus-per-task=96", "mem=900000M")
	s.Sbatch, s.GPUSbatch = []string{"--gpus-per-node=4", "--qos=high"}, []string{"--constraint=h100", "--cpus-per-gpu=12", "--mem=0"}
	infer := script(Infer)
	has("infer", infer, true, "gpus-per-node=4", "qos=high", "constraint=h100", "cpus-per-gpu=12", "mem=0")
	has("infer", infer, false, "gres=gpu:h100:4", "gres=gpu:1", "cpus-per-task=96", "cpus-per-task=8", "mem=900000M")
	for _, stage := range []string{Merge, Report} {
		text := script(stage)
		has(stage, text, true, "qos=high")
		has(stage, text, false, "gpus-per-node=4", "constraint=h100", "mem=0")
		if strings.Contains(text, "gpu:") {
			t.Errorf("%s asks for GPUs:\n%s", stage, text)
		}
	}
	var g GPUs
	for text, want := range map[string]GPUs{"4": {"", 4}, "h100:4": {"h100", 4}, "3g.40gb:1": {"3g.40gb", 1}} {
		if err := g.UnmarshalText([]byte(text)); err != nil || g != want {
			t.Errorf("%s: %+v, %v", text, g, err)
		}
	}
	for _, text := range []string{"", "h100", "4:h100", "-1", "a,b:2", "999999999999999999999"} {
		if err := g.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q was taken as %+v", text, g)
		}
	}
}

// --throttle bounds a stage, not an array.
func TestThrottleOverArrays(t *testing.T) {
	a := array{stage: Infer, shards: []int{0, 1}}
	p := &plan{Options: &Options{Settings: Settings{Throttle: 1}}, arrays: []array{a, a}}
	ids := map[string][]string{Infer: {"7"}}
	if got := p.command(&a, ids); !slices.Contains(got, "--dependency=afterany:7") || !slices.Contains(got, "--array=0-1%1") {
		t.Errorf("the second array: %q", got)
	}
	p.Throttle = 5
	if got := p.command(&a, ids); !slices.Contains(got, "--array=0-1%2") || slices.ContainsFunc(got, func(a string) bool { return strings.HasPrefix(a, "--dependency") }) {
		t.Errorf("arrays side by side: %q", got)
	}
}

// A prologue that fails ends the task by name, before anything is started.
func TestPrologue(t *testing.T) {
	sourced := filepath.Join(t.TempDir(), "rc")
	if err := os.WriteFile(sourced, []byte("false; export X=sourced\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ prologue, x, failed string }{
		{"", "", ""},
		{"export X=1", "1", ""},
		{"if true\nthen export X=2\nfi", "2", ""},
		{"export X=\\\n3", "3", ""},
		{"f() { false; true; }\nf; export X=4", "4", ""},
		{"source " + sourced, "sourced", ""},
		{"false || export X=5", "5", ""},
		{"cat <<E\nhello\nE\nexport X=6", "6", ""},
		{"false\nexport X=1", "", "exit code 1: false"},
		{"false; export X=1", "", "exit code 1: false"},
		{"false && export X=1\nexport X=2", "", "exit code 1: false && export X=1"},
		{"nosuchmodule load cuda", "", "exit code 127: nosuchmodule load cuda"},
		{"exit 3", "", "exit code 3: it ended the script"},
		{"echo 'unclosed", "", "bash cannot read echo 'unclosed"},
	} {
		cmd := exec.Command("bash", "-c", `source scripts/runner.bash; set_up; echo "X=${X-}"`)
		cmd.Env = append(os.Environ(), "PROLOGUE="+c.prologue, "SCRATCH="+t.TempDir())
		out, err := cmd.CombinedOutput()
		if c.failed == "" && (err != nil || !strings.Contains(string(out), "X="+c.x+"\n")) {
			t.Errorf("%q: %v\n%s", c.prologue, err, out)
		}
		if c.failed != "" && (err == nil || !strings.Contains(string(out), "the prologue failed with "+c.failed) && !strings.Contains(string(out), c.failed) || strings.Contains("\n"+string(out), "\nX=")) {
			t.Errorf("%q went on, or its failure is not named: %v\n%s", c.prologue, err, out)
		}
	}
}

// A requeue that Slurm carries out before scontrol has said so, which a real one does now
// and then, is none that was refused.
func TestRequeueEndsScontrol(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fakeScontrol := "#!/bin/sh\nkill -TERM $$\n"
	if err := os.WriteFile(filepath.Join(dir, "scontrol"), []byte(fakeScontrol), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("bash", "-c", `source scripts/runner.bash; kept() { echo 2; }; stopped_by=USR1; requeue 1`)
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "MAX_REQUEUES=9", "SLURM_ARRAY_JOB_ID=1", "SLURM_ARRAY_TASK_ID=0")
	if out, _ := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != 75 || !strings.Contains(string(out), "; requeued") {
		t.Errorf("exit code %d\n%s", cmd.ProcessState.ExitCode(), out)
	}
}
