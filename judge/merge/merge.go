// Package merge puts a job's finished parts together into the results: every
// planned mismatch once, in the order of the input.
package merge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"runtime/debug"
	"strings"

	"tokenfork/internal/columnar"
	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/progress"
	"tokenfork/internal/results"
	"tokenfork/internal/shell"
	"tokenfork/internal/store"
	"tokenfork/internal/version"
)

// Keys of the merged outputs.
const (
	ArrowKey    = "results.arrow"
	ParquetKey  = "results.parquet"
	CSVKey      = "results.csv"
	SummaryKey  = "summary.json"
	FailuresKey = "failures.csv"
)

// Options say what to merge.
type Options struct {
	Jobs         []Source
	Out          store.Store // where the results go: the job itself, or elsewhere for several
	AllowMissing bool        // merge although shards are not finished
	R2R          bool        // write R2R's table too; one that is there is written anew in any case
	CSVSafe      bool        // quote formulas in CSV
	TempDir      string
	Console      io.Writer
}

// Source is a job that is merged.
type Source struct {
	Store   store.Store
	Judging string // id of the judging whose verdicts count; "" leaves them out
	Accept  Accept // checks a verdict against its question
	Tag     string // for column job, where several jobs are merged
	Retry   *Retry // how failures.csv's commands reach the job and its judge; nil: as it is reached now, by no known judge
}

// Failure is a row of failures.csv: a mismatch that is not ok, and what to do.
type Failure struct {
	SentenceID       string `col:"sentence_id"`
	MismatchPosition int64  `col:"mismatch_position"`
	Status           string `col:"status"`
	Reason           string `col:"reason"`
	Retry            string `col:"retry"`
}

// Retry is what failures.csv's commands are made of.
type Retry struct {
	Place      string   `json:"place,omitempty"`       // of the job
	PlaceFlags []string `json:"place_flags,omitempty"` // by which its store is reached
	InferFlags []string `json:"infer_flags,omitempty"` // that name the models and servers
	JudgeFlags []string `json:"judge_flags,omitempty"` // that name the judge and its settings
}

// RetryIn reaches a job where it is, and its servers and its judge by the flags.
func RetryIn(s store.Store, infer, judge []string) *Retry {
	flags := store.Flags(s) // --job, the place, others
	return &Retry{Place: flags[1], PlaceFlags: flags[2:], InferFlags: infer, JudgeFlags: judge}
}

// command does a stage's failures again.
func (r *Retry) command(stage string) string {
	words := append([]string{"--job", r.Place}, r.PlaceFlags...)
	words = append(words, "--retry")
	if stage == "judge" {
		words = append(words, r.JudgeFlags...)
	} else {
		words = append(words, r.InferFlags...)
	}
	return "tokenfork " + stage + " " + shell.Join(words)
}

// Summary is summary.json. Everything but Retry and Run is the same however, and wherever, the jobs ran.
type Summary struct {
	Retry
	Jobs       []Merged            `json:"jobs"`
	Settings   job.Settings        `json:"settings"`
	Mismatches int64               `json:"mismatches"`
	Repeated   int64               `json:"repeated,omitempty"` // mismatches that more than one job has, counted once
	Judging    string              `json:"judging,omitempty"`  // whose verdicts these are
	R2R        bool                `json:"r2r,omitempty"`      // R2R's table was written too
	CSVSafe    bool                `json:"csv_safe,omitempty"` // formulas in CSV are quoted
	SHA256     map[string]string   `json:"files_sha256"`       // of the results; failures.csv, which names the place, has none
	ByStatus   map[string]int64    `json:"by_status"`
	Verdicts   map[string]int64    `json:"verdicts"`               // same, different
	Finish     [2]map[string]int64 `json:"finish"`                 // by side
	Partial    bool                `json:"partial"`                // merged with --allow-missing while tasks were not finished
	R2RLeftOut []string            `json:"r2r_left_out,omitempty"` // texts without all verdicts, left out of r2r.csv
	Run        Run                 `json:"run"`

	engines map[string]bool
}

