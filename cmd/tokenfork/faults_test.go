package main

import (
	"bytes"
	"encoding/csv"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/fleet"
	"tokenfork/internal/job"
	"tokenfork/internal/store/storetest"
	"tokenfork/internal/vllm/fakevllm"
	"tokenfork/judge/merge"
)

// says runs a command and wants its exit code and words.
func says(t *testing.T, code int, args []string, words ...string) string {
	t.Helper()
	cmd, out := command(args...)
	_ = cmd.Run() // the exit code tells
	if got := cmd.ProcessState.ExitCode(); got != code {
		t.Fatalf("%q: exit code %d, want %d:\n%s", args, got, code, out)
	}
	for _, w := range words {
		if !strings.Contains(out.String(), w) {
			t.Errorf("%q does not say %q:\n%s", args[0], w, out)
		}
	}
	return out.String()
}

// undisturbed is the job's folder after a run in peace.
func (j *fakeJob) undisturbed(t *testing.T) string {
	t.Helper()
	at := filepath.Join(j.dir, "undisturbed")
	j.whole(t, at)
	return at
}

// some are the flags of run that begin with one of the words.
func (j *fakeJob) some(words ...string) (flags []string) {
	for i := 0; i < len(j.flags); i += 2 {
		if slices.ContainsFunc(words, func(w string) bool { return strings.HasPrefix(j.flags[i], w) }) {
			flags = append(flags, j.flags[i:i+2]...)
		}
	}
	return flags
}

// ended has every process end whose environment holds the mark, as a node does that
// loses power.
func ended(t *testing.T, mark string) {
	t.Helper()
	for again := true; again; time.Sleep(20 * time.Millisecond) {
		again = false
		environs, err := filepath.Glob("/proc/[0-9]*/environ")
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range environs {
			b, _ := os.ReadFile(path) // it may have ended
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			if err == nil && bytes.Contains(b, []byte(mark)) {
				_ = syscall.Kill(pid, syscall.SIGKILL)
				again = true
			}
		}
	}
}

// A node is lost with its runner, guard, servers and disk. The job is in S3: another
// node goes on from there, and status names the lost host.
func TestNodeLost(t *testing.T) {
	j := newFakeJob(t, 20, 60, 1)
	clean := j.undisturbed(t)
	s3 := storetest.StartS3(t)
	t.Setenv("TOKENFORK_S3_ENDPOINT", s3.URL)
	t.Setenv("TOKENFORK_S3_PATH_STYLE", "true")
	at := "s3://" + s3.Bucket + "/job"
	says(t, 0, append([]string{"plan", j.table, "--job", at}, j.some("--small-model", "--reference-model", "--alignment", "--max")...))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	onNode := func(name string, c fakevllm.Config) (*exec.Cmd, string, *bytes.Buffer) {
		disk, err := os.MkdirTemp("/tmp", name) // short, for sockets
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(disk) })
		args := []string{"--uts", "sh", "-c", `hostname "$0" && exec "$@"`, name, self, "infer", "--job", at, "--shard", "0", "--part-every", "1ms", "--in-flight", "4",
			"--vllm", self + " " + fakevllm.Command}
		cmd := exec.Command("unshare", append(args, j.some("--small-model", "--reference-model")...)...)
		cmd.Env = append(os.Environ(), "TOKENFORK_TEST_MAIN=1", fakevllm.Var+"="+c.Env(t), "HOME="+disk, "TMPDIR="+disk, "XDG_CACHE_HOME="+disk)
		out := new(bytes.Buffer)
		cmd.Stdout, cmd.Stderr = out, out
		return cmd, disk, out
	}
	first, disk, out := onNode("losing", fakevllm.Config{Faults: []fakevllm.Fault{{Kind: fakevllm.Late, For: 20 * time.Millisecond}}})
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{})
	go func() { _ = first.Wait(); close(gone) }() // by a signal
	parts := func() []string {
		found, err := filepath.Glob(filepath.Join(s3.Folder, "job/parts/infer/*/*/*/*.arrow"))
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	for len(parts()) < 3 {
		select {
		case <-gone:
			t.Fatalf("infer ended before it had parts:\n%s", out)
		case <-time.After(10 * time.Millisecond):
		}
	}
	ended(t, "TMPDIR="+disk)
	<-gone
	if err := os.RemoveAll(disk); err != nil {
		t.Fatal(err)
	}
	says(t, 0, []string{"status", "--job", at}, "losing")
	second, _, out := onNode("other", fakevllm.Config{})
	if err := second.Run(); err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	j.same(t, at, filepath.Join(s3.Folder, "job"), clean)
}

