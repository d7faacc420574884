package merge

import (
	"context"
	"fmt"
	"maps"

	"tokenfork/internal/job"
	"tokenfork/internal/results"
)

// shardReader puts a shard's results together, text by text.
type shardReader struct {
	results.Reader
	verdicts *job.Committed[job.Verdict] // nil: not judged
	accept   Accept
	inputs   map[string]string // that the results are made from; nil: every verdict is checked
	kept     []job.Result      // of the last text
}

// Accept says whether the verdict answers the question that these results ask.
type Accept func(s *job.Text, r *job.Result, v *job.Verdict) error

// rows gives the text's results in order, until the next text's are asked for.
func (r *shardReader) rows(ctx context.Context, s *job.Text) (rows []job.Result, err error) {
	if r.kept, err = r.AppendRows(ctx, r.kept[:0], s); err != nil {
		return nil, err
	}
	return r.kept, r.addVerdicts(ctx, s, r.kept)
}

func (r *shardReader) addVerdicts(ctx context.Context, s *job.Text, rows []job.Result) error {
	judged := make([]bool, len(rows))
	if r.verdicts != nil {
		vs, err := r.verdicts.Text(ctx, s.Ordinal)
		if err != nil {
			return err
		}
		// A part that was made from the very inputs that are read now has the verdicts on
		// these results: questions are made again, and hashed, of other parts.
		proven := r.inputs != nil && maps.Equal(r.verdicts.Inputs(s.Ordinal), r.inputs)
		mismatches := results.MismatchesOf(s)
		for k := range vs {
			v := &vs[k]
			i, ok := mismatches.At(v.Position)
			if !ok || judged[i] {
				return fmt.Errorf("verdicts hold an unplanned or second one at position %d of text %s", v.Position, s.ID)
			}
			if rows[i].Status != results.OK || v.Error != nil && *v.Error == results.NoContinuation {
				continue // made when the continuations were others
			}
			if !proven {
				if err := r.accept(s, &rows[i], v); err != nil {
					return err
				}
			}
			judged[i] = true
			addVerdict(&rows[i], v)
		}
	}
	for i := range rows {
		if !judged[i] {
			results.Fail(&rows[i], results.NotJudged, "judge", "no judge was asked")
		}
	}
	return nil
}

func addVerdict(row *job.Result, v *job.Verdict) {
	row.JudgeModel, row.PromptVersion, row.PromptHash = &v.JudgeModel, &v.PromptVersion, &v.PromptHash
	if v.Error != nil {
		reason := ""
		if v.Message != nil {
			reason = *v.Message
		}
		results.Fail(row, results.JudgeFailed+*v.Error, "judge", reason)
		return
	}
	row.MeaningMatch, row.VerifyExplanation, row.VerifyConfidence = v.MeaningMatch, v.Explanation, v.Confidence
	row.KeyDifferences, row.ConfidenceSource = v.KeyDifferences, v.ConfidenceSource
}
