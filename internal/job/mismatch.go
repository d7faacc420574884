package job

// Mismatch is a row of mismatches.csv and mismatches.parquet.
type Mismatch struct {
	SentenceID           string `col:"sentence_id"`
	Position             int64  `col:"position"` // the table's numbering
	TokenID              int32  `col:"token_id"` // of the real token
	RealToken            string `col:"real_token"`
	PredSmall            string `col:"pred_small"`
	PredReference        string `col:"pred_reference"`
	PredSmallTokenID     int32  `col:"pred_small_token_id"`
	PredReferenceTokenID int32  `col:"pred_reference_token_id"`
	Context              string `col:"context"` // the real tokens from the previous mismatch to here
	RowID                int64  `col:"row_id"`  // of the row that holds the predictions
}
