package slurm

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/store"
)

func settings() Settings {
	return Settings{Job: "/shared/job", Tokenfork: "/shared/bin/tokenfork", GPUs: GPUs{Count: 2}, Judge: "none", Lead: 2 * time.Minute, Grace: 20 * time.Second, MaxRequeues: 3}
}

// What a user may give reaches bash unchanged.
func TestSettingsReachBash(t *testing.T) {
	hostile := `it's "$HOME" \ $(false) 100%` + "\n# second line"
	s := settings()
	s.Job, s.Prologue, s.InferFlags, s.SmallModel = "/a b/job", hostile, []string{"--small-args", hostile, ""}, "/m/'small'"
	text, err := s.script(Infer, both, "/a b/slurm/1")
	if err != nil {
		t.Fatal(err)
	}
	head, _, ok := strings.Cut(text, "source ")
	if !ok {
		t.Fatalf("no source in\n%s", text)
	}
	out, err := exec.Command("bash", "-c", head+`printf '%s|' "$JOB" "$PROLOGUE" "${#INFER_FLAGS[@]}" "${INFER_FLAGS[@]}" "$SMALL_MODEL" "$SCRIPTS" "$SIDE" "$MAX_REQUEUES" "$GRACE"`).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := strings.Join([]string{"/a b/job", hostile, "3", "--small-args", hostile, "", "/m/'small'", "/a b/slurm/1", "both", "3", "20s", ""}, "|")
	if string(out) != want {
		t.Errorf("bash has\n%s\nwant\n%s", out, want)
	}
}

func TestDirectives(t *testing.T) {
	s := settings()
	s.Partition, s.Account, s.Time, s.Memory = "gpu", "acc", 26*time.Hour, "64G"
	s.Sbatch, s.CPUSbatch = []string{"--qos=high", "--exclusive"}, []string{"--partition=cpu", "--time=00:10:00"}
	for _, c := range []struct {
		stage string
		has   []string
		not   []string
	}{
		{Infer, []string{"partition=gpu", "account=acc", "time=1-02:00:00", "mem=64G", "gres=gpu:2", "qos=high", "exclusive", "signal=B:USR1@120", "requeue", "open-mode=append", "output=/f%%j/logs/infer-%A_%a.log"}, nil},
		{Merge, []string{"partition=cpu", "account=acc", "time=00:10:00", "qos=high", "output=/f%%j/logs/merge-%j.log"}, []string{"gres=gpu:2", "mem=64G", "partition=gpu"}},
	} {
		text, err := s.script(c.stage, "", "/f%j")
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range c.has {
			if n := strings.Count(text, "\n#SBATCH --"+d+"\n"); n != 1 {
				t.Errorf("%s: %d lines of %s\n%s", c.stage, n, d, text)
			}
		}
		for _, d := range c.not {
			if strings.Contains(text, "\n#SBATCH --"+d) {
				t.Errorf("%s has %s", c.stage, d)
			}
		}
		if strings.LastIndex(text, "\n#SBATCH") > strings.Index(text, "\nJOB=") {
			t.Errorf("%s: a directive after the first command, where Slurm does not look", c.stage)
		}
	}
}

// The scripts in the repository run as they are, too.
func TestEmbeddedScriptsParse(t *testing.T) {
	files, err := filepath.Glob("scripts/*")
	if err != nil || len(files) != 7 {
		t.Fatalf("%d scripts, %v", len(files), err)
	}
	for _, f := range files {
		if out, err := exec.Command("bash", "-n", f).CombinedOutput(); err != nil {
			t.Errorf("%s: %s", f, out)
		}
	}
}

func TestValidate(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Settings)
		says   string
	}{
		{"as it is", func(*Settings) {}, ""},
		{"just enough", func(s *Settings) { s.Lead = s.Grace + commitTime }, ""},
		{"grace as long as the lead", func(s *Settings) { s.Grace = s.Lead }, "SIGUSR1 comes 2m0s before the time limit"},
		{"time shorter than the lead", func(s *Settings) { s.Time = time.Minute }, "time limit of 1m0s"},
		{"time for nothing but the lead", func(s *Settings) { s.Time = s.Lead + time.Minute }, "time limit of 3m0s"},
		{"time for more", func(s *Settings) { s.Time = s.Lead + time.Minute + time.Second }, ""},
		{"short flag", func(s *Settings) { s.Sbatch = []string{"-p"} }, `flag "-p"`},
		{"no judge", func(s *Settings) { s.Judge = "" }, "no judge given"},
	} {
		s := settings()
		c.change(&s)
		err := s.validate()
		if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says) || failure.Code(err) != failure.Usage) {
			t.Errorf("%s: %v, want %q", c.name, err, c.says)
		}
	}
}

