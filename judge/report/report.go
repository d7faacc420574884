// Package report makes a paper's figures and tables from a job's results and
// rates, and one page with all of them.
package report

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"tokenfork/internal/columnar"
	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/progress"
	"tokenfork/internal/stats"
	"tokenfork/internal/store"
	"tokenfork/internal/version"
	"tokenfork/judge/agreement"
	"tokenfork/judge/merge"
)

// Keys of what the report reads and writes.
const (
	ResultsKey = "results.parquet"
	PageKey    = "report.html"
	AboutKey   = "report.json"
)

// Options say what to report on.
type Options struct {
	Store     store.Store      // of the job, or of several jobs' merged results
	Out       store.Store      // where the report goes; what an earlier one left is replaced
	TempDir   string           // for results that are not in a folder
	Seed      uint64           // of the resamples and the choice of examples
	Resamples int              // B
	Gold      agreement.Labels // human labels, for the judge's reliability; may be nil
	Console   io.Writer
}

// About is report.json: what the report was made from, and how.
type About struct {
	Version       string            `json:"version"`       // of the tokenfork that drew it
	Job           string            `json:"job,omitempty"` // "" for merges of several jobs
	Models        [2]string         `json:"models"`        // by Side
	Inputs        []string          `json:"inputs,omitempty"`
	ResultsSHA256 string            `json:"results_sha256"` // of a dataset: of its files' sums, one a line
	RatesSHA256   string            `json:"rates_sha256,omitempty"`
	Mismatches    int64             `json:"mismatches"`
	Texts         int64             `json:"sentences"`        // with mismatches
	Sample        *job.Sample       `json:"sample,omitempty"` // nil: all texts of the table
	Judges        map[string]int64  `json:"judges"`           // verdicts by model and prompt
	Seed          uint64            `json:"seed"`
	Resamples     int               `json:"resamples"`
	NearTie       float64           `json:"near_tie"`
	Labels        int               `json:"labels,omitempty"` // by humans
	Figures       []string          `json:"figures"`
	NotDrawn      map[string]string `json:"not_drawn"` // figure to reason
}

// Make writes the report. Memory: 30 bytes a mismatch, twice that while a
// measure is sorted, and 12 bytes for each text and group.
func Make(ctx context.Context, o Options) (*About, error) {
	b, about, err := gather(ctx, o)
	if err != nil {
		return nil, err
	}
	return about, b.write(ctx, o.Out, about)
}

// gather reads all that the figures are made from.
func gather(ctx context.Context, o Options) (*builder, *About, error) {
	if o.Resamples < 1 {
		return nil, nil, failure.New(failure.Usage, "the usual is 1000", "%d resamples", o.Resamples)
	}
	b := &builder{Bootstrap: stats.Bootstrap{Seed: o.Seed, Times: o.Resamples}}
	about := &About{Version: version.Current().String(), Labels: len(o.Gold), Seed: o.Seed, Resamples: o.Resamples, NearTie: stats.NearTieGap, NotDrawn: map[string]string{}}
	expected, err := b.plan(ctx, o.Store, about)
	if err != nil {
		return nil, nil, err
	}
	b.sample = newSample(expected)
	b.sample.examples.seed, b.sample.shown.seed = o.Seed, o.Seed
	if o.Gold != nil {
		b.sample.gold = newGold(o.Gold)
	}
	if about.ResultsSHA256, err = b.read(ctx, o, expected); err != nil {
		return nil, nil, err
	}
	if b.sample.gold != nil {
		b.sample.gold.next()
	}
	if b.tokens, err = readTokens(ctx, o.Store, o.TempDir, b.sums[job.RatesKey]); err != nil {
		return nil, nil, err
	}
	if b.tokens != nil {
		about.RatesSHA256 = b.tokens.sha256
		n := int64(len(b.sample.marks))
		if b.drawn != nil && n == expected {
			n = b.drawn.OfMismatches
		}
		if b.tokens.mismatches != n {
			return nil, nil, failure.New(failure.Refused, "merge the job again", "%s of %s has %d mismatches, its %s counts %d", ResultsKey, o.Store, n, job.RatesKey, b.tokens.mismatches)
		}
	}
	about.Mismatches, about.Texts, about.Judges = int64(len(b.sample.marks)), int64(len(b.sample.starts)), b.sample.judges
	return b, about, nil
}

