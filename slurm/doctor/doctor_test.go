package doctor_test

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/job/jobtest"
	"tokenfork/internal/store"
	"tokenfork/internal/store/storetest"
	"tokenfork/internal/vllm/vllmtest"
	"tokenfork/slurm"
	"tokenfork/slurm/doctor"
	"tokenfork/slurm/slurmtest"
)

// examine gives all lines, and what Check returned.
func examine(t *testing.T, o doctor.Options) (string, error) {
	t.Helper()
	var b bytes.Buffer
	o.Env = os.Getenv
	r, err := doctor.Check(t.Context(), o, func(f doctor.Finding) error { return f.Write(&b) })
	for _, f := range r.Findings {
		if (f.Hint == "") != (f.Level == doctor.OK) {
			t.Errorf("what to do of %+v?", f)
		}
	}
	if (err == nil) != r.OK {
		t.Errorf("%v, but ok is %v", err, r.OK)
	}
	return b.String(), err
}

func wants(t *testing.T, out string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains(out, line) {
			t.Errorf("no %q in\n%s", line, out)
		}
	}
}

func TestOnSlurm(t *testing.T) {
	c := slurmtest.Start(t, "MaxArraySize=77", "JobRequeue=0", "KillWait=15",
		"PartitionName=short Nodes=n[1-2] MaxTime=1:00:00 State=UP", "PartitionName=long Nodes=n[1-2] MaxTime=2-12:30:00 State=UP", "PartitionName=down Nodes=n[1-2] MaxTime=INFINITE State=DOWN")
	out, err := examine(t, doctor.Options{Cluster: slurm.Cluster{Env: c.Env()}, Tmp: t.TempDir(), Sockets: "/tmp", Grace: 20 * time.Second,
		VLLM: []string{"/bin/bash"}})
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	wants(t, out, "arrays of up to 77 tasks, preemption REQUEUE", "warn  slurm: JobRequeue is 0", "KillWait is 15s", "hint: --grace 5s", "ok    sockets", "ok    vllm: ",
		"ok    slurm partition: work is up, without a time limit", "ok    slurm limits: those of your account are not known")

	dir := t.TempDir()
	for _, p := range []struct{ partition, wants, hint string }{
		{"short", "fail  slurm partition: short allows 1h0m0s, --time is 4h0m0s", "hint: --time 1h0m0s"},
		{"down", "fail  slurm partition: down is DOWN", "work, urgent, short, long, down"},
		{"wrok", "fail  slurm partition: there is no partition wrok", "hint: give --partition: work, urgent, short, long, down"},
	} {
		out, err := examine(t, doctor.Options{Cluster: slurm.Cluster{Env: c.Env()}, Tmp: dir, Sockets: "/tmp", Partition: p.partition, Time: 4 * time.Hour})
		if failure.Code(err) != failure.Other {
			t.Errorf("%s: %v", p.partition, err)
		}
		wants(t, out, p.wants, p.hint)
	}
	out, err = examine(t, doctor.Options{Cluster: slurm.Cluster{Env: c.Env()}, Tmp: dir, Sockets: "/tmp", Partition: "long", Time: 60 * time.Hour})
	if err != nil {
		t.Error(err)
	}
	wants(t, out, "ok    slurm partition: long is up, tasks of up to 60h30m0s")
	script(t, dir, "sacctmgr", `echo 'mine|'`) // a fake: accounting needs a database
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	s := jobtest.Make(t, 20, 10)
	for limits, want := range map[string]string{
		`echo 'mine|'`:                  "ok    slurm limits: your account has no limit",
		`echo 'a|5'; echo 'b|1000'`:     "ok    slurm limits: your account may submit 1000 jobs",
		`echo 'a|5'; echo 'b|9'`:        "fail  slurm limits: the job has up to 22 tasks, your account may submit 9 (MaxSubmitJobs)",
		`echo 'no database' >&2; false`: "ok    slurm limits: those of your account are not known: sacctmgr: exit status 1: no database",
	} {
		script(t, dir, "sacctmgr", limits)
		out, _ := examine(t, doctor.Options{Cluster: slurm.Cluster{Env: c.Env()}, Tmp: dir, Sockets: "/tmp", Store: s})
		wants(t, out, want)
	}
}

