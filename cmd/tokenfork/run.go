package main

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"tokenfork/internal/failure"
	"tokenfork/internal/fleet"
	"tokenfork/internal/job"
	"tokenfork/internal/model"
)

// runCmd is plan, infer, judge and merge in order, and perhaps predict before them.
type runCmd struct {
	jobFlags   `embed:"" group:"Job and store"`
	workFlags  `embed:"" group:"Servers"`
	modelFlags `embed:"" group:"Models"`
	planFlags  `embed:"" group:"Table"`
	inferFlags `embed:"" group:"Inference"`
	judgeFlags `embed:"" group:"Judge"`
	textFlags  `embed:"" group:"Texts"`
	Texts      []string `type:"existingfile" sep:"none" placeholder:"FILE" help:"Begin with these texts instead of a table: have both models read them, as predict does."`
}

// Help shows how it is used.
func (runCmd) Help() string {
	return `Started again, it goes on from what was finished.

Examples:
  tokenfork run table.csv --job ./job --small-model DIR --reference-model DIR --judge none
  tokenfork run table.csv --job ./job --small-model DIR --reference-model DIR --reference-tp 2 \
    --judge https://host/v1 --judge-model NAME
  tokenfork run --texts texts.jsonl --job ./job --small-model DIR --reference-model DIR --judge none
`
}

// Run is the command. Rows that failed do not keep later stages from the
// others: the exit code is the last stage's, which counts them all but for the texts
// that plan left out.
func (c *runCmd) Run(ctx context.Context, con *console) (err error) {
	if c.Judge == "" { // known before hours of GPU time, not after
		return failure.New(failure.Usage, "give --judge URL, --judge local, or --judge none", "no judge given")
	}
	if len(c.Texts) > 0 && len(c.Inputs) > 0 {
		return failure.New(failure.Usage, "leave one of them out", "a table and --texts are both named")
	}
	if err := cmp.Or(c.firstFlags.check(true), c.planFlags.check()); err != nil {
		return err
	}
	shared, err := c.judgedByReference()
	if err != nil {
		return err
	}
	least := 0 // tokens that the servers must take
	if shared {
		least = judgeLength
	}
	var left error // texts that predict left out
	var running [2]*fleet.Pool
	if len(c.Texts) > 0 {
		running = [2]*fleet.Pool{new(fleet.Pool), new(fleet.Pool)}
		defer func() { err = errors.Join(err, running[0].Close(), running[1].Close()) }()
		if left = c.predict(ctx, con, running[:], least); left != nil && failure.Code(left) != failure.Partial {
			return left
		}
	}
	plan := planCmd{jobFlags: c.jobFlags, modelFlags: c.modelFlags, planFlags: c.planFlags}
	infer := inferCmd{jobFlags: c.jobFlags, workFlags: c.workFlags, modelFlags: c.modelFlags, inferFlags: c.inferFlags, Side: "both", running: running}
	merge := mergeCmd{Job: c.Job, storeFlags: c.storeFlags, workFlags: c.workFlags, judgeFlags: c.judgeFlags}
	if shared {
		pool := new(fleet.Pool)
		infer.keep, merge.kept = pool, pool
		defer func() { err = errors.Join(err, pool.Close()) }()
	}
	var skipped error
	for _, stage := range []interface {
		Run(context.Context, *console) error
	}{&plan, &infer, &merge} {
		err := stage.Run(ctx, con)
		switch {
		case err != nil && failure.Code(err) != failure.Partial:
			return err
		case stage == &plan:
			skipped = cmp.Or(err, left) // which no later stage counts
		case stage == &merge && err == nil:
			return skipped
		case stage == &merge:
			return err
		}
	}
	return nil
}

// predict has both models read the texts and names their table to plan. Where infer
// needs both, it goes on with their servers, which take so many tokens at least.
func (c *runCmd) predict(ctx context.Context, con *console, keep []*fleet.Pool, least int) error {
	p := predictCmd{Texts: c.Texts, Job: c.Job, storeFlags: c.storeFlags, workFlags: c.workFlags, modelFlags: c.modelFlags}
	p.textFlags, p.serverFlags, p.Stall, p.AllowMixedEngines = c.textFlags, c.serverFlags, predictStall, c.AllowMixedEngines
	settings := c.labelFlags.settings()
	p.further.deterministic = settings.Deterministic
	if settings.Trajectories == job.Own {
		p.further.keep = keep
		p.further.length = [2]int{settings.MaxNewTokens + 1, least}
	}
	c.Inputs = []string{c.Job + "/" + job.TableKey}
	if c.Alignment == "auto" {
		c.Alignment = "next" // as predict writes it
	}
	err := p.Run(ctx, con)
	if len(keep[0].Servers()) == 0 || len(keep[1].Servers()) == 0 { // one alone would be in the way of the layout
		err = errors.Join(err, keep[0].Close(), keep[1].Close())
	}
	return err
}

// judgedByReference says whether a local judge is the reference's model, served alike:
// then its servers need not be loaded again.
func (c *runCmd) judgedByReference() (bool, error) {
	if c.Judge != "local" || c.JudgeFirst == "local" || len(c.ReferenceURL) > 0 || c.JudgeModel == "" || c.JudgeTP != 0 && c.JudgeTP != c.ReferenceTP {
		return false, nil
	}
	var args [2][]string
	var models [2]*model.Model
	for i, of := range [2]struct{ flag, args, model string }{{"--reference-args", c.ReferenceArgs, c.ReferenceModel}, {"--judge-args", c.JudgeArgs, c.JudgeModel}} {
		var err error
		if args[i], err = words(of.flag, of.args); err != nil {
			return false, err
		}
		if models[i], err = findModel(job.Reference, of.model); err != nil {
			return false, err
		}
	}
	return slices.Equal(args[0], args[1]) && len(models[0].Fingerprint().Diff(models[1].Fingerprint())) == 0, nil
}
