package slurm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
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
	PrivateJobs  bool // users do not see each other's
}

// ErrNoSlurm says that this host has no Slurm commands.
var ErrNoSlurm = errors.New("no Slurm here")

const slurmTimeout = time.Minute

// command gives what a command of Slurm printed, also where it failed.
func (c Cluster) command(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, slurmTimeout)
	defer cancel()
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNoSlurm, err)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = c.environ()
	cmd.WaitDelay = time.Second // a killed wrapper's children may hold the pipes
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	out, said := strings.TrimSpace(stdout.String()), strings.TrimSpace(stderr.String())
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		err = fmt.Errorf("%s: no answer in time: %w: %s", name, err, said)
	case err != nil && name == "sbatch": // wrappers refuse on stdout
		err = fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(said+"\n"+out))
	case err != nil:
		err = fmt.Errorf("%s: %w: %s", name, err, said)
	case out == "" && slurmError.MatchString(said):
		err = fmt.Errorf("%s: %s", name, said)
	}
	return out, err
}

// slurmError is a message of Slurm's commands and libraries, from wrappers that end with 0 all the same.
var slurmError = regexp.MustCompile(`(?m)^(sbatch|squeue|slurm_\w+)[: ]+error`)

// environ leaves out what would choose for the user which jobs squeue lists and which nodes sinfo
// lists, and asks for lists of tasks that are not cut.
func (c Cluster) environ() []string {
	env := slices.DeleteFunc(c.env(), func(v string) bool { return strings.HasPrefix(v, "SQUEUE_") || strings.HasPrefix(v, "SINFO_") })
	return append(env, "SLURM_BITSTR_LEN=0")
}

func (c Cluster) env() []string {
	if c.Env == nil {
		return os.Environ()
	}
	return slices.Clone(c.Env)
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
	f := Config{Version: values["SLURM_VERSION"], JobRequeue: values["JobRequeue"] != "0", PreemptMode: values["PreemptMode"],
		PrivateJobs: slices.Contains(strings.Split(values["PrivateData"], ","), "jobs")}
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