// A server that hangs, /health well, is found by its tokens and replaced.
func TestHangingServerIsReplaced(t *testing.T) {
	j := newFakeJob(t, 8, 60, 1)
	clean, at := j.undisturbed(t), filepath.Join(j.dir, "job")
	code, said := j.ownServers(t, at, fakevllm.Config{Faults: []fakevllm.Fault{{Kind: fakevllm.Hang, Server: "small", After: 5, Most: 1}}}, "--stall", "1s")
	for _, w := range []string{"vLLM is gone, restart 1 of 5", "no token for 1s with ", "in_flight="} {
		if code != 0 || !strings.Contains(said, w) {
			t.Errorf("exit code %d without %q:\n%s", code, w, said)
		}
	}
	j.same(t, at, at, clean)
}

// same judges and merges a job whose continuations are there, and compares; its
// objects are files in the folder.
func (j *fakeJob) same(t *testing.T, at, folder, clean string) {
	t.Helper()
	says(t, 0, append([]string{"merge", "--job", at}, j.some("--judge", "--tmp")...))
	if d := differs(t, clean, folder); len(d) > 0 {
		t.Errorf("%v differ from the undisturbed job's", d)
	}
}

// A prompt that kills the server twice, and once alone, is set aside and listed; the
// others are had. With a server that bears it, a retry gives the undisturbed results.
func TestPoisonRowIsSetAside(t *testing.T) {
	j := newFakeJob(t, 8, 60, 1)
	clean, at := j.undisturbed(t), filepath.Join(j.dir, "job")
	suffix := j.prompt(t, clean, 5)
	code, said := j.ownServers(t, at, fakevllm.Config{Faults: []fakevllm.Fault{{Kind: fakevllm.Die, Server: "small", Suffix: suffix}}}, "--replay-min-agreement", "0")
	if code != failure.Partial || !strings.Contains(said, "forks failed") || !strings.Contains(said, "restart 3 of 5") {
		t.Fatalf("exit code %d, want %d:\n%s", code, failure.Partial, said)
	}
	says(t, failure.Partial, append([]string{"merge", "--job", at}, j.some("--judge", "--tmp")...))
	listed := rows(t, filepath.Join(at, merge.FailuresKey))[1:]
	if len(listed) == 0 {
		t.Fatal("nothing is listed")
	}
	for _, row := range listed {
		if !strings.Contains(strings.Join(row, " "), fleet.ClassServerCrash) {
			t.Errorf("listed: %q", row)
		}
	}
	if n := len(rows(t, filepath.Join(at, merge.CSVKey))); n != len(rows(t, filepath.Join(clean, merge.CSVKey))) {
		t.Errorf("%d rows of results", n)
	}
	code, said = j.ownServers(t, at, fakevllm.Config{}, "--retry")
	if code != 0 {
		t.Fatalf("retry: exit code %d:\n%s", code, said)
	}
	j.same(t, at, at, clean)
}

