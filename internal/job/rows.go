package job

// Finish reasons, worked out from the token ids (never taken from the server).
const (
	FinishPredicted = "predicted"   // the predicted token is itself a sentence end
	FinishStop      = "stop"        // a sentence end was generated
	FinishEOS       = "eos"         // the model ended the text; the EOS is not kept
	FinishLength    = "length"      // the limit was reached
	FinishEndOfText = "end_of_text" // the real text ended (trajectories real)
)

// Continuation is one fork carried on to its end: a row of infer's parts.
type Continuation struct {
	Ordinal  int64    `col:"ordinal"`
	Position int32    `col:"position"` // from 0
	Fork     int32    `col:"fork"`     // whose predicted token starts it: a Side
	IDs      []int32  `col:"ids"`      // predicted token first; nil if it failed
	Finish   *string  `col:"finish"`
	Replayed int32    `col:"replayed"` // how many of IDs the table already said
	RestAt   int32    `col:"rest_at"`  // where generation set in: position, -1 if nothing was generated
	RestID   int32    `col:"rest_id"`  // the token forced there, -1 for none
	Margin   *float64 `col:"margin"`   // smallest gap of the two best logprobs; nil if not asked or replayed
	Engine   *string  `col:"engine"`   // hash of the engine's record
	Error    *string  `col:"error"`    // class, nil if all is well
	Message  *string  `col:"message"`
}

// TextOrdinal makes it a Row.
func (c Continuation) TextOrdinal() int64 { return c.Ordinal }

// Failed says whether the row is listed as failed.
func (c Continuation) Failed() bool { return c.Error != nil }

// Verdict is the judge's word on one mismatch: a row of judge's parts.
type Verdict struct {
	Ordinal          int64    `col:"ordinal"`
	Position         int32    `col:"position"`
	Question         string   `col:"question"` // sha256 of what was asked, see judge.Question
	MeaningMatch     *bool    `col:"meaning_match"`
	Explanation      *string  `col:"explanation"`
	Confidence       *float64 `col:"confidence"`
	KeyDifferences   []string `col:"key_differences"`
	ConfidenceSource *string  `col:"confidence_source"`
	JudgeModel       string   `col:"judge_model"`
	PromptVersion    string   `col:"prompt_version"`
	PromptHash       string   `col:"prompt_hash"`
	Error            *string  `col:"error"` // class, nil if there is a verdict
	Message          *string  `col:"message"`
	Raw              *string  `col:"raw"` // the answer's text where it could not be read
}

// TextOrdinal makes it a Row.
func (v Verdict) TextOrdinal() int64 { return v.Ordinal }

// Failed says whether the row is listed as failed.
func (v Verdict) Failed() bool { return v.Error != nil }

// Result is one row of the results: a mismatch with all that is known of it.
// Unknown fields are nil. The columns and their order are the contract with readers.
type Result struct {
	SentenceID               string   `col:"sentence_id"`
	Context                  string   `col:"context"`
	ContextIDs               []int32  `col:"context_ids"`
	MismatchPosition         int64    `col:"mismatch_position"` // the table's numbering
	PredSmall                string   `col:"pred_small"`
	PredSmallID              int32    `col:"pred_small_id"`
	PredReference            string   `col:"pred_reference"`
	PredReferenceID          int32    `col:"pred_reference_id"`
	ContinuationSmall        *string  `col:"continuation_small"`
	ContinuationSmallIDs     []int32  `col:"continuation_small_ids"`
	ContinuationReference    *string  `col:"continuation_reference"`
	ContinuationReferenceIDs []int32  `col:"continuation_reference_ids"`
	MeaningMatch             *bool    `col:"meaning_match"`
	VerifyExplanation        *string  `col:"verify_explanation"`
	VerifyConfidence         *float64 `col:"verify_confidence"`
	KeyDifferences           []string `col:"key_differences"`
	RowID                    *int64   `col:"row_id"`
	RealRowID                *int64   `col:"real_row_id"`
	RealToken                string   `col:"real_token"`
	RealTokenID              int32    `col:"real_token_id"`
	FinishSmall              *string  `col:"finish_small"`
	FinishReference          *string  `col:"finish_reference"`
	ReplayedSmall            *int32   `col:"replayed_small"`
	ReplayedReference        *int32   `col:"replayed_reference"`
	SmallEntropy             *float64 `col:"small_entropy"`
	SmallAU                  *float64 `col:"small_au"`
	SmallEU                  *float64 `col:"small_eu"`
	ReferenceEntropy         *float64 `col:"reference_entropy"`
	ReferenceAU              *float64 `col:"reference_au"`
	ReferenceEU              *float64 `col:"reference_eu"`
	ConfidenceSource         *string  `col:"confidence_source"`
	JudgeModel               *string  `col:"judge_model"`
	PromptVersion            *string  `col:"prompt_version"`
	PromptHash               *string  `col:"prompt_hash"`
	RestKey                  *string  `col:"rest_key"`
	MarginSmall              *float64 `col:"margin_small"`     // only with --margins
	MarginReference          *float64 `col:"margin_reference"` // only with --margins
	Engine                   *string  `col:"engine"`           // only where engines are mixed
	Job                      *string  `col:"job"`              // only in merges of several jobs
	Status                   string   `col:"status"`

	// Only while results are being merged; in no results file.
	Ordinal int64   `col:"ordinal"`
	Reason  *string `col:"reason"` // why Status is not ok
	Stage   *string `col:"stage"`  // that has to be done again; then the command that does it
}
