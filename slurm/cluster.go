package slurm

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"os/user"
	"regexp"
	"slices"
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
	MaxJobCount  int           // jobs and tasks that it keeps at once; 0: not told
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
// there is no scontrol. cluster "" is the default one.
func (c Cluster) Config(ctx context.Context, cluster string) (Config, error) {
	out, err := c.command(ctx, "scontrol", append(clusterFlags(cluster), "show", "config")...)
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
	f.MaxJobCount, _ = strconv.Atoi(values["MaxJobCount"])
	if seconds, _, ok := strings.Cut(values["KillWait"], " "); ok {
		n, err := strconv.Atoi(seconds)
		if err != nil {
			return f, fmt.Errorf("scontrol show config: KillWait is %q", values["KillWait"])
		}
		f.KillWait = time.Duration(n) * time.Second
	}
	return f, nil
}

// Partition is what matters here of `scontrol show partition`.
type Partition struct {
	Name    string
	State   string        // UP, DOWN, DRAIN or INACTIVE
	Default bool          // takes jobs that name none
	MaxTime time.Duration // of a job; 0: no limit
}

var partitionField = regexp.MustCompile(`(\w+)=(\S*)`)

// Partitions lists them.
func (c Cluster) Partitions(ctx context.Context, cluster string) (all []Partition, err error) {
	out, err := c.command(ctx, "scontrol", append(clusterFlags(cluster), "show", "partition", "--oneliner")...)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(out) {
		values := map[string]string{}
		for _, m := range partitionField.FindAllStringSubmatch(line, -1) {
			values[m[1]] = m[2]
		}
		if values["PartitionName"] == "" {
			continue
		}
		p := Partition{Name: values["PartitionName"], State: values["State"], Default: values["Default"] == "YES"}
		if p.MaxTime, err = parseTime(values["MaxTime"]); err != nil {
			return nil, fmt.Errorf("scontrol show partition %s: %w", p.Name, err)
		}
		all = append(all, p)
	}
	return all, nil
}

var timeLimit = regexp.MustCompile(`^(?:(\d+)-)?(\d+):(\d+):(\d+)$`)

// parseTime reads [DAYS-]HH:MM:SS; 0 is no limit.
func parseTime(s string) (time.Duration, error) {
	if s == "UNLIMITED" {
		return 0, nil
	}
	m := timeLimit.FindStringSubmatch(s)
	if m == nil {
		return 0, fmt.Errorf("%q is no time", s)
	}
	d := time.Duration(0)
	for i, unit := range []time.Duration{24 * time.Hour, time.Hour, time.Minute, time.Second} {
		n, _ := strconv.Atoi(m[i+1]) // digits, or no days
		d += time.Duration(n) * unit
	}
	return d, nil
}

// MaxSubmit is how many jobs and tasks this user may have at Slurm, in the account that
// allows the most; 0: no limit. An error says why the accounting cannot be asked.
func (c Cluster) MaxSubmit(ctx context.Context, cluster string) (int, error) {
	me, err := user.Current()
	if err != nil {
		return 0, fmt.Errorf("name this user: %w", err)
	}
	args := []string{"--noheader", "--parsable2", "show", "assoc", "user=" + me.Username, "format=Account,MaxSubmitJobs"}
	if cluster != "" {
		args = append(args, "cluster="+cluster)
	}
	out, err := c.command(ctx, "sacctmgr", args...)
	if err != nil {
		return 0, err
	}
	if out == "" {
		return 0, fmt.Errorf("sacctmgr knows no account of %s", me.Username)
	}
	most := 0
	for line := range strings.Lines(out) {
		_, limit, _ := strings.Cut(strings.TrimSpace(line), "|")
		n, err := strconv.Atoi(limit)
		if err != nil { // empty: no limit
			return 0, nil
		}
		most = max(most, n)
	}
	return most, nil
}

// Queued is a job, or a task of an array, that Slurm has not finished with.
type Queued struct {
	JobID
	Task   int    // -1: no array
	State  string // PENDING, RUNNING, COMPLETING, …
	Reason string // why it waits, or where it runs
}