// prompt is the end of one that the small model's server is asked, of so many ids.
func (j *fakeJob) prompt(t *testing.T, at string, n int) []int32 {
	t.Helper()
	all := rows(t, filepath.Join(at, merge.CSVKey))
	head := all[0]
	for _, row := range all[1:] {
		if row[slices.Index(head, "replayed_small")] != "0" || strings.Count(row[slices.Index(head, "continuation_small_ids")], ",") == 0 {
			continue // it asks nothing of the server
		}
		ids := strings.Split(strings.Trim(row[slices.Index(head, "context_ids")], "[]"), ",")
		ids = append(ids, row[slices.Index(head, "pred_small_id")])
		var suffix []int32
		for _, id := range ids[max(0, len(ids)-n):] {
			v, err := strconv.Atoi(strings.TrimSpace(id))
			if err != nil {
				t.Fatal(err)
			}
			suffix = append(suffix, int32(v))
		}
		return suffix
	}
	t.Fatal("no fork asks anything of the small model's server")
	return nil
}

func rows(t *testing.T, path string) [][]string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// A damaged manifest stops its shard alone, in infer and in judge.
func TestDamagedManifestStopsItsShard(t *testing.T) {
	t.Parallel()
	for _, shard := range []string{"shards/00000.arrow", "shards/00001.arrow"} {
		t.Run(filepath.Base(shard), func(t *testing.T) {
			j := newFakeJob(t, 8, 40, 3)
			clean, at := j.undisturbed(t), filepath.Join(j.dir, "job")
			says(t, 0, append([]string{"plan", j.table, "--job", at}, j.some("--small-model", "--reference-model", "--alignment", "--max", "--shards")...))
			path := filepath.Join(at, shard)
			whole, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			bad := bytes.Clone(whole)
			bad[len(bad)/2] ^= 4
			write(t, at, shard, string(bad))
			inferred := append([]string{"infer", "--job", at}, j.some("--small-", "--reference-", "--part")...)
			says(t, failure.Refused, inferred, "manifest "+shard, "sha256 is", "the others are finished", "restore it or plan the job again")
			commits, err := filepath.Glob(filepath.Join(at, "parts/infer/*/*/commit.json"))
			if err != nil || len(commits) != 4 {
				t.Errorf("%d commits of two shards' two sides, %v", len(commits), err)
			}
			says(t, failure.Refused, append([]string{"judge", "--job", at}, j.some("--judge")...), "shards without continuations")
			write(t, at, shard, string(whole))
			says(t, 0, inferred)
			write(t, at, shard, string(bad))
			says(t, failure.Refused, append([]string{"judge", "--job", at}, j.some("--judge")...), "manifest "+shard, "the others are finished")
			write(t, at, shard, string(whole))
			j.same(t, at, at, clean)
		})
	}
}

// Another model than planned, or another engine than the job's first task had.
func TestAnotherModelOrEngine(t *testing.T) {
	j := newFakeJob(t, 6, 40, 2)
	at := filepath.Join(j.dir, "job")
	other := filepath.Join(j.dir, "reference")
	code, said := j.ownServers(t, at, fakevllm.Config{}, "--small-model", other)
	if code != failure.Refused || !strings.Contains(said, "is not the small model that the job was planned for") || !strings.Contains(said, "config") {
		t.Errorf("another model: exit code %d:\n%s", code, said)
	}
	if code, said = j.ownServers(t, at, fakevllm.Config{}, "--shard", "0"); code != 0 {
		t.Fatalf("exit code %d:\n%s", code, said)
	}
	urls := append([]string{"infer", "--job", at}, j.some("--small-", "--reference-", "--part")...)
	says(t, failure.Refused, urls, "--allow-mixed-engines", `"dtype": "torch.float32"`, `"dtype": ""`)
	says(t, 0, append(urls, "--allow-mixed-engines"), "another engine than the first task's")
	says(t, 0, append([]string{"judge", "--job", at}, j.some("--judge")...))
	says(t, 0, append([]string{"merge", "--job", at}, j.some("--judge", "--tmp")...))
	if head := rows(t, filepath.Join(at, merge.CSVKey))[0]; !slices.Contains(head, "engine") {
		t.Errorf("the results of two engines do not tell them apart: %q", head)
	}
}

