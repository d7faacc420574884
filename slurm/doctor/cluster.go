package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"tokenfork/slurm"
)

func cluster(ctx context.Context, o *Options) []Finding {
	c, err := o.Cluster.Config(ctx, "")
	if errors.Is(err, slurm.ErrNoSlurm) {
		return found(Warn, "slurm", "right outside a cluster; submit needs a host with sbatch", "no scontrol")
	}
	if err != nil {
		return failed("slurm", err, "does the controller run? scontrol ping")
	}
	all := found(OK, "slurm", "", "%s, arrays of up to %d tasks, preemption %s", c.Version, c.MaxArraySize, c.PreemptMode)
	if c.MaxArraySize < 2 {
		all = found(Fail, "slurm", "ask the administrators to raise MaxArraySize", "takes no job arrays (MaxArraySize %d)", c.MaxArraySize)
	}
	if !c.JobRequeue {
		all = append(all, found(Warn, "slurm", "the scripts ask for --requeue; is it allowed?", "JobRequeue is 0")...)
	}
	if least := o.Grace + 10*time.Second; c.KillWait < least {
		all = append(all, found(Warn, "slurm", fmt.Sprintf("--grace %s, or what is in flight at scancel is done again", max(c.KillWait-10*time.Second, 0)),
			"KillWait is %s, less than --grace and 10s for the commit", c.KillWait)...)
	}
	all = append(all, o.partition(ctx)...)
	return append(all, o.quota(ctx, c)...)
}

// partition checks the one that tasks would run in.
func (o *Options) partition(ctx context.Context) []Finding {
	const check = "slurm partition"
	parts, err := o.Cluster.Partitions(ctx, "")
	if err != nil {
		return failed(check, err, "scontrol show partition shows them")
	}
	var names []string
	for _, p := range parts {
		names = append(names, p.Name)
	}
	i := slices.IndexFunc(parts, func(p slurm.Partition) bool { return p.Name == o.Partition || o.Partition == "" && p.Default })
	switch {
	case i < 0 && o.Partition == "":
		return found(Warn, check, "give --partition: "+strings.Join(names, ", "), "there is no default partition")
	case i < 0:
		return found(Fail, check, "give --partition: "+strings.Join(names, ", "), "there is no partition %s", o.Partition)
	}
	p := parts[i]
	switch {
	case p.State != "UP":
		return found(Fail, check, "give another --partition ("+strings.Join(names, ", ")+"), or ask the administrators", "%s is %s", p.Name, p.State)
	case p.MaxTime > 0 && o.Time > p.MaxTime:
		return found(Fail, check, fmt.Sprintf("--time %s, or another --partition", p.MaxTime), "%s allows %s, --time is %s: Slurm would never start the tasks", p.Name, p.MaxTime, o.Time)
	case p.MaxTime > 0:
		return found(OK, check, "", "%s is up, tasks of up to %s", p.Name, p.MaxTime)
	}
	return found(OK, check, "", "%s is up, without a time limit", p.Name)
}

// quota compares the job's tasks with what Slurm takes of jobs, in all and from this user.
func (o *Options) quota(ctx context.Context, c slurm.Config) []Finding {
	const check = "slurm limits"
	tasks := 0
	if planned := o.job(ctx); planned != nil {
		tasks = 2*len(planned.Shards) + 2 // infer and judge, merge and report
	}
	fewer := "plan fewer shards (plan --shards N), or submit the stages one after the other"
	if c.MaxJobCount > 0 && tasks > c.MaxJobCount {
		return found(Fail, check, fewer, "the job has up to %d tasks, Slurm takes %d jobs in all (MaxJobCount)", tasks, c.MaxJobCount)
	}
	most, err := o.Cluster.MaxSubmit(ctx, "")
	switch {
	case err != nil:
		return found(OK, check, "", "those of your account are not known: %v", err)
	case most > 0 && tasks > most:
		return found(Fail, check, fewer, "the job has up to %d tasks, your account may submit %d (MaxSubmitJobs)", tasks, most)
	case most > 0:
		return found(OK, check, "", "your account may submit %d jobs", most)
	}
	return found(OK, check, "", "your account has no limit of submitted jobs")
}
