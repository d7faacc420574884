// Package slurmtest brings up a real Slurm of two nodes on this host for
// tests: its own folder, ports and munge, so that nothing global is touched
// and several may run at once. It needs root and what scripts/setup-slurm installs.
package slurmtest

import (
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Cluster is a running Slurm: nodes n1 and n2 of 32 CPUs and 2 GPUs (plain
// files), the partition "work", and "urgent", whose jobs preempt work's.
type Cluster struct {
	Dir   string
	t     testing.TB
	nodes map[string]func() // what ends each at once
}

// patience is how long anything of Slurm's may take on a busy machine.
const patience = 4 * time.Minute

// Start brings the cluster up and ends it with the test. Lines are added to
// slurm.conf, where the last of a name counts.
func Start(t testing.TB, lines ...string) *Cluster {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "slurmtest-") // short: sockets live here
	if err != nil {
		t.Fatal(err)
	}
	c := &Cluster{Dir: dir, t: t, nodes: map[string]func(){}}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	c.write("munge.key", rand.Text()+rand.Text())
	c.writeConf(lines)
	c.daemon("munged", "--foreground", "--force", "--num-threads=2", "--key-file="+c.path("munge.key"), "--socket="+c.path("munge.sock"),
		"--pid-file="+c.path("munged.pid"), "--log-file="+c.path("munged.log"), "--seed-file="+c.path("munge.seed"))
	c.Wait("munge", func() bool { _, err := os.Stat(c.path("munge.sock")); return err == nil })
	c.daemon("slurmctld", "-D", "-f", c.path("slurm.conf"))
	for _, node := range []string{"n1", "n2"} {
		c.nodes[node] = c.daemon("slurmd", "-D", "-f", c.path("slurm.conf"), "-N", node)
	}
	t.Cleanup(c.drain)
	c.Wait("two idle nodes", func() bool {
		out, err := c.Command("sinfo", "-h", "-N", "-p", "work", "-t", "idle", "-o", "%N").Output()
		return err == nil && len(strings.Fields(string(out))) == 2
	})
	return c
}

// In is the cluster for a subtest: what fails, fails that one.
func (c *Cluster) In(t testing.TB) *Cluster {
	sub := *c
	sub.t = t
	return &sub
}

// LoseNode ends a node's daemon with -9. Processes of its jobs stay: Slurm
// does not know.
func (c *Cluster) LoseNode(name string) { c.nodes[name]() }

// NodeOf is where a job or array task runs.
func (c *Cluster) NodeOf(id string) string { return c.field(id, "NodeList=") }

// Env is what a process needs so that Slurm's commands reach this cluster.
func (c *Cluster) Env() []string { return append(os.Environ(), "SLURM_CONF="+c.path("slurm.conf")) }

// Command prepares one of Slurm's commands.
func (c *Cluster) Command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env, cmd.Dir = c.Env(), c.Dir
	return cmd
}

// Run runs a command of Slurm's and gives its output, without the newline.
func (c *Cluster) Run(name string, args ...string) string {
	c.t.Helper()
	out, err := c.Command(name, args...).CombinedOutput()
	if err != nil {
		c.t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// State is what Slurm says of a job or array task: PENDING, RUNNING,
// COMPLETED, FAILED, …
func (c *Cluster) State(id string) string { return c.field(id, "JobState=") }

func (c *Cluster) field(id, name string) string {
	for field := range strings.FieldsSeq(c.show(id)) {
		if value, ok := strings.CutPrefix(field, name); ok {
			return value
		}
	}
	return ""
}

// show is scontrol's record of a job or array task; "" if there is none.
func (c *Cluster) show(id string) string {
	out, err := c.Command("scontrol", "show", "job", id).Output()
	if err != nil {
		return ""
	}
	return string(out)
}

// Wait waits until something holds, and fails the test if it never does.
func (c *Cluster) Wait(what string, holds func() bool) {
	c.t.Helper()
	c.Within(patience, what, holds)
}

// pause is the time between two questions. Each starts one of Slurm's programs, and
// many tests ask at the same time.
const pause = 500 * time.Millisecond

// Within is Wait for what takes its own time.
func (c *Cluster) Within(d time.Duration, what string, holds func() bool) {
	c.t.Helper()
	for end := time.Now().Add(d); !holds(); time.Sleep(pause) {
		if time.Now().After(end) {
			c.t.Fatalf("no %s after %s\n%s", what, d, c.logs())
		}
	}
}

// drain cancels everything, so that no step outlives its daemon.
func (c *Cluster) drain() {
	_ = c.Command("scancel", "--state=PENDING", "--user=root").Run()
	_ = c.Command("scancel", "--user=root").Run()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if out, err := c.Command("squeue", "-h").Output(); err != nil || len(out) == 0 {
			return
		}
	}
}

func (c *Cluster) path(name string) string { return filepath.Join(c.Dir, name) }

func (c *Cluster) write(name, content string) {
	c.t.Helper()
	if err := os.WriteFile(c.path(name), []byte(content), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// daemon starts a process in its own group and ends it with the test.
func (c *Cluster) daemon(name string, args ...string) (kill func()) {
	c.t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path = "/usr/sbin/" + name
	}
	cmd := c.Command(path, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	log, err := os.OpenFile(c.path(name+".out"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		c.t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		c.t.Fatalf("%v; scripts/setup-slurm installs it", err)
	}
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); log.Close(); close(done) }()
	end := func(s syscall.Signal) {
		_ = syscall.Kill(-cmd.Process.Pid, s)
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			<-done
		}
	}
	c.t.Cleanup(func() { end(syscall.SIGTERM) })
	return func() { end(syscall.SIGKILL) }
}

// logs are the ends of the daemons' logs.
func (c *Cluster) logs() string {
	var all strings.Builder
	for _, name := range []string{"munged.log", "munged.out", "slurmctld.out", "slurmd.out"} {
		b, _ := os.ReadFile(c.path(name)) // none if the daemon never came up
		fmt.Fprintf(&all, "--- %s\n%s\n", name, b[max(0, len(b)-3000):])
	}
	return all.String()
}

// freePorts is the first of three free ports in a row, below those that the
// kernel gives out to connections.
func freePorts(t testing.TB) int {
	t.Helper()
	for range 1000 {
		first := 10000 + mathrand.IntN(5000)
		if free(first) && free(first+1) && free(first+2) {
			return first
		}
	}
	t.Fatal("no three free ports in a row from 10000 to 15000")
	return 0
}

func free(port int) bool {
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		return false
	}
	return l.Close() == nil
}
