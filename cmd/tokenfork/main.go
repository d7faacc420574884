// Command tokenfork labels where two language models part ways, and whether it
// matters: plan, infer, judge and merge over one job folder, or all in one run.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"tokenfork/internal/failure"
	"tokenfork/internal/progress"
	"tokenfork/internal/terminal"
	"tokenfork/internal/version"
	"tokenfork/internal/vllm"
)

type cli struct {
	Version kong.VersionFlag `help:"Print version, commit and Go version."`
	Config  configFlag       `placeholder:"FILE.yaml" help:"Values of flags, by name; see tokenfork config."`

	LogFormat string `enum:"text,json" default:"text" env:"TOKENFORK_LOG_FORMAT" help:"Log lines as text, or as JSON, one object a line: text or json."`

	Predict predictCmd `cmd:"" help:"Make a table from texts: each model's prediction at every position."`

	Run        runCmd        `cmd:"" help:"Plan, infer, judge and merge, on this machine."`
	Plan       planCmd       `cmd:"" help:"Find the mismatches in a table and split its texts into shards."`
	Infer      inferCmd      `cmd:"" help:"Generate the continuation of every fork, to the end of its sentence."`
	Judge      judgeCmd      `cmd:"" help:"Ask a judge whether the two continuations of each mismatch mean the same."`
	Merge      mergeCmd      `cmd:"" help:"Merge finished shards into one result table (Arrow, Parquet, CSV)."`
	Report     reportCmd     `cmd:"" help:"Draw figures and tables for a paper from the results."`
	Compare    compareCmd    `cmd:"" help:"Compare two jobs over the same mismatches: which continuations and verdicts differ."`
	View       viewCmd       `cmd:"" help:"Show the texts with their mismatches in a browser, from this machine only."`
	Export     exportCmd     `cmd:"" help:"Write the results as a dataset folder: Parquet, card, Croissant, citation, checksums."`
	Stage      stageCmd      `cmd:"" help:"Copy models to a node's own disk, verified, once for all its tasks."`
	Calibrate  calibrateCmd  `cmd:"" help:"Measure how fast this node runs a job's models, for the estimates of plan, judge and submit."`
	Submit     submitCmd     `cmd:"" help:"Submit all stages to Slurm as dependent jobs."`
	Status     statusCmd     `cmd:"" help:"Show progress and the commands that fix problems."`
	Check      checkCmd      `cmd:"" help:"Verify every file of a job and list missing or damaged ones."`
	Show       configCmd     `cmd:"" name:"config" help:"Show a command's flags as they are set, and by what: flag, environment, file or default."`
	Completion completionCmd `cmd:"" help:"Print the lines that turn on completion in bash, zsh or fish."`
	Man        manCmd        `cmd:"" help:"Print the manual page."`
	Doctor     doctorCmd     `cmd:"" help:"Check what a run needs of this node, and say what to do where it is missing."`
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == vllm.GuardCommand {
		os.Exit(vllm.GuardMain(os.Args[2:]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGUSR1)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the whole program but for the process: tests call it.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	exit := -1
	stdout, stderr = terminal.NewWriter(stdout), terminal.NewWriter(stderr)
	c, con := &cli{}, &console{stdout, progress.NewConsole(stderr, progress.Text)}
	parser, err := newParser(c, stdout, stderr, kong.Exit(func(code int) { exit = code }),
		kong.BindTo(ctx, (*context.Context)(nil)), kong.Bind(con, c))
	if err != nil {
		panic(err) // the cli struct itself is wrong
	}
	if len(args) > 0 && args[0] == completeCommand {
		return complete(parser)
	}
	kctx, err := parser.Parse(args)
	if exit >= 0 {
		return exit // --help, --version
	}
	con.err.SetFormat(logFormat(kctx, err))
	if err != nil {
		err = badUsage(err)
	} else {
		err = con.run(kctx)
	}
	if ctx.Err() != nil && failure.Code(err) == failure.Other { // whatever was under way failed of it
		err = failure.New(failure.Stopped, "run the same command again", "stopped on request: %w", err)
	}
	if err != nil {
		if similar := similarFile(err, args); similar != "" {
			err = fmt.Errorf("%w%s", err, similar)
		}
	}
	return con.report(err)
}

// logFormat is the flag's value, of a command line that is wrong too.
func logFormat(ctx *kong.Context, err error) string {
	if wrong, ok := errors.AsType[*kong.ParseError](err); ok {
		ctx = wrong.Context
	}
	if ctx != nil {
		for _, flag := range ctx.Model.Flags {
			if format, _ := ctx.FlagValue(flag).(string); flag.Name == "log-format" && format == progress.JSON {
				return format
			}
		}
	}
	return progress.Text
}

// run runs the command, and answers for its metrics meanwhile.
func (c *console) run(ctx *kong.Context) error {
	for _, flag := range ctx.Selected().Flags {
		if at, _ := ctx.FlagValue(flag).(string); flag.Name == "metrics-listen" && at != "" {
			stop, err := c.err.Serve(at)
			if err != nil {
				return err
			}
			defer stop()
		}
	}
	return ctx.Run()
}

func newParser(c *cli, stdout, stderr io.Writer, options ...kong.Option) (*kong.Kong, error) {
	return kong.New(c, append(options,
		kong.Name("tokenfork"),
		kong.WithHyphenPrefixedParameters(true), // --small-args "--dtype float32"
		kong.Description("Label where two language models part ways, and whether it matters."),
		kong.Vars{"version": "tokenfork " + version.Current().String()},
		kong.Writers(stdout, stderr),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
	)...)
}

// console is where a command writes: results to out, everything else to err. Both
// are terminal.Writers: what came from elsewhere cannot act on the user's terminal.
type console struct {
	out io.Writer
	err *progress.Console
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	return e.Encode(v)
}

// logger writes log lines to standard error.
func (c *console) logger() *slog.Logger { return c.err.Logger() }

// report prints an error, once, with its way out, and gives the exit code.
func (c *console) report(err error) int {
	if err == nil {
		return 0
	}
	code, hint := failure.Code(err), failure.Hint(err)
	if c.err.JSON() {
		c.logger().Error(err.Error(), "hint", hint, "exit_code", code)
		return code
	}
	fmt.Fprintf(c.err, "tokenfork: %v\n", err)
	if hint != "" {
		fmt.Fprintf(c.err, "tokenfork: hint: %s\n", hint)
	}
	return code
}
