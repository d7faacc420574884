package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/progress"
	"tokenfork/internal/store"
	"tokenfork/internal/survey"
	"tokenfork/judge"
	"tokenfork/slurm"
)

// statusCmd says how far a job is.
type statusCmd struct {
	jobFlags `embed:"" group:"Job and store"`
	Shard    int           `default:"-1" placeholder:"K" help:"Look at one shard only."`
	Watch    bool          `help:"Print it again and again, until nothing runs or waits."`
	Every    time.Duration `default:"30s" help:"How often --watch prints."`
	JSON     bool          `name:"json" help:"Print JSON."`
	All      bool          `help:"List every unfinished shard that has begun, not the first 20."`
}

// Help shows how it is used.
func (statusCmd) Help() string {
	return `Examples:
  tokenfork status --job ./job --watch
  tokenfork status --job s3://bucket/jobs/a --json | jq '.stages[] | {stage, side, shards}'
`
}

// Run is the command.
func (c *statusCmd) Run(ctx context.Context, con *console) error {
	s, err := c.open(ctx, con.logger())
	if err != nil {
		return err
	}
	seen := new(survey.Records)
	for {
		r, err := c.look(ctx, s, seen)
		if err != nil {
			return err
		}
		if err := c.print(con.out, r); err != nil || !c.Watch || !r.Busy() {
			return err
		}
		select {
		case <-time.After(c.Every):
		case <-ctx.Done():
			return nil // whoever watched has seen enough
		}
	}
}

// look asks the job, and Slurm where it is there and was used.
func (c *statusCmd) look(ctx context.Context, s store.Store, seen *survey.Records) (*survey.Report, error) {
	all, err := judge.Judgings(ctx, s)
	if err != nil && failure.Code(err) != failure.Refused { // a damaged record names no flags; check tells of it
		return nil, err
	}
	infer, err := job.InferFlags(ctx, s)
	if err != nil && failure.Code(err) != failure.Refused { // as for judgings
		return nil, err
	}
	o := survey.Options{Store: s, Shard: c.Shard, InferFlags: infer, Seen: seen, JudgeFlags: func(id string) []string { return judge.FlagsOf(all, id) }}
	asked := "not used"
	if c.Shard < 0 { // a task on a node counts its own progress: no need to ask
		if o.Submissions, err = job.Submissions(ctx, s); err != nil {
			return nil, err
		}
	}
	if len(o.Submissions) > 0 {
		asked = "asked"
		o.Live, _, err = slurm.Cluster{}.Live(ctx, o.Submissions)
		o.LiveKnown = err == nil
		switch {
		case errors.Is(err, slurm.ErrNoSlurm):
			asked = "no squeue on this host"
		case err != nil:
			asked = err.Error()
		}
	}
	r, err := survey.Status(ctx, o)
	if err != nil {
		return nil, err
	}
	r.Slurm = asked
	return r, nil
}

