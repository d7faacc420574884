package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/job/jobtest"
	"tokenfork/internal/survey"
	"tokenfork/internal/vllm/fakevllm"
)

// states of a task: what is done to its folder, and whether it is finished then.
var states = []struct {
	name     string
	finished bool
	make     func(t *testing.T, task string)
}{
	{"never started", false, func(t *testing.T, task string) { ok(t, os.RemoveAll(task)) }},
	{"attempt without commit", false, func(t *testing.T, task string) { ok(t, os.Remove(task+"/commit.json")) }},
	{"attempt without commit or part", false, func(t *testing.T, task string) {
		ok(t, os.Remove(task+"/commit.json"))
		for _, part := range glob(t, task+"/*/*.arrow") {
			ok(t, os.Remove(part))
		}
	}},
	{"commit", true, func(*testing.T, string) {}},
	{"commit and retry", true, func(t *testing.T, task string) { copyFile(t, task+"/commit.json", task+"/commit.json.0001") }},
	{"retry without the first commit", true, func(t *testing.T, task string) {
		ok(t, os.Rename(task+"/commit.json", task+"/commit.json.0001"))
	}},
	{"two attempts", true, func(t *testing.T, task string) {
		attempt := filepath.Dir(glob(t, task+"/*/attempt.json")[0])
		ok(t, os.CopyFS(task+"/fedcba987654", os.DirFS(attempt)))
	}},
	{"two attempts without commit", false, func(t *testing.T, task string) {
		attempt := filepath.Dir(glob(t, task+"/*/attempt.json")[0])
		ok(t, os.CopyFS(task+"/fedcba987654", os.DirFS(attempt)))
		ok(t, os.Remove(task+"/commit.json"))
	}},
	{"damaged commit", false, func(t *testing.T, task string) { unseal(t, task+"/commit.json") }},
	{"truncated commit", false, func(t *testing.T, task string) { ok(t, os.Truncate(task+"/commit.json", 100)) }},
	{"damaged commit before a retry", true, func(t *testing.T, task string) {
		copyFile(t, task+"/commit.json", task+"/commit.json.0001")
		ok(t, os.Truncate(task+"/commit.json", 100))
	}},
	{"damaged retry", false, func(t *testing.T, task string) {
		copyFile(t, task+"/commit.json", task+"/commit.json.0001")
		unseal(t, task+"/commit.json.0001")
	}},
}

// TestStatesOfATask asks every command about a task in every state: all agree
// on whether it is finished, and whoever does what they advise comes to the end.
func TestStatesOfATask(t *testing.T) {
	t.Parallel()
	broken := false
	model, judge := fakevllm.Serve(t, fakevllm.Config{Model: fakevllm.Model{Vocab: 100}}).URL, fakeJudge(t, &broken)
	for _, stage := range []string{"infer", "judge"} {
		for _, state := range states {
			t.Run(stage+", "+state.name, func(t *testing.T) {
				t.Parallel()
				dir := jobtest.Make(t, 4, 2).String()
				task := filepath.Join(dir, "parts/infer/00000/small")
				if stage == "judge" {
					tokenfork(t, failure.Partial, "judge --job "+dir+" --judge "+judge)
					task = glob(t, dir+"/parts/judge/00000/*")[0]
				}
				state.make(t, task)
				longAgo(t, task)
				agree(t, dir, stage, judge, state.finished)
				superseded := ""
				if state.name == "damaged commit before a retry" {
					superseded = task + "/commit.json"
				}
				follow(t, dir, model, judge, superseded)
			})
		}
	}
}

// A job.json without its sha256 may have been changed: every command refuses it by name.
func TestUnsealedJob(t *testing.T) {
	t.Parallel()
	dir := jobtest.Make(t, 4, 2).String()
	ok(t, os.RemoveAll(dir+"/parts/infer/00001/small"))
	broken := false
	model, judge := fakevllm.Serve(t, fakevllm.Config{Model: fakevllm.Model{Vocab: 100}}).URL, fakeJudge(t, &broken)
	unseal(t, dir+"/job.json")
	b, err := os.ReadFile(dir + "/job.json")
	ok(t, err)
	changed := strings.Replace(string(b), `"max_new_tokens": 0`, `"max_new_tokens": 64`, 1)
	if changed == string(b) {
		t.Fatalf("no max_new_tokens in %s", b)
	}
	ok(t, os.WriteFile(dir+"/job.json", []byte(changed), 0o644))
	for _, args := range []string{"merge --judge none --allow-missing", "infer --small-url " + model + " --reference-url " + model, "judge --judge " + judge, "check", "status", "submit --dry-run"} {
		if out := tokenfork(t, failure.Refused, args+" --job "+dir); !strings.Contains(out, "job.json") || !strings.Contains(out, "sha256") {
			t.Errorf("%s says\n%s", args, out)
		}
	}
}