// JobID names a job or a whole array. Ids of two clusters can be equal.
type JobID struct {
	ID      string
	Cluster string // of a multi-cluster site; "" is the one that commands speak to by default
}

// clusterFlags direct a command to the cluster.
func clusterFlags(cluster string) []string {
	if cluster == "" {
		return nil
	}
	return []string{"--clusters=" + cluster}
}

const queueFormat = "--format=%F|%K|%T|%R"

// Queue lists which of the jobs are queued or running, array tasks one by one.
func (c Cluster) Queue(ctx context.Context, jobs []JobID) ([]Queued, error) {
	ids := map[string][]string{}
	for _, j := range jobs {
		ids[j.Cluster] = append(ids[j.Cluster], j.ID)
	}
	var all []Queued
	for _, cluster := range slices.Sorted(maps.Keys(ids)) {
		found, err := c.squeue(ctx, cluster, "--jobs="+strings.Join(ids[cluster], ","), "--array")
		if err != nil && strings.Contains(err.Error(), "Invalid job id") {
			continue // all have ended, and Slurm has forgotten them
		}
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

// named gives the id of the job or array with a name that only one can have;
// "" if Slurm has none.
func (c Cluster) named(ctx context.Context, cluster, name string) (JobID, error) {
	found, err := c.squeue(ctx, cluster, "--name="+name)
	if err != nil || len(found) == 0 {
		return JobID{}, err
	}
	return found[0].JobID, nil
}

func (c Cluster) squeue(ctx context.Context, cluster string, which ...string) ([]Queued, error) {
	out, err := c.command(ctx, "squeue", slices.Concat(clusterFlags(cluster), which, []string{"--noheader", queueFormat})...)
	if err != nil {
		return nil, err
	}
	var all []Queued
	for line := range strings.Lines(out) {
		fields := strings.SplitN(strings.TrimSpace(line), "|", 4)
		if len(fields) != 4 { // --clusters heads its lines with the cluster's name
			continue
		}
		q := Queued{JobID: JobID{fields[0], cluster}, Task: -1, State: fields[2], Reason: fields[3]}
		if task, err := strconv.Atoi(fields[1]); err == nil { // N/A for a plain job
			q.Task = task
		}
		all = append(all, q)
	}
	return all, nil
}

// An answer of sbatch, with --parsable or from a wrapper that leaves it out.
var jobID = regexp.MustCompile(`^(?:(\d+)(?:;(\S+))?|Submitted batch job (\d+)(?: on cluster (\S+))?)$`)

// sbatch submits a job by a name that no other has, and gives its id. Wrappers
// of sites print more than the id: the last line that is an id counts. An answer
// without one, or an error, does not say that Slurm has not taken the job: squeue
// is asked for the name.
func (c Cluster) sbatch(ctx context.Context, cluster, name string, args []string) (JobID, error) {
	out, err := c.command(ctx, "sbatch", slices.Concat([]string{"--parsable"}, clusterFlags(cluster), []string{"--job-name=" + name}, args)...)
	if err == nil {
		for _, line := range slices.Backward(strings.Split(out, "\n")) {
			if m := jobID.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
				return JobID{m[1] + m[3], cmp.Or(m[2], m[4], cluster)}, nil
			}
		}
		err = failure.New(failure.Other, "a wrapper of sbatch must print the id that --parsable gives", "sbatch gave no job id but %q", out)
	}
	id, asked := c.named(context.WithoutCancel(ctx), cluster, name)
	switch {
	case asked != nil:
		return JobID{}, failure.New(failure.Other, "squeue --name="+name+" tells whether Slurm has the job: if so, scancel it before you submit again",
			"%w; squeue could not be asked whether Slurm has taken the job: %w", err, asked)
	case id.ID == "":
		return JobID{}, fmt.Errorf("%w; squeue has no job named %s", err, name)
	}
	return id, nil
}
