package main

import (
	"context"
	"fmt"
	"slices"

	"tokenfork/internal/shell"
	figures "tokenfork/judge/report"
)

// exportCmd makes a dataset of the results.
type exportCmd struct {
	jobFlags  `embed:"" group:"Job and store"`
	To        string `required:"" placeholder:"DIR|s3://…" help:"Where the dataset goes: an empty folder or a new one."`
	Seed      uint64 `default:"1" help:"Seed of the bootstrap."`
	Resamples int    `default:"1000" help:"Bootstrap resamples of whole texts."`
}

// Help is the end of the command's help.
func (exportCmd) Help() string {
	return `Example:
  tokenfork export --job ./job --to ./dataset
  hf upload OWNER/NAME ./dataset . --repo-type dataset

The results' Parquet files are copied as they are: for several, merge with --partition N. README.md, croissant.json and CITATION.cff say
TO FILL IN where only you know what to write. Nothing is uploaded.`
}

// Run is the command.
func (c *exportCmd) Run(ctx context.Context, con *console) error {
	s, err := c.open(ctx, con.logger())
	if err != nil {
		return err
	}
	out, err := openStore(ctx, c.To, c.options(con.logger()))
	if err != nil {
		return err
	}
	keys, err := figures.Export(ctx, figures.Options{Store: s, Out: out, TempDir: c.Tmp, Seed: c.Seed, Resamples: c.Resamples, Console: con.err})
	if err != nil {
		return err
	}
	for _, key := range slices.Sorted(slices.Values(keys)) {
		fmt.Fprintln(con.out, key)
	}
	fmt.Fprintf(con.out, "\nFill in what says TO FILL IN, then:\n  hf upload OWNER/NAME %s . --repo-type dataset\n", shell.Quote(c.To))
	return nil
}
