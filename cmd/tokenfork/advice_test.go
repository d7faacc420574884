package main

import (
	"bytes"
	"encoding/csv"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tokenfork/internal/failure"
	"tokenfork/internal/shell"
	"tokenfork/internal/vllm/fakevllm"
	"tokenfork/judge/merge"
)

// fakeMoodyJudge answers a third of the questions with nothing that can be read, while it is broken.
func fakeMoodyJudge(t *testing.T, broken *bool) string {
	t.Helper()
	to, err := url.Parse(fakeJudgeSaying(t, false))
	ok(t, err)
	pass := httputil.NewSingleHostReverseProxy(to)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if *broken && len(body)%3 == 0 && bytes.Contains(body, []byte("continuation")) {
			_, _ = io.WriteString(w, `{"choices":[{"message":{"content":"hm"},"finish_reason":"stop"}],"usage":{"prompt_tokens":10,"completion_tokens":5}}`)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		pass.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// listed are the kinds of failures in failures.csv, and the commands that it advises.
func listed(t *testing.T, dir string) (kinds, commands []string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, merge.FailuresKey))
	ok(t, err)
	rows, err := csv.NewReader(bytes.NewReader(b)).ReadAll()
	ok(t, err)
	for _, row := range rows[1:] {
		kind, _, _ := strings.Cut(row[2], ":")
		kinds, commands = append(kinds, kind), append(commands, row[4])
	}
	slices.Sort(kinds)
	slices.Sort(commands)
	return slices.Compact(kinds), slices.Compact(commands)
}

// obey runs a command as it is advised, word for word.
func obey(t *testing.T, command string) {
	t.Helper()
	words, err := shell.Split(command)
	ok(t, err)
	if words[0] != "tokenfork" {
		t.Fatalf("advised %q", command)
	}
	var said bytes.Buffer
	if code := run(t.Context(), words[1:], &said, &said); code != 0 && code != failure.Partial {
		t.Fatalf("%s: exit code %d\n%s", command, code, &said)
	}
}

// Whoever runs what failures.csv and status advise, word for word, on every kind of
// failure, comes to a table without failures: with servers of the task's own, and with
// servers at URLs, which no later command could guess.
func TestAdvisedCommands(t *testing.T) {
	refused := fakevllm.Fault{Kind: fakevllm.Refuse, Status: http.StatusBadRequest, Every: 3, After: 300, Times: 1}
	t.Run("own servers", func(t *testing.T) {
		j := newFakeJob(t, 24, 80, 2)
		dir := filepath.Join(j.dir, "job's")
		self, err := os.Executable()
		ok(t, err)
		own := refused
		own.Server = "small"
		code, said := j.ownServers(t, dir, fakevllm.Config{Faults: []fakevllm.Fault{own}}, "--small-args", "--dtype float32")
		if code != failure.Partial {
			t.Fatalf("infer: exit code %d\n%s", code, said)
		}
		testAdvice(t, dir, "--vllm", self+" "+fakevllm.Command, "--small-args", "--dtype float32")
	})
	t.Run("servers at URLs", func(t *testing.T) {
		j := newFakeJob(t, 24, 80, 2, refused)
		dir := filepath.Join(j.dir, "job's")
		t.Setenv("TOKENFORK_VLLM", "no-such-command")
		j.planned(t, dir)
		var said bytes.Buffer
		urls := []string{"--small-url", j.servers[0].URL, "--reference-url", j.servers[1].URL}
		if code := run(t.Context(), append([]string{"infer", "--job", dir}, urls...), &said, &said); code != failure.Partial {
			t.Fatalf("infer: exit code %d\n%s", code, &said)
		}
		testAdvice(t, dir, urls...)
	})
}

// testAdvice judges half of a job whose infer had failures, by a judge that fails too,
// and does as it is told from then on. Infer's advice has the flags.
func testAdvice(t *testing.T, dir string, flags ...string) {
	t.Helper()
	broken := true
	judge := fakeMoodyJudge(t, &broken)
	obey(t, shell.Join([]string{"tokenfork", "judge", "--job", dir, "--shard", "0", "--judge", judge, "--judge-context", "tokens=7", "--judge-seed", "3"}))
	obey(t, shell.Join([]string{"tokenfork", "merge", "--job", dir, "--allow-missing"}))
	kinds, commands := listed(t, dir)
	if want := []string{"infer_failed", "judge_failed", "not_judged"}; !slices.Equal(kinds, want) || len(commands) != 2 {
		t.Fatalf("failures %q, want %q; commands %q", kinds, want, commands)
	}
	words, err := shell.Split(commands[0])
	ok(t, err)
	if words[1] != "infer" || !subset(flags, words) {
		t.Errorf("advised %q, want it to have %q", words, flags)
	}
	planned := status(t, dir).Mismatches
	broken = false
	for range 3 {
		for _, command := range commands {
			obey(t, command)
		}
		for range 6 {
			next := status(t, dir).Next
			for _, command := range next {
				obey(t, command)
			}
			if strings.HasPrefix(next[0], "tokenfork check") {
				break
			}
		}
		if kinds, commands = listed(t, dir); len(kinds) == 0 {
			break
		}
	}
	if len(kinds) > 0 {
		t.Errorf("still listed: %q, and advised: %q", kinds, commands)
	}
	if records := glob(t, dir+"/judgings/*"); len(records) != 1 {
		t.Errorf("judgings %q: the advice made another", records)
	}
	if got := column(t, dir, "status"); !equal(got, map[string]int{"ok": int(planned)}) {
		t.Errorf("status %v after the retries, planned were %d", got, planned)
	}
	for _, s := range status(t, dir).Stages {
		if s.Done != planned || s.Of != planned || len(s.Unfinished) > 0 {
			t.Errorf("after the retries status counts %+v, planned were %d", s, planned)
		}
	}
}

func subset(some, of []string) bool {
	return !slices.ContainsFunc(some, func(s string) bool { return !slices.Contains(of, s) })
}

// Verdicts that merge was told to leave out can be had by the job's only judging.
func TestAdviceOfMergeWithoutJudge(t *testing.T) {
	dir := newFakeJobJudged(t)
	obey(t, shell.Join([]string{"tokenfork", "merge", "--job", dir, "--judge", "none"}))
	kinds, commands := listed(t, dir)
	if !slices.Equal(kinds, []string{"not_judged"}) || len(commands) != 1 {
		t.Fatalf("failures %q, commands %q", kinds, commands)
	}
	obey(t, commands[0])
	obey(t, shell.Join([]string{"tokenfork", "merge", "--job", dir}))
	if kinds, _ := listed(t, dir); len(kinds) > 0 {
		t.Errorf("still listed: %q", kinds)
	}
}

func newFakeJobJudged(t *testing.T) string {
	t.Helper()
	j := newFakeJob(t, 4, 40, 1)
	dir := filepath.Join(j.dir, "job")
	j.whole(t, dir)
	return dir
}
