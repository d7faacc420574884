package slurm

import (
	"context"
	"strconv"

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
		for _, a := range s.Arrays {
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
		a := arrays[q.JobID]
		ids[q.JobID] = true
		if a.Shards == nil {
			live = append(live, survey.Live{Key: tasks.Key{Stage: a.Stage, Shard: -1}, Slurm: q.ID, State: q.State, Reason: q.Reason})
		}
		if q.Task < 0 || q.Task >= len(a.Shards) {
			continue
		}
		for _, side := range sides[a.Side] {
			live = append(live, survey.Live{Key: tasks.Key{Stage: a.Stage, Side: side, Shard: a.Shards[q.Task]},
				Slurm: q.ID + "_" + strconv.Itoa(q.Task), State: q.State, Reason: q.Reason})
		}
	}
	return live, ids, nil
}
