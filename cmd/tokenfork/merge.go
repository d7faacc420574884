package main

import (
	"context"
	"fmt"

	"tokenfork/judge/merge"
)

// mergeCmd writes the results.
type mergeCmd struct {
	jobFlags     `embed:""`
	AllowMissing bool `help:"Merge what is there although tasks are unfinished; summary.json says so."`
}

// Run is the command.
func (c *mergeCmd) Run(ctx context.Context, con *console) error {
	s, err := c.open(ctx, con.logger())
	if err != nil {
		return err
	}
	sum, err := merge.Merge(ctx, merge.Options{Store: s, AllowMissing: c.AllowMissing, TempDir: c.Tmp, Console: con.err})
	if sum != nil {
		fmt.Fprintf(con.out, "%d mismatches in %s/%s (also %s, %s)\n", sum.Mismatches, s, merge.ParquetKey, merge.ArrowKey, merge.CSVKey)
	}
	return err
}
