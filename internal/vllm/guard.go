package vllm

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// GuardCommand is the first argument with which a program that uses Start must
// call GuardMain with the arguments after it, before anything else, and exit
// with its result.
const GuardCommand = "guard"

// report is a line that the guard writes to its runner.
type report struct {
	PID   int    `json:"pid,omitempty"`   // the server was started
	Exit  string `json:"exit,omitempty"`  // the server's first process ended, like this
	Error string `json:"error,omitempty"` // starting or ending failed
	Done  bool   `json:"done,omitempty"`  // nothing of the server is left
}

// GuardMain is the guard: it runs in a session of its own, starts the server,
// and ends it with all its children when it ends by itself or when stdin does,
// which a runner killed by -9 closes too. It returns the exit code.
//
//	guard --dir DIR --stop-timeout D -- COMMAND ARG…
//
// stdin is the runner's pipe, stdout takes reports, stderr is the server's log.
func GuardMain(args []string) int {
	flags := flag.NewFlagSet(GuardCommand, flag.ContinueOnError)
	dir := flags.String("dir", "", "folder of the server")
	grace := flags.Duration("stop-timeout", 15*time.Second, "between SIGTERM and SIGKILL")
	flags.SetOutput(io.Discard)
	if err := flags.Parse(args); err != nil || *dir == "" || flags.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "guard: this command is tokenfork's own")
		return 80
	}
	g := &guard{dir: runDir(*dir), grace: *grace, out: json.NewEncoder(os.Stdout)}
	if err := g.run(flags.Args()); err != nil {
		g.say(report{Error: err.Error()})
		return 1
	}
	g.say(report{Done: true})
	return 0
}

type guard struct {
	dir   runDir
	grace time.Duration
	out   *json.Encoder
}

// say ignores a runner that is gone; the log gets what a person should see.
func (g *guard) say(r report) {
	_ = g.out.Encode(r)
	if r.Error != "" {
		fmt.Fprintln(os.Stderr, "tokenfork guard:", r.Error)
	}
}

func (g *guard) run(command []string) error {
	lock, err := lockFile(g.dir.guardLock(), true)
	if err != nil {
		return fmt.Errorf("lock %s: %w", g.dir.guardLock(), err)
	}
	defer lock.Close()
	// Slurm signals every process of a task. When to end is the runner's
	// decision; the pipe tells.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP,
		syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGPIPE)
	// Orphans of the server become the guard's children, so none gets away.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become subreaper: %w", err)
	}
	pid, err := startServer(command)
	if err != nil {
		return errors.Join(err, os.RemoveAll(string(g.dir)))
	}
	g.say(report{PID: pid})
	ended, reaped := reap(pid)
	g.say(report{Exit: awaitEnd(ended)})
	self := os.Getpid()
	pids, err := family{nonce: os.Getenv(serverVar), sid: self, root: self, spare: self}.end(pid, g.grace)
	if err != nil {
		return err
	}
	<-reaped // else nvidia-smi could be taken for a child of the server
	return settle(g.dir, pids)
}

// startServer starts the command in its own process group. If the guard is
// killed, the server gets SIGTERM from the kernel, as long as the thread that
// started it lives as long as the guard.
func startServer(command []string) (int, error) {
	path, err := exec.LookPath(command[0])
	if err != nil {
		return 0, err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	runtime.LockOSThread()
	pid, err := syscall.ForkExec(path, command, &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{null.Fd(), os.Stderr.Fd(), os.Stderr.Fd()},
		Sys:   &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM},
	})
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", path, err)
	}
	return pid, nil
}

// reap collects all children as they end; the first channel tells how the
// server did, the second is closed when there are no more.
func reap(pid int) (<-chan string, <-chan struct{}) {
	ended, reaped := make(chan string, 1), make(chan struct{})
	go func() {
		defer close(reaped)
		for {
			var status syscall.WaitStatus
			child, err := syscall.Wait4(-1, &status, 0, nil)
			if err == syscall.ECHILD {
				return
			}
			if child == pid {
				ended <- describe(status)
			}
		}
	}()
	return ended, reaped
}

// awaitEnd returns how the server ended, or "" when stdin did first.
func awaitEnd(ended <-chan string) string {
	closed := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // any end of the pipe means stop
		close(closed)
	}()
	select {
	case how := <-ended:
		return how
	case <-closed:
		return ""
	}
}

func describe(s syscall.WaitStatus) string {
	if s.Signaled() {
		return fmt.Sprintf("signal %d, %s", s.Signal(), s.Signal())
	}
	return fmt.Sprintf("exit status %d", s.ExitStatus())
}

// settle makes sure of the end of a server whose processes are gone, and
// removes its folder.
func settle(dir runDir, pids map[int]bool) error {
	if err := socketDead(dir.socket()); err != nil {
		return err
	}
	if err := awaitFree(context.Background(), pids); err != nil {
		return err
	}
	return os.RemoveAll(string(dir))
}