// plan reads what summary.json and job.json know, where they are there, and gives the
// number of mismatches.
func (b *builder) plan(ctx context.Context, s store.Store, about *About) (int64, error) {
	b.sums = map[string]string{}
	sum, err := merge.LoadSummary(ctx, s)
	if err == nil {
		b.summary = sum
		maps.Copy(b.sums, sum.SHA256)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	if sum != nil && len(sum.Jobs) > 1 && slices.ContainsFunc(sum.Jobs, func(m merge.Merged) bool { return m.Sample != nil }) {
		return 0, failure.New(failure.Refused, "report on each job by itself, or grow the samples to all texts and merge again",
			"the results in %s are of several jobs, and some are samples of their tables: what a text stands for is not the same in all", s)
	}
	j, err := job.Load(ctx, s)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	maps.Copy(b.sums, j.Files)
	b.names = [2]string{j.Settings.Small, j.Settings.Reference}
	b.first, b.limit = int64(j.Settings.FirstPosition), j.Settings.MaxNewTokens
	b.take(j)
	about.Sample = b.drawn
	about.Job, about.Models, about.Inputs = j.ID, b.names, j.Input.Sources
	return j.Mismatches, nil
}

func (b *builder) read(ctx context.Context, o Options, expected int64) (string, error) {
	if expected == 0 {
		expected = -1
	}
	meter := progress.New(o.Console, "report", "mismatches", expected)
	defer meter.Close()
	keys, err := b.resultKeys(ctx, o.Store)
	if err != nil {
		return "", err
	}
	var sums []string
	for _, key := range keys {
		sum, err := each(ctx, o.Store, key, o.TempDir, b.sums[key], func(r *row) error {
			meter.Add(1)
			return b.sample.add(r)
		})
		if err != nil {
			return "", unmerged(o.Store, key, err)
		}
		sums = append(sums, sum)
	}
	if len(sums) == 1 {
		return sums[0], nil
	}
	return job.Sum([]byte(strings.Join(sums, "\n"))), nil
}

// resultKeys are the results' one file, or the parts of a dataset in order, as the
// summary says. Without a summary only the one file counts: parts may be of two merges.
func (b *builder) resultKeys(ctx context.Context, s store.Store) ([]string, error) {
	again := "run `" + job.Command(s, "merge") + "` again"
	if b.summary != nil {
		keys := b.summary.Results(columnar.Parquet)
		if len(keys) == 0 {
			return nil, failure.New(failure.Refused, again+", with parquet among its --formats", "the results in %s are not in Parquet", s)
		}
		return keys, nil
	}
	for o, err := range s.List(ctx, merge.PartPrefix) {
		if err != nil {
			return nil, fmt.Errorf("list %s of %s: %w", merge.PartPrefix, s, err)
		}
		if merge.IsResult(o.Key) {
			return nil, failure.New(failure.Refused, again, "%s has %s, and no %s that says which merge it is of", s, o.Key, merge.SummaryKey)
		}
	}
	return []string{ResultsKey}, nil
}

// write makes the figures and everything that shows them; the page comes last.
func (b *builder) write(ctx context.Context, out store.Store, about *About) error {
	figures := b.figures()
	for _, f := range figures {
		if f.why != "" {
			about.NotDrawn[f.name] = f.why
			continue
		}
		about.Figures = append(about.Figures, f.name)
	}
	if err := clearOut(ctx, out); err != nil {
		return err
	}
	for _, f := range figures {
		if err := f.write(ctx, out); err != nil {
			return fmt.Errorf("write figure %s: %w", f.name, err)
		}
	}
	if err := replaceJSON(ctx, out, AboutKey, about); err != nil {
		return err
	}
	if err := b.writeTexts(ctx, out, about); err != nil {
		return err
	}
	return b.writePage(ctx, out, about, figures)
}

func replaceJSON(ctx context.Context, out store.Store, key string, v any) error {
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", key, err)
	}
	return store.ReplaceBytes(ctx, out, key, append(b, '\n'))
}

// clearOut removes an earlier report's figures: one that is not drawn any more
// must not stay.
func clearOut(ctx context.Context, out store.Store) error {
	for _, folder := range []string{"figures/", "tables/"} {
		for o, err := range out.List(ctx, folder) {
			if err != nil {
				return fmt.Errorf("list %s of %s: %w", folder, out, err)
			}
			if err := out.Remove(ctx, o.Key); err != nil {
				return fmt.Errorf("remove %s of %s: %w", o.Key, out, err)
			}
		}
	}
	return nil
}

func (f *figure) write(ctx context.Context, out store.Store) error {
	if f.why != "" {
		return nil
	}
	if f.picture != nil {
		files, err := f.picture.formats()
		if err != nil {
			return err
		}
		for _, ending := range sortedKeys(files) {
			if err := store.ReplaceBytes(ctx, out, "figures/"+f.name+"."+ending, files[ending]); err != nil {
				return err
			}
		}
	}
	for _, t := range f.tables {
		if err := t.write(ctx, out); err != nil {
			return fmt.Errorf("write table %s: %w", t.name, err)
		}
	}
	return nil
}

func (t *table) write(ctx context.Context, out store.Store) error {
	if err := out.Replace(ctx, "tables/"+t.name+".csv", t.writeCSV); err != nil || t.curve {
		return err
	}
	return out.Replace(ctx, "tables/"+t.name+".tex", t.writeLaTeX)
}
