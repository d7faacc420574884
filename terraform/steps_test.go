//go:build applied

package terraform_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"tokenfork/internal/job/jobtest"
	"tokenfork/internal/store/storetest"
)

// stepsOf are the commands among the next steps that begin with one of the words.
func stepsOf(e example, words ...string) []string {
	var out []string
	for line := range strings.Lines(e.nextSteps) {
		line = strings.TrimSpace(line)
		if slices.ContainsFunc(words, func(w string) bool { return strings.HasPrefix(line, w+" ") }) {
			out = append(out, line)
		}
	}
	return out
}

// TestNextSteps runs what next_steps says to type on the cluster, as far as it goes without one: the program takes every
// flag, and submit would ask Slurm for what the group has.
func TestNextSteps(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink(program, filepath.Join(dir, "tokenfork")); err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(dir, bucketOfExamples, "jobs", "first")
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		t.Fatal(err)
	}
	planned := jobtest.Make(t, 6, 3).String()
	if err := errors.Join(os.RemoveAll(filepath.Join(planned, "parts")), os.Symlink(planned, at)); err != nil {
		t.Fatal(err)
	}
	half, all := "#SBATCH --gres=gpu:4\n#SBATCH --cpus-per-task=96\n", "#SBATCH --gres=gpu:4\n#SBATCH --cpus-per-task=48\n"
	want := map[string]string{"bucket": "#SBATCH --gres=gpu:1\n", "try": "#SBATCH --gres=gpu:1\n#SBATCH --cpus-per-task=16\n", "p5": half, "capacity-block": half, "spot": all}
	for name, e := range applied(t) {
		seen := map[string]bool{}
		for _, step := range stepsOf(e, "tokenfork", "srun") {
			_, args, _ := strings.Cut(step, "tokenfork ")
			verb, _, _ := strings.Cut(args, " ")
			seen[verb] = true
			if verb == "submit" && !strings.HasSuffix(step, " --dry-run") {
				args += " --dry-run"
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			cmd := exec.CommandContext(ctx, "bash", "-c", "tokenfork "+strings.ReplaceAll(args, "s3:/", dir))
			cmd.Env, cmd.Dir = []string{"PATH=" + dir}, dir // no Slurm, whatever this host has
			out, err := cmd.CombinedOutput()
			cancel()
			if strings.Contains(string(out), "see tokenfork --help") {
				t.Errorf("%s: %s\n%s", name, step, out)
			}
			if verb == "submit" && (err != nil || !strings.Contains(string(out), want[name])) {
				t.Errorf("%s: %s\n%v, want %s in\n%s", name, step, err, want[name], out)
			}
			if cpu := strings.Count(string(out), "#SBATCH --partition=cpu\n"); verb == "submit" && (cpu == 2) != (name == "p5" || name == "capacity-block") {
				t.Errorf("%s: %d stages in the partition without GPUs", name, cpu)
			}
		}
		for _, verb := range []string{"plan", "submit"} {
			if !seen[verb] {
				t.Errorf("%s: no step is tokenfork %s", name, verb)
			}
		}
	}
}

// fromUploadToResults goes the way of docs/cloud.md at a real S3 server with AWS's own program: the uploads and the sync
// of next_steps, and between them the start of a node. It returns what the node and the sync ask of S3.
func fromUploadToResults(t *testing.T, e example) []storetest.Operation {
	t.Helper()
	c := newCluster(t)
	s3 := c.s3
	t.Setenv("AWS_ENDPOINT_URL", s3.URL)
	if err := os.Unsetenv("AWS_PROFILE"); err != nil { // AWS's program looks for one without a name
		t.Fatal(err)
	}
	here := func(text string) string { return strings.ReplaceAll(text, bucketOfExamples, s3.Bucket) }
	if err := os.Remove(filepath.Join(c.fakes, "aws")); err != nil {
		t.Fatal(err)
	}
	// A download of models is no part of this.
	c.write(filepath.Join(c.fakes, "hf"), "#!/bin/bash\nmkdir -p \"$4\" && echo '{}' >\"$4/config.json\" && echo \"$2\" >\"$4/model.safetensors\"\n", 0o755)
	dir := t.TempDir()
	run := func(step string) {
		cmd := exec.Command("bash", "-c", here(step))
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "PATH="+c.fakes+":"+os.Getenv("PATH"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", here(step), err, out)
		}
	}
	c.software(dir)
	c.write(filepath.Join(dir, "table.csv"), "row_id\n", 0o644)
	const model = "DeepSeek-R1-Distill-Qwen-7B" // stands for all
	uploads := slices.DeleteFunc(stepsOf(e, "(cd", "hf", "aws s3 cp"), func(step string) bool {
		return strings.Contains(step, "models/") && !strings.Contains(step, model)
	})
	if len(uploads) != 11 {
		t.Fatalf("uploads of next_steps: %q", uploads)
	}
	for _, step := range uploads {
		run(step)
	}
	before := len(s3.Operations())

	root := c.boot(here(startOf(t, e)), "AWS_ENDPOINT_URL="+s3.URL)
	if got, want := c.read(filepath.Join(root, "scratch/models", model, "model.safetensors")), "deepseek-ai/"+model+"\n"; got != want {
		t.Errorf("the node has the model %q, want %q", got, want)
	}
	for _, name := range []string{"results.parquet", "summary.json", "job.json", "report/index.html"} {
		c.write(filepath.Join(s3.Folder, "jobs/first", name), name, 0o644)
	}
	for _, step := range stepsOf(e, "aws s3 sync") {
		run(step)
	}
	for name, want := range map[string]bool{"results.parquet": true, "summary.json": true, "report/index.html": true, "job.json": false} {
		if exists(filepath.Join(dir, "first", name)) != want {
			t.Errorf("the sync of results left %s there: %v, want %v", name, !want, want)
		}
	}
	return s3.Operations()[before:]
}