func (c *statusCmd) print(w io.Writer, r *survey.Report) error {
	if c.JSON {
		return writeJSON(w, r)
	}
	var b strings.Builder
	what := fmt.Sprintf("%d mismatches in %d shards", r.Mismatches, r.Shards)
	if r.Sample.Partial() {
		what += " of " + r.Sample.String()
	}
	if r.Shards == 0 && r.Texts > 0 {
		what = fmt.Sprintf("%d texts, not planned yet", r.Texts)
	}
	fmt.Fprintf(&b, "job %s at %s, %s: %s; Slurm: %s\n", r.Job, r.Place, r.At.Local().Format(time.DateTime), what, r.Slurm)
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, s := range r.Stages {
		fmt.Fprintln(table, stageLine(s, r.At))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, s := range r.Stages {
		c.tasks(&b, s, r.At)
	}
	for _, stage := range slices.Sorted(maps.Keys(r.Jobs)) {
		fmt.Fprintf(&b, "%s: Slurm %s (%s %s)\n", stage, r.Jobs[stage].Slurm, r.Jobs[stage].State, r.Jobs[stage].Reason)
	}
	if r.MergeLog != "" {
		fmt.Fprintf(&b, "merge on Slurm has ended without results, log: %s\n", r.MergeLog)
	}
	switch {
	case r.Stale:
		fmt.Fprintf(&b, "merged %s, older than what is finished now\n", r.Merged.Local().Format(time.DateTime))
	case !r.Merged.IsZero():
		fmt.Fprintf(&b, "merged %s\n", r.Merged.Local().Format(time.DateTime))
	}
	for _, command := range r.Next {
		fmt.Fprintf(&b, "next: %s\n", command)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// stageLine is a stage's row: shards by state, mismatches, rate, time left.
func stageLine(s *survey.Stage, now time.Time) string {
	var states []string
	for _, state := range []string{survey.Done, survey.Running, survey.Queued, survey.Stopped, survey.Failed, survey.Damaged, survey.Outdated, survey.Missing} {
		if n := s.Shards[state]; n > 0 {
			states = append(states, fmt.Sprintf("%d %s", n, state))
		}
	}
	line := fmt.Sprintf("%s\t%s\t%s\t%d of %d %s", s.Stage, s.Side, strings.Join(states, ", "), s.Done, s.Of, s.Unit)
	if s.PerSecond > 0 {
		line += "\t" + rateText(s.Rate, now)
	}
	if !s.Last.IsZero() && len(s.Unfinished) > 0 {
		line += "\tlast part " + ago(now, s.Last)
	}
	return line
}

// rateText is a rate, and when what is left will be done.
func rateText(r survey.Rate, now time.Time) string {
	text := fmt.Sprintf("%.3g/s", r.PerSecond)
	if r.Left > 0 {
		text += fmt.Sprintf(", %s left, done at %s", time.Duration(r.Left*float64(time.Second)).Round(time.Second), progress.Hour(now, r.End))
	}
	return text
}

func ago(now, t time.Time) string {
	return max(now.Sub(t), 0).Round(time.Second).String() + " ago"
}

// shownTasks is how many shards of a stage are listed without --all.
const shownTasks = 20

// tasks lists a stage's begun shards, trouble first.
func (c *statusCmd) tasks(w io.Writer, s *survey.Stage, now time.Time) {
	order := []string{survey.Failed, survey.Damaged, survey.Outdated, survey.Stopped, survey.Running, survey.Queued}
	tasks := slices.Clone(s.Tasks)
	slices.SortStableFunc(tasks, func(a, b *survey.Task) int { return slices.Index(order, a.State) - slices.Index(order, b.State) })
	tasks = slices.DeleteFunc(tasks, func(t *survey.Task) bool { return t.State == survey.Queued && t.Attempts == 0 })
	for i, t := range tasks {
		if i == shownTasks && !c.All {
			fmt.Fprintf(w, "  … and %d more (--all)\n", len(tasks)-i)
			return
		}
		fmt.Fprintln(w, taskLine(s, t, now))
	}
}

func taskLine(s *survey.Stage, t *survey.Task, now time.Time) string {
	line := fmt.Sprintf("  %s %s shard %d: %s, %d of %d %s done", s.Stage, s.Side, t.Shard, t.State, t.Done, t.Of, s.Unit)
	if t.PerSecond > 0 {
		line += ", " + rateText(t.Rate, now)
	}
	if t.Attempts > 1 {
		line += fmt.Sprintf(", attempt %d", t.Attempts)
	}
	if t.Host != "" {
		line += ", on " + t.Host
	}
	if t.Slurm != "" {
		line += fmt.Sprintf(", Slurm %s restart %d", t.Slurm, t.Restart)
	}
	if t.Queue != "" {
		line += " (" + t.Queue + ")"
	}
	if !t.Last.IsZero() {
		line += ", last sign " + ago(now, t.Last)
	}
	for _, more := range []struct{ name, text string }{{"error", t.Error}, {"hint", t.Hint}, {"log", t.Log}} {
		if more.text != "" && slices.Contains([]string{survey.Failed, survey.Damaged, survey.Stopped}, t.State) {
			line += "\n    " + more.name + ": " + more.text
		}
	}
	return line
}
