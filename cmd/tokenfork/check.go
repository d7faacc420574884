package main

import (
	"context"
	"fmt"

	"tokenfork/judge/check"
)

// checkCmd reads a job again, whole.
type checkCmd struct {
	jobFlags `embed:"" group:"Job and store"`
}

// Help shows how it is used.
func (checkCmd) Help() string {
	return `Nothing is written. Each line names what is missing, damaged or out of date, and below it the command that fixes it.

Examples:
  tokenfork check --job ./job
`
}

// Run is the command.
func (c *checkCmd) Run(ctx context.Context, con *console) error {
	s, err := c.open(ctx, con.logger())
	if err != nil {
		return err
	}
	err = check.Check(ctx, check.Options{Store: s, TempDir: c.Tmp, Console: con.err}, func(f check.Finding) error {
		_, err := fmt.Fprintf(con.out, "%s\n  fix: %s\n", f.Said, f.Fix)
		return err
	})
	if err == nil {
		_, err = fmt.Fprintf(con.out, "%s: all there and right\n", s)
	}
	return err
}