// Merged is what the summary says of a job.
type Merged struct {
	Job        string    `json:"job"`
	Tag        string    `json:"tag,omitempty"`
	Input      job.Input `json:"input"`
	Mismatches int64     `json:"mismatches"` // planned
	Missing    []string  `json:"missing_tasks,omitempty"`
}

// Run is how the job came about: it differs from run to run.
type Run struct {
	Version   string       `json:"version"` // of the tokenfork that merged
	Small     job.Counters `json:"small"`
	Reference job.Counters `json:"reference"`
	Judge     job.Counters `json:"judge"`
}

// memory is what the collector aims at, whatever the size of the jobs.
const memory = 320 << 20

// Merge merges the jobs. It returns the summary; with failures listed the error
// has failure.Partial.
func Merge(ctx context.Context, o Options) (*Summary, error) {
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(memory))
	m := &merger{Options: o, unjudged: map[string]place{}}
	if err := m.open(ctx); err != nil {
		return nil, err
	}
	if err := m.checkComplete(); err != nil {
		return nil, err
	}
	if err := m.keepR2R(ctx); err != nil {
		return nil, err
	}
	m.sum.Judging, m.sum.R2R = o.Jobs[0].Judging, m.R2R
	if len(m.jobs) == 1 {
		m.sum.Retry = *m.jobs[0].Retry
	}
	spool, err := newSpool(o.TempDir)
	if err != nil {
		return nil, err
	}
	defer spool.close()
	m.meter = progress.New(o.Console, "merge", "mismatches", m.planned())
	defer m.meter.Close()
	if err := m.fill(ctx, spool); err != nil {
		return nil, err
	}
	if m.runs, err = spool.combine(m.runs); err != nil {
		return nil, err
	}
	if err := m.write(ctx, spool); err != nil {
		return nil, err
	}
	return m.sum, m.result()
}

// LoadSummary reads the summary of the job's results.
func LoadSummary(ctx context.Context, s store.Store) (*Summary, error) {
	b, err := store.ReadAll(ctx, s, SummaryKey)
	if err != nil {
		return nil, err
	}
	var sum Summary
	if err := errors.Join(job.CheckJSON(b), json.Unmarshal(b, &sum)); err != nil {
		return nil, failure.New(failure.Refused, "run the same tokenfork merge again", "%s of %s is damaged: %w", SummaryKey, s, err)
	}
	return &sum, nil
}

// Files are the keys of the results that the summary is of.
func (s *Summary) Files() []string {
	files := []string{ArrowKey, ParquetKey, CSVKey, FailuresKey}
	if s.R2R {
		files = append(files, R2RKey)
	}
	return files
}

type merger struct {
	Options
	jobs  []*source
	sum   *Summary
	meter *progress.Meter
	runs  []section // of the spool, one per shard, each in order
	ids   textIDs
	// texts with a mismatch that has no verdict
	unjudged map[string]place
}

func newSummary(settings job.Settings, jobs int) *Summary {
	return &Summary{Jobs: make([]Merged, jobs), Settings: settings, ByStatus: map[string]int64{}, Verdicts: map[string]int64{},
		Finish: [2]map[string]int64{{}, {}}, Run: Run{version.Current().String(), job.Counters{}, job.Counters{}, job.Counters{}}, engines: map[string]bool{}}
}

func (m *merger) planned() (n int64) {
	for _, src := range m.jobs {
		n += src.job.Mismatches
	}
	return n
}

// checkComplete refuses jobs with unfinished tasks before anything is read,
// and names them.
func (m *merger) checkComplete() error {
	n := 0
	var all, hints []string
	for _, src := range m.jobs {
		if len(src.missing) == 0 {
			continue
		}
		n += len(src.about.Missing)
		all = append(all, fmt.Sprintf("of %s: %s", src.Store, strings.Join(src.reasons, "; ")))
		hints = append(hints, fmt.Sprintf("`tokenfork status --job %s`", src.Store))
	}
	m.sum.Partial = n > 0
	if n > 0 && !m.AllowMissing {
		return failure.New(failure.Refused, "finish them ("+strings.Join(hints, ", ")+" gives the commands), or --allow-missing",
			"%d tasks are not finished, %s", n, strings.Join(all, "; "))
	}
	return nil
}