// agree compares what the commands say of the one task in question.
func agree(t *testing.T, dir, stage, judge string, finished bool) {
	t.Helper()
	code := failure.Refused
	if finished {
		code = failure.Partial // of the fixture's failed fork
	}
	says := func(who, out, what string, want bool) {
		t.Helper()
		if strings.Contains(out, what) != want {
			t.Errorf("%s: finished is %v, but says\n%s", who, finished, out)
		}
	}
	says("merge", tokenfork(t, code, "merge --job "+dir+map[string]string{"infer": " --judge none"}[stage]), stage+" of shard 0", !finished)
	broken := damaged(t, dir, stage)
	code = failure.Refused
	if finished && !broken {
		code = 0
	}
	if out := tokenfork(t, code, "check --job "+dir); strings.Contains(out, "is damaged") != broken {
		t.Errorf("check says\n%s", out)
	}
	says("submit", tokenfork(t, 0, "submit --dry-run --missing --job "+dir), "--array", stage == "infer" && !finished)
	if stage == "infer" && !finished {
		says("judge", tokenfork(t, failure.Refused, "judge --retry --shard 0 --job "+dir+" --judge "+judge), "shards without continuations: 0", true)
	}
	r := status(t, dir)
	for _, s := range r.Stages {
		if s.Stage == stage && (len(s.Unfinished) > 0) != (!finished && s.Side != "reference") {
			t.Errorf("status: %s of %s lists %v as unfinished", s.Stage, s.Side, s.Unfinished)
		}
	}
}

// longAgo makes the task's objects so old that nobody can still work on it.
func longAgo(t *testing.T, task string) {
	t.Helper()
	at := time.Now().Add(-time.Hour)
	ok(t, filepath.WalkDir(filepath.Dir(task), func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Chtimes(path, at, at))
	}))
}

// damaged says whether the last commit of a task of the stage is not sealed.
func damaged(t *testing.T, dir, stage string) bool {
	t.Helper()
	commits, err := filepath.Glob(dir + "/parts/" + stage + "/00000/*/commit.json*")
	ok(t, err)
	for _, commit := range commits {
		b, err := os.ReadFile(commit)
		ok(t, err)
		if job.CheckJSON(b) != nil {
			return true
		}
	}
	return false
}

// follow does what status says until that is to check the results, with the
// servers' addresses, which no job keeps. superseded is a damaged commit that no
// longer counts.
func follow(t *testing.T, dir, model, judge, superseded string) {
	t.Helper()
	for range 6 {
		next := status(t, dir).Next
		for _, command := range next {
			args, is := strings.CutPrefix(command, "tokenfork ")
			if !is {
				t.Fatalf("status says %q", command)
			}
			args = strings.NewReplacer("'URL|local|none'", judge, "'URL|local'", judge).Replace(args)
			if strings.HasPrefix(args, "check") {
				if superseded != "" { // says: remove it: a later one counts
					tokenfork(t, failure.Refused, args)
					ok(t, os.Remove(superseded))
				}
				tokenfork(t, 0, args)
				return
			}
			if strings.HasPrefix(args, "infer") { // the fixture's predictions are no model's
				args += " --replay-min-agreement 0 --small-url " + model + " --reference-url " + model
			}
			var out, errs bytes.Buffer
			if code := run(t.Context(), strings.Fields(args), &out, &errs); code != 0 && code != failure.Partial { // a fork of the fixture has failed
				t.Fatalf("status advises tokenfork %s, which exits with %d:\n%s%s", args, code, &out, &errs)
			}
		}
	}
	t.Fatalf("status still says %q", status(t, dir).Next)
}

func status(t *testing.T, dir string) *survey.Report {
	t.Helper()
	var r survey.Report
	ok(t, json.Unmarshal([]byte(tokenfork(t, 0, "status --json --job "+dir)), &r))
	slices.Sort(r.Next)
	return &r
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	ok(t, err)
	if len(names) == 0 {
		t.Fatalf("nothing at %s", pattern)
	}
	return names
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	ok(t, err)
	ok(t, os.WriteFile(to, b, 0o644))
}

// unseal removes the sha256 of a JSON object of the job.
func unseal(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	ok(t, err)
	at := strings.LastIndex(string(b), ",\n \"sha256\"")
	ok(t, os.WriteFile(path, append(b[:at], "\n}\n"...), 0o644))
}
