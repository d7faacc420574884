package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"tokenfork/internal/columnar"
	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/results"
	"tokenfork/internal/store"
	"tokenfork/judge"
	"tokenfork/judge/merge"
)

// mergeCmd writes the results, of one job or of several.
type mergeCmd struct {
	Jobs         []string          `arg:"" optional:"" name:"jobs" help:"Several jobs to merge into one table, in this order; with --out."`
	Job          string            `placeholder:"DIR|s3://…" help:"The job: a folder, or a prefix in S3."`
	Out          string            `placeholder:"DIR|s3://…" help:"Where the results of several jobs go."`
	Tag          map[string]string `placeholder:"JOB=NAME" mapsep:"," help:"Name a job in a column job, where tables use the same sentence ids."`
	storeFlags   `embed:"" group:"Job and store"`
	workFlags    `embed:"" group:"Servers"`
	judgeFlags   `embed:"" group:"Judge"`
	Judging      string   `placeholder:"ID" help:"Which of the job's judgings to merge, if there are several and no --judge is given."`
	Format       string   `enum:"results,r2r" default:"results" help:"r2r also writes r2r.csv, which R2R's step 4 reads."`
	Formats      []string `enum:"parquet,arrow,csv" default:"parquet,arrow,csv" help:"Formats to write the results in: parquet, arrow, csv."`
	Partition    int      `placeholder:"N" help:"Write the results of each format as a dataset of N files in results/, instead of one file."`
	CSVSafe      bool     `name:"csv-safe" help:"In CSV files, put ' before text that a spreadsheet would take for a formula."`
	AllowMissing bool     `help:"Merge what is there although tasks are unfinished; summary.json says so."`
}

// Help shows how it is used.
func (mergeCmd) Help() string {
	return `Examples:
  tokenfork merge --job ./job --judge none
  tokenfork merge --job ./job --format r2r
  tokenfork merge ./math ./code --out ./both --tag ./math=math,./code=code
`
}

// Run is the command.
func (c *mergeCmd) Run(ctx context.Context, con *console) error {
	jobs, out, err := c.places()
	if err != nil {
		return err
	}
	o := merge.Options{AllowMissing: c.AllowMissing, R2R: c.Format == "r2r", CSVSafe: c.CSVSafe, Parts: c.Partition, TempDir: c.Tmp, Console: con.err}
	if o.Formats, err = c.formats(); err != nil {
		return err
	}
	if o.Out, err = openStore(ctx, out, c.options(con.logger())); err != nil {
		return err
	}
	var by []*judge.Record
	for _, name := range jobs {
		j := &jobFlags{Job: name, storeFlags: c.storeFlags}
		s, err := j.open(ctx, con.logger())
		if err != nil {
			return err
		}
		r, err := c.judged(ctx, con, j, s)
		if err != nil {
			return err
		}
		src := merge.Source{Store: s, Tag: c.Tag[name]}
		if src.Retry, err = retry(ctx, s, r); err != nil {
			return err
		}
		if r != nil {
			src.Judging = r.ID()
			if src.Accept, err = acceptance(ctx, s, r); err != nil {
				return err
			}
		}
		o.Jobs, by = append(o.Jobs, src), append(by, r)
	}
	if err := judgedAlike(jobs, by); err != nil {
		return err
	}
	sum, err := merge.Merge(ctx, o)
	if sum != nil {
		fmt.Fprintf(con.out, "%d mismatches in %s\n", sum.Mismatches, placesOf(o.Out, sum))
	}
	return err
}

// retry says how failures.csv's commands reach the job, its servers and its judge.
func retry(ctx context.Context, s store.Store, r *judge.Record) (*merge.Retry, error) {
	infer, err := job.InferFlags(ctx, s)
	if err != nil && failure.Code(err) != failure.Refused { // a damaged record names no flags; check tells of it
		return nil, err
	}
	if r != nil {
		return merge.RetryIn(s, infer, r.Flags), nil
	}
	all, err := judge.Judgings(ctx, s)
	if err != nil && failure.Code(err) != failure.Refused {
		return nil, err
	}
	return merge.RetryIn(s, infer, judge.FlagsOf(all, "")), nil
}

// formats are those that are asked for; none for all.
func (c *mergeCmd) formats() (formats []string, err error) {
	if c.Partition < 0 || c.Partition > maxParts {
		return nil, failure.New(failure.Usage, fmt.Sprintf("give 1 to %d files", maxParts), "--partition %d", c.Partition)
	}
	for _, f := range merge.Formats {
		if slices.Contains(c.Formats, f) {
			formats = append(formats, f)
		}
	}
	if len(formats) == len(merge.Formats) {
		return nil, nil
	}
	return formats, nil
}

// maxParts is what a part's number of five digits can count.
const maxParts = 100_000

// placesOf says where the results are, in each format.
func placesOf(out store.Store, sum *merge.Summary) string {
	var places []string
	for _, f := range []string{columnar.Parquet, columnar.Arrow, columnar.CSV} {
		if keys := sum.Results(f); len(keys) == 1 {
			places = append(places, keys[0])
		} else if len(keys) > 1 {
			places = append(places, fmt.Sprintf("%s*.%s (%d files)", merge.PartPrefix, f, len(keys)))
		}
	}
	first, also, _ := strings.Cut(strings.Join(places, ", "), ", ")
	if also != "" {
		also = " (also " + also + ")"
	}
	return fmt.Sprintf("%s/%s%s", out, first, also)
}

