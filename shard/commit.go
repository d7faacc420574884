package shard

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/store"
)

// existing is the job that is in the store already, or nil.
func existing(ctx context.Context, s store.Store) (*job.Job, error) {
	j, err := job.Load(ctx, s)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return j, err
}

// plan is the head of job.json.
func (p *planner) plan() (job.Plan, error) {
	head := job.Plan{Format: job.Format, Settings: p.settings, Models: p.Models, Ends: p.Ends, Longest: p.total.longest, Audit: p.Audit,
		Cost: [2]float64{p.cost[0] / 1e9, p.cost[1] / 1e9}}
	head.Input = job.Input{Fingerprint: hex.EncodeToString(p.fingerprint.Sum(nil)), Rows: p.estimate.Rows, Texts: p.estimate.Texts}
	for _, s := range p.Sources {
		head.Input.Sources = append(head.Input.Sources, s.Name)
	}
	var err error
	head.ID, err = head.Identity()
	return head, err
}

// commit writes what is left to write, job.json last.
func (p *planner) commit(ctx context.Context) (*job.Job, error) {
	if p.Grow {
		return p.grow(ctx)
	}
	head, err := p.plan()
	if err != nil {
		return nil, err
	}
	if err := p.out.finish(p.total.rates()); err != nil {
		return nil, err
	}
	tokenizer, err := create(ctx, p.Store, job.TokenizerKey, bytesOf(p.Tokenizer.JSON()))
	if err != nil {
		return nil, err
	}
	e := &p.estimate
	j := &job.Job{Plan: head, Alignment: e.Evidence, Positions: e.Positions, Mismatches: e.Mismatches, Sample: e.Sample, Padding: e.Padding, Skipped: e.Skipped, TooLong: e.TooLong,
		Files: map[string]string{job.TokenizerKey: tokenizer, job.MismatchesCSV: p.out.csv.sum, job.MismatchesFile: p.out.parquet.sum, job.RatesKey: p.out.rates.sum}}
	if j.Shards, err = p.manifests(ctx, head, 0); err != nil {
		return nil, err
	}
	if j.Sample != nil {
		j.Sample.Steps = []job.SampleStep{{Texts: j.Sample.Texts, Shards: len(j.Shards)}}
	}
	b, err := job.SealJSON(j)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", job.Key, err)
	}
	_, err = create(ctx, p.Store, job.Key, bytesOf(b))
	return j, err
}

func bytesOf(b []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	}
}

// manifestsAtOnce is how many manifests are written at once: each waits for a
// disk or for S3 most of the time.
const manifestsAtOnce = 16

// manifests writes the manifest of each shard of the split, the first of which has that number.
func (p *planner) manifests(ctx context.Context, head job.Plan, first int) ([]job.Shard, error) {
	writer, err := job.NewManifestWriter[job.Text]()
	if err != nil {
		return nil, err
	}
	shards := make([]job.Shard, len(p.split))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(manifestsAtOnce)
	for k, s := range p.split {
		g.Go(func() error {
			said := job.Shard{Texts: len(s), Cost: costOf(s)}
			for _, x := range s {
				said.Mismatches += int(x.mismatches)
			}
			h := job.Header{Plan: head, Index: first + k, Of: first + len(p.split), Shard: said}
			_, err := create(ctx, p.Store, job.ManifestKey(first+k), func(w io.Writer) (err error) {
				said.SHA256, err = writer.Write(w, h, p.spooled(ctx, s))
				return err
			})
			shards[k] = said
			return err
		})
	}
	return shards, g.Wait()
}

// spooled yields the texts from the spool.
func (p *planner) spooled(ctx context.Context, all []planned) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for _, x := range all {
			piece, err := p.spool.read(x.at, int(x.size))
			if err == nil {
				err = ctx.Err()
			}
			if !yield(piece, err) || err != nil {
				return
			}
		}
	}
}

// same refuses if the job that is there was planned with different settings. The input is
// compared once it was read.
func (p *planner) same() error {
	now := job.Plan{Settings: p.settings, Models: p.Models, Ends: p.Ends}
	lines, err := differences(&p.before.Plan, &now)
	if err != nil {
		return err
	}
	if len(lines) > 0 {
		return failure.New(failure.Refused, "use the settings of the job, or plan into another place", "job %s was planned with different settings: %s", p.Store, strings.Join(lines, "; "))
	}
	return nil
}

// sameTable refuses if the table is not the job's.
func (p *planner) sameTable() error {
	was, now := p.before.Input, hex.EncodeToString(p.fingerprint.Sum(nil))
	if was.Fingerprint != now {
		return failure.New(failure.Refused, "plan into another place", "job %s was planned from another table: %s of %d rows and %d texts (sha256 %.12s…), now %d rows and %d texts (sha256 %.12s…)",
			p.Store, strings.Join(was.Sources, ", "), was.Rows, was.Texts, was.Fingerprint, p.estimate.Rows, p.estimate.Texts, now)
	}
	return nil
}

// sameShards refuses if the sample, or the number of shards, is not the job's.
func (p *planner) sameShards() error {
	was, now := held(p.before), 0
	for _, s := range p.split {
		now += len(s)
	}
	if was != now {
		return failure.New(failure.Refused, fmt.Sprintf("leave it as it is with --sample %d, extend it with --grow, or plan into another place", was),
			"job %s holds %d of %d texts with mismatches, asked for are %d", p.Store, was, len(p.all), now)
	}
	grown := p.before.Sample != nil && len(p.before.Sample.Steps) > 1
	if n := len(p.before.Shards); n != p.estimate.Shards && !grown {
		return failure.New(failure.Refused, fmt.Sprintf("leave it as it is with --shards %d, or plan into another place", n), "job %s has %d shards, asked for are %d", p.Store, n, p.estimate.Shards)
	}
	return nil
}

// differences are the settings in which two plans differ, in words.
func differences(was, now *job.Plan) ([]string, error) {
	var lines []string
	for _, part := range []struct {
		name     string
		was, now any
	}{
		{"", was.Settings, now.Settings},
		{"small model's ", was.Models[job.Small].Fingerprint, now.Models[job.Small].Fingerprint},
		{"reference model's ", was.Models[job.Reference].Fingerprint, now.Models[job.Reference].Fingerprint},
		{"sentence ends' ", was.Ends, now.Ends},
	} {
		a, err := fields(part.was)
		if err != nil {
			return nil, err
		}
		b, err := fields(part.now)
		if err != nil {
			return nil, err
		}
		for _, k := range slices.Sorted(maps.Keys(b)) {
			if string(a[k]) != string(b[k]) {
				lines = append(lines, fmt.Sprintf("%s%s is %s there, %s now", part.name, k, a[k], b[k]))
			}
		}
	}
	return lines, nil
}

// fields are a value's JSON fields.
func fields(v any) (map[string]json.RawMessage, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("compare settings: %w", err)
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("compare settings: %w", err)
	}
	return m, nil
}
