package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tokenfork/internal/job"
	"tokenfork/internal/store"
	"tokenfork/internal/vllm/fakevllm"
)

var loadTexts = flag.Int("load.texts", 64, "texts of 200 tokens of TestLoad's larger table: about 60 mismatches each")

// goroutinesVar names a file to which tokenfork writes, again and again, how many
// goroutines it has.
const goroutinesVar = "TOKENFORK_TEST_GOROUTINES"

func countGoroutines(path string) {
	if path == "" {
		return
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	go func() {
		for {
			if _, err := f.WriteAt(fmt.Appendf(nil, "%8d", runtime.NumGoroutine()), 0); err != nil {
				panic(err)
			}
			time.Sleep(loadEvery)
		}
	}()
}

// held is what a process holds at a time, or at most.
type held struct{ rss, files, sockets, threads, goroutines int }

func (h held) String() string {
	return fmt.Sprintf("%d MiB, %d files, %d sockets, %d threads, %d goroutines", h.rss>>20, h.files, h.sockets, h.threads, h.goroutines)
}

func (h held) most(o held) held {
	return held{max(h.rss, o.rss), max(h.files, o.files), max(h.sockets, o.sockets), max(h.threads, o.threads), max(h.goroutines, o.goroutines)}
}

// grows says whether h is more than before, beyond what comes and goes and what merge and
// check read ahead of larger shards.
func (h held) grows(before held) bool {
	return h.rss > before.rss*3/2+128<<20 || h.files > before.files*3/2+64 || h.sockets > before.sockets*3/2+64 ||
		h.threads > before.threads*3/2+16 || h.goroutines > before.goroutines*3/2+128
}

// What infer has in flight is bounded by the servers' KV caches, in tokens, and by the
// requests to each of them. Both tables are larger than these.
const (
	loadWindow   = 1 << 14 // about a dozen texts
	loadInFlight = 32
	loadEvery    = 50 * time.Millisecond // processes are looked at
	loadMost     = 384 << 20             // bytes that no process may exceed, whatever the table
)

// TestLoad takes a table, and one with up to 16 times as many texts, through plan, infer,
// judge, merge and check, and measures what the processes hold. Memory, open files, sockets,
// threads and goroutines do not grow: not with the table, and not from the second quarter
// of a stage's time to its second half. Two runners are given every shard, from either end.
//
//	make load
func TestLoad(t *testing.T) {
	few := max(16, *loadTexts/16)
	small, large := load(t, few), load(t, *loadTexts)
	for stage, a := range small {
		if b := large[stage]; b.grows(a) || b.rss > loadMost {
			t.Errorf("%s: %s over %d texts, %s over %d", stage, a, few, b, *loadTexts)
		}
	}
}

// load gives the most that a process of each stage held.
func load(t *testing.T, texts int) map[string]held {
	t.Helper()
	j := newFakeJobOf(t, fakevllm.Config{KVTokens: loadWindow}, texts, 200, 8)
	all := map[string]held{}
	at := filepath.Join(j.dir, "job")
	run := func(name string, shards []string, args []string, flags ...string) {
		t.Helper()
		args = append(append([]string{name}, args...), "--job", at)
		for i := 0; i < len(j.flags); i += 2 { // of run, those that a stage knows
			if slices.ContainsFunc(flags, func(f string) bool { return strings.HasPrefix(j.flags[i], f) }) {
				args = append(args, j.flags[i], j.flags[i+1])
			}
		}
		commands := [][]string{args}
		if shards != nil {
			backwards := slices.Clone(shards)
			slices.Reverse(backwards)
			commands = [][]string{append(args, "--shard", strings.Join(shards, ",")), append(slices.Clone(args), "--shard", strings.Join(backwards, ","))}
		}
		all[name] = runners(t, commands)
	}
	run("plan", nil, []string{j.table}, "--shards", "--max", "--alignment", "--small-model", "--reference-model", "--tmp")
	s, err := store.Open(t.Context(), at, store.Options{})
	ok(t, err)
	planned, err := job.Load(t.Context(), s)
	ok(t, err)
	t.Logf("%d texts, %d mismatches", texts, planned.Mismatches)
	var shards []string
	for k := range planned.Shards {
		shards = append(shards, strconv.Itoa(k))
	}
	saved := []string{"--part-every", "1s"}
	run("infer", shards, append(saved, "--in-flight", strconv.Itoa(loadInFlight)), "--small-", "--reference-", "--tmp")
	run("judge", shards, append(saved, "--judge-in-flight", strconv.Itoa(loadInFlight)), "--judge", "--tmp")
	run("merge", nil, nil, "--judge", "--tmp")
	run("check", nil, nil)
	return all
}

// runners runs commands at once. It gives the most that one of the processes held.
func runners(t *testing.T, commands [][]string) (most held) {
	t.Helper()
	began, series := time.Now(), make([][]held, len(commands))
	cmds, outs := make([]*exec.Cmd, len(commands)), make([]fmt.Stringer, len(commands))
	var wg sync.WaitGroup
	for i, args := range commands {
		cmds[i], outs[i] = command(args...)
		count := filepath.Join(t.TempDir(), "goroutines")
		cmds[i].Env = append(cmds[i].Env, goroutinesVar+"="+count)
		wg.Go(func() { series[i] = watch(t, cmds[i], count) })
	}
	wg.Wait()
	for i, cmd := range cmds {
		if code := cmd.ProcessState.ExitCode(); code != 0 {
			t.Fatalf("%s: exit code %d:\n%s", commands[i][0], code, outs[i])
		}
		h, own := highest(series[i]), cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime()
		h.rss = int(cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss) << 10
		t.Logf("%s, process %d: %.1f s, %.1f s of CPU, at most %s", commands[i][0], i+1, time.Since(began).Seconds(), own.Seconds(), h)
		n := len(series[i])
		if early, late := highest(series[i][n/4:n/2]), highest(series[i][n/2:]); n > 8 && late.grows(early) {
			t.Errorf("%s, process %d: %s in the second quarter of its time, %s in the second half", commands[i][0], i+1, early, late)
		}
		most = most.most(h)
	}
	return most
}

func highest(series []held) (most held) {
	for _, h := range series {
		most = most.most(h)
	}
	return most
}

// watch runs a command and looks at what it holds until it ends.
func watch(t *testing.T, cmd *exec.Cmd, count string) (series []held) {
	if err := cmd.Start(); err != nil {
		t.Error(err)
		return nil
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }() // the exit code tells
	for {
		select {
		case <-ended:
			return series
		case <-time.After(loadEvery):
		}
		series = append(series, look(cmd.Process.Pid, count))
	}
}

// look gives what a process holds; nothing of one that has ended.
func look(pid int, count string) (h held) {
	proc := fmt.Sprintf("/proc/%d/", pid)
	status, _ := os.ReadFile(proc + "status")
	for line := range strings.Lines(string(status)) {
		if kb, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, _ := strconv.Atoi(strings.Fields(kb)[0])
			h.rss = n << 10
		}
	}
	fds, _ := os.ReadDir(proc + "fd")
	for _, fd := range fds {
		if to, err := os.Readlink(proc + "fd/" + fd.Name()); err == nil && strings.HasPrefix(to, "socket:") {
			h.sockets++
		}
	}
	tasks, _ := os.ReadDir(proc + "task")
	b, _ := os.ReadFile(count)
	h.goroutines, _ = strconv.Atoi(strings.TrimSpace(string(b)))
	h.files, h.threads = len(fds), len(tasks)
	return h
}
