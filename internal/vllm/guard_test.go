package vllm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/vllm/fakevllm"
)

// fakeFaults are met by prompts that end in these ids.
var fakeFaults = []fakevllm.Fault{
	{Kind: fakevllm.Die, Suffix: []int32{9}},
	{Kind: fakevllm.Refuse, Status: 400, Suffix: []int32{40}},
}

// fakeConfig runs the fake server with the given modes.
func fakeConfig(t *testing.T, modes ...string) Config {
	t.Helper()
	return fakeOf(t, fakevllm.Config{Modes: modes, Faults: fakeFaults})
}

func fakeOf(t *testing.T, fake fakevllm.Config) Config {
	t.Helper()
	fake.Model = fakevllm.Model{Vocab: 64}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Config{
		Command: []string{exe, fakevllm.Command}, Model: "m", Name: "small",
		LogPath: filepath.Join(t.TempDir(), "vllm.log"), RunRoot: shortDir(t),
		Env:          []string{fakevllm.Var + "=" + fake.Env(t)},
		StartTimeout: 20 * time.Second, StopTimeout: 2 * time.Second,
	}
}

// shortDir is a folder whose path leaves room for sockets.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "tf")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func startFake(t *testing.T, modes ...string) *Server {
	t.Helper()
	s, err := Start(t.Context(), fakeConfig(t, modes...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopServer(t, s) })
	return s
}

func stopServer(t *testing.T, s *Server) {
	t.Helper()
	if err := s.Stop(context.Background()); err != nil {
		t.Error(err)
	}
}

// live lists what is left of a server.
func live(t *testing.T, nonce string) []process {
	t.Helper()
	members, err := family{nonce: nonce}.members()
	if err != nil {
		t.Fatal(err)
	}
	return members
}

// awaitLive fails unless n processes of a server are left soon.
func awaitLive(t *testing.T, nonce string, n int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); len(live(t, nonce)) != n; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("processes %s are left, want %d", pidList(live(t, nonce)), n)
		}
	}
}

func assertNone(t *testing.T, nonce string) {
	t.Helper()
	if left := live(t, nonce); len(left) > 0 {
		t.Errorf("processes %s are left", pidList(left))
	}
}

