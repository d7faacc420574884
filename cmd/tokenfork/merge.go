package main

import (
	"context"
	"fmt"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/results"
	"tokenfork/internal/store"
	"tokenfork/judge"
	"tokenfork/judge/merge"
)

// mergeCmd writes the results.
type mergeCmd struct {
	jobFlags     `embed:""`
	judgeFlags   `embed:""`
	Judging      string `placeholder:"ID" help:"Whose verdicts to take, where the job has several judgings."`
	AllowMissing bool   `help:"Merge what is there although tasks are unfinished; summary.json says so."`
}

// Help shows how it is used.
func (mergeCmd) Help() string {
	return `With --judge, what is not yet judged is judged first; with --judge none the verdict columns stay null.

Examples:
  tokenfork merge --job ./job
  tokenfork merge --job ./job --judge https://host/v1 --judge-model NAME
`
}

// Run is the command.
func (c *mergeCmd) Run(ctx context.Context, con *console) error {
	s, err := c.open(ctx, con.logger())
	if err != nil {
		return err
	}
	o := merge.Options{Store: s, AllowMissing: c.AllowMissing, TempDir: c.Tmp, Console: con.err}
	if err := c.verdicts(ctx, con, s, &o); err != nil {
		return err
	}
	sum, err := merge.Merge(ctx, o)
	if sum != nil {
		fmt.Fprintf(con.out, "%d mismatches in %s/%s (also %s, %s)\n", sum.Mismatches, s, merge.ParquetKey, merge.ArrowKey, merge.CSVKey)
	}
	return err
}

// verdicts finds, or first makes, the judging that counts.
func (c *mergeCmd) verdicts(ctx context.Context, con *console, s store.Store, o *merge.Options) error {
	if c.Judge == noJudge {
		return nil
	}
	if c.Judge != "" {
		judging, err := c.judge(ctx, con, &c.jobFlags, nil, false)
		code := failure.Code(err)
		if err != nil && code != failure.Partial && !(c.AllowMissing && code == failure.Refused && judging != nil) {
			return err
		}
		c.Judging = judging.ID()
	}
	all, err := judge.Judgings(ctx, s)
	if err != nil {
		return err
	}
	r, err := pickJudging(all, c.Judging)
	if err != nil || r == nil {
		return err
	}
	j, err := job.Load(ctx, s)
	if err != nil {
		return err
	}
	text, err := results.LoadText(ctx, s)
	if err != nil {
		return err
	}
	o.Judging = r.ID()
	o.Accept, err = r.Accept(&j.Plan, text)
	return err
}