// dry runs a submission without a Slurm.
func dry(t *testing.T, change func(*Options)) string {
	t.Helper()
	t.Setenv("PATH", t.TempDir())
	dir := t.TempDir()
	s, err := store.Open(t.Context(), dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	j := job.Job{Plan: job.Plan{Format: job.Format, ID: "j", Settings: job.Settings{Trajectories: job.Own}}, Mismatches: 1500}
	for range 1500 {
		j.Shards = append(j.Shards, job.Shard{Mismatches: 1, Texts: 1})
	}
	raw, err := job.SealJSON(j)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, job.Key), raw, 0o644); err != nil {
		t.Fatal(err)
	}
	var out, warn bytes.Buffer
	o := Options{Settings: settings(), Store: s, Folder: "/shared/job/slurm", DryRun: true, Out: &out, Warn: &warn}
	change(&o)
	if err := Submit(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(warn.String(), "taking MaxArraySize to be 1001: ") {
		t.Errorf("warning: %q", warn.String())
	}
	return out.String()
}

// Slurm's commands may be there without a cluster.
func TestDryRunWithoutCluster(t *testing.T) {
	commands := os.Getenv("PATH")
	empty := filepath.Join(t.TempDir(), "slurm.conf")
	if err := os.WriteFile(empty, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	var warned bytes.Buffer
	out := dry(t, func(o *Options) {
		t.Setenv("PATH", commands)
		o.Cluster.Env = append(os.Environ(), "SLURM_CONF="+empty)
		o.Warn = io.MultiWriter(o.Warn, &warned)
	})
	if !strings.Contains(out, "--array=0-1000") || strings.Contains(warned.String(), ErrNoSlurm.Error()) {
		t.Errorf("got %s%s", &warned, out)
	}
}

func TestDryRun(t *testing.T) {
	out := dry(t, func(o *Options) {
		o.SmallGPUs, o.Throttle, o.Judge, o.JudgeModel = GPUs{Count: 1}, 10, "https://judge.example/v1", "m"
	})
	for _, want := range []string{
		"infer_0=$(sbatch --parsable --array=0-1000%2 /shared/job/slurm/1/infer-small.sbatch /shared/job/slurm/1/infer-small-0.list)",
		"infer_3=$(sbatch --parsable --array=0-498%2 /shared/job/slurm/1/infer-reference.sbatch /shared/job/slurm/1/infer-reference-1.list)",
		"--dependency=afterany:${infer_0%%;*}:${infer_1%%;*}:${infer_2%%;*}:${infer_3%%;*} /shared/job/slurm/1/judge.sbatch",
		"--dependency=afterok:${merge_6%%;*} --kill-on-invalid-dep=yes /shared/job/slurm/1/report.sbatch",
		"SIDE=small ", "SIDE=reference ", "#SBATCH --gres=gpu:1\n", "#SBATCH --gres=gpu:2\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out[strings.Index(out, "--- commands"):])
		}
	}
}

func TestOfflineNodesGetNoHostedJudge(t *testing.T) {
	out := dry(t, func(o *Options) { o.Offline, o.Judge, o.JudgeModel = true, "https://judge.example/v1", "m" })
	if strings.Contains(out, "judge.sbatch") || strings.Contains(out, "merge.sbatch") {
		t.Error("a stage that needs the judge is queued")
	}
	if !strings.Contains(out, "tokenfork judge --job /shared/job --judge https://judge.example/v1 --judge-model m\n") {
		t.Errorf("no command for a host with network:\n%s", out[strings.Index(out, "--- commands"):])
	}
	out = dry(t, func(o *Options) { o.Offline, o.Judge, o.JudgeModel = true, "local", "/m" })
	if !strings.Contains(out, "judge.sbatch") {
		t.Error("a judge on the nodes needs no network")
	}
}

// What others may read holds no secret, and no line that a name made.
func TestScriptsHoldNoSecretAndNoForeignLine(t *testing.T) {
	for _, c := range []struct {
		change func(*Settings)
		want   string
	}{
		{func(s *Settings) { s.Prologue = "module load cuda\nexport TOKENFORK_JUDGE_KEY=abcdefgh" }, "--prologue holds a secret in plain text (TOKENFORK_JUDGE_KEY)"},
		{func(s *Settings) { s.VLLM = "env HF_TOKEN=hf_abcdefgh vllm" }, "--vllm holds a secret"},
		{func(s *Settings) { s.Sbatch = []string{"--export=ALL,OPENAI_API_KEY=abcdefgh"} }, "--sbatch holds a secret"},
		{func(s *Settings) { s.InferFlags = []string{"--server-key", "letmein"} }, "--infer-flags holds a secret"},
		{func(s *Settings) { s.Judge = "https://me:pass@judge/v1" }, "--judge holds a secret"},
		{func(s *Settings) { s.JobFlags = []string{"--s3-endpoint", "http://me:pass@s3"} }, "--s3-endpoint holds a secret"},
		{func(s *Settings) { s.Job = "/shared/job\n#SBATCH --uid=0" }, "holds a control character"},
		{func(s *Settings) { s.Sbatch = []string{"--comment=a\nrm -rf /"} }, "holds a control character"},
		{func(s *Settings) { s.Tokenfork = "/bin/\x1b[2Jtokenfork" }, "holds a control character"},
	} {
		s := settings()
		c.change(&s)
		if err := s.validate(); err == nil || !strings.Contains(err.Error(), c.want) || failure.Code(err) != failure.Usage {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
	s := settings()
	s.Prologue = "module load cuda\nexport TOKENFORK_JUDGE_KEY=$(cat ~/.judge-key)"
	if err := s.validate(); err != nil {
		t.Errorf("a key read from a file: %v", err)
	}
}
