package vllm

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"
	"time"
)

// guarded is the runner's view of a guard and its server.
type guarded struct {
	cmd   *exec.Cmd
	pipe  *os.File // its end tells the guard to end the server
	dir   runDir
	nonce string
	grace atomic.Int64 // a time.Duration: what a killed guard's server is given
	leave func()       // closes connections: vLLM waits for its clients to leave

	done chan struct{} // closed when nothing is left; the fields below are set then
	exit string        // how the server ended by itself; "" if it did not
	err  error         // starting or ending failed
}

// startGuarded starts a guard, which starts the server; both write to log and
// keep the files of keep open. leave closes all connections to the server.
func startGuarded(c *Config, l *launch, log *os.File, keep []*os.File, leave func()) (*guarded, error) {
	stdin, pipe, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start guard: %w", err)
	}
	defer stdin.Close()
	args := append([]string{GuardCommand, "--dir", string(l.dir), "--stop-timeout", c.StopTimeout.String(), "--"}, l.argv(c)...)
	g := &guarded{pipe: pipe, dir: l.dir, nonce: l.nonce, leave: leave, done: make(chan struct{})}
	g.grace.Store(int64(c.StopTimeout))
	g.cmd = exec.Command("/proc/self/exe", args...) // this very binary, even if its file was replaced
	g.cmd.Env, g.cmd.Stdin, g.cmd.Stderr, g.cmd.ExtraFiles = l.environ(c), stdin, log, keep
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := g.cmd.StdoutPipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start guard: %w", err), pipe.Close())
	}
	if err := g.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start guard: %w", err), pipe.Close())
	}
	go g.follow(bufio.NewScanner(out))
	return g, nil
}

// follow reads the guard's reports to its end. If the guard was killed, its
// work is done here.
func (g *guarded) follow(reports *bufio.Scanner) {
	defer close(g.done)
	leader, finished := 0, false
	for reports.Scan() {
		var r report
		if err := json.Unmarshal(reports.Bytes(), &r); err != nil {
			continue // cut off by a kill
		}
		leader = max(leader, r.PID)
		if r.Exit != "" {
			g.exit = r.Exit
		}
		if r.Error != "" {
			g.err = errors.New(r.Error)
		}
		finished = finished || r.Done || r.Error != ""
	}
	waitErr := g.cmd.Wait()
	g.pipe.Close()
	if finished {
		return
	}
	if g.exit == "" {
		g.exit = fmt.Sprintf("its guard died (%v)", waitErr)
	}
	g.leave()
	var pids map[int]bool
	f := family{nonce: g.nonce, sid: g.cmd.Process.Pid}
	if pids, g.err = f.end(leader, time.Duration(g.grace.Load())); g.err == nil {
		g.err = settle(g.dir, pids)
	}
}

// stop tells the guard to end the server. It returns at once.
func (g *guarded) stop() { g.pipe.Close() }

// kill ends the guard and, without delay, the server.
func (g *guarded) kill() {
	g.grace.Store(0)
	_ = g.cmd.Process.Kill() // already ended is as good
}
