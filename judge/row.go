package judge

import (
	"math"

	"tokenfork/internal/job"
)

// Result is the row of mismatch i as far as it is known before it is judged. A
// continuation may be nil or failed; its columns are then null.
func (f *Framer) Result(s *job.Sentence, i int, forks [2]*job.Continuation) *job.Result {
	p := int(s.Mismatches[i])
	context := s.Real[previousMismatch(s, p):p]
	small, reference := f.predicted(s, p)
	r := &job.Result{
		SentenceID: s.ID, Context: f.Decoder.Decode(context), ContextIDs: context,
		MismatchPosition: int64(p + f.Plan.Settings.FirstPosition),
		PredSmall:        f.Decoder.Decode([]int32{small}), PredSmallID: small,
		PredReference: f.Decoder.Decode([]int32{reference}), PredReferenceID: reference,
		RealToken: f.Decoder.Decode(s.Real[p : p+1]), RealTokenID: s.Real[p],
		SmallEntropy: known(s.SmallEntropy, i), SmallAU: known(s.SmallAU, i), SmallEU: known(s.SmallEU, i),
		ReferenceEntropy: known(s.ReferenceEntropy, i), ReferenceAU: known(s.ReferenceAU, i), ReferenceEU: known(s.ReferenceEU, i),
	}
	f.rowIDs(r, s, p)
	if c := forks[job.Small]; c != nil && !c.Failed() {
		r.ContinuationSmall, r.ContinuationSmallIDs, r.FinishSmall, r.ReplayedSmall = f.continuation(c)
	}
	if c := forks[job.Reference]; c != nil && !c.Failed() {
		r.ContinuationReference, r.ContinuationReferenceIDs, r.FinishReference, r.ReplayedReference = f.continuation(c)
	}
	return r
}

// predicted are the tokens that start the two forks at p. Under the
// trajectories "real" the reference side is the real text.
func (f *Framer) predicted(s *job.Sentence, p int) (small, reference int32) {
	if f.Plan.Settings.Trajectories == "real" {
		return s.SmallPredictions[p], s.Real[p]
	}
	return s.SmallPredictions[p], s.ReferencePredictions[p]
}

// rowIDs: under the alignment "next" the prediction for p is in the row before.
func (f *Framer) rowIDs(r *job.Result, s *job.Sentence, p int) {
	r.RealRowID = &s.RowIDs[p]
	if f.Plan.Settings.Alignment == "same" {
		r.RowID = &s.RowIDs[p]
	} else if p > 0 {
		r.RowID = &s.RowIDs[p-1]
	}
}

func (f *Framer) continuation(c *job.Continuation) (text *string, ids []int32, finish *string, replayed *int32) {
	decoded := f.Decoder.Decode(c.IDs)
	return &decoded, c.IDs, c.Finish, &c.Replayed
}

// known is nil for a blank cell.
func known(of []float64, i int) *float64 {
	if i >= len(of) || math.IsNaN(of[i]) {
		return nil
	}
	return &of[i]
}