func assertNothingLeft(t *testing.T, s *Server) {
	t.Helper()
	assertNone(t, s.launch.nonce)
	if _, err := os.Stat(string(s.launch.dir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("folder %s is left: %v", s.launch.dir, err)
	}
}

func TestStopLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, modes := range [][]string{nil, {fakevllm.Stubborn}, {fakevllm.Detach}, {fakevllm.Stubborn, fakevllm.Detach}} {
		t.Run(fmt.Sprint("modes ", modes), func(t *testing.T) {
			t.Parallel()
			s := startFake(t, modes...)
			if got := len(live(t, s.launch.nonce)); got != 3 {
				t.Fatalf("%d processes bear the mark, want guard, server and engine", got)
			}
			if err := s.Stop(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := s.Err(); err != nil {
				t.Errorf("Err after Stop: %v", err)
			}
			assertNothingLeft(t, s)
		})
	}
}

func TestStopOfStoppedServer(t *testing.T) {
	s := startFake(t)
	for _, p := range live(t, s.launch.nonce) {
		if p.pid != s.guarded.cmd.Process.Pid {
			signalPID(p.pid, syscall.SIGSTOP)
		}
	}
	stopServer(t, s)
	assertNothingLeft(t, s)
}

func TestStopWithEndedContextKills(t *testing.T) {
	s := startFake(t, fakevllm.Stubborn)
	signalPID(s.guarded.cmd.Process.Pid, syscall.SIGSTOP) // nor does the guard work
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	assertNothingLeft(t, s)
}

func TestServerDeath(t *testing.T) {
	s := startFake(t)
	_, err := s.Endpoint().Complete(t.Context(), CompletionRequest{Prompt: Tokens(9), MaxTokens: 1})
	if !IsGone(err) {
		t.Errorf("request to a dying server: %v, want gone", err)
	}
	<-s.Done()
	var death *DeathError
	if !errors.As(s.Err(), &death) || death.What != "died: exit status 9" || len(death.Tail) == 0 {
		t.Errorf("Err = %v", s.Err())
	}
	assertNothingLeft(t, s)
}

func TestServerKilled(t *testing.T) {
	t.Parallel()
	s := startFake(t, fakevllm.Stubborn)
	leader := leaderOf(t, s.launch.nonce, s.guarded.cmd.Process.Pid)
	signalPID(leader, syscall.SIGKILL)
	<-s.Done()
	if err := s.Err(); err == nil || !strings.Contains(err.Error(), "died: signal 9, killed") || !strings.Contains(failure.Hint(err), "--mem") {
		t.Errorf("Err = %v, hint %q", err, failure.Hint(err))
	}
	assertNothingLeft(t, s)
}

// leaderOf is the guard's child.
func leaderOf(t *testing.T, nonce string, guard int) int {
	t.Helper()
	for _, p := range live(t, nonce) {
		if p.ppid == guard {
			return p.pid
		}
	}
	t.Fatal("no server process found")
	return 0
}

func TestGuardKilled(t *testing.T) {
	t.Parallel()
	for _, modes := range [][]string{nil, {fakevllm.Stubborn, fakevllm.Detach}} {
		t.Run(fmt.Sprint("modes ", modes), func(t *testing.T) {
			t.Parallel()
			s := startFake(t, modes...)
			signalPID(s.guarded.cmd.Process.Pid, syscall.SIGKILL)
			<-s.Done()
			if err := s.Err(); err == nil || !strings.Contains(err.Error(), "its guard died (signal: killed)") {
				t.Errorf("Err = %v", err)
			}
			assertNothingLeft(t, s)
		})
	}
}

// killedRunner starts a runner in a process of its own and reports its server.
type killedRunner struct {
	cmd   *exec.Cmd
	nonce string
	guard int
	dir   runDir
}

func startRunner(t *testing.T, c Config) *killedRunner {
	t.Helper()
	r := &killedRunner{cmd: exec.Command("/proc/self/exe", "runner")}
	r.cmd.Env = append(os.Environ(), configToEnv(t, c))
	r.cmd.Stderr = os.Stderr
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = r.cmd.Process.Kill()
		_ = r.cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	fields := strings.Fields(line)
	if err != nil || len(fields) != 4 || fields[0] != "ready" {
		t.Fatalf("runner said %q, %v", line, err)
	}
	r.nonce, r.dir = fields[1], runDir(fields[3])
	r.guard, _ = strconv.Atoi(fields[2])
	return r
}

func (r *killedRunner) kill(t *testing.T) {
	t.Helper()
	if err := r.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = r.cmd.Wait()
}

func TestRunnerKilled(t *testing.T) {
	t.Parallel()
	for _, modes := range [][]string{nil, {fakevllm.Stubborn, fakevllm.Detach}} {
		t.Run(fmt.Sprint("modes ", modes), func(t *testing.T) {
			t.Parallel()
			r := startRunner(t, fakeConfig(t, modes...))
			r.kill(t)
			awaitLive(t, r.nonce, 0)
			if _, err := os.Stat(string(r.dir)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("folder %s is left: %v", r.dir, err)
			}
		})
	}
}

func TestRunnerAndGuardKilled(t *testing.T) {
	t.Parallel()
	t.Run("server that heeds SIGTERM", func(t *testing.T) {
		t.Parallel()
		r := startRunner(t, fakeConfig(t))
		signalPID(r.guard, syscall.SIGKILL)
		r.kill(t)
		// Its engine, which no kernel signal reaches, is left to the sweep.
		awaitLive(t, r.nonce, 1)
		sweepAndCheck(t, r)
	})
	t.Run("server that heeds nothing", func(t *testing.T) {
		t.Parallel()
		r := startRunner(t, fakeConfig(t, fakevllm.Stubborn, fakevllm.Detach))
		signalPID(r.guard, syscall.SIGKILL)
		r.kill(t)
		awaitLive(t, r.nonce, 2)
		sweepAndCheck(t, r)
	})
	t.Run("guard that hangs", func(t *testing.T) {
		t.Parallel()
		r := startRunner(t, fakeConfig(t))
		signalPID(r.guard, syscall.SIGSTOP)
		r.kill(t)
		sweepAndCheck(t, r)
	})
}

// sweepAndCheck lets the next start on the node find what is left.
func sweepAndCheck(t *testing.T, r *killedRunner) {
	t.Helper()
	c := fakeConfig(t).withDefaults()
	if err := sweep(t.Context(), filepath.Dir(string(r.dir)), 2*time.Second, c.Logger); err != nil {
		t.Fatal(err)
	}
	assertNone(t, r.nonce)
	if _, err := os.Stat(string(r.dir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("folder %s is left: %v", r.dir, err)
	}
}

func TestStartSweeps(t *testing.T) {
	t.Parallel()
	c := fakeConfig(t, fakevllm.Stubborn, fakevllm.Detach)
	r := startRunner(t, c)
	signalPID(r.guard, syscall.SIGKILL)
	r.kill(t)
	next, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer stopServer(t, next)
	assertNone(t, r.nonce)
}

func TestSweepSparesTheLiving(t *testing.T) {
	c := fakeConfig(t)
	r := startRunner(t, c)
	own, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer stopServer(t, own)
	d, lock, err := newRunDir(c.RunRoot, "being-made")
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := sweep(t.Context(), c.RunRoot, time.Second, c.withDefaults().Logger); err != nil {
		t.Fatal(err)
	}
	for what, nonce := range map[string]string{"another runner's": r.nonce, "this runner's": own.launch.nonce} {
		if got := len(live(t, nonce)); got != 3 {
			t.Errorf("%s server has %d processes after a sweep, want 3", what, got)
		}
	}
	if _, err := os.Stat(d.nonceFile()); err != nil {
		t.Errorf("folder of a starting server: %v", err)
	}
}

func TestSocketPathTooLong(t *testing.T) {
	c := fakeConfig(t)
	c.RunRoot = filepath.Join(c.RunRoot, strings.Repeat("x", 60))
	if err := os.Mkdir(c.RunRoot, 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := Start(t.Context(), c)
	if err == nil || !strings.Contains(err.Error(), "at most 107 work") {
		t.Errorf("Start = %v", err)
	}
	if left, _ := os.ReadDir(c.RunRoot); len(left) > 0 {
		t.Errorf("%d entries left in %s", len(left), c.RunRoot)
	}
}

func TestGuardRefusesUse(t *testing.T) {
	for _, args := range [][]string{nil, {"--dir", "x"}, {"--nonsense"}} {
		if code := GuardMain(args); code != 80 {
			t.Errorf("GuardMain(%q) = %d, want 80", args, code)
		}
	}
}

func ExampleServer_Err() {
	err := serverLog{path: "/nowhere/small.log"}.death("small", "died: signal 9, killed")
	fmt.Println(err)
	// Output:
	// small vLLM died: signal 9, killed; log /nowhere/small.log ends with:
	//   log is unreadable: open /nowhere/small.log: no such file or directory
}
