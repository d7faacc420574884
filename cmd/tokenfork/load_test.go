package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tokenfork/internal/vllm/fakevllm"
)

var loadTexts = flag.Int("load.texts", 64, "texts of 200 tokens of TestLoad's larger table: about 60 mismatches each")

// usage is what a process has taken, at most.
type usage struct{ rss, files, sockets, threads int }

// What infer has in flight is bounded by the servers' KV caches, in tokens, and by the
// requests to each of them. Both tables are larger than these.
const (
	loadWindow   = 1 << 14 // about a dozen texts
	loadInFlight = 32
)

// TestLoad takes a table, and one with four times as many texts, through plan, infer,
// judge, merge and check, two runners on every shard, and measures what the processes
// hold: neither memory nor open files nor sockets nor threads grow with the table.
//
//	make load LOAD_TEXTS=17000
func TestLoad(t *testing.T) {
	small, large := load(t, *loadTexts/4), load(t, *loadTexts)
	for stage, a := range small {
		b := large[stage]
		if b.rss > a.rss*3/2+(64<<20) || b.files > a.files*3/2+64 || b.sockets > a.sockets*3/2+64 || b.threads > a.threads*3/2+16 {
			t.Errorf("%s: %+v over %d texts, %+v over %d", stage, a, *loadTexts/4, b, *loadTexts)
		}
	}
}

// load gives the most that a process of each stage held.
func load(t *testing.T, texts int) map[string]usage {
	t.Helper()
	j := newFakeJobOf(t, fakevllm.Config{KVTokens: loadWindow}, texts, 200, 4)
	held := map[string]usage{}
	at := filepath.Join(j.dir, "job")
	stage := func(name string, cmds ...*exec.Cmd) {
		t.Helper()
		began := time.Now()
		all := make([]usage, len(cmds))
		var wg sync.WaitGroup
		for i, cmd := range cmds {
			wg.Go(func() { all[i] = watch(t, cmd) })
		}
		wg.Wait()
		for i, cmd := range cmds {
			if code := cmd.ProcessState.ExitCode(); code != 0 {
				t.Fatalf("%s: exit code %d:\n%s", name, code, cmd.Stdout)
			}
			u := all[i]
			t.Logf("%d texts, %s, process %d: %s, %d MiB, %d files, %d sockets, %d threads", texts, name, i+1, time.Since(began).Round(time.Millisecond), u.rss>>20, u.files, u.sockets, u.threads)
			h := held[name]
			held[name] = usage{max(h.rss, u.rss), max(h.files, u.files), max(h.sockets, u.sockets), max(h.threads, u.threads)}
		}
	}
	one := func(args ...string) *exec.Cmd { cmd, _ := command(append(args, "--job", at)...); return cmd }
	flags := func(want ...string) (some []string) { // of run, those that a stage knows
		for i := 0; i < len(j.flags); i += 2 {
			for _, w := range want {
				if strings.HasPrefix(j.flags[i], w) {
					some = append(some, j.flags[i], j.flags[i+1])
				}
			}
		}
		return some
	}
	stage("plan", one(append([]string{"plan", j.table}, flags("--shards", "--max", "--alignment", "--small-model", "--reference-model", "--tmp")...)...))
	infer := append([]string{"infer", "--in-flight", fmt.Sprint(loadInFlight)}, flags("--part", "--small-url", "--reference-url", "--small-model", "--reference-model", "--tmp")...)
	stage("infer", one(infer...), one(infer...))
	judge := append([]string{"judge", "--judge-in-flight", fmt.Sprint(loadInFlight)}, flags("--judge", "--part", "--tmp")...)
	stage("judge", one(judge...), one(judge...))
	stage("merge", one(append([]string{"merge"}, flags("--judge", "--tmp")...)...))
	stage("check", one("check"))
	return held
}

// watch runs a command and looks at what it holds until it ends.
func watch(t *testing.T, cmd *exec.Cmd) (most usage) {
	if err := cmd.Start(); err != nil {
		t.Error(err)
		return most
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }() // the exit code tells
	proc := fmt.Sprintf("/proc/%d", cmd.Process.Pid)
	for {
		select {
		case <-ended:
			if r, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
				most.rss = int(r.Maxrss) << 10
			}
			return most
		case <-time.After(50 * time.Millisecond):
		}
		fds, _ := os.ReadDir(proc + "/fd") // gone at the end
		sockets := 0
		for _, fd := range fds {
			if to, err := os.Readlink(filepath.Join(proc, "fd", fd.Name())); err == nil && strings.HasPrefix(to, "socket:") {
				sockets++
			}
		}
		tasks, _ := os.ReadDir(proc + "/task")
		most.files, most.sockets, most.threads = max(most.files, len(fds)), max(most.sockets, sockets), max(most.threads, len(tasks))
	}
}
