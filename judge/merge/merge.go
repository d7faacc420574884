// Package merge puts a job's finished parts together into the results: every
// planned mismatch once, in the order of the input.
package merge

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"strings"
	"sync"

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
	ArrowKey    = "results.arrow" // and the next two, unless Options say otherwise
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
	Formats      []string    // of Formats; none for all
	Parts        int         // how many files a format's results are cut into; 0 is one, results.FORMAT
	TempDir      string
	Console      io.Writer
}

// Source is a job that is merged.
type Source struct {
	Store   store.Store
	Judging string // id of the judging whose verdicts count; "" leaves them out
	Accept  Accept // checks a verdict against its question
	Recheck bool   // check also verdicts whose part names the continuations that they were asked about
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
	Repeated   int64               `json:"repeated,omitempty"`  // mismatches that more than one job has, counted once
	Judging    string              `json:"judging,omitempty"`   // whose verdicts these are
	R2R        bool                `json:"r2r,omitempty"`       // R2R's table was written too
	R2RParts   int                 `json:"r2r_parts,omitempty"` // of the router's training set
	CSVSafe    bool                `json:"csv_safe,omitempty"`  // formulas in CSV are quoted
	SHA256     map[string]string   `json:"files_sha256"`        // of the results; failures.csv, which names the place, has none
	Formats    []string            `json:"formats,omitempty"`   // that were written, unless all were
	Parts      int                 `json:"parts,omitempty"`     // of the results in each format, if they are a dataset
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
	Job        string      `json:"job"`
	Tag        string      `json:"tag,omitempty"`
	Input      job.Input   `json:"input"`
	Mismatches int64       `json:"mismatches"`       // planned
	Sample     *job.Sample `json:"sample,omitempty"` // nil: of all texts of its table
	Missing    []string    `json:"missing_tasks,omitempty"`
}

// Run is how the job came about: it differs from run to run.
type Run struct {
	Version string `json:"version"` // of the tokenfork that merged
	// Of a job that began with texts: what predict took, by the model's name in its table, and
	// what predict and infer computed of prompts together, by side, where both are known.
	Predict    map[string]job.Counters `json:"predict,omitempty"`
	BothStages map[string]job.Counters `json:"predict_and_infer,omitempty"`

	Small     job.Counters `json:"small"`
	Reference job.Counters `json:"reference"`
	Judge     job.Counters `json:"judge"`
}

const (
	memory    = 320 << 20 // what the collector aims at, whatever the size of the jobs
	collectAt = 400       // and until then it runs rarely: most of what is read is dropped at once
)

// Merge merges the jobs. It returns the summary; with failures listed the error
// has failure.Partial.
func Merge(ctx context.Context, o Options) (*Summary, error) {
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(memory))
	defer debug.SetGCPercent(debug.SetGCPercent(collectAt))
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
	m.sum.Judging, m.sum.R2R, m.sum.CSVSafe, m.sum.Formats, m.sum.Parts = o.Jobs[0].Judging, m.R2R, o.CSVSafe, o.Formats, o.Parts
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
	m.keep()
	if err := m.fill(ctx, spool); err != nil {
		return nil, err
	}
	if err := m.predicted(ctx); err != nil {
		return nil, err
	}
	spool.sort()
	if m.sum.Repeated, err = spool.distinct(m.kept); err != nil {
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
	if err := job.OpenJSON(b, &sum); err != nil {
		return nil, failure.New(failure.Refused, "run the same tokenfork merge again", "%s of %s is damaged: %w", SummaryKey, s, err)
	}
	return &sum, nil
}

type merger struct {
	Options
	jobs  []*source
	sum   *Summary
	meter *progress.Meter
	kept  []columnar.Option // the columns that the spool has

	mu  sync.Mutex // of what follows and of the summary, while shards are read
	ids textIDs
	// texts with a mismatch that has no verdict
	unjudged map[string]place
}

func newSummary(settings job.Settings, jobs int) *Summary {
	return &Summary{Jobs: make([]Merged, jobs), Settings: settings, SHA256: map[string]string{}, ByStatus: map[string]int64{}, Verdicts: map[string]int64{},
		Finish: [2]map[string]int64{{}, {}}, Run: Run{Version: version.Current().String(), Small: job.Counters{}, Reference: job.Counters{}, Judge: job.Counters{}}, engines: map[string]bool{}}
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

// count counts the results on their way to the outputs.
func (s *Summary) count(b *batch) {
	tally(s.ByStatus, b, "status")
	tally(s.Finish[job.Small], b, "finish_small")
	tally(s.Finish[job.Reference], b, "finish_reference")
	match, verdicts := b.Flag("meaning_match"), map[bool]int64{}
	for i := range b.Len() {
		if same, judged := match(i); judged {
			verdicts[same]++
		}
	}
	for same, n := range verdicts {
		s.Verdicts[map[bool]string{true: "same", false: "different"}[same]] += n
	}
	s.Mismatches += int64(b.Len())
}

// tally counts a column's texts. Equal ones mostly follow each other.
func tally(counts map[string]int64, b *batch, column string) {
	text := b.Text(column)
	for i := 0; i < b.Len(); {
		said, there := text(i)
		first := i
		for i++; i < b.Len(); i++ {
			if next, also := text(i); also != there || !bytes.Equal(next, said) {
				break
			}
		}
		if there {
			counts[string(said)] += int64(i - first)
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

// failed is r's row in failures.csv; nil if it is ok.
func failed(r *job.Result) *Failure {
	if r.Status == results.OK {
		return nil
	}
	return &Failure{r.SentenceID, r.MismatchPosition, r.Status, *r.Reason, *r.Stage}
}

// keep settles the columns that these jobs have: those left out, and the type of
// the ids.
func (m *merger) keep() {
	set := &m.sum.Settings
	if !slices.ContainsFunc(m.sum.Jobs, func(j Merged) bool { return j.Tag != "" }) {
		m.kept = append(m.kept, columnar.Without("job"))
	}
	if set.SentenceIDType == "int64" {
		m.kept = append(m.kept, columnar.AsInt64("sentence_id"))
	}
	if !set.Margins {
		m.kept = append(m.kept, columnar.Without("margin_small"), columnar.Without("margin_reference"))
	}
}

// written are the columns of the results: of those kept, without what only
// merging needs.
func (m *merger) written() []columnar.Option {
	var ids []string
	for _, j := range m.sum.Jobs {
		ids = append(ids, j.Job)
	}
	md := map[string]string{"tokenfork_job": strings.Join(ids, ","), "tokenfork_format": fmt.Sprint(job.Format)}
	options := append(slices.Clone(m.kept), columnar.Metadata(md), columnar.Without("ordinal"), columnar.Without("reason"), columnar.Without("stage"))
	if len(m.sum.engines) < 2 {
		options = append(options, columnar.Without("engine"))
	}
	return options
}