// fill writes each shard's results to the spool as one ordered run. Of several
// jobs only finished shards count: another job may have what one lacks.
func (m *merger) fill(ctx context.Context, spool *spool) error {
	for _, src := range m.jobs {
		for k := range src.job.Shards {
			if src.missing[k] && len(m.jobs) > 1 {
				continue
			}
			if err := m.fillShard(ctx, spool, src, k); err != nil {
				return fmt.Errorf("merge shard %d of %s: %w", k, src.Store, err)
			}
		}
	}
	return nil
}

func (m *merger) fillShard(ctx context.Context, spool *spool, src *source, k int) error {
	mf, err := job.OpenManifest(ctx, src.Store, k)
	if err != nil {
		return err
	}
	if mf.Shard.SHA256 != src.job.Shards[k].SHA256 {
		return failure.New(failure.Refused, "restore it or plan the job again", "manifest %s is not the one that %s lists", job.ManifestKey(k), job.Key)
	}
	r, err := m.reader(ctx, src, k)
	if err != nil {
		return err
	}
	return m.spoolShard(ctx, spool, src, mf, r)
}

// reader opens what is committed of a shard.
func (m *merger) reader(ctx context.Context, src *source, k int) (*shardReader, error) {
	r := &shardReader{Reader: results.Reader{Plan: &src.job.Plan, Text: src.text}, accept: src.Accept}
	for _, t := range src.tasks(k) {
		var err error
		switch {
		case t.Stage == "judge":
			r.verdicts, err = committed[job.Verdict](ctx, src, t, m.sum.Run.Judge)
		case t.Side == job.Small.String():
			r.Sides[job.Small], err = committed[job.Continuation](ctx, src, t, m.sum.Run.Small)
		default:
			r.Sides[job.Reference], err = committed[job.Continuation](ctx, src, t, m.sum.Run.Reference)
		}
		if err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (m *merger) spoolShard(ctx context.Context, spool *spool, src *source, mf *job.Manifest, r *shardReader) error {
	n := 0
	run, err := spool.run(func(write func(*job.Result) error) error {
		for s, err := range mf.Texts() {
			if err != nil {
				return err
			}
			if err := m.ids.add(src, s.ID); err != nil {
				return err
			}
			rows, err := r.rows(ctx, s)
			if err != nil {
				return err
			}
			for i := range rows {
				m.note(src, &rows[i])
				if err := write(&rows[i]); err != nil {
					return err
				}
			}
			n += len(rows)
			m.meter.Add(int64(len(rows)))
		}
		return nil
	})
	if err == nil && n != src.job.Shards[mf.Index].Mismatches {
		err = fmt.Errorf("%d mismatches, planned were %d", n, src.job.Shards[mf.Index].Mismatches)
	}
	run.input, run.job = src.input, src.number
	m.runs = append(m.runs, run)
	return err
}

// note sees to what has to be known of all rows before the first is written.
func (m *merger) note(src *source, r *job.Result) {
	if src.Tag != "" {
		r.Job = &src.Tag
	}
	if r.Stage != nil {
		again := src.Retry.command(*r.Stage)
		r.Stage = &again
	}
	if r.MeaningMatch == nil {
		m.unjudged[r.SentenceID] = place{src.input, r.Ordinal}
	}
	if r.Engine != nil && r.ContinuationSmall != nil && r.ContinuationReference != nil {
		m.sum.engines[*r.Engine] = true
	}
}

func (s *Summary) count(r *job.Result) {
	s.Mismatches++
	s.ByStatus[r.Status]++
	if r.MeaningMatch != nil {
		s.Verdicts[map[bool]string{true: "same", false: "different"}[*r.MeaningMatch]]++
	}
	for side, f := range []*string{r.FinishSmall, r.FinishReference} {
		if f != nil {
			s.Finish[side][*f]++
		}
	}
}

// result is the error that says how complete the results are.
func (m *merger) result() error {
	bad := int64(0)
	for status, n := range m.sum.ByStatus {
		if status != results.OK && (status != results.NotJudged || m.Jobs[0].Judging != "") {
			bad += n
		}
	}
	switch {
	case bad > 0:
		return failure.New(failure.Partial, "see "+FailuresKey+" of "+m.Out.String(), "%d of %d mismatches have no verdict", bad, m.sum.Mismatches)
	case m.sum.Partial && len(m.jobs) > 1:
		return failure.New(failure.Partial, SummaryKey+" of "+m.Out.String()+" lists each job's gaps", "some jobs' shards are missing from the results")
	}
	return nil
}

// write merges the spool's runs into the results, all files in one pass.
func (m *merger) write(ctx context.Context, spool *spool) error {
	options, plain := m.columns(), []columnar.Option(nil)
	if m.CSVSafe {
		m.sum.CSVSafe = true
		options, plain = append(options, columnar.CSVSafe()), append(plain, columnar.CSVSafe())
	}
	outs := []output{
		to(ArrowKey, columnar.NewArrowWriter[job.Result], options, same),
		to(ParquetKey, columnar.NewParquetWriter[job.Result], options, same),
		to(CSVKey, columnar.NewCSVWriter[job.Result], options, same),
		to(FailuresKey, columnar.NewCSVWriter[Failure], plain, failed),
	}
	if m.R2R {
		outs = append(outs, to(R2RKey, columnar.NewCSVWriter[R2RRow], nil, m.r2r))
		m.sum.R2RLeftOut = m.leftOut()
	}
	var err error
	if m.sum.SHA256, err = writeAll(ctx, m.Out, outs, m.counted(spool.ordered(m.runs, &m.sum.Repeated))); err != nil {
		return err
	}
	delete(m.sum.SHA256, FailuresKey)
	b, err := job.SealJSON(m.sum)
	if err != nil {
		return fmt.Errorf("encode summary: %w", err)
	}
	return store.ReplaceBytes(ctx, m.Out, SummaryKey, b)
}

// counted counts the rows on their way to the outputs.
func (m *merger) counted(rows iter.Seq2[*job.Result, error]) iter.Seq2[*job.Result, error] {
	return func(yield func(*job.Result, error) bool) {
		for r, err := range rows {
			if err == nil {
				m.sum.count(r)
			}
			if !yield(r, err) {
				return
			}
		}
	}
}

func same(r *job.Result) *job.Result { return r }

// failed is r's row in failures.csv; nil if it is ok.
func failed(r *job.Result) *Failure {
	if r.Status == results.OK {
		return nil
	}
	return &Failure{r.SentenceID, r.MismatchPosition, r.Status, *r.Reason, *r.Stage}
}

// columns leaves out what these jobs have not, and types the sentence ids.
func (m *merger) columns() []columnar.Option {
	set := &m.sum.Settings
	var ids []string
	tagged := false
	for _, j := range m.sum.Jobs {
		ids = append(ids, j.Job)
		tagged = tagged || j.Tag != ""
	}
	md := map[string]string{"tokenfork_job": strings.Join(ids, ","), "tokenfork_format": fmt.Sprint(job.Format)}
	options := []columnar.Option{columnar.Metadata(md), columnar.Without("ordinal"), columnar.Without("reason"), columnar.Without("stage")}
	if !tagged {
		options = append(options, columnar.Without("job"))
	}
	if set.SentenceIDType == "int64" {
		options = append(options, columnar.AsInt64("sentence_id"))
	}
	if !set.Margins {
		options = append(options, columnar.Without("margin_small"), columnar.Without("margin_reference"))
	}
	if len(m.sum.engines) < 2 {
		options = append(options, columnar.Without("engine"))
	}
	return options
}