// Models whose tokenizers give an id two texts are not compared.
func TestTokenizersThatDiffer(t *testing.T) {
	j := newFakeJob(t, 2, 20, 1)
	path := filepath.Join(j.dir, "small", "tokenizer.json")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	piece := strconv.Quote(strings.ReplaceAll(pieces[3].text, " ", "Ġ"))
	if !bytes.Contains(b, []byte(piece)) {
		t.Fatalf("no %s in %s", piece, b)
	}
	write(t, j.dir, "small/tokenizer.json", strings.Replace(string(b), piece, `"zzz"`, 1))
	says(t, failure.Refused, append([]string{"plan", j.table, "--job", filepath.Join(j.dir, "job")}, j.some("--small-model", "--reference-model", "--alignment")...),
		"the models' tokenizers differ", "id 3", "zzz", "compare models that share a tokenizer")
}

// onSmallDisk runs a command with $DISK as a small file system that is full but for so
// many bytes.
const onSmallDisk = `set -eu
mount -t tmpfs -o size=4m none "$DISK"
mkdir -m 700 -p "$DISK/tokenfork" "$DISK/tokenfork/logs" "$DISK/tokenfork/logs/$(hostname)"
head -c "$((4194304 - FREE))" /dev/zero >"$DISK/filler" || true
exec "$0" "$@"
`

