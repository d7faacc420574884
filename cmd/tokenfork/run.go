package main

import (
	"context"
	"errors"
	"slices"

	"tokenfork/internal/failure"
	"tokenfork/internal/fleet"
	"tokenfork/internal/job"
	"tokenfork/internal/model"
)

// runCmd is plan, infer, judge and merge in order.
type runCmd struct {
	jobFlags   `embed:""`
	workFlags  `embed:""`
	modelFlags `embed:""`
	planFlags  `embed:""`
	inferFlags `embed:""`
	judgeFlags `embed:""`
}

// Help shows how it is used.
func (runCmd) Help() string {
	return `Started again, it goes on from what was finished.

Examples:
  tokenfork run table.csv --job ./job --small-model DIR --reference-model DIR --judge none
  tokenfork run table.csv --job ./job --small-model DIR --reference-model DIR --reference-tp 2 \
    --judge https://host/v1 --judge-model NAME
`
}

// Run is the command. Rows that failed do not keep later stages from the
// others: the exit code is the last stage's, which counts them all but for the texts
// that plan left out.
func (c *runCmd) Run(ctx context.Context, con *console) (err error) {
	if c.Judge == "" { // known before hours of GPU time, not after
		return failure.New(failure.Usage, "give --judge URL, --judge local, or --judge none", "nobody is named to judge")
	}
	plan := planCmd{jobFlags: c.jobFlags, modelFlags: c.modelFlags, planFlags: c.planFlags}
	infer := inferCmd{jobFlags: c.jobFlags, workFlags: c.workFlags, modelFlags: c.modelFlags, inferFlags: c.inferFlags, Side: "both"}
	merge := mergeCmd{Job: c.Job, storeFlags: c.storeFlags, workFlags: c.workFlags, judgeFlags: c.judgeFlags}
	shared, err := c.judgedByReference()
	if err != nil {
		return err
	}
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
			skipped = err // which no later stage counts
		case stage == &merge && err == nil:
			return skipped
		case stage == &merge:
			return err
		}
	}
	return nil
}

// judgedByReference says whether a local judge is the reference's model, served alike:
// then its servers need not be loaded again.
func (c *runCmd) judgedByReference() (bool, error) {
	if c.Judge != "local" || len(c.ReferenceURL) > 0 || c.JudgeModel == "" || c.JudgeTP != 0 && c.JudgeTP != c.ReferenceTP {
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
