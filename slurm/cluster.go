package slurm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"tokenfork/internal/failure"
)

// Cluster is the Slurm that the commands on the path speak to.
type Cluster struct {
	Env []string // of the commands; nil: this process's
}

// Config is what matters here of `scontrol show config`.
type Config struct {
	Version      string
	MaxArraySize int           // an array's indexes go up to one less
	KillWait     time.Duration // from SIGTERM to SIGKILL
	JobRequeue   bool          // jobs are requeued after a node failure unless they say otherwise
	PreemptMode  string
}

// ErrNoSlurm says that this host has no Slurm commands.
var ErrNoSlurm = errors.New("no Slurm here")

const slurmTimeout = time.Minute

func (c Cluster) command(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, slurmTimeout)
	defer cancel()
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNoSlurm, err)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = c.Env
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(out.String()), nil
}

var configLine = regexp.MustCompile(`(?m)^(\w+)[ \t]*=[ \t]*(.*?)[ \t]*$`)

// Config asks for the configuration; the error is ErrNoSlurm (errors.Is) where
// there is no scontrol.
func (c Cluster) Config(ctx context.Context) (Config, error) {
	out, err := c.command(ctx, "scontrol", "show", "config")
	if err != nil {
		return Config{}, err
	}
	values := map[string]string{}
	for _, m := range configLine.FindAllStringSubmatch(out, -1) {
		values[m[1]] = m[2]
	}
	f := Config{Version: values["SLURM_VERSION"], JobRequeue: values["JobRequeue"] != "0", PreemptMode: values["PreemptMode"]}
	if f.MaxArraySize, err = strconv.Atoi(values["MaxArraySize"]); err != nil {
		return f, fmt.Errorf("scontrol show config: MaxArraySize is %q", values["MaxArraySize"])
	}
	if seconds, _, ok := strings.Cut(values["KillWait"], " "); ok {
		n, err := strconv.Atoi(seconds)
		if err != nil {
			return f, fmt.Errorf("scontrol show config: KillWait is %q", values["KillWait"])
		}
		f.KillWait = time.Duration(n) * time.Second
	}
	return f, nil
}

// Queued is a job, or a task of an array, that Slurm has not finished with.
type Queued struct {
	ID     string // of the job, or the whole array
	Task   int    // -1: no array
	State  string // PENDING, RUNNING, COMPLETING, …
	Reason string // why it waits, or where it runs
}

// Queue lists which of the jobs are queued or running, array tasks one by one.
func (c Cluster) Queue(ctx context.Context, ids []string) ([]Queued, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	out, err := c.command(ctx, "squeue", "--jobs="+strings.Join(ids, ","), "--noheader", "--array", "--format=%F|%K|%T|%R")
	if err != nil && strings.Contains(err.Error(), "Invalid job id") {
		return nil, nil // all long over, and forgotten
	}
	if err != nil {
		return nil, err
	}
	var all []Queued
	for line := range strings.Lines(out) {
		fields := strings.SplitN(strings.TrimSpace(line), "|", 4)
		if len(fields) != 4 {
			continue
		}
		q := Queued{ID: fields[0], Task: -1, State: fields[2], Reason: fields[3]}
		if task, err := strconv.Atoi(fields[1]); err == nil { // N/A for a plain job
			q.Task = task
		}
		all = append(all, q)
	}
	return all, nil
}

var jobID = regexp.MustCompile(`^(\d+)(;.*)?$`)

// sbatch submits and gives the job's id.
func (c Cluster) sbatch(ctx context.Context, args []string) (string, error) {
	out, err := c.command(ctx, "sbatch", append([]string{"--parsable"}, args...)...)
	if err != nil {
		return "", err
	}
	m := jobID.FindStringSubmatch(out)
	if m == nil {
		return "", failure.New(failure.Other, "is sbatch a wrapper of the site's? It must print the id with --parsable",
			"sbatch gave no job id but %q", out)
	}
	return m[1], nil
}
