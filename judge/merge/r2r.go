package merge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
)

// R2RKey is the table that step 4 of R2R's data labelling reads.
const R2RKey = "r2r.csv"

// R2RRow is a row of it. Step 4 joins by data_id and token_id - 1, where its
// own index has the prediction, and reads a verdict that is missing as "not
// divergent": so texts without all of their verdicts are left out whole.
type R2RRow struct {
	DataID               string `col:"data_id"`
	TokenID              int64  `col:"token_id"` // the mismatch's position
	RealToken            int32  `col:"real_token"`
	RealText             string `col:"real_text"`
	PredSmallToken       int32  `col:"pred_small_token"`
	PredSmallText        string `col:"pred_small_text"`
	SmallDivergeText     string `col:"small_diverge_text"`
	ReferenceDivergeText string `col:"reference_diverge_text"`
	CommonContext        string `col:"common_context"`
	Divergent            int32  `col:"divergent"` // 1: the meanings differ
	VerifyResponse       string `col:"verify_response"`
}

// keepR2R has a table that an earlier merge left written again: it would not
// belong to the other results otherwise.
func (m *merger) keepR2R(ctx context.Context) error {
	r, err := m.Out.Open(ctx, R2RKey)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for an earlier %s: %w", R2RKey, err)
	}
	m.R2R = true
	if slices.ContainsFunc(m.Jobs, func(s Source) bool { return s.Tag != "" }) {
		err = failure.New(failure.Refused, "remove it, or merge into another --out", "%s has the %s of an earlier merge, and R2R's table has no column for --tag", m.Out, R2RKey)
	}
	return errors.Join(err, r.Close())
}

// r2r is r's row in R2R's table; nil if its text is left out.
func (m *merger) r2r(r *job.Result) *R2RRow {
	if _, out := m.unjudged[r.SentenceID]; out {
		return nil
	}
	row := &R2RRow{DataID: r.SentenceID, TokenID: r.MismatchPosition, RealToken: r.RealTokenID, RealText: r.RealToken,
		PredSmallToken: r.PredSmallID, PredSmallText: r.PredSmall, SmallDivergeText: *r.ContinuationSmall,
		ReferenceDivergeText: *r.ContinuationReference, CommonContext: r.Context}
	if !*r.MeaningMatch {
		row.Divergent = 1
	}
	if r.VerifyExplanation != nil {
		row.VerifyResponse = *r.VerifyExplanation
	}
	return row
}

// leftOut lists the texts that R2R's table lacks, in the order of the input.
func (m *merger) leftOut() []string {
	return slices.SortedFunc(maps.Keys(m.unjudged), func(a, b string) int {
		return m.unjudged[a].compare(m.unjudged[b])
	})
}
