package judge

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/results"
	"tokenfork/internal/stage"
	"tokenfork/internal/store"
	"tokenfork/judge/endpoint"
)

// requestID is the name of a request in a batch.
func requestID(r endpoint.Request) string {
	b, err := json.Marshal(r)
	if err != nil {
		panic(err) // strings and finite numbers always encode
	}
	return job.Sum(b)
}

// batchRecord is a batch that works on a shard's questions.
type batchRecord struct {
	ID        string    `json:"id"`
	Questions int       `json:"questions"`
	Submitted time.Time `json:"submitted"` // for people
}

// batchPrefix is where a task keeps the batches that it submitted, so that a
// restart waits for them and pays for none twice.
func batchPrefix(t job.Task) string { return t.Prefix() + "batches/" }

func readBatches(ctx context.Context, s store.Store, t job.Task) ([]batchRecord, error) {
	var all []batchRecord
	for o, err := range s.List(ctx, batchPrefix(t)) {
		if err != nil {
			return nil, fmt.Errorf("list the batches of %s: %w", t, err)
		}
		b, err := store.ReadAll(ctx, s, o.Key)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", o.Key, err)
		}
		var r batchRecord
		if err := json.Unmarshal(b, &r); err != nil {
			return nil, failure.New(failure.Refused, "remove it: its questions are then asked again", "%s of %s is damaged: %w", o.Key, s, err)
		}
		all = append(all, r)
	}
	return all, nil
}

// submit puts the open questions of all shards into batches. Shards whose manifests
// cannot be used are left out of todo.
func (r *runner) submit(ctx context.Context) error {
	var usable []int
	for _, k := range r.todo {
		err := r.submitShard(ctx, k)
		if errors.Is(err, stage.ErrManifest) {
			r.sum.Refuse(r.Log, r.task(k), err)
			continue
		}
		if err != nil {
			return err
		}
		usable = append(usable, k)
	}
	r.todo = usable
	return nil
}

// submitShard does nothing for a shard that has batches already.
func (r *runner) submitShard(ctx context.Context, k int) error {
	before, err := readBatches(ctx, r.Store, r.task(k))
	if err != nil || len(before) > 0 {
		return err
	}
	if err := r.remember(ctx, k); err != nil {
		return err
	}
	f := &batchFile{runner: r, task: r.task(k), seen: map[string]bool{}}
	if err := f.fill(ctx, k); err != nil {
		return err
	}
	return f.submit(ctx)
}

// batchFile gathers the questions of a shard.
type batchFile struct {
	*runner
	task  job.Task
	seen  map[string]bool // questions
	items []endpoint.BatchItem
	lines bytes.Buffer
	files int // submitted
}

func (f *batchFile) fill(ctx context.Context, k int) error {
	m, err := job.OpenManifest(ctx, f.Store, k)
	if err != nil {
		return stage.Unusable(err)
	}
	run, err := f.inferredShard(ctx, m)
	if err != nil {
		return err
	}
	log, err := job.OpenLog[job.Verdict](ctx, f.Store, f.job.ID, f.task, f.Who, f.PartEvery)
	if err != nil {
		return err
	}
	for s, err := range m.Texts() {
		if err != nil {
			return errors.Join(stage.Unusable(err), log.Close())
		}
		if log.Has(s.Ordinal) {
			continue
		}
		rows, err := run.results.Rows(ctx, s)
		if err != nil {
			return errors.Join(err, log.Close())
		}
		for i := range rows {
			if err := f.add(ctx, s, &rows[i]); err != nil {
				return errors.Join(err, log.Close())
			}
		}
	}
	return log.Close()
}

// add puts what a row asks into the file, if it asks anything new.
func (f *batchFile) add(ctx context.Context, s *job.Text, row *job.Result) error {
	if row.Status != results.OK {
		return nil
	}
	q := f.framer.Question(s, row)
	v, order, err := f.judge.frame(q)
	if err != nil {
		return err
	}
	if _, known := f.judge.known.get(v.Question); known || f.seen[v.Question] || q.Identical(f.Settings.Normalisation) {
		return nil
	}
	f.seen[v.Question] = true
	askings, err := f.judge.askings(q, v.Question, order)
	if err != nil {
		return err
	}
	for _, k := range askings {
		item := endpoint.BatchItem{ID: requestID(k.request), Request: k.request}
		line, err := f.client.Line(item)
		if err != nil {
			return err
		}
		if len(f.items) == endpoint.MaxBatchItems || f.lines.Len()+len(line) > endpoint.MaxBatchBytes {
			if err := f.submit(ctx); err != nil {
				return err
			}
		}
		f.items = append(f.items, item)
		f.lines.Write(line)
	}
	return nil
}

// submit sends what is gathered and keeps the batch's id.
func (f *batchFile) submit(ctx context.Context) error {
	if len(f.items) == 0 {
		return nil
	}
	id, err := f.client.Submit(ctx, f.lines.Bytes(), f.items)
	if err != nil {
		return err
	}
	b, err := json.Marshal(batchRecord{id, len(f.items), time.Now().UTC().Truncate(time.Second)})
	if err != nil {
		return fmt.Errorf("encode batch: %w", err)
	}
	// Whatever happens to the task now: the id must not be lost.
	key := fmt.Sprintf("%s%05d.json", batchPrefix(f.task), f.files)
	if err := store.CreateBytes(context.WithoutCancel(ctx), f.Store, key, b); err != nil {
		return fmt.Errorf("keep the id of batch %s: %w", id, err)
	}
	f.Log.Info("batch submitted", "batch", id, "questions", len(f.items), "task", f.task.String())
	f.items, f.files = nil, f.files+1
	f.lines.Reset()
	return nil
}

// collect waits for the shard's batches and takes their answers. What they
// could not answer is asked in the usual way.
func (r *runner) collect(ctx context.Context, k int) error {
	batches, err := readBatches(ctx, r.Store, r.task(k))
	if err != nil {
		return err
	}
	for _, b := range batches {
		how, err := r.client.Wait(ctx, b.ID, cmp.Or(r.BatchPoll, time.Minute), func(done, total int) {
			r.Log.Info("batch", "batch", b.ID, "done", done, "of", total)
		})
		if ctx.Err() != nil {
			return failure.New(failure.Stopped, "start it again later: the batch goes on meanwhile", "stopped while batch %s works", b.ID)
		}
		if err != nil {
			return err
		}
		answered := 0
		err = r.client.Collect(ctx, b.ID, r.prompt.request(r.Settings, ""), func(id string, reply *endpoint.Reply, err error) {
			if err != nil {
				return
			}
			if a, err := r.judge.read(reply); err == nil {
				answered++
				r.judge.batched.Store(id, a)
			}
		})
		if err != nil {
			return err
		}
		r.Log.Info("batch "+how, "batch", b.ID, "questions", b.Questions, "answered", answered)
	}
	return nil
}
