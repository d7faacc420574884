package main

import (
	"context"

	"tokenfork/internal/failure"
	"tokenfork/internal/store"
	figures "tokenfork/judge/report"
)

// compareCmd compares the results of two jobs over the same mismatches.
type compareCmd struct {
	Jobs       []string `arg:"" name:"job" placeholder:"DIR|s3://…" help:"Two merged jobs over the same table."`
	storeFlags `embed:"" group:"Job and store"`
	JSON       bool   `name:"json" help:"Print the comparison as JSON."`
	Out        string `placeholder:"DIR|s3://…" help:"Write the figure, the tables (CSV, LaTeX) and compare.json there as well."`
	Seed       uint64 `default:"1" help:"Seed of the bootstrap."`
	Resamples  int    `default:"1000" help:"Bootstrap resamples of whole texts."`
}

// Help shows how it is used.
func (compareCmd) Help() string {
	return `The jobs may differ in engine, precision, judge, prompt or sample, but not in the table.

Examples:
  tokenfork compare ./float32 ./bfloat16
  tokenfork compare ./job s3://bucket/jobs/other-judge --out ./comparison
`
}

// Run is the command.
func (c *compareCmd) Run(ctx context.Context, con *console) error {
	if len(c.Jobs) != 2 {
		return failure.New(failure.Usage, "name two: tokenfork compare JOB_A JOB_B", "%d jobs are named", len(c.Jobs))
	}
	o := figures.CompareOptions{TempDir: c.Tmp, Seed: c.Seed, Resamples: c.Resamples, Console: con.err}
	for i, place := range c.Jobs {
		var err error
		if o.Stores[i], err = openStore(ctx, place, c.options(con.logger())); err != nil {
			return err
		}
	}
	said, err := figures.Compare(ctx, o)
	if err != nil {
		return err
	}
	if c.Out != "" {
		var out store.Store
		if out, err = openStore(ctx, c.Out, c.options(con.logger())); err == nil {
			err = said.Write(ctx, out)
		}
		if err != nil {
			return err
		}
	}
	if !c.JSON {
		return said.Print(con.out)
	}
	return writeJSON(con.out, said)
}
