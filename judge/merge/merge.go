// Package merge puts a job's finished parts together into the results: every
// planned mismatch once, in the order of the input.
package merge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"tokenfork/internal/columnar"
	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/progress"
	"tokenfork/internal/results"
	"tokenfork/internal/store"
	"tokenfork/internal/tokenizer"
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
	Store        store.Store
	Judging      string // id of the judging whose verdicts count; "" leaves them out
	Accept       Accept // checks a verdict against its question
	AllowMissing bool   // merge although shards are not finished
	R2R          bool   // write R2R\'s table too
	TempDir      string
	Console      io.Writer
}

// Failure is a row of failures.csv: a mismatch that is not ok, and what to do.
type Failure struct {
	SentenceID       string `col:"sentence_id"`
	MismatchPosition int64  `col:"mismatch_position"`
	Status           string `col:"status"`
	Reason           string `col:"reason"`
	Retry            string `col:"retry"`
}

// Summary is summary.json. Everything but Run is the same however the job ran.
type Summary struct {
	Job        string              `json:"job"`
	Settings   job.Settings        `json:"settings"`
	Input      job.Input           `json:"input"`
	Mismatches int64               `json:"mismatches"`
	Judging    string              `json:"judging,omitempty"` // whose verdicts these are
	R2R        bool                `json:"r2r,omitempty"`     // R2R's table was written too
	ByStatus   map[string]int64    `json:"by_status"`
	Verdicts   map[string]int64    `json:"verdicts"` // same, different
	Finish     [2]map[string]int64 `json:"finish"`   // by side
	Partial    bool                `json:"partial"`  // merged with --allow-missing while shards were missing
	Missing    []string            `json:"missing_tasks,omitempty"`
	R2RLeftOut []string            `json:"r2r_left_out,omitempty"` // sentences without all verdicts, left out of r2r.csv
	Run        Run                 `json:"run"`

	engines map[string]bool
}

// Run is how the job came about: it differs from run to run.
type Run struct {
	Small     job.Counters `json:"small"`
	Reference job.Counters `json:"reference"`
	Judge     job.Counters `json:"judge"`
}

// Merge merges the job. It returns the summary; with failures listed the error
// has failure.Partial.
func Merge(ctx context.Context, o Options) (*Summary, error) {
	j, err := job.Load(ctx, o.Store)
	if err != nil {
		return nil, err
	}
	text, err := results.LoadText(ctx, o.Store)
	if err != nil {
		return nil, err
	}
	m := &merger{unjudged: map[int64]string{}, Options: o, job: j, text: text, sum: newSummary(j)}
	m.sum.Judging, m.sum.R2R = o.Judging, o.R2R
	if err := m.checkComplete(ctx); err != nil {
		return nil, err
	}
	spool, err := newSpool(o.TempDir, len(j.Shards))
	if err != nil {
		return nil, err
	}
	defer spool.close()
	m.meter = progress.New(o.Console, "merge", "mismatches", j.Mismatches)
	defer m.meter.Close()
	if err := m.fill(ctx, spool); err != nil {
		return nil, err
	}
	if err := m.write(ctx, spool); err != nil {
		return nil, err
	}
	return m.sum, m.sum.result(o.Store)
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
	job   *job.Job
	text  *tokenizer.Tokenizer
	sum   *Summary
	meter *progress.Meter
	runs  []section // of the spool, one per shard, each in order
	// sentences with a mismatch that has no verdict, by ordinal
	unjudged map[int64]string
}

func newSummary(j *job.Job) *Summary {
	return &Summary{Job: j.ID, Settings: j.Settings, Input: j.Input, Mismatches: j.Mismatches, ByStatus: map[string]int64{}, Verdicts: map[string]int64{},
		Finish: [2]map[string]int64{{}, {}}, Run: Run{job.Counters{}, job.Counters{}, job.Counters{}}, engines: map[string]bool{}}
}

// checkComplete refuses a job with unfinished tasks before anything is read,
// and names them.
func (m *merger) checkComplete(ctx context.Context) error {
	done := map[string]bool{}
	for o, err := range m.Store.List(ctx, "parts/") {
		if err != nil {
			return fmt.Errorf("list the parts of %s: %w", m.Store, err)
		}
		if prefix, ok := strings.CutSuffix(o.Key, "commit.json"); ok {
			done[prefix] = true
		}
	}
	for k := range m.job.Shards {
		for _, t := range m.tasks(k) {
			if !done[t.Prefix()] {
				m.sum.Missing = append(m.sum.Missing, t.String())
			}
		}
	}
	m.sum.Partial = len(m.sum.Missing) > 0
	if m.sum.Partial && !m.AllowMissing {
		return failure.New(failure.Refused, "finish them (`tokenfork status --job "+m.Store.String()+"` gives the commands), or --allow-missing",
			"%d tasks are not finished: %s", len(m.sum.Missing), strings.Join(m.sum.Missing, "; "))
	}
	return nil
}

// tasks of a shard whose commits the results need.
func (m *merger) tasks(k int) []job.Task {
	var ts []job.Task
	for _, side := range m.job.Settings.Servers() {
		ts = append(ts, job.Task{Stage: "infer", Shard: k, Side: side.String(), Manifest: m.job.Shards[k].SHA256})
	}
	if m.Judging != "" {
		ts = append(ts, job.Task{Stage: "judge", Shard: k, Side: m.Judging, Manifest: m.job.Shards[k].SHA256})
	}
	return ts
}

