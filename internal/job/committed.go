package job

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"tokenfork/internal/failure"
	"tokenfork/internal/store"
)

// Committed reads a finished task's rows text by text. Asked in
// roughly the order in which they were made, it holds few parts at a time.
type Committed[T Row] struct {
	store  store.Store
	task   Task
	commit *Commit
	at     map[int64]int // text -> index of its part
	left   []int         // texts of each part not yet asked for
	parts  map[int]map[int64][]T
	inputs []map[string]string // of each part that was loaded
}

// OpenCommitted prepares to read the task's rows; fs.ErrNotExist if it is not committed.
func OpenCommitted[T Row](ctx context.Context, s store.Store, t Task) (*Committed[T], error) {
	c, err := LoadCommit(ctx, s, t)
	if err != nil {
		return nil, err
	}
	return newCommitted[T](s, t, c)
}

func newCommitted[T Row](s store.Store, t Task, c *Commit) (*Committed[T], error) {
	r := &Committed[T]{store: s, task: t, commit: c, at: map[int64]int{}, parts: map[int]map[int64][]T{}, inputs: make([]map[string]string, len(c.Parts))}
	for i, p := range c.Parts {
		r.left = append(r.left, len(p.Texts))
		for _, n := range p.Texts {
			if _, twice := r.at[n]; twice {
				return nil, failure.New(failure.Refused, "remove the commit: the task then goes on from its parts", "commit of %s lists text %d twice", t, n)
			}
			r.at[n] = i
		}
	}
	return r, nil
}

// WorthRetrying says whether a retry of a finished task has anything to do: rows
// failed, or parts are damaged.
func WorthRetrying[T Row](ctx context.Context, s store.Store, t Task) (bool, error) {
	r, err := OpenCommitted[T](ctx, s, t)
	return err == nil && r.worthRetrying(ctx), err
}

func (r *Committed[T]) worthRetrying(ctx context.Context) bool {
	return r.commit.Failed > 0 || r.damaged(ctx)
}

// damaged says whether a part that the commit lists is missing or damaged.
func (r *Committed[T]) damaged(ctx context.Context) bool {
	for i := range r.commit.Parts {
		if err := r.load(ctx, i); err != nil {
			return true
		}
		delete(r.parts, i)
	}
	return false
}

// Verify reads every part that the commit lists and gives all that is wrong;
// err says that the store could not be read.
// The shard's texts are want's, each with so many rows; see, if not nil,
// is shown every row that counts.
func (r *Committed[T]) Verify(ctx context.Context, want map[int64]int, see func(*T)) (wrong []error, err error) {
	say := func(format string, args ...any) {
		wrong = append(wrong, failure.New(failure.Refused, "remove the commit: the task then goes on from its parts", "commit of "+r.task.String()+" "+format, args...))
	}
	for n := range want {
		if _, ok := r.at[n]; !ok {
			say("lacks text %d", n)
		}
	}
	rows, failed := 0, 0
	for i, said := range r.commit.Parts {
		rows += said.Rows
		if err := r.load(ctx, i); failure.Code(err) == failure.Refused {
			wrong = append(wrong, err)
			continue
		} else if err != nil {
			return nil, err
		}
		for _, n := range said.Texts {
			got := r.parts[i][n]
			if len(got) != want[n] {
				say("has %d rows of text %d, planned were %d", len(got), n, want[n])
			}
			for k := range got {
				if got[k].Failed() {
					failed++
				}
				if see != nil {
					see(&got[k])
				}
			}
		}
		delete(r.parts, i)
	}
	if len(wrong) == 0 && (rows != r.commit.Rows || failed != r.commit.Failed) {
		say("says %d rows, %d failed; its parts have %d, %d failed", r.commit.Rows, r.commit.Failed, rows, failed)
	}
	return wrong, nil
}

// Commit is the task's commit.
func (r *Committed[T]) Commit() *Commit { return r.commit }

// Text gives the rows of a text, each once: its part may be asked for
// a text one time.
func (r *Committed[T]) Text(ctx context.Context, ordinal int64) ([]T, error) {
	i, ok := r.at[ordinal]
	if !ok {
		return nil, failure.New(failure.Refused, "remove the commit: the task then goes on from its parts", "commit of %s lacks text %d", r.task, ordinal)
	}
	if r.parts[i] == nil {
		if err := r.load(ctx, i); err != nil {
			return nil, err
		}
	}
	rows := r.parts[i][ordinal]
	delete(r.parts[i], ordinal)
	if r.left[i]--; r.left[i] == 0 {
		delete(r.parts, i)
	}
	return rows, nil
}

// Inputs are the sha256 of what a text's rows were made from, by name, once the rows were
// read; none in parts of earlier versions.
func (r *Committed[T]) Inputs(ordinal int64) map[string]string { return r.inputs[r.at[ordinal]] }

func (r *Committed[T]) load(ctx context.Context, i int) error {
	said := r.commit.Parts[i]
	p, err := readPart[T](ctx, r.store, said.Key, r.task)
	if err == nil && p.sum != said.SHA256 {
		err = &damagedError{said.Key, fmt.Errorf("sha256 is %s, the commit says %s", p.sum, said.SHA256)}
	}
	var damaged *damagedError
	if errors.As(err, &damaged) || errors.Is(err, fs.ErrNotExist) {
		err = failure.New(failure.Refused, r.task.Again(ctx, r.store, "--retry"), "%w", err)
	}
	if err != nil {
		return err
	}
	counts := map[int64]bool{}
	for _, n := range said.Texts {
		counts[n] = true
	}
	rows := map[int64][]T{}
	for from, to := 0, 0; from < len(p.rows); from = to {
		n := p.rows[from].TextOrdinal()
		for to = from + 1; to < len(p.rows) && p.rows[to].TextOrdinal() == n; to++ {
		}
		if !counts[n] {
			continue
		}
		if rows[n] == nil { // a text's rows are mostly together
			rows[n] = p.rows[from:to:to]
		} else {
			rows[n] = append(rows[n], p.rows[from:to]...)
		}
	}
	r.parts[i], r.inputs[i] = rows, p.head.Inputs
	return nil
}
