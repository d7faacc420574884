package main

import (
	"context"
	"errors"
	"os"
	"time"

	"tokenfork/internal/job"
	"tokenfork/internal/private"
	"tokenfork/internal/store"
	"tokenfork/slurm/doctor"
)

// doctorCmd checks this node.
type doctorCmd struct {
	storeFlags       `embed:"" group:"Job and store"`
	modelFlags       `embed:"" group:"Models"`
	Job              string `placeholder:"DIR|s3://…" help:"Check that this node reaches the job, and that the models are its."`
	VLLM             string `name:"vllm" default:"vllm" placeholder:"CMD" env:"TOKENFORK_VLLM" help:"Command that runs vLLM; empty where this node needs none."`
	argsFlags        `embed:""`
	JudgeModel       string `placeholder:"PATH|NAME" help:"Model of a local judge: a folder, or a hub name that is in the local cache."`
	judgeServerFlags `embed:""`
	Grace            time.Duration `default:"20s" help:"As given to infer and submit."`
	Partition        string        `placeholder:"P" help:"As given to submit (default: Slurm's)."`
	Time             time.Duration `default:"4h" help:"As given to submit."`
	JSON             bool          `name:"json" help:"Print JSON."`
}

// Help shows how it is used.
func (doctorCmd) Help() string {
	return `Checks GPUs, vLLM, models, the job's place, Slurm, limits, folders and the environment. Each line that is not ok says what
to do. The exit code is 0 if nothing failed, else 1; warnings do not change it.

Examples:
  tokenfork doctor
  srun --partition gpu --gres gpu:1 tokenfork doctor --job /shared/job --small-model DIR --reference-model DIR
  tokenfork doctor --job s3://bucket/jobs/a --vllm '' --json | jq '.findings[] | select(.level != "ok")'
`
}

// socketFolder is where vLLM's sockets are made.
const socketFolder = "/tmp"

// Run is the command.
func (c *doctorCmd) Run(ctx context.Context, con *console) error {
	o, err := c.options(ctx, con)
	if err != nil {
		return err
	}
	tell := func(f doctor.Finding) error { return f.Write(con.out) }
	if c.JSON {
		tell = func(doctor.Finding) error { return nil }
	}
	report, err := doctor.Check(ctx, o, tell)
	if c.JSON {
		err = errors.Join(err, writeJSON(con.out, report))
	}
	return err
}

func (c *doctorCmd) options(ctx context.Context, con *console) (o doctor.Options, err error) {
	o = doctor.Options{Tmp: os.TempDir(), Sockets: socketFolder, Grace: c.Grace, Partition: c.Partition, Time: c.Time, TP: c.ReferenceTP, Env: os.Getenv}
	if c.Tmp != "" {
		o.Tmp = c.Tmp
	}
	o.Models = [2]string{c.SmallModel, c.ReferenceModel}
	o.Judge = doctor.Judge{Model: c.JudgeModel, TP: c.JudgeTP, Longest: judgeLength}
	if err := split(line{&o.Judge.Args, "--judge-args", c.JudgeArgs}, line{&o.VLLM, "--vllm", c.VLLM},
		line{&o.Args[job.Small], "--small-args", c.SmallArgs}, line{&o.Args[job.Reference], "--reference-args", c.ReferenceArgs}); err != nil {
		return o, err
	}
	if len(o.VLLM) > 0 {
		if o.Cache, err = private.Cache("vllm"); err != nil {
			return o, err
		}
	}
	if c.Job != "" {
		o.Store, err = store.Open(ctx, c.Job, c.storeFlags.options(con.logger()))
	}
	return o, err
}
