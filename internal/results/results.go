// Package results makes the rows of the results, as far as plan and infer know
// them, from a manifest's texts and the committed continuations.
package results

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"sync"

	"tokenfork/internal/fork"
	"tokenfork/internal/job"
	"tokenfork/internal/store"
	"tokenfork/internal/tokenizer"
)

// A result's status: OK, or one of the others, the Failed ones with a class
// behind them.
const (
	OK          = "ok"
	InferFailed = "infer_failed:"
	JudgeFailed = "judge_failed:"
	NotJudged   = "not_judged"
)

// NoContinuation is the class of verdicts on mismatches whose continuations
// failed: no judge was asked.
const NoContinuation = "no_continuation"

const classMissing = "missing" // its shard is not finished

// Reader puts the results of a shard together, text by text.
type Reader struct {
	Plan  *job.Plan
	Text  *tokenizer.Tokenizer
	Sides [2]*job.Committed[job.Continuation] // nil: not finished, or no server of that side needed

	engines map[[2]string]*string // of both sides, by their names
	tokens  sync.Map              // texts by id, of tokens that were asked for
}

// LoadText reads the job's own copy of the tokenizer: no model folder is needed.
func LoadText(ctx context.Context, s store.Store) (*tokenizer.Tokenizer, error) {
	b, err := store.ReadAll(ctx, s, job.TokenizerKey)
	if err != nil {
		return nil, fmt.Errorf("read %s of %s: %w", job.TokenizerKey, s, err)
	}
	return tokenizer.Parse(b)
}

// Rows gives the text's results in the order of its mismatches. A fork that
// failed or is missing says so in its row's status.
func (r *Reader) Rows(ctx context.Context, s *job.Text) ([]job.Result, error) {
	return r.AppendRows(ctx, nil, s)
}

// AppendRows appends what Rows gives to dst.
func (r *Reader) AppendRows(ctx context.Context, dst []job.Result, s *job.Text) ([]job.Result, error) {
	first := len(dst)
	dst = slices.Grow(dst, len(s.Mismatches))
	for i := range s.Mismatches {
		dst = append(dst, r.Planned(s, i))
	}
	return dst, r.addContinuations(ctx, s, dst[first:])
}

// Inputs are the sha256 of what the rows are made from beside the manifest, by name.
func (r *Reader) Inputs() map[string]string {
	sums := map[string]string{job.TokenizerKey: r.Text.Fingerprint()}
	for side, c := range r.Sides {
		if c != nil {
			sums[job.Side(side).String()] = c.Commit().Sum
		}
	}
	return sums
}

// Mismatches finds a text's mismatches by position. Asked in their order, it does not
// search.
type Mismatches struct {
	positions []int32
	next      int
}

// MismatchesOf are the text's.
func MismatchesOf(s *job.Text) Mismatches { return Mismatches{positions: s.Mismatches} }

// At is the place of the mismatch at a position among the text's; false if there is none.
func (m *Mismatches) At(position int32) (int, bool) {
	i, there := m.next, m.next < len(m.positions) && m.positions[m.next] == position
	if !there {
		i, there = slices.BinarySearch(m.positions, position)
	}
	m.next = i + 1
	return i, there
}

// Fail marks a row, if nothing is wrong with it yet.
func Fail(row *job.Result, status, stage, reason string) {
	if row.Status == OK {
		row.Status, row.Stage, row.Reason = status, &stage, &reason
	}
}

// Planned is what the manifest knows of mismatch i.
func (r *Reader) Planned(s *job.Text, i int) job.Result {
	p := s.Mismatches[i]
	from := int32(0)
	if i > 0 {
		from = s.Mismatches[i-1]
	}
	context := s.Real[from:p:p]
	small, reference := s.SmallPredictions[p], s.ReferencePredictions[p]
	if r.Plan.Settings.Trajectories == job.Real {
		reference = s.Real[p]
	}
	return job.Result{
		SentenceID: s.ID, Context: r.Text.Decode(context), ContextIDs: context,
		MismatchPosition: int64(p) + int64(r.Plan.Settings.FirstPosition),
		PredSmall:        r.token(small), PredSmallID: small,
		PredReference: r.token(reference), PredReferenceID: reference,
		RowID: rowID(s, p-int32(r.Plan.Settings.PredictionOffset())), RealRowID: rowID(s, p),
		RealToken: r.token(s.Real[p]), RealTokenID: s.Real[p],
		SmallEntropy: number(s.SmallEntropy, i), SmallAU: number(s.SmallAU, i), SmallEU: number(s.SmallEU, i),
		ReferenceEntropy: number(s.ReferenceEntropy, i), ReferenceAU: number(s.ReferenceAU, i), ReferenceEU: number(s.ReferenceEU, i),
		Status: OK, Ordinal: s.Ordinal,
	}
}

