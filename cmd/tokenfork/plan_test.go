package main

import (
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tokenfork/internal/failure"
	"tokenfork/internal/table/tabletest"
	"tokenfork/internal/vllm/vllmtest"
)

// planned runs plan with the demo's models and gives its exit code and what it
// said on standard output and error.
func planned(t *testing.T, stdin string, args ...string) (code int, out, complaint string) {
	t.Helper()
	models := []string{"--small-model", filepath.Join(vllmtest.Models(), "small"), "--reference-model", filepath.Join(vllmtest.Models(), "reference"), "--tmp", t.TempDir()}
	cmd, _ := command(append(append([]string{"plan"}, args...), models...)...)
	var said, complained bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &said, &complained
	_ = cmd.Run() // the exit code tells
	return cmd.ProcessState.ExitCode(), said.String(), complained.String()
}

// write makes a file.
func write(t *testing.T, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(content), 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

func gzipped(t *testing.T, content string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write([]byte(content)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestPlanInputs(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	if err := tabletest.Write(&b, tabletest.Config{Layout: "study", Rows: 3000, Tokens: 200, Vocab: 49_000, Mismatch: 0.11, Seed: 5}); err != nil {
		t.Fatal(err)
	}
	dir, content := t.TempDir(), b.String()
	header, rest, _ := strings.Cut(content, "\n")
	half := len(rest)/2 + strings.Index(rest[len(rest)/2:], "\n") + 1
	whole := write(t, dir, "whole.csv", content)
	one := write(t, dir, "part-1.csv", header+"\n"+rest[:half])
	two := write(t, dir, "part-2.csv", gzipped(t, header+"\n"+rest[half:]))
	job := filepath.Join(dir, "job")
	dry := func(stdin string, args ...string) string {
		t.Helper()
		code, out, complaint := planned(t, stdin, append(args, "--job", job, "--dry-run")...)
		if code != 0 {
			t.Fatalf("%v: exit code %d\n%s", args, code, complaint)
		}
		return out
	}
	want := dry("", whole)
	for _, line := range []string{"3,000 rows in ", " mismatches, ", "small     prefill ", "reference prefill ", " replayed and ", " GPU hours\n", "1 shards"} {
		if !strings.Contains(want, line) {
			t.Errorf("a dry run does not say %q:\n%s", line, want)
		}
	}
	for name, got := range map[string]string{
		"two paths":             dry("", one, two),
		"a pattern":             dry("", filepath.Join(dir, "part-*.csv")),
		"standard input":        dry(content, "-"),
		"compressed on it":      dry(gzipped(t, content), "-"),
		"models as in the help": dry("", whole, "--small", "1.5", "--reference", "32.0"),
		"models with a B":       dry("", whole, "--small", "1.5B", "--reference", "32B"),
	} {
		if got != want {
			t.Errorf("%s:\n%swant\n%s", name, got, want)
		}
	}
	if other := dry("", whole, "--small", "7", "--reference", "14.0B"); other == want || !strings.Contains(other, "3,000 rows") {
		t.Errorf("other models:\n%s", other)
	}
	if by := dry("", whole, "--shard-time", "100ms", "--shard-gpus", "2"); by != dry("", whole, "--shard-cost", "0.2", "--shard-gpus", "2") || strings.Contains(by, "\n1 shards") {
		t.Errorf("shards of 0.1 s on 2 GPUs:\n%s", by)
	}
	if _, err := os.Stat(job); err == nil {
		t.Error("a dry run wrote a job")
	}
}

func TestPlanFolder(t *testing.T) {
	dir := t.TempDir()
	code, _, complaint := planned(t, "", dir, "--job", filepath.Join(dir, "job"))
	if code != failure.Usage || !strings.Contains(complaint, dir+" is a folder\ntokenfork: hint: name its files: '"+dir+"/*.csv'") {
		t.Errorf("exit code %d: %s", code, complaint)
	}
}

func TestPlanAgain(t *testing.T) {
	dir := t.TempDir()
	job, table := filepath.Join(dir, "job"), filepath.Join(vllmtest.Root(), ".cache/demo.csv")
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{nil, 0, " is planned at " + job},
		{nil, 0, " was planned before, and nothing changed, at " + job},
		{[]string{"--max-new-tokens", "64", "--margins"}, failure.Refused, "was planned with different settings: margins is false there, true now; max_new_tokens is 128 there, 64 now"},
		{[]string{"--shards", "2", "--shard-cost", "5"}, failure.Usage, "--shards, --shard-time and --shard-cost all say how large a shard is"},
		{[]string{"--shards", "-1"}, failure.Usage, "--shards -1"},
	} {
		code, out, complaint := planned(t, "", append([]string{table, "--job", job}, c.args...)...)
		if code != c.code || !strings.Contains(out+complaint, c.want) {
			t.Errorf("%v: exit code %d, want %d and %q\n%s%s", c.args, code, c.code, c.want, out, complaint)
		}
	}
}