func onDisk(t *testing.T, free int, env []string, args ...string) (int, string) {
	t.Helper()
	cmd := exec.Command("unshare", append([]string{"--mount", "bash", "-c", onSmallDisk, os.Args[0]}, args...)...)
	cmd.Env = append(append(os.Environ(), "TOKENFORK_TEST_MAIN=1", "FREE="+strconv.Itoa(free)), env...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// A disk that is full under plan's temporary file: nothing is planned, nothing is left.
func TestSpoolOnFullDisk(t *testing.T) {
	j, disk := newFakeJob(t, 40, 2000, 1), t.TempDir()
	at := filepath.Join(j.dir, "job")
	args := append([]string{"plan", j.table, "--job", at, "--tmp", disk}, j.some("--small-model", "--reference-model", "--alignment")...)
	code, said := onDisk(t, 100<<10, []string{"DISK=" + disk}, args...)
	if code != failure.Stopped || !strings.Contains(said, "disk full at "+disk+"/tokenfork-spool-") || !strings.Contains(said, "--tmp") {
		t.Errorf("exit code %d:\n%s", code, said)
	}
	if left, err := filepath.Glob(filepath.Join(at, "shards/*")); err != nil || len(left) > 0 {
		t.Errorf("left: %q, %v", left, err)
	}
	args[5] = j.dir
	says(t, 0, args)
}

// A disk that is full under vLLM's log: what its answers depend on cannot be known.
func TestLogOnFullDisk(t *testing.T) {
	j, disk := newFakeJob(t, 4, 40, 1), t.TempDir()
	clean := j.undisturbed(t)
	s3 := storetest.StartS3(t)
	t.Setenv("TOKENFORK_S3_ENDPOINT", s3.URL)
	t.Setenv("TOKENFORK_S3_PATH_STYLE", "true")
	at := "s3://" + s3.Bucket + "/job"
	says(t, 0, append([]string{"plan", j.table, "--job", at}, j.some("--small-model", "--reference-model", "--alignment", "--max")...))
	infer := append([]string{"infer", "--job", at, "--vllm", os.Args[0] + " " + fakevllm.Command}, j.some("--small-model", "--reference-model")...)
	env := []string{"DISK=" + disk, "XDG_CACHE_HOME=" + disk, "TMPDIR=/tmp", fakevllm.Var + "=" + fakevllm.Config{}.Env(t)}
	code, said := onDisk(t, 0, env, infer...)
	if code != failure.Stopped || !strings.Contains(said, "disk full at vLLM's log "+disk) || !strings.Contains(said, "make room there") {
		t.Errorf("exit code %d:\n%s", code, said)
	}
	if code, said = onDisk(t, 1<<20, env, infer...); code != 0 {
		t.Errorf("with room: exit code %d:\n%s", code, said)
	}
	j.same(t, at, filepath.Join(s3.Folder, "job"), clean)
}

// --deterministic reaches the servers and the record, ends where a server refuses it or
// is not what it says, and is not taken on trust of servers at URLs.
func TestDeterministicServers(t *testing.T) {
	j := newFakeJob(t, 4, 40, 1)
	at := filepath.Join(j.dir, "job")
	says(t, 0, append([]string{"plan", j.table, "--job", at, "--deterministic"}, j.some("--small-model", "--reference-model", "--alignment", "--max")...))
	says(t, failure.Refused, append([]string{"infer", "--job", at}, j.some("--small-", "--reference-")...), "planned with --deterministic", "leave out --small-url, or plan without --deterministic")
	t.Setenv(fakevllm.Var, fakevllm.Config{Modes: []string{fakevllm.NoInvariant}}.Env(t))
	own := append([]string{"infer", "--job", at, "--vllm", os.Args[0] + " " + fakevllm.Command}, j.some("--small-model", "--reference-model")...)
	says(t, failure.Other, own, "exited before it was ready", "RuntimeError: VLLM_BATCH_INVARIANT", "plan without --deterministic")
	t.Setenv(fakevllm.Var, fakevllm.Config{Faults: []fakevllm.Fault{{Kind: fakevllm.Engine}}}.Env(t))
	says(t, failure.Other, own, "vLLM failed its first request", "EngineCore encountered an issue", "plan without --deterministic")
	for _, modes := range [][]string{{fakevllm.Drifting}, {fakevllm.Drifting, fakevllm.Warm}} {
		t.Setenv(fakevllm.Var, fakevllm.Config{Modes: modes}.Env(t))
		says(t, failure.Refused, own, "server is not batch-invariant: of 16 predictions", "or plan without --deterministic")
	}
	varying := filepath.Join(j.dir, "varying")
	says(t, 0, append([]string{"plan", j.table, "--job", varying}, j.some("--small-model", "--reference-model", "--alignment", "--max")...))
	says(t, 0, append([]string{"infer", "--job", varying, "--vllm", os.Args[0] + " " + fakevllm.Command}, j.some("--small-model", "--reference-model")...))
	t.Setenv(fakevllm.Var, fakevllm.Config{Modes: []string{fakevllm.Invariant}}.Env(t))
	says(t, 0, own)
	b, err := os.ReadFile(filepath.Join(at, job.EngineKey(job.Small)))
	if err != nil || !strings.Contains(string(b), `"deterministic": true`) {
		t.Errorf("engine %s, %v", b, err)
	}
}

// An audit of servers that say something else than the table: told, counted, and
// without a change to the results.
func TestAuditThatDisagrees(t *testing.T) {
	j := newFakeJob(t, 20, 60, 1, fakevllm.Fault{Kind: fakevllm.OtherID, Every: 40})
	at := filepath.Join(j.dir, "job")
	says(t, 0, append([]string{"plan", j.table, "--job", at}, j.some("--small-model", "--reference-model", "--alignment", "--max")...))
	said := says(t, 0, append([]string{"infer", "--job", at, "--audit", "1", "--replay-min-agreement", "0.5"}, j.some("--small-", "--reference-")...), "replay audited")
	disagreed := false
	for line := range strings.Lines(said) {
		if i := strings.Index(line, "replay audited"); i >= 0 {
			var forks, agreed string
			for _, field := range strings.Fields(line[i:]) {
				if v, ok := strings.CutPrefix(field, "forks="); ok {
					forks = v
				} else if v, ok := strings.CutPrefix(field, "agreed="); ok {
					agreed = v
				}
			}
			disagreed = disagreed || forks != agreed && forks != "" && agreed != "0"
		}
	}
	if !disagreed {
		t.Errorf("no audit disagrees:\n%s", said)
	}
}