// places are the jobs and where their results go.
func (c *mergeCmd) places() (jobs []string, out string, err error) {
	usage := func(hint, what string) error { return failure.New(failure.Usage, hint, "%s", what) }
	switch {
	case c.Job != "" && (len(c.Jobs) > 0 || c.Out != "" || len(c.Tag) > 0):
		return nil, "", usage("merge --job J, or merge JOB… --out DIR", "--job is for one job, whose results go into it")
	case c.Job != "":
		return []string{c.Job}, c.Job, nil
	case len(c.Jobs) == 0:
		return nil, "", usage("merge --job J, or merge JOB… --out DIR", "no job is named")
	case c.Out == "":
		return nil, "", usage("add --out DIR", "the results of several jobs need a place of their own")
	case c.Format == "r2r" && len(c.Tag) > 0:
		return nil, "", usage("merge the jobs by themselves", "R2R's table has no column for tags")
	}
	named, places := map[string]bool{}, map[string]string{}
	for _, j := range c.Jobs {
		if before, twice := places[placeOf(j)]; twice {
			said := j + " is named twice"
			if before != j {
				said += ", first as " + before
			}
			return nil, "", usage("name it once", said)
		}
		named[j], places[placeOf(j)] = true, j
	}
	if info, err := os.Stat(c.Out); err == nil && !info.IsDir() {
		return nil, "", usage("give a folder", "--out "+c.Out+" is a file")
	}
	for j := range c.Tag {
		if !named[j] {
			return nil, "", usage("tag a job as it is named", "--tag "+j+": there is no such job among "+strings.Join(c.Jobs, ", "))
		}
	}
	return c.Jobs, c.Out, nil
}

// placeOf is the same for all names of a job's place.
func placeOf(name string) string {
	if strings.Contains(name, "://") {
		return strings.TrimRight(name, "/")
	}
	if path, err := filepath.Abs(name); err == nil {
		name = path
	}
	if path, err := filepath.EvalSymlinks(name); err == nil {
		name = path
	}
	return name
}

// judgedAlike refuses jobs of different judgings, and says what differs.
func judgedAlike(jobs []string, by []*judge.Record) error {
	for i, r := range by {
		switch first := by[0]; {
		case (r == nil) != (first == nil):
			return failure.New(failure.Refused, "judge both, or --judge none", "of %s and %s one is judged and one is not", jobs[0], jobs[i])
		case r != nil && r.ID() != first.ID():
			return failure.New(failure.Refused, "judge them alike, choose with --judging, or --judge none", "%s and %s were judged differently: %s",
				jobs[i], jobs[0], strings.Join(r.Differences(first.Judging), "; "))
		}
	}
	return nil
}

// judged judges what is not yet judged, or takes the job's only judging where
// no judge is given; nil if the results are to have no verdicts.
func (c *mergeCmd) judged(ctx context.Context, con *console, j *jobFlags, s store.Store) (*judge.Record, error) {
	id := c.Judging
	switch c.Judge {
	case noJudge:
		return nil, nil
	case "":
	default:
		if err := c.firstFlags.check(true); err != nil {
			return nil, err
		}
		o, err := c.judge(ctx, con, j, &c.workFlags)
		if err != nil {
			return nil, err
		}
		o.AllowMissing = c.AllowMissing
		o.Who = attempt()
		by, err := judge.Run(ctx, o)
		if err != nil && failure.Code(err) != failure.Partial { // what has no verdict is listed
			return nil, err
		}
		id = by.ID()
	}
	all, err := judge.Judgings(ctx, s)
	if err != nil {
		return nil, err
	}
	return choose(s, all, id)
}

// choose takes the judging of that id, or the only one.
func choose(s store.Store, all []judge.Record, id string) (*judge.Record, error) {
	var which []judge.Record
	for _, r := range all {
		if id == "" || r.ID() == id {
			which = append(which, r)
		}
	}
	switch {
	case len(which) == 1:
		return &which[0], nil
	case len(all) == 0:
		return nil, failure.New(failure.Usage, "give --judge URL, --judge local, or --judge none", "%s is not judged, and no judge is given", s)
	case id != "":
		return nil, failure.New(failure.Usage, "its judgings are "+describe(all), "%s has no judging %s", s, id)
	}
	return nil, failure.New(failure.Usage, "choose with --judging: "+describe(all), "%s has %d judgings", s, len(all))
}

func describe(all []judge.Record) string {
	var b strings.Builder
	for i, r := range all {
		if i > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "%s by %s, prompt %s", r.ID(), r.Model, r.PromptVersion)
		if i > 0 {
			fmt.Fprintf(&b, " (against the first: %s)", strings.Join(r.Differences(all[0].Judging), ", "))
		}
	}
	return b.String()
}

// acceptance checks verdicts against the questions of the judging.
func acceptance(ctx context.Context, s store.Store, r *judge.Record) (merge.Accept, error) {
	j, err := job.Load(ctx, s)
	if err != nil {
		return nil, err
	}
	text, err := results.LoadText(ctx, s)
	if err != nil {
		return nil, err
	}
	return r.Accept(&j.Plan, text)
}
