package predict

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"tokenfork/internal/columnar"
	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/store"
	"tokenfork/internal/tasks"
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

// TableOptions say what becomes a table, and where it goes.
type TableOptions struct {
	Store  store.Store
	Corpus *job.Corpus
	Out    store.Store
	Key    string // of the table in Out, which ends in .csv or .parquet
	Log    *slog.Logger
}

// Write writes the table of texts that every model has read, in their order, from the
// parts: it holds one shard's texts and a few parts at a time. Tasks that are not
// finished are refused; texts that failed are left out and listed, and the error then
// is failure.Partial.
func Write(ctx context.Context, o TableOptions) error {
	if err := o.whole(ctx); err != nil {
		return err
	}
	var left int64
	err := o.Out.Replace(ctx, o.Key, func(f io.Writer) error {
		open := columnar.NewCSVWriter[row]
		if strings.HasSuffix(o.Key, ".parquet") {
			open = columnar.NewParquetWriter[row]
		}
		w, err := open(f)
		if err != nil {
			return err
		}
		t := &tableWriter{TableOptions: o, out: w}
		for k := range o.Corpus.Shards {
			if err := t.shard(ctx, k); err != nil {
				return err
			}
		}
		left = t.left
		return w.Close()
	})
	if err != nil || left == 0 {
		return err
	}
	return failure.New(failure.Partial, "give the servers a larger --max-model-len, or shorter texts, and run the same command",
		"%d of %d texts are left out of %s/%s", left, o.Corpus.Texts, o.Out, o.Key)
}

// whole refuses a table while tasks are unfinished.
func (o *TableOptions) whole(ctx context.Context) error {
	table, err := tasks.List(ctx, o.Store, tasks.AllShards)
	if err != nil {
		return err
	}
	var all []job.Task
	for k := range o.Corpus.Shards {
		all = append(all, o.Corpus.Tasks(k)...)
	}
	open, err := table.Unfinished(ctx, all)
	if err != nil || len(open) == 0 {
		return err
	}
	return failure.New(failure.Refused, "`"+job.Command(o.Store, "predict")+"` goes on", "%d of %d tasks are not finished: %s, …", len(open), len(all), table.Describe(open[0]))
}

type tableWriter struct {
	TableOptions
	out  columnar.Writer[row]
	rows int64
	left int64 // texts left out
}

func (t *tableWriter) shard(ctx context.Context, k int) error {
	m, err := t.Corpus.OpenManifest(ctx, t.Store, k)
	if err != nil {
		return err
	}
	var read []*job.Committed[job.Prediction] // by model
	for _, model := range t.Corpus.Models {
		c, err := job.OpenCommitted[job.Prediction](ctx, t.Store, t.Corpus.Task(k, model.Side))
		if err != nil {
			return err
		}
		read = append(read, c)
	}
	for x, err := range job.Sources(m) {
		if err != nil {
			return fmt.Errorf("read manifest of shard %d: %w", k, err)
		}
		said := make([]*job.Prediction, len(read))
		for i, c := range read {
			rows, err := c.Text(ctx, x.Ordinal)
			if err != nil {
				return err
			}
			if len(rows) == 0 {
				return fmt.Errorf("%s has no row of text %d", t.Corpus.Task(k, t.Corpus.Models[i].Side), x.Ordinal)
			}
			said[i] = &rows[0]
		}
		if err := t.text(x, k, said); err != nil {
			return err
		}
	}
	return nil
}

// text writes the rows of a text by what each model said along it.
func (t *tableWriter) text(x *job.Source, k int, said []*job.Prediction) error {
	tokens := said[len(said)-1]
	for i := len(said) - 1; i >= 0; i-- { // the one that tokenises is the reason of the others
		if p := said[i]; p.Error != nil {
			t.left++
			t.Log.Warn("text left out", "id", x.ID, "reason", t.Corpus.Models[i].Side+": "+*p.Error+": "+*p.Message)
			return nil
		}
		if p := said[i]; p.Read != idsHash(tokens.IDs) || len(p.Predictions) != len(tokens.IDs) {
			task := t.Corpus.Task(k, t.Corpus.Models[i].Side)
			return failure.New(failure.Refused, "remove "+task.Prefix()+" of it and run the same command: the model reads the shard again",
				"%s in %s read other tokens of text %q than %s has", task, t.Store, x.ID, t.Corpus.Tokenizes().Side)
		}
	}
	for i, id := range tokens.IDs {
		kind := int32(inResponse)
		if i < int(tokens.Prompt) {
			kind = inPrompt
		}
		err := t.out.Write(&row{t.rows, x.ID, int64(i), id, kind, said[0].Predictions[i], tokens.Predictions[i]})
		if err != nil {
			return err
		}
		t.rows++
	}
	return nil
}

// Beside is what the name of a table gets where its texts and parts are kept meanwhile.
const Beside = ".parts"

// Clear removes texts and parts of predict's, and nothing else.
func Clear(ctx context.Context, s store.Store) error {
	for _, prefix := range []string{job.CorpusKey, "corpus/", "parts/predict/", job.AttemptPrefix + "predict/", "engine-predict-"} {
		for object, err := range s.List(ctx, prefix) {
			if err != nil {
				return err
			}
			if err := s.Remove(ctx, object.Key); err != nil {
				return err
			}
		}
	}
	return nil
}
