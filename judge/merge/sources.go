package merge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/results"
	"tokenfork/internal/tasks"
	"tokenfork/internal/tokenizer"
)

// source is a job that is open.
type source struct {
	Source
	job     *job.Job
	text    *tokenizer.Tokenizer
	number  int          // among the jobs
	input   int          // among the inputs: jobs may share one
	missing map[int]bool // shards with a task that is not finished
	reasons []string     // of each such task: its name and, if its commit is damaged, how
	about   *Merged
}

// open reads what the jobs are, and refuses those that do not go together.
func (m *merger) open(ctx context.Context) error {
	if err := m.checkOut(ctx); err != nil {
		return err
	}
	inputs := map[string]int{} // by fingerprint
	for i, o := range m.Jobs {
		if o.Retry == nil {
			o.Retry = RetryIn(o.Store, nil, nil)
		}
		src := &source{Source: o, number: i, missing: map[int]bool{}}
		var err error
		if src.job, err = job.Load(ctx, o.Store); err != nil {
			return err
		}
		if src.text, err = results.LoadText(ctx, o.Store); err != nil {
			return err
		}
		fingerprint := src.job.Input.Fingerprint
		if _, known := inputs[fingerprint]; !known {
			inputs[fingerprint] = len(inputs)
		}
		src.input = inputs[fingerprint]
		if i == 0 {
			m.sum = newSummary(src.job.Settings, len(m.Jobs))
		} else if err := m.jobs[0].agree(src); err != nil {
			return err
		}
		src.about = &m.sum.Jobs[i]
		*src.about = Merged{Job: src.job.ID, Tag: o.Tag, Input: src.job.Input, Mismatches: src.job.Mismatches}
		if src.job.Sample.Partial() {
			src.about.Sample = src.job.Sample
		}
		if err := src.findMissing(ctx); err != nil {
			return err
		}
		m.jobs = append(m.jobs, src)
	}
	m.ids = textIDs{}
	return nil
}

// checkOut refuses to overwrite another job's results.
func (m *merger) checkOut(ctx context.Context) error {
	if len(m.Jobs) == 1 && m.Jobs[0].Store.String() == m.Out.String() {
		return nil
	}
	r, err := m.Out.Open(ctx, job.Key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look whether %s is a job: %w", m.Out, err)
	}
	return errors.Join(failure.New(failure.Refused, "give another --out", "%s is a job of its own, whose results would be overwritten", m.Out), r.Close())
}

// agree refuses a job whose rows do not say the same kind of thing, and says why.
func (src *source) agree(other *source) error {
	different := Differences("", src.job.Settings, other.job.Settings)
	for _, side := range job.Sides {
		a, b := src.job.Models[side].Fingerprint, other.job.Models[side].Fingerprint
		different = append(different, Differences(side.String()+" model's ", a, b)...)
	}
	different = append(different, Differences("", map[string]any{"judging": src.Judging}, map[string]any{"judging": other.Judging})...)
	if len(different) > 0 {
		return failure.New(failure.Refused, "merge jobs that were planned and judged alike", "%s and %s differ: %s", src.Store, other.Store, strings.Join(different, "; "))
	}
	return nil
}

// members are a struct's by their JSON names.
func members(of any) map[string]any {
	b, err := json.Marshal(of)
	if err != nil {
		panic(err) // settings and fingerprints always encode
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		panic(err) // what was just encoded
	}
	return m
}

// Differences names the members in which two structs differ, by their JSON names, and both values.
func Differences(what string, a, b any) []string {
	var ds []string
	as, bs := members(a), members(b)
	names := maps.Clone(bs) // some are left out where they are zero
	maps.Copy(names, as)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if x, y := stated(as[name]), stated(bs[name]); x != y {
			ds = append(ds, fmt.Sprintf("%s%s: %s and %s", what, strings.ReplaceAll(name, "_", " "), x, y))
		}
	}
	return ds
}

func stated(v any) string {
	if v == nil || v == "" {
		return "not stated"
	}
	return fmt.Sprint(v)
}

// textIDs knows the job that has each text id of a tag.
type textIDs map[[2]string]*source

// add refuses an id that another input's text has.
func (ids textIDs) add(src *source, id string) error {
	first, known := ids[[2]string{src.Tag, id}]
	if !known {
		ids[[2]string{src.Tag, id}] = src
	} else if first.input != src.input {
		return failure.New(failure.Refused, fmt.Sprintf("tell them apart in a column job: --tag %s=NAME", src.Store),
			"text %s is in %s and in %s, which were planned from different tables", id, first.Store, src.Store)
	}
	return nil
}

// findMissing notes which of the job's tasks have no commit.
func (src *source) findMissing(ctx context.Context) error {
	table, err := tasks.List(ctx, src.Store, tasks.AllShards)
	if err != nil {
		return err
	}
	var all []job.Task
	for k := range src.job.Shards {
		all = append(all, src.tasks(k)...)
	}
	open, err := table.Unfinished(ctx, all)
	for _, t := range open {
		src.missing[t.Shard] = true
		src.about.Missing = append(src.about.Missing, t.String())
		src.reasons = append(src.reasons, table.Describe(t))
	}
	return err
}

// tasks of a shard whose commits the results need.
func (src *source) tasks(k int) []job.Task {
	if src.Judging == "" {
		return src.job.Tasks(k)
	}
	return src.job.Tasks(k, src.Judging)
}

func committed[T job.Row](ctx context.Context, m *merger, src *source, t job.Task, run job.Counters) (*job.Committed[T], error) {
	c, err := job.OpenCommitted[T](ctx, src.Store, t)
	if (errors.Is(err, fs.ErrNotExist) || job.IsDamagedCommit(err)) && src.missing[t.Shard] {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	run.Add(c.Commit().Counters)
	return c, nil
}
