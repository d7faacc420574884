package judge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"sync"
	"time"

	"tokenfork/internal/job"
	"tokenfork/internal/store"
)

// journal keeps verdicts on texts that are not finished: parts hold whole
// texts, and a long one is thousands of questions. What it keeps is only
// remembered answers; a part or a commit never depends on it.
type journal struct {
	store  store.Store
	prefix string // of this attempt
	stop   chan struct{}
	done   chan struct{}

	mu    sync.Mutex
	fresh map[int64][]job.Verdict // by text, not yet kept
	next  int
	err   error
}

// journalSuffix is no part's, so that parts and journals never mix.
const journalSuffix = ".answers"

// openJournal keeps what is added at least every so often.
func openJournal(ctx context.Context, s store.Store, t job.Task, attempt string, every time.Duration) *journal {
	j := &journal{store: s, prefix: t.Prefix() + attempt + "/", fresh: map[int64][]job.Verdict{}, stop: make(chan struct{}), done: make(chan struct{})}
	go j.loop(context.WithoutCancel(ctx), every)
	return j
}

// readJournals gives the verdicts that attempts at the task left. A damaged
// file's are asked for again.
func readJournals(ctx context.Context, s store.Store, t job.Task) ([]job.Verdict, error) {
	return readAnswers(ctx, s, t.Prefix(), "")
}

// goldAttempt names the journals of --gold, as attempts name those of runs.
const goldAttempt = "gold"

// goldAnswers gives the verdicts that the job keeps of --gold, by all its judges.
func goldAnswers(ctx context.Context, s store.Store) ([]job.Verdict, error) {
	return readAnswers(ctx, s, "parts/judge/", goldAttempt)
}

// readAnswers gives the verdicts in journals under a prefix, of one attempt or, for "", of all.
func readAnswers(ctx context.Context, s store.Store, prefix, attempt string) ([]job.Verdict, error) {
	var all []job.Verdict
	for o, err := range s.List(ctx, prefix) {
		if err != nil {
			return nil, fmt.Errorf("list the answers in %s of %s: %w", prefix, s, err)
		}
		if !strings.HasSuffix(o.Key, journalSuffix) || attempt != "" && path.Base(path.Dir(o.Key)) != attempt {
			continue
		}
		b, err := store.ReadAll(ctx, s, o.Key)
		if err != nil {
			return nil, fmt.Errorf("read answers %s: %w", o.Key, err)
		}
		var some []job.Verdict
		if strings.Contains(path.Base(o.Key), job.Sum(b)) && json.Unmarshal(b, &some) == nil {
			all = append(all, some...)
		}
	}
	return all, nil
}

// add keeps a verdict soon, if asking for it again would cost anything.
func (j *journal) add(v job.Verdict) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if v.Error != nil || v.ConfidenceSource != nil && *v.ConfidenceSource == Identical {
		return j.err
	}
	j.fresh[v.Ordinal] = append(j.fresh[v.Ordinal], v)
	return j.err
}

// addAll keeps the verdicts that are there.
func (j *journal) addAll(all ...*job.Verdict) error {
	for _, v := range all {
		if v != nil {
			if err := j.add(*v); err != nil {
				return err
			}
		}
	}
	return nil
}

// finished forgets a text that is in the log now.
func (j *journal) finished(ordinal int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.fresh, ordinal)
}

func (j *journal) loop(ctx context.Context, every time.Duration) {
	defer close(j.done)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			j.flush(ctx)
		case <-j.stop:
			j.flush(ctx)
			return
		}
	}
}

// flush writes what is fresh into an object whose name holds its hash.
func (j *journal) flush(ctx context.Context) {
	j.mu.Lock()
	var fresh []job.Verdict
	for _, vs := range j.fresh {
		fresh = append(fresh, vs...)
	}
	clear(j.fresh)
	n := j.next
	j.next++
	j.mu.Unlock()
	if len(fresh) == 0 {
		return
	}
	b, err := json.Marshal(fresh)
	if err == nil {
		err = store.CreateBytes(ctx, j.store, fmt.Sprintf("%s%05d-%s%s", j.prefix, n, job.Sum(b), journalSuffix), b)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) { // the name holds the hash: the same is there
		j.mu.Lock()
		j.err = fmt.Errorf("keep answers: %w", err)
		j.mu.Unlock()
	}
}

// close keeps what is left.
func (j *journal) close() error {
	close(j.stop)
	<-j.done
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.err
}
