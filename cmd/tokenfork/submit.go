package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/store"
	"tokenfork/slurm"
)

// submitCmd hands a job's stages to Slurm.
type submitCmd struct {
	jobFlags     `embed:"" group:"Job and store"`
	modelFlags   `embed:"" group:"Models"`
	clusterFlags `embed:"" group:"Slurm"`
	nodeFlags    `embed:"" group:"Nodes"`
	priceFlags   `embed:"" group:"Costs"`
	judgeRates   `embed:"" group:"Costs"`
	ratesFlag    `embed:"" group:"Costs"`
	Predict      []string `type:"existingfile" sep:"none" placeholder:"FILE" help:"Submit predict over these texts, and the step that writes their table and plans the job. What follows is submitted once that is planned."`
	PredictFlags string   `placeholder:"FLAGS" help:"Further flags of tokenfork predict, with --predict: --shards 40 --reference-tp 2."`
	PlanFlags    string   `placeholder:"FLAGS" help:"Further flags of tokenfork plan, with --predict: --shards 100."`
	Judge        string   `default:"none" placeholder:"URL|local|none" help:"The judge: the URL of an API, a model served on the nodes (local), or none for now."`
	JudgeModel   string   `placeholder:"M" help:"The judge's name, or with --judge local its folder."`
	JudgeFlags   string   `placeholder:"FLAGS" help:"Further flags of tokenfork judge."`
	Missing      bool     `help:"Submit again what is neither done nor queued."`
	DryRun       bool     `help:"Show scripts, commands and an estimate of the cost, submit nothing." xor:"how"`
	Print        string   `placeholder:"DIR" help:"Write scripts and commands into DIR for hand editing, submit nothing." xor:"how"`
	Folder       string   `placeholder:"DIR" help:"Where scripts, lists and logs go; all nodes see it (default: slurm in the job's folder; for s3:// ./tokenfork-slurm/JOBID)."`
}

// clusterFlags become #SBATCH lines.
type clusterFlags struct {
	Partition  string        `placeholder:"P" help:"Partition of every stage."`
	Account    string        `placeholder:"A" help:"Account of every stage."`
	Time       time.Duration `placeholder:"D" help:"Time limit of an infer or judge task (default: 4h)."`
	GPUs       slurm.GPUs    `name:"gpus" default:"1" placeholder:"[TYPE:]N" help:"GPUs of an infer task, and of a local judge's: 4 or h100:4."`
	SmallGPUs  slurm.GPUs    `name:"small-gpus" placeholder:"[TYPE:]N" help:"Give the small model arrays of its own, with N GPUs a task."`
	CPUs       int           `name:"cpus" placeholder:"N" help:"CPUs of a task with GPUs (default: the GPUs' share of the node, else 8)."`
	Memory     string        `name:"mem" placeholder:"SIZE" help:"Memory of a task with GPUs, as sbatch takes it (default: the GPUs' share of the node)."`
	Throttle   int           `placeholder:"N" help:"Most tasks of a stage that run at once, over all its arrays (default: no limit)."`
	Sbatch     string        `placeholder:"ARGS" help:"Further flags of sbatch, as --name=value. They replace the scripts' own: --gpus-per-node or --gres replaces --gpus."`
	GPUSbatch  string        `name:"gpu-sbatch" placeholder:"ARGS" help:"The same, for stages with GPUs alone: --constraint=a100."`
	CPUSbatch  string        `name:"cpu-sbatch" placeholder:"ARGS" help:"The same, for stages without GPUs: another partition, say."`
	SignalLead time.Duration `default:"2m" help:"How long before its time limit a task is told to stop."`
	Requeues   int           `default:"20" placeholder:"N" help:"How often a task may requeue itself at its time limit."`
}

// nodeFlags become settings of the scripts.
type nodeFlags struct {
	Tokenfork  string        `placeholder:"PATH" help:"This program, as the nodes see it (default: the one that runs now)."`
	Prologue   string        `placeholder:"SHELL" help:"Shell lines that bring up modules or conda on a node."`
	VLLM       string        `name:"vllm" default:"vllm" placeholder:"CMD" env:"TOKENFORK_VLLM" help:"Command that runs vLLM, container or environment included."`
	StageModel bool          `help:"Copy model folders to the scratch folder first, once a node."`
	Scratch    string        `placeholder:"DIR" help:"Node-local folder for temporary files (default: $SLURM_TMPDIR or $TMPDIR there)."`
	InferFlags string        `placeholder:"FLAGS" help:"Further flags of tokenfork infer."`
	Grace      time.Duration `default:"20s" help:"How long running requests may continue once a task is told to stop."`
	Offline    bool          `help:"Compute nodes have no network: print the judge command instead of submitting it."`
}

// Help shows how it is used.
func (submitCmd) Help() string {
	return `Examples:
  tokenfork submit --job /shared/job --partition gpu --time 4h --dry-run
  tokenfork submit --job /shared/job --partition gpu --gpus 2 --infer-flags "--reference-tp 2" --throttle 20
  tokenfork submit --job s3://bucket/jobs/a --vllm "apptainer exec --nv /shared/vllm.sif vllm" --judge local --judge-model /models/judge
  tokenfork submit --job /shared/job --missing
  tokenfork submit --predict texts.jsonl --job /shared/job --small-model DIR --reference-model DIR --partition gpu --predict-flags "--shards 40"
`
}