// token is the text of one token.
func (r *Reader) token(id int32) string {
	if text, known := r.tokens.Load(id); known {
		return text.(string)
	}
	text := r.Text.Decode([]int32{id})
	r.tokens.Store(id, text)
	return text
}

func rowID(s *job.Text, p int32) *int64 {
	if id, ok := s.RowID(int64(p)); ok {
		return &id
	}
	return nil
}

func number(of []float64, i int) *float64 {
	if of == nil || math.IsNaN(of[i]) {
		return nil
	}
	return &of[i]
}

func (r *Reader) addContinuations(ctx context.Context, s *job.Text, rows []job.Result) error {
	forks := make([][2]*job.Continuation, len(rows))
	for _, side := range r.Sides {
		if side == nil {
			continue
		}
		cs, err := side.Text(ctx, s.Ordinal)
		if err != nil {
			return err
		}
		mismatches, shown := MismatchesOf(s), make([]string, len(cs))
		for k := range cs {
			c := &cs[k]
			i, ok := mismatches.At(c.Position)
			if !ok || forks[i][c.Fork] != nil {
				return fmt.Errorf("parts of %s hold an unplanned or second fork at position %d of text %s", side.Commit().Side, c.Position, s.ID)
			}
			forks[i][c.Fork] = c
			r.addFork(&rows[i], c, &shown[k])
		}
	}
	for i := range rows {
		small, reference := forks[i][job.Small], forks[i][job.Reference]
		if small == nil || reference == nil {
			Fail(&rows[i], InferFailed+classMissing, "infer", "its shard is not finished")
		}
		if small != nil || reference != nil {
			key := string(appendRest(append(appendRest(make([]byte, 0, 24), small), '/'), reference))
			rows[i].RestKey, rows[i].Engine = &key, r.engine(forks[i])
		}
	}
	return nil
}

// appendRest names what was generated for a fork: "position:token", "position:"
// where nothing was forced, "" where the table told all or the fork is missing.
func appendRest(dst []byte, c *job.Continuation) []byte {
	if c == nil || c.RestAt < 0 {
		return dst
	}
	dst = append(strconv.AppendInt(dst, int64(c.RestAt), 10), ':')
	if c.RestID == fork.None {
		return dst
	}
	return strconv.AppendInt(dst, int64(c.RestID), 10)
}

// addFork puts a continuation into its row; text is the place for what it reads.
func (r *Reader) addFork(row *job.Result, c *job.Continuation, text *string) {
	if c.Error != nil {
		reason := ""
		if c.Message != nil {
			reason = *c.Message
		}
		Fail(row, InferFailed+*c.Error, "infer", reason)
		return
	}
	*text = r.Text.Decode(c.IDs)
	if job.Side(c.Fork) == job.Small {
		row.ContinuationSmall, row.ContinuationSmallIDs, row.FinishSmall, row.ReplayedSmall, row.MarginSmall = text, c.IDs, c.Finish, &c.Replayed, c.Margin
	} else {
		row.ContinuationReference, row.ContinuationReferenceIDs, row.FinishReference, row.ReplayedReference, row.MarginReference = text, c.IDs, c.Finish, &c.Replayed, c.Margin
	}
}

// engine names the engines of both forks that there are, as small/reference.
func (r *Reader) engine(forks [2]*job.Continuation) *string {
	var names [2]string
	there := false
	for side, c := range forks {
		if c != nil && c.Error == nil {
			there = true
			if c.Engine != nil {
				names[side] = *c.Engine
			}
		}
	}
	if !there {
		return nil
	}
	if r.engines == nil {
		r.engines = map[[2]string]*string{}
	}
	both := r.engines[names]
	if both == nil {
		both = new(string)
		*both = names[job.Small] + "/" + names[job.Reference]
		r.engines[names] = both
	}
	return both
}
