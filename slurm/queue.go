package slurm

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"tokenfork/internal/failure"
)

// Queued is a job, or a task of an array, that Slurm has not finished with.
type Queued struct {
	JobID
	Task   int    // -1: no array
	State  string // PENDING, RUNNING, COMPLETING, …
	Reason string // why it waits, or where it runs
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
		found, err := c.listed(ctx, cluster, ids[cluster])
		if err != nil {
			return nil, err
		}
		all = append(all, slices.DeleteFunc(found, func(q Queued) bool { return over[q.State] })...)
	}
	return all, nil
}

// listed are those of the ids that squeue knows. It refuses an id that Slurm has forgotten;
// wrappers may leave out the others then.
func (c Cluster) listed(ctx context.Context, cluster string, ids []string) ([]Queued, error) {
	found, err := c.squeue(ctx, cluster, "--jobs="+strings.Join(ids, ","), "--array")
	switch {
	case err == nil || !strings.Contains(err.Error(), "Invalid job id"):
		return found, err
	case len(ids) == 1 && len(found) == 0:
		return nil, nil
	case len(ids) == 1:
		return nil, fmt.Errorf("squeue lists a job that it does not know: %w", err)
	}
	found = nil
	for _, id := range ids {
		one, err := c.listed(ctx, cluster, []string{id})
		if err != nil {
			return nil, err
		}
		found = append(found, one...)
	}
	return found, nil
}

// named gives the id of the job or array with a name that only one can have, also
// where it has just ended; "" if Slurm has none.
func (c Cluster) named(ctx context.Context, cluster, name string) (JobID, error) {
	found, err := c.squeue(ctx, cluster, "--states=all", "--name="+name)
	if err != nil || len(found) == 0 {
		return JobID{}, err
	}
	for _, q := range found {
		if q.JobID != found[0].JobID {
			return JobID{}, failure.New(failure.Refused, "put the real squeue first in PATH", "squeue lists several jobs for one name, %s and %s", found[0].ID, q.ID)
		}
	}
	return found[0].JobID, nil
}

// squeue gives what it lists, also where it ends with an error.
func (c Cluster) squeue(ctx context.Context, cluster string, which ...string) ([]Queued, error) {
	out, failed := c.command(ctx, "squeue", slices.Concat(clusterFlags(cluster), which, []string{"--noheader", queueFormat})...)
	var all []Queued
	for line := range strings.Lines(out) {
		fields := strings.SplitN(strings.TrimSpace(line), "|", 4)
		m := idField.FindStringSubmatch(fields[0])
		if len(fields) != 4 || m == nil {
			if otherFormat.MatchString(line) {
				return nil, failure.New(failure.Refused, "put the real squeue first in PATH, or have its wrapper hand on --format and --noheader",
					"squeue answers in another format than was asked for: %q", strings.TrimSpace(line))
			}
			continue // --clusters heads its lines with the cluster's name, wrappers print banners
		}
		for i := range fields {
			fields[i] = strings.TrimSpace(fields[i])
		}
		tasks, err := taskNumbers(cmp.Or(m[2], fields[1]))
		if err != nil {
			return nil, err
		}
		for _, task := range tasks {
			all = append(all, Queued{JobID: JobID{m[1], cluster}, Task: task, State: fields[2], Reason: fields[3]})
		}
	}
	return all, failed
}

var (
	idField     = regexp.MustCompile(`^\s*(\d+)(?:_(\S+))?\s*$`)
	otherFormat = regexp.MustCompile(`^\s*(JOBID\b|\d+(_\S+)?(\||\s+\S+\s+\S+\s+\S+\s+[A-Z]{1,2}\s))`)
	taskRange   = regexp.MustCompile(`^(\d+)(?:-(\d+)(?::(\d+))?)?$`)
)

// over are states of jobs that have ended for good. Those that end by a fault of the cluster or by
// preemption are requeued.
var over = map[string]bool{"COMPLETED": true, "FAILED": true, "CANCELLED": true, "TIMEOUT": true, "OUT_OF_MEMORY": true,
	"DEADLINE": true, "LAUNCH_FAILED": true, "REVOKED": true}

// taskNumbers reads 7, or the tasks of an array that Slurm lists together: [1-5,7,9-21:4%2]. A job
// that is no array has task -1.
func taskNumbers(text string) ([]int, error) {
	list, _, _ := strings.Cut(strings.Trim(text, "[]"), "%")
	if list == "" || list == "N/A" {
		return []int{-1}, nil
	}
	var all []int
	for part := range strings.SplitSeq(list, ",") {
		m := taskRange.FindStringSubmatch(part)
		if m == nil {
			return nil, failure.New(failure.Refused, "put the real squeue first in PATH; it lists the tasks one by one with --array", "squeue names tasks of an array as %q", text)
		}
		first, _ := strconv.Atoi(m[1])
		last, _ := strconv.Atoi(cmp.Or(m[2], m[1]))
		step, _ := strconv.Atoi(cmp.Or(m[3], "1"))
		for k := first; k <= min(last, first+maxTasks); k += max(step, 1) {
			all = append(all, k)
		}
	}
	return all, nil
}

// maxTasks is more than MaxArraySize can be.
const maxTasks = 4_000_000

// An answer of sbatch, with --parsable or from a wrapper that leaves it out.
var jobID = regexp.MustCompile(`^(?:(\d+)(?:;(\S+))?|Submitted batch job (\d+)(?: on cluster (\S+))?)$`)

// colours are the escape sequences with which wrappers paint an answer.
var colours = regexp.MustCompile("\x1b\\[[0-9;]*[A-Za-z]")

// answered gives the ids in an answer of sbatch. Wrappers of sites print more than one.
func answered(out, cluster string) (ids []JobID) {
	for line := range strings.Lines(colours.ReplaceAllString(out, "")) {
		if m := jobID.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			ids = append(ids, JobID{m[1] + m[3], cmp.Or(m[2], m[4], cluster)})
		}
	}
	return ids
}

// sbatch submits a job by a name that no other has, and gives its id. An answer
// without one, or an error, does not say that Slurm has not taken the job: squeue
// is asked for the name. Where several lines could be the id it is asked too, and
// if it knows none the last of them counts.
func (c Cluster) sbatch(ctx context.Context, cluster, name string, args []string) (JobID, error) {
	out, err := c.command(ctx, "sbatch", slices.Concat([]string{"--parsable"}, clusterFlags(cluster), []string{"--job-name=" + name}, args)...)
	ids := answered(out, cluster)
	if err == nil && len(ids) == 1 {
		return ids[0], nil
	}
	if err == nil && len(ids) == 0 {
		err = failure.New(failure.Other, "a wrapper of sbatch must print the id that --parsable gives", "sbatch gave no job id but %q", out)
	}
	id, asked := c.named(context.WithoutCancel(ctx), cluster, name)
	switch {
	case id.ID != "":
		return id, nil
	case err == nil:
		return ids[len(ids)-1], nil
	case asked != nil:
		return JobID{}, failure.New(failure.Other, "squeue --name="+name+" tells whether Slurm has the job; submit with --missing asks it again",
			"%w; squeue could not be asked whether Slurm has taken the job: %w", err, asked)
	}
	return JobID{}, fmt.Errorf("%w; squeue has no job named %s", err, name)
}
