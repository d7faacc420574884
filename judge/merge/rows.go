package merge

import (
	"context"
	"fmt"
	"math"

	"tokenfork/internal/fork"
	"tokenfork/internal/job"
	"tokenfork/internal/tokenizer"
)

// Status of a result that is not ok starts with one of these, or is NotJudged.
const (
	statusOK     = "ok"
	inferFailed  = "infer_failed:"
	judgeFailed  = "judge_failed:"
	notJudged    = "not_judged"
	classMissing = "missing" // its shard is not finished, see --allow-missing
)

// shardReader puts a shard's results together, sentence by sentence.
type shardReader struct {
	plan     *job.Plan
	text     *tokenizer.Tokenizer
	sides    [2]*job.Committed[job.Continuation] // nil: not finished, or no server of that side needed
	verdicts *job.Committed[job.Verdict]         // nil: not judged
	accept   Accept
}

// Accept says whether the verdict answers the question that these results ask.
type Accept func(s *job.Sentence, r *job.Result, v *job.Verdict) error

// rows gives the sentence's results in order.
func (r *shardReader) rows(ctx context.Context, s *job.Sentence) ([]job.Result, error) {
	rows := make([]job.Result, len(s.Mismatches))
	at := make(map[int32]int, len(rows))
	for i, p := range s.Mismatches {
		rows[i] = r.planned(s, i)
		at[p] = i
	}
	if err := r.addContinuations(ctx, s, rows, at); err != nil {
		return nil, err
	}
	return rows, r.addVerdicts(ctx, s, rows, at)
}

// fail marks a row, if nothing is wrong with it yet.
func fail(row *job.Result, status, stage, reason string) {
	if row.Status == statusOK {
		row.Status, row.Stage, row.Reason = status, &stage, &reason
	}
}

// planned is what the manifest knows of mismatch i.
func (r *shardReader) planned(s *job.Sentence, i int) job.Result {
	p := s.Mismatches[i]
	from := int32(0)
	if i > 0 {
		from = s.Mismatches[i-1]
	}
	context := s.Real[from:p:p]
	small, reference := s.SmallPredictions[p], s.ReferencePredictions[p]
	if r.plan.Settings.Trajectories == job.Real {
		reference = s.Real[p]
	}
	return job.Result{
		SentenceID: s.ID, Context: r.text.Decode(context), ContextIDs: context,
		MismatchPosition: int64(p) + int64(r.plan.Settings.FirstPosition),
		PredSmall:        r.text.Decode([]int32{small}), PredSmallID: small,
		PredReference: r.text.Decode([]int32{reference}), PredReferenceID: reference,
		RowID: rowID(s, p-int32(r.plan.Settings.PredictionOffset())), RealRowID: rowID(s, p),
		RealToken: r.text.Decode(s.Real[p : p+1]), RealTokenID: s.Real[p],
		SmallEntropy: number(s.SmallEntropy, i), SmallAU: number(s.SmallAU, i), SmallEU: number(s.SmallEU, i),
		ReferenceEntropy: number(s.ReferenceEntropy, i), ReferenceAU: number(s.ReferenceAU, i), ReferenceEU: number(s.ReferenceEU, i),
		Status: statusOK, Ordinal: s.Ordinal,
	}
}

func rowID(s *job.Sentence, p int32) *int64 {
	if p < 0 || int(p) >= len(s.RowIDs) {
		return nil
	}
	id := s.RowIDs[p]
	return &id
}

func number(of []float64, i int) *float64 {
	if of == nil || math.IsNaN(of[i]) {
		return nil
	}
	return &of[i]
}

func (r *shardReader) addContinuations(ctx context.Context, s *job.Sentence, rows []job.Result, at map[int32]int) error {
	keys := make([][2]string, len(rows))
	have := make([][2]bool, len(rows))
	for _, side := range r.sides {
		if side == nil {
			continue
		}
		cs, err := side.Sentence(ctx, s.Ordinal)
		if err != nil {
			return err
		}
		for _, c := range cs {
			i, ok := at[c.Position]
			if !ok || have[i][c.Fork] {
				return fmt.Errorf("parts of %s hold an unplanned or second fork at position %d of sentence %s", side.Commit().Side, c.Position, s.ID)
			}
			have[i][c.Fork] = true
			keys[i][c.Fork] = restKey(&c)
			r.addFork(&rows[i], &c)
		}
	}
	for i := range rows {
		if have[i] != [2]bool{true, true} {
			fail(&rows[i], inferFailed+classMissing, "infer", "its shard is not finished")
		}
		if have[i] != [2]bool{} {
			key := keys[i][job.Small] + "/" + keys[i][job.Reference]
			rows[i].RestKey = &key
		}
	}
	return nil
}

// restKey names what was generated for a fork: "position:token", "position:"
// where nothing was forced, "" where the table told all.
func restKey(c *job.Continuation) string {
	switch {
	case c.RestAt < 0:
		return ""
	case c.RestID == fork.None:
		return fmt.Sprintf("%d:", c.RestAt)
	default:
		return fmt.Sprintf("%d:%d", c.RestAt, c.RestID)
	}
}

func (r *shardReader) addFork(row *job.Result, c *job.Continuation) {
	if c.Error != nil {
		fail(row, inferFailed+*c.Error, "infer", deref(c.Message))
		return
	}
	text, replayed := r.text.Decode(c.IDs), c.Replayed
	row.Engine = c.Engine
	if job.Side(c.Fork) == job.Small {
		row.ContinuationSmall, row.ContinuationSmallIDs, row.FinishSmall, row.ReplayedSmall, row.MarginSmall = &text, c.IDs, c.Finish, &replayed, c.Margin
	} else {
		row.ContinuationReference, row.ContinuationReferenceIDs, row.FinishReference, row.ReplayedReference, row.MarginReference = &text, c.IDs, c.Finish, &replayed, c.Margin
	}
}

func (r *shardReader) addVerdicts(ctx context.Context, s *job.Sentence, rows []job.Result, at map[int32]int) error {
	judged := make([]bool, len(rows))
	if r.verdicts != nil {
		vs, err := r.verdicts.Sentence(ctx, s.Ordinal)
		if err != nil {
			return err
		}
		for _, v := range vs {
			i, ok := at[v.Position]
			if !ok || judged[i] {
				return fmt.Errorf("verdicts hold an unplanned or second one at position %d of sentence %s", v.Position, s.ID)
			}
			if rows[i].Status != statusOK {
				continue // a verdict on what failed since answers nothing
			}
			if err := r.accept(s, &rows[i], &v); err != nil {
				return err
			}
			judged[i] = true
			addVerdict(&rows[i], &v)
		}
	}
	for i := range rows {
		if !judged[i] {
			fail(&rows[i], notJudged, "judge", "no judge was asked")
		}
	}
	return nil
}

func addVerdict(row *job.Result, v *job.Verdict) {
	row.JudgeModel, row.PromptVersion, row.PromptHash = &v.JudgeModel, &v.PromptVersion, &v.PromptHash
	if v.Error != nil {
		fail(row, judgeFailed+*v.Error, "judge", deref(v.Message))
		return
	}
	row.MeaningMatch, row.VerifyExplanation, row.VerifyConfidence = v.MeaningMatch, v.Explanation, v.Confidence
	row.KeyDifferences, row.ConfidenceSource = v.KeyDifferences, v.ConfidenceSource
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
