package main

import (
	"context"
	"fmt"

	"tokenfork/internal/localcopy"
	"tokenfork/internal/store"
)

// stageCmd copies models to a node's own disk.
type stageCmd struct {
	Sources   []string `arg:"" name:"folder" help:"Folders to copy: a path, or s3://bucket/prefix with a SHA256SUMS at or below it."`
	To        string   `required:"" placeholder:"DIR" type:"path" help:"Folder of the copies, on the node's own disk."`
	NoWeights bool     `help:"Leave out the weights that a safetensors index names: enough to plan."`
	s3Flags   `embed:"" group:"Job and store"`
}

// Help shows how it is used.
func (stageCmd) Help() string {
	return `Prints the folder of each copy; the links DIR/NAME (of a path) and DIR/PREFIX (of s3://bucket/PREFIX) lead to it.
Each file is verified by its sha256. A complete copy is used again, and processes that ask for the same folder wait for
the one that copies it. A changed folder becomes a new version; the old version is removed once no process holds a shared
lock on DIR/.staged/in-use.

Examples:
  tokenfork stage /shared/models/small --to /scratch/models
  tokenfork stage s3://bucket/software s3://bucket/models --to /scratch
`
}

// Run is the command.
func (c *stageCmd) Run(ctx context.Context, con *console) error {
	log := con.logger()
	copies, err := localcopy.Run(ctx, c.Sources, localcopy.Options{To: c.To, NoWeights: c.NoWeights, Store: store.Options{S3Endpoint: c.S3Endpoint, S3PathStyle: c.S3PathStyle, Logger: log}, Log: log})
	if err != nil {
		return err
	}
	for _, dir := range copies {
		if _, err := fmt.Fprintln(con.out, dir); err != nil {
			return err
		}
	}
	return nil
}
