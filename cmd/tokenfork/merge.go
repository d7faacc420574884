package main

import (
	"context"
	"fmt"

	"tokenfork/judge/merge"
)

// mergeCmd writes the results.
type mergeCmd struct {
	jobFlags     `embed:""`
	workFlags    `embed:""`
	judgeFlags   `embed:""`
	Judging      string `placeholder:"ID" help:"Which of the job's judgings to merge, if there are several and --judge names nobody."`
	Format       string `enum:"results,r2r" default:"results" help:"r2r also writes r2r.csv, which R2R's step 4 reads."`
	AllowMissing bool   `help:"Merge what is there although tasks are unfinished; summary.json says so."`
}

// Run is the command.
func (c *mergeCmd) Run(ctx context.Context, con *console) error {
	s, err := c.open(ctx, con.logger())
	if err != nil {
		return err
	}
	judging, accept, err := c.judged(ctx, con, s)
	if err != nil {
		return err
	}
	sum, err := merge.Merge(ctx, merge.Options{Store: s, Judging: judging, Accept: accept, AllowMissing: c.AllowMissing, R2R: c.Format == "r2r", TempDir: c.Tmp, Console: con.err})
	if sum != nil {
		fmt.Fprintf(con.out, "%d mismatches in %s/%s (also %s, %s)\n", sum.Mismatches, s, merge.ParquetKey, merge.ArrowKey, merge.CSVKey)
	}
	return err
}