// script writes a program.
func script(t *testing.T, dir, name, body string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// Versions that this machine does not have are printed by fakes.
func TestVersions(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	texts, err := store.Open(t.Context(), filepath.Join(dir, "job"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := job.SealJSON(job.Corpus{Format: job.Format, ID: "c", Top: 20, Texts: 7})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.CreateBytes(t.Context(), texts, job.CorpusKey, b); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		said  string
		store store.Store
		wants []string
	}{
		{"0.32.0+cpu", texts, []string{"ok    vllm abilities: 0.32.0 has --enable-prompt-tokens-details, Generate API, batch invariance, logits of a prompt", "ok    job: 7 texts at "}},
		{"0.25.1", nil, []string{"ok    vllm abilities: 0.25.1 lacks logits of a prompt, needed for predict's AU, EU and --logits, which 0.26.0 has"}},
		{"0.25.1", texts, []string{"fail  vllm abilities: 0.25.1 lacks logits of a prompt", "hint: pip install 'vllm>=0.26.0'"}},
		{"0.9.2", nil, []string{"fail  vllm abilities: 0.9.2 is older", "hint: pip install 'vllm>=0.20.0'"}},
		{"0.41.0", nil, []string{"warn  vllm abilities: 0.41.0 is newer", "hint: if a server does not start, pip install 'vllm==0.33.0'"}},
		{"0.1.dev7+gabcdef", nil, []string{`warn  vllm abilities: "0.1.dev7+gabcdef" is no release`}},
	} {
		out, _ := examine(t, doctor.Options{Tmp: dir, Sockets: "/tmp", VLLM: []string{script(t, t.TempDir(), "vllm", "echo INFO loading; echo "+c.said)}, Store: c.store})
		wants(t, out, c.wants...)
	}
}

// TestModels: what serving two models takes, and what is wrong with a pair.
func TestModels(t *testing.T) {
	t.Parallel()
	models := [2]string{filepath.Join(vllmtest.Models(), "small"), filepath.Join(vllmtest.Models(), "reference")}
	o := doctor.Options{Tmp: t.TempDir(), Sockets: "/tmp", Models: models}
	out, _ := examine(t, o)
	wants(t, out, "ok    tokenizers: equal", "ok    gpu memory: weights of 0.", " (reference): GPUs that would do: 1 of 24 GiB, or ", "ok    host memory: ")
	o.TP = 2
	out, err := examine(t, o)
	if failure.Code(err) != failure.Other {
		t.Error(err)
	}
	wants(t, out, "fail  layout: vLLM cannot spread the 9 attention heads of the reference model over 2 GPUs", "hint: give --reference-tp 1, 3\n")

	o.TP, o.Judge = 0, doctor.Judge{Model: models[0], Longest: 4096, TP: 4}
	out, _ = examine(t, o)
	wants(t, out, "ok    judge model: "+models[0], "fail  layout: vLLM cannot spread the 9 attention heads of the judge model over 4 GPUs", "hint: give --judge-tp 1, 3\n")
	o.Judge.TP = 0
	out, _ = examine(t, o)
	wants(t, out, "ok    gpu memory: weights of 0.3 GiB (judge): GPUs that would do: 1 of 24 GiB")
	o.Judge = doctor.Judge{}

	other := t.TempDir() // a tokenizer with another token, no weights, and too large for any GPUs
	for name, change := range map[string][2]string{"config.json": {`"num_hidden_layers": 30`, `"num_hidden_layers": 300000`}, "tokenizer.json": {`"Ġthe":`, `"zzz":`}} {
		b, err := os.ReadFile(filepath.Join(models[1], name))
		if err != nil {
			t.Fatal(err)
		}
		changed := strings.Replace(string(b), change[0], change[1], 1)
		if changed == string(b) {
			t.Fatalf("no %s in %s", change[0], name)
		}
		if err := os.WriteFile(filepath.Join(other, name), []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o.TP, o.Models[0] = 0, other
	out, _ = examine(t, o)
	wants(t, out, "warn  small model: "+other+" has no weights", "fail  tokenizers: the models' tokenizers differ", "hint: compare models that share a tokenizer",
		"fail  gpu memory: ", "hint: run one side at a time (--side)", "warn  host memory: ")
}

// TestS3Rights: each right that a job needs is tried, and the line names the one that is missing.
func TestS3Rights(t *testing.T) {
	s3 := storetest.StartS3(t)
	s, err := store.Open(t.Context(), "s3://"+s3.Bucket+"/job", store.Options{S3Endpoint: s3.URL, S3PathStyle: true, TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	o := doctor.Options{Tmp: t.TempDir(), Sockets: "/tmp", Store: s}
	out, _ := examine(t, o)
	wants(t, out, "ok    store: s3://", "ok    s3 rights: listed, 16 MiB uploaded in parts, removed")
	denied := storetest.Fault{Status: 403}
	for name, c := range map[string]struct {
		match func(*http.Request) bool
		fault storetest.Fault
		wants []string
	}{
		"put":         {storetest.Method("PUT", ""), denied, []string{"fail  store: ", "hint: allow s3:PutObject there"}},
		"get":         {storetest.Method("GET", ""), denied, []string{"hint: allow s3:GetObject there"}},
		"list":        {func(r *http.Request) bool { return r.URL.Query().Get("list-type") != "" }, denied, []string{"fail  store: ", "hint: allow s3:ListBucket there"}},
		"parts":       {func(r *http.Request) bool { return r.Method == "POST" }, denied, []string{"fail  s3 rights: ", "hint: allow s3:PutObject there"}},
		"delete":      {func(r *http.Request) bool { return r.Method == "DELETE" }, denied, []string{"hint: allow s3:DeleteObject there"}},
		"conditional": {nil, storetest.Fault{Unguard: true}, []string{"fail  store: ", "this endpoint overwrote a guarded key", "--single-writer"}},
	} {
		c.fault.Match = c.match
		s3.Inject(c.fault)
		out, err := examine(t, o)
		s3.Heal()
		if failure.Code(err) != failure.Other {
			t.Errorf("%s: %v", name, err)
		}
		wants(t, out, c.wants...)
	}
}

// TestEnvironment: variables that have servers ask the internet, and folders that are not there.
func TestEnvironment(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("HF_HOME", filepath.Join(dir, "none"))
	t.Setenv("HF_HUB_OFFLINE", "0")
	t.Setenv("VLLM_USE_MODELSCOPE", "True")
	o := doctor.Options{Tmp: dir, Sockets: filepath.Join(dir, "none")}
	out, err := examine(t, o)
	if failure.Code(err) != failure.Other {
		t.Error(err)
	}
	wants(t, out, "warn  offline: HF_HOME is "+dir+"/none, which is no folder", "hint: mkdir -p "+dir+"/none, or unset HF_HOME", `warn  offline: HF_HUB_OFFLINE is "0"`, "hint: export HF_HUB_OFFLINE=1",
		`fail  offline: VLLM_USE_MODELSCOPE is "true"`, "hint: unset VLLM_USE_MODELSCOPE", "fail  sockets: ", "hint: make "+dir+"/none a local folder")
	t.Setenv("HF_HUB_OFFLINE", "1")
	t.Setenv("VLLM_USE_MODELSCOPE", "")
	if err := os.MkdirAll(filepath.Join(dir, "none"), 0o700); err != nil {
		t.Fatal(err)
	}
	out, _ = examine(t, o)
	wants(t, out, "ok    offline: servers get HF_HUB_OFFLINE=1; hub names are looked up in "+dir+"/none/hub", "ok    sockets: ")
}

func TestTroubles(t *testing.T) {
	dir := t.TempDir()
	s, err := store.Open(t.Context(), dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", t.TempDir())
	out, err := examine(t, doctor.Options{Store: s, Tmp: filepath.Join(dir, "none"), Sockets: "/" + strings.Repeat("long", 12),
		VLLM: []string{"/bin/false"}, Models: [2]string{dir, "org/name"}})
	if failure.Code(err) != failure.Other || !strings.Contains(err.Error(), "6 of ") {
		t.Errorf("%v\n%s", err, out)
	}
	wants(t, out, "fail  vllm: /bin/false --version: exit status 1", "fail  small model: ", "give the folder that holds config.json",
		"fail  reference model: ", "hf download org/name", "fail  job: no job at", "ok    store: ", "warn  slurm: no scontrol", "fail  sockets: ", "fail  temporary files: ")
}

// A job that this node cannot write is told before a task fails there.
func TestStoreThatCannotBeWritten(t *testing.T) {
	blocked := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(blocked, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), blocked, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	out, err := examine(t, doctor.Options{Store: s, Tmp: t.TempDir(), Sockets: "/tmp"})
	if err == nil {
		t.Error("no failure")
	}
	wants(t, out, "fail  store: ", "can this node write there?")
}

// A fake nvidia-smi, for GPUs that a machine of the tests lacks.
func TestLayoutOnFakeGPUs(t *testing.T) {
	dir := t.TempDir()
	script := "#!/bin/sh\nprintf '0, GPU-a, NVIDIA L4, 23034\\n1, GPU-b, NVIDIA L4, 23034\\n'\n"
	if err := os.WriteFile(filepath.Join(dir, "nvidia-smi"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	models := [2]string{filepath.Join(vllmtest.Models(), "small"), filepath.Join(vllmtest.Models(), "reference")}
	out, err := examine(t, doctor.Options{Tmp: t.TempDir(), Sockets: "/tmp", Models: models})
	if err != nil {
		t.Error(err)
	}
	wants(t, out, "ok    gpus: 0: NVIDIA L4, 23034 MiB", "ok    layout: small on GPU 1, KV cache of about ", "ok    layout: reference on GPU 0, KV cache of about ")
	t.Setenv("CUDA_VISIBLE_DEVICES", "7")
	out, err = examine(t, doctor.Options{Tmp: t.TempDir(), Sockets: "/tmp", Models: models})
	if err != nil {
		t.Error(err)
	}
	wants(t, out, `warn  gpus: none are visible (CUDA_VISIBLE_DEVICES is "7")`)
}
