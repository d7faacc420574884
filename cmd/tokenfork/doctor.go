package main

import (
	"context"
	"os"
	"time"

	"tokenfork/internal/store"
	"tokenfork/slurm/doctor"
)

// doctorCmd checks this node.
type doctorCmd struct {
	storeFlags `embed:"" group:"Job and store"`
	modelFlags `embed:"" group:"Models"`
	Job        string        `placeholder:"DIR|s3://…" help:"Check that this node reaches the job, and that the models are its."`
	VLLM       string        `name:"vllm" default:"vllm" placeholder:"CMD" env:"TOKENFORK_VLLM" help:"Command that runs vLLM; empty where this node needs none."`
	Grace      time.Duration `default:"20s" help:"As given to infer and submit."`
}

// Help shows how it is used.
func (doctorCmd) Help() string {
	return `Examples:
  tokenfork doctor
  srun --partition gpu --gres gpu:1 tokenfork doctor --job /shared/job --small-model DIR --reference-model DIR
`
}

// socketFolder is where vLLM's sockets are made.
const socketFolder = "/tmp"

// Run is the command.
func (c *doctorCmd) Run(ctx context.Context, con *console) error {
	o := doctor.Options{Tmp: os.TempDir(), Sockets: socketFolder, Grace: c.Grace, Env: os.Getenv}
	if c.Tmp != "" {
		o.Tmp = c.Tmp
	}
	o.Models = [2]string{c.SmallModel, c.ReferenceModel}
	var err error
	if o.VLLM, err = words("--vllm", c.VLLM); err != nil {
		return err
	}
	if c.Job != "" {
		if o.Store, err = store.Open(ctx, c.Job, c.options(con.logger())); err != nil {
			return err
		}
	}
	return doctor.Check(ctx, o, func(f doctor.Finding) error { return f.Write(con.out) })
}
