package predict

import (
	"context"
	"fmt"
	"io"
	"strings"

	"tokenfork/internal/columnar"
	"tokenfork/internal/job"
)

// row is a token in R2R's layout: what the models would have said after it.
type row struct {
	RowID     int64  `col:"row_id"`
	DataID    string `col:"data_id"`
	TokenID   int64  `col:"token_id"`
	RealToken int32  `col:"real_token"`
	TokenType int32  `col:"token_type"`
	Small     int32  `col:"SLM_predictions"`
	Reference int32  `col:"LLM_predictions"`
}

// Types of tokens, as R2R has them.
const (
	inPrompt   = 0
	inResponse = 2
)

// write puts all texts that both models have read into the table.
func (r *run) write(ctx context.Context) error {
	return r.Store.Replace(ctx, r.Table, func(f io.Writer) error {
		open := columnar.NewCSVWriter[row]
		if strings.HasSuffix(r.Table, ".parquet") {
			open = columnar.NewParquetWriter[row]
		}
		w, err := open(f)
		if err != nil {
			return err
		}
		rows := int64(0)
		for t, err := range Read(r.Files) {
			if err != nil {
				return err
			}
			if rows, err = r.writeText(ctx, w, &t, rows); err != nil {
				return err
			}
		}
		return w.Close()
	})
}

// leftOut is no error for a text that a server has refused, which is listed.
func (r *run) leftOut(t *Text, err error) error {
	if err == nil && r.refused[t.ID] == "" {
		err = fmt.Errorf("nothing is kept of text %q in %s/%s", t.ID, r.Store, r.prefix)
	}
	return err
}

func (r *run) writeText(ctx context.Context, w columnar.Writer[row], t *Text, rows int64) (int64, error) {
	key, _, err := r.question(ctx, job.Reference, t)
	if err != nil {
		return rows, err
	}
	reference, err := r.load(ctx, key)
	if err != nil || reference == nil {
		return rows, r.leftOut(t, err)
	}
	if key, _, err = r.question(ctx, job.Small, t); err != nil || key == "" {
		return rows, r.leftOut(t, err)
	}
	small, err := r.load(ctx, key)
	if err != nil || small == nil {
		return rows, r.leftOut(t, err)
	}
	if len(small.Predictions) != len(reference.IDs) || len(reference.Predictions) != len(reference.IDs) {
		return rows, fmt.Errorf("what is kept of text %q in %s/%s does not fit together", t.ID, r.Store, r.prefix)
	}
	for i, id := range reference.IDs {
		kind := int32(inResponse)
		if i < reference.Prompt {
			kind = inPrompt
		}
		err := w.Write(&row{rows, t.ID, int64(i), id, kind, small.Predictions[i], reference.Predictions[i]})
		if err != nil {
			return rows, err
		}
		rows++
	}
	return rows, nil
}
