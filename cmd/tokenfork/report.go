package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"tokenfork/judge/agreement"
	figures "tokenfork/judge/report"
)

// reportCmd makes figures and tables of the results.
type reportCmd struct {
	jobFlags  `embed:"" group:"Job and store"`
	Out       string `placeholder:"DIR|s3://…" help:"Where the report goes (default: report in the job)."`
	Seed      uint64 `default:"1" help:"Seed of the bootstrap and of the choice of examples."`
	Resamples int    `default:"1000" help:"Bootstrap resamples of whole texts."`
	Gold      string `type:"existingfile" placeholder:"FILE" help:"Human labels, as for judge --gold: how often the judge is right at each confidence."`
}

// Help shows how it is used.
func (reportCmd) Help() string {
	return `The job must be merged. What cannot be drawn from its results is named, with the reason.

Examples:
  tokenfork report --job ./job
  tokenfork report --job s3://bucket/jobs/a --out ./report --gold labels.csv
`
}

// Run is the command.
func (c *reportCmd) Run(ctx context.Context, con *console) error {
	s, err := c.open(ctx, con.logger())
	if err != nil {
		return err
	}
	if c.Out == "" {
		c.Out = strings.TrimRight(c.Job, "/") + "/report"
	}
	out, err := openStore(ctx, c.Out, c.options(con.logger()))
	if err != nil {
		return err
	}
	o := figures.Options{Store: s, Out: out, TempDir: c.Tmp, Seed: c.Seed, Resamples: c.Resamples, Console: con.err}
	if c.Gold != "" {
		if o.Gold, err = agreement.ReadLabels(c.Gold); err != nil {
			return err
		}
	}
	about, err := figures.Make(ctx, o)
	if err != nil {
		return err
	}
	fmt.Fprintf(con.out, "%d figures and tables of %d mismatches in %s, all on %s/%s\n", len(about.Figures), about.Mismatches, out, out, figures.PageKey)
	for _, name := range slices.Sorted(maps.Keys(about.NotDrawn)) {
		fmt.Fprintf(con.out, "not drawn: %s: %s\n", name, about.NotDrawn[name])
	}
	return nil
}