// Run is the command.
func (c *submitCmd) Run(ctx context.Context, con *console) error {
	s, err := c.open(ctx, con.logger())
	if err != nil {
		return err
	}
	o := slurm.Options{Store: s, Missing: c.Missing, DryRun: c.DryRun, Print: c.Print, Args: os.Args[1:], Out: con.out, Warn: con.err}
	if o.Settings, err = c.settings(); err != nil {
		return err
	}
	if len(c.Predict) > 0 {
		if o.Corpus, err = c.corpus(ctx, con, s); err != nil {
			return err
		}
	}
	if o.Folder, err = c.folder(ctx, &o); err != nil {
		return err
	}
	if err := slurm.Submit(ctx, o); err != nil || !c.DryRun || o.Corpus != nil {
		return err
	}
	return c.describeCost(ctx, con, o.JudgeFlags)
}

// settings are the flags as the scripts need them.
func (c *submitCmd) settings() (slurm.Settings, error) {
	s := slurm.Settings{Partition: c.Partition, Account: c.Account, Time: c.Time, GPUs: c.GPUs, SmallGPUs: c.SmallGPUs, CPUs: c.CPUs, Memory: c.Memory,
		Throttle: c.Throttle, Lead: c.SignalLead, MaxRequeues: c.Requeues, Prologue: c.Prologue, VLLM: c.VLLM, StageModel: c.StageModel, Scratch: c.Scratch,
		Grace: c.Grace, Offline: c.Offline, Judge: c.Judge, JudgeModel: c.JudgeModel, JobFlags: c.jobFlags.further()}
	err := split(line{&s.Sbatch, "--sbatch", c.Sbatch}, line{&s.GPUSbatch, "--gpu-sbatch", c.GPUSbatch}, line{&s.CPUSbatch, "--cpu-sbatch", c.CPUSbatch},
		line{&s.InferFlags, "--infer-flags", c.InferFlags}, line{&s.PredictFlags, "--predict-flags", c.PredictFlags},
		line{&s.PlanFlags, "--plan-flags", c.PlanFlags}, line{&s.JudgeFlags, "--judge-flags", c.JudgeFlags})
	if err != nil {
		return s, err
	}
	if s.Job, err = onNodes(c.Job); err != nil {
		return s, err
	}
	s.SmallModel, s.ReferenceModel = c.SmallModel, c.ReferenceModel
	for _, model := range []*string{&s.SmallModel, &s.ReferenceModel, &s.JudgeModel} {
		if *model, err = fromRoot(*model); err != nil {
			return s, err
		}
	}
	s.Tokenfork = c.Tokenfork
	if s.Tokenfork == "" {
		if s.Tokenfork, err = os.Executable(); err != nil {
			return s, failure.New(failure.Usage, "name it with --tokenfork", "find this program: %w", err)
		}
	}
	return s, nil
}

// corpus splits the texts into shards, as predict does by the same flags.
func (c *submitCmd) corpus(ctx context.Context, con *console, s store.Store) (*job.Corpus, error) {
	flags, err := words("--predict-flags", c.PredictFlags)
	if err != nil {
		return nil, err
	}
	var p predictCmd
	if err := parseFlags(&p, "predict", slices.Concat(c.Predict, []string{"--job", c.Job}, flags)); err != nil {
		return nil, err
	}
	if p.Out != "" || len(p.Shard) > 0 || p.TableOnly {
		return nil, failure.New(failure.Usage, "leave them out", "--out, --shard and --table-only have no place in --predict-flags: the table goes into the job")
	}
	p.SmallModel, p.ReferenceModel = c.SmallModel, c.ReferenceModel
	return p.corpus(ctx, con, s)
}

// further are the flags beside --job by which the job is reached.
func (f *jobFlags) further() []string {
	var flags []string
	if f.S3Endpoint != "" {
		flags = append(flags, "--s3-endpoint", f.S3Endpoint)
	}
	if f.S3PathStyle {
		flags = append(flags, "--s3-path-style")
	}
	if f.SingleWriter {
		flags = append(flags, "--single-writer")
	}
	return flags
}

// onNodes is a location that does not depend on the current folder.
func onNodes(location string) (string, error) {
	if strings.Contains(location, "://") {
		return location, nil
	}
	path, err := filepath.Abs(location)
	if err != nil {
		return "", fmt.Errorf("find %s: %w", location, err)
	}
	return path, nil
}

// folder is where submissions go.
func (c *submitCmd) folder(ctx context.Context, o *slurm.Options) (string, error) {
	switch {
	case c.Folder != "":
		return filepath.Abs(c.Folder)
	case !strings.Contains(o.Job, "://"):
		return filepath.Join(o.Job, "slurm"), nil
	}
	id := ""
	if o.Corpus != nil {
		id = o.Corpus.ID
	} else if j, err := job.Load(ctx, o.Store); err != nil {
		return "", err
	} else {
		id = j.ID
	}
	return filepath.Abs(filepath.Join("tokenfork-slurm", id))
}
