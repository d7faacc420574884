package slurm

import (
	"context"
	"os"
	"slices"
	"strconv"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/survey"
	"tokenfork/internal/tasks"
)

// sides of the servers that a runner of an infer array brings up, by the array's side.
var sides = map[string][]string{
	"small":     {"small"},
	"reference": {"reference"},
	both:        {"small", "reference", both},
	"":          {both}, // judge
}

const both = "both"

// Live lists the submissions' tasks, merges and reports that Slurm has not
// finished with, and the ids of the jobs and arrays that they belong to.
func (c Cluster) Live(ctx context.Context, submissions []job.Submission) (live []survey.Live, ids map[JobID]bool, err error) {
	arrays := map[JobID]job.SlurmJob{}
	var all []JobID
	for _, s := range submissions {
		taken, err := c.taken(ctx, &s)
		if err != nil {
			return nil, nil, err
		}
		for _, a := range taken {
			id := JobID{a.ID, a.Cluster}
			arrays[id] = a
			all = append(all, id)
		}
	}
	queue, err := c.Queue(ctx, all)
	if err != nil {
		return nil, nil, err
	}
	ids = map[JobID]bool{}
	for _, q := range queue {
		a, ours := arrays[q.JobID]
		if !ours {
			continue // a wrapper lists more than was asked for
		}
		ids[q.JobID] = true
		if a.Shards == nil {
			live = append(live, survey.Live{Key: tasks.Key{Stage: a.Stage, Shard: -1}, Slurm: q.ID, State: q.State, Reason: q.Reason})
		}
		first, last := q.Task, q.Task
		if q.Task < 0 { // the whole array
			first, last = 0, len(a.Shards)-1
		}
		for task := first; task <= min(last, len(a.Shards)-1); task++ {
			for _, side := range sides[a.Side] {
				live = append(live, survey.Live{Key: tasks.Key{Stage: a.Stage, Side: side, Shard: a.Shards[task]},
					Slurm: q.ID + "_" + strconv.Itoa(task), State: q.State, Reason: q.Reason})
			}
		}
	}
	return live, ids, c.hidden(ctx, submissions, ids)
}

// taken are the submission's arrays, with the one that sbatch was called for last if Slurm has it:
// submit may have ended before it had the id.
func (c Cluster) taken(ctx context.Context, s *job.Submission) ([]job.SlurmJob, error) {
	if s.Asked == nil {
		return s.Arrays, nil
	}
	id, err := c.named(ctx, s.Asked.Cluster, s.Asked.Name)
	if err != nil || id.ID == "" {
		return s.Arrays, err
	}
	a := *s.Asked
	a.ID, a.Cluster = id.ID, id.Cluster
	return append(slices.Clone(s.Arrays), a), nil
}

// hidden says that Slurm may still have another user's jobs, which it does not show.
func (c Cluster) hidden(ctx context.Context, submissions []job.Submission, shown map[JobID]bool) error {
	for _, s := range submissions {
		if s.UID == 0 || s.UID == os.Getuid() || len(s.Arrays) == 0 || slices.ContainsFunc(s.Arrays, func(a job.SlurmJob) bool { return shown[JobID{a.ID, a.Cluster}] }) {
			continue
		}
		if config, err := c.Config(ctx, s.Arrays[0].Cluster); err == nil && config.PrivateJobs {
			return failure.New(failure.Refused, "run it as that user", "submission %d is of user %d, and this Slurm shows jobs to their own users alone (PrivateData)", s.N, s.UID)
		}
	}
	return nil
}
