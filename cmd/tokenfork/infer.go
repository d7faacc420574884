package main

import (
	"context"
	"errors"
	"os"
	"time"

	"tokenfork/infer"
	"tokenfork/internal/failure"
	"tokenfork/internal/fleet"
	"tokenfork/internal/job"
	"tokenfork/internal/secret"
	"tokenfork/internal/shell"
)

// inferCmd carries the forks on.
type inferCmd struct {
	jobFlags   `embed:"" group:"Job and store"`
	workFlags  `embed:"" group:"Servers"`
	modelFlags `embed:"" group:"Models"`
	inferFlags `embed:"" group:"Inference"`
	Shard      []int  `placeholder:"K,…" help:"Shards to work on (default: every unfinished one)."`
	Retry      bool   `help:"Do again what failed or is damaged in finished shards."`
	Side       string `enum:"small,reference,both" default:"both" help:"Which model's server to run: small, reference or both."`

	running [2]*fleet.Pool `kong:"-"` // of run: the models' servers that predict has started
	keep    *fleet.Pool    `kong:"-"` // of run: takes the reference's servers, for a local judge
}

// Help shows how it is used.
func (inferCmd) Help() string {
	return `Examples:
  tokenfork infer --job ./job
  tokenfork infer --job s3://bucket/jobs/a --shard 17 --reference-tp 2
  tokenfork infer --job ./job --vllm "apptainer exec --nv vllm.sif vllm" --small-args "--gpu-memory-utilization 0.2"
  tokenfork infer --job ./job --log-format json --metrics-listen unix:/run/user/1000/tokenfork
  tokenfork infer --job ./job --small-url http://127.0.0.1:8001 --reference-url http://127.0.0.1:8002
`
}

// workFlags say how a task with servers works.
type workFlags struct {
	VLLM         string        `kept:"" name:"vllm" default:"vllm" placeholder:"CMD" env:"TOKENFORK_VLLM" help:"Command that runs vLLM, container or environment included."`
	StartTimeout time.Duration `default:"30m" help:"How long a server may take to start."`
	Grace        time.Duration `default:"20s" help:"How long running requests may continue after SIGTERM or SIGUSR1."`
	PartEvery    time.Duration `default:"1m" help:"Save finished texts at least this often."`

	MetricsListen string `placeholder:"127.0.0.1:PORT|unix:/PATH" env:"TOKENFORK_METRICS_LISTEN" help:"Answer Prometheus at /metrics of this address of this host, or at a socket that only you can open (default: off)."`
}

// inferFlags say how continuations are generated; none changes what they are.
type inferFlags struct {
	serverFlags       `embed:""`
	InFlight          int           `placeholder:"N" help:"Requests in flight per server (default: found by measuring)."`
	Stall             time.Duration `default:"2m" help:"Probe a server that has produced no token for this long."`
	ReplayMinAgree    float64       `kept:"" name:"replay-min-agreement" default:"0.95" placeholder:"F" help:"Share of recorded predictions that the server must repeat."`
	Audit             *float64      `placeholder:"F" help:"Share of the replayed forks that are generated as well, to check; never changes the results (default: as planned by --replay audit=F, else 0.005)."`
	AllowMixedEngines bool          `kept:"" help:"Go on although another vLLM or other flags made the job's first parts."`
}

// Run is the command.
func (c *inferCmd) Run(ctx context.Context, con *console) error {
	return c.watched(ctx, con, "infer", c.Shard, c.Side, func(who job.Attempt) error { return c.run(ctx, con, who) })
}

func (c *inferCmd) run(ctx context.Context, con *console, who job.Attempt) error {
	o, err := c.infer(ctx, con, &c.jobFlags, &c.workFlags, &c.modelFlags)
	if err != nil {
		return err
	}
	o.Shards, o.Retry, o.Who = c.Shard, c.Retry, who
	if c.keep != nil {
		o.Servers[job.Reference].Keep, o.Servers[job.Reference].Length = c.keep, judgeLength
	}
	for side, pool := range c.running {
		o.Servers[side].Running = pool
	}
	switch c.Side {
	case job.Small.String():
		o.Sides = []job.Side{job.Small}
	case job.Reference.String():
		o.Sides = []job.Side{job.Reference}
	}
	return infer.Run(ctx, o)
}

// infer turns the flags into options.
func (f *inferFlags) infer(ctx context.Context, con *console, j *jobFlags, w *workFlags, m *modelFlags) (infer.Options, error) {
	log := con.logger()
	s, err := j.open(ctx, log)
	if err != nil {
		return infer.Options{}, err
	}
	o := infer.Options{Store: s, InFlight: f.InFlight, PartEvery: w.PartEvery, Grace: w.Grace, Stall: f.Stall, MinAgreement: f.ReplayMinAgree, AuditShare: f.Audit,
		AllowMixedEngines: f.AllowMixedEngines, Log: log, Console: con.err}
	if o.Flags, err = f.flags(w, *m); err != nil {
		return o, err
	}
	command, err := words("--vllm", w.VLLM)
	if err != nil {
		return o, err
	}
	logs, err := j.logDir()
	if err != nil {
		return o, err
	}
	common := infer.Servers{Command: command, Key: serverKey(), StartTimeout: w.StartTimeout, LogDir: logs}
	for side, own := range [2]struct {
		flag, args, model string
		urls              []string
		tp                int
	}{{"--small-args", f.SmallArgs, m.SmallModel, f.SmallURL, 0}, {"--reference-args", f.ReferenceArgs, m.ReferenceModel, f.ReferenceURL, f.ReferenceTP}} {
		o.Servers[side] = common
		o.Servers[side].Model, o.Servers[side].URLs, o.Servers[side].TensorParallel = own.model, own.urls, own.tp
		if o.Servers[side].Args, err = words(own.flag, own.args); err != nil {
			return o, err
		}
	}
	return o, nil
}

// serverKey is the API key of servers at URLs. There is no flag for it: every user of
// a machine can read the others' command lines.
func serverKey() string { return os.Getenv("TOKENFORK_SERVER_KEY") }

// line is a command line that a flag gives, and where its words go.
type line struct {
	to         *[]string
	flag, said string
}

func split(lines ...line) (err error) {
	for _, l := range lines {
		if *l.to, err = words(l.flag, l.said); err != nil {
			return err
		}
	}
	return nil
}

// words splits a command as a shell does. One with a secret is refused: every user of
// a machine can read the others' command lines, and a job keeps some of the flags.
func words(flag, line string) ([]string, error) {
	if found := secret.In(line); found != "" {
		return nil, failure.New(failure.Usage, "set it in a script that only you can read, and give the script to --vllm", "%s has %s in plain text", flag, found)
	}
	ws, err := shell.Split(line)
	if _, ok := errors.AsType[*shell.OperatorError](err); ok {
		return nil, failure.New(failure.Usage, "put quotes around the word with it, or write the commands into a script and give the script",
			"%s %q: %w", flag, line, err)
	}
	if err != nil {
		return nil, failure.New(failure.Usage, "quote it as for a shell", "%s %q: %w", flag, line, err)
	}
	return ws, nil
}