// fill writes each shard's results to the spool as one ordered run.
func (m *merger) fill(ctx context.Context, spool *spool) error {
	for k := range m.job.Shards {
		mf, err := job.OpenManifest(ctx, m.Store, k)
		if err != nil {
			return err
		}
		if mf.Shard.SHA256 != m.job.Shards[k].SHA256 {
			return failure.New(failure.Refused, "restore it or plan the job again", "manifest %s is not the one that %s lists", job.ManifestKey(k), job.Key)
		}
		r, err := m.reader(ctx, k)
		if err != nil {
			return err
		}
		if err := m.spoolShard(ctx, spool, mf, r); err != nil {
			return fmt.Errorf("merge shard %d: %w", k, err)
		}
	}
	return nil
}

// reader opens what is committed of a shard.
func (m *merger) reader(ctx context.Context, k int) (*shardReader, error) {
	r := &shardReader{Reader: results.Reader{Plan: &m.job.Plan, Text: m.text}, accept: m.Accept}
	for _, t := range m.tasks(k) {
		var err error
		switch {
		case t.Stage == "judge":
			r.verdicts, err = committed[job.Verdict](ctx, m, t, m.sum.Run.Judge)
		case t.Side == job.Small.String():
			r.Sides[job.Small], err = committed[job.Continuation](ctx, m, t, m.sum.Run.Small)
		default:
			r.Sides[job.Reference], err = committed[job.Continuation](ctx, m, t, m.sum.Run.Reference)
		}
		if err != nil {
			return nil, err
		}
	}
	return r, nil
}

func committed[T job.Row](ctx context.Context, m *merger, t job.Task, run job.Counters) (*job.Committed[T], error) {
	c, err := job.OpenCommitted[T](ctx, m.Store, t)
	if errors.Is(err, fs.ErrNotExist) && m.AllowMissing {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	run.Add(c.Commit().Counters)
	return c, nil
}

func (m *merger) spoolShard(ctx context.Context, spool *spool, mf *job.Manifest, r *shardReader) error {
	n := 0
	run, err := spool.run(func(write func(*job.Result) error) error {
		for s, err := range mf.Sentences() {
			if err != nil {
				return err
			}
			rows, err := r.rows(ctx, s)
			if err != nil {
				return err
			}
			for i := range rows {
				if err := write(&rows[i]); err != nil {
					return err
				}
				m.sum.count(&rows[i])
				if rows[i].MeaningMatch == nil {
					m.unjudged[s.Ordinal] = s.ID
				}
			}
			n += len(rows)
			m.meter.Add(int64(len(rows)))
		}
		return nil
	})
	if err == nil && n != m.job.Shards[mf.Index].Mismatches {
		err = fmt.Errorf("%d mismatches, planned were %d", n, m.job.Shards[mf.Index].Mismatches)
	}
	m.runs = append(m.runs, run)
	return err
}

func (s *Summary) count(r *job.Result) {
	s.ByStatus[r.Status]++
	if r.MeaningMatch != nil {
		s.Verdicts[map[bool]string{true: "same", false: "different"}[*r.MeaningMatch]]++
	}
	for side, f := range []*string{r.FinishSmall, r.FinishReference} {
		if f != nil {
			s.Finish[side][*f]++
		}
	}
	if r.Engine != nil && r.ContinuationSmall != nil && r.ContinuationReference != nil {
		s.engines[*r.Engine] = true
	}
}

// result is the error that says how complete the results are.
func (s *Summary) result(in store.Store) error {
	bad := int64(0)
	for status, n := range s.ByStatus {
		if status != results.OK && status != results.NotJudged {
			bad += n
		}
	}
	if bad > 0 {
		return failure.New(failure.Partial, "see "+FailuresKey+" of "+in.String(), "%d of %d mismatches have no verdict", bad, s.Mismatches)
	}
	return nil
}

// write merges the spool's runs into the results, all files in one pass.
func (m *merger) write(ctx context.Context, spool *spool) error {
	options := m.columns()
	outs := []output{
		to(ArrowKey, columnar.NewArrowWriter[job.Result], options, same),
		to(ParquetKey, columnar.NewParquetWriter[job.Result], options, same),
		to(CSVKey, columnar.NewCSVWriter[job.Result], options, same),
		to(FailuresKey, columnar.NewCSVWriter[Failure], nil, m.failure),
	}
	if m.R2R {
		outs = append(outs, to(R2RKey, columnar.NewCSVWriter[R2RRow], nil, m.r2r))
		m.sum.R2RLeftOut = m.leftOut()
	}
	if err := writeAll(ctx, m.Store, outs, spool.ordered(m.runs)); err != nil {
		return err
	}
	b, err := job.SealJSON(m.sum)
	if err != nil {
		return fmt.Errorf("encode summary: %w", err)
	}
	return store.ReplaceBytes(ctx, m.Store, SummaryKey, b)
}

func same(r *job.Result) *job.Result { return r }

// failure is r's row in failures.csv; nil if it is ok.
func (m *merger) failure(r *job.Result) *Failure {
	if r.Status == results.OK {
		return nil
	}
	retry := fmt.Sprintf("tokenfork %s --job %s --retry", *r.Stage, m.Store)
	return &Failure{r.SentenceID, r.MismatchPosition, r.Status, *r.Reason, retry}
}

// columns leaves out what this job has not, and types the sentence ids.
func (m *merger) columns() []columnar.Option {
	set := &m.job.Settings
	md := map[string]string{"tokenfork_job": m.job.ID, "tokenfork_format": fmt.Sprint(job.Format)}
	options := []columnar.Option{columnar.Metadata(md), columnar.Without("job"), columnar.Without("ordinal"), columnar.Without("reason"), columnar.Without("stage")}
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
