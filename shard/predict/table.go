package predict

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"strings"

	"tokenfork/internal/columnar"
	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/store"
	"tokenfork/internal/table"
	"tokenfork/internal/tasks"
)

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
		open := columnar.NewCSVRows
		if strings.HasSuffix(o.Key, ".parquet") {
			open = columnar.NewParquetRows
		}
		t := &tableWriter{TableOptions: o, readers: o.Corpus.Readers()}
		w, err := open(f, t.columns())
		if err != nil {
			return err
		}
		t.out = w
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
	return failure.New(failure.Partial, "give the servers a larger --max-model-len, or shorter texts, and run predict again",
		"%d of %d texts are left out of %s/%s", left, o.Corpus.Texts, o.Out, o.Key)
}

// whole refuses a table while tasks are unfinished.
func (o *TableOptions) whole(ctx context.Context) error {
	found, err := tasks.List(ctx, o.Store, tasks.AllShards)
	if err != nil {
		return err
	}
	var all []job.Task
	for k := range o.Corpus.Shards {
		all = append(all, o.Corpus.Tasks(k)...)
	}
	open, err := found.Unfinished(ctx, all)
	if err != nil || len(open) == 0 {
		return err
	}
	return failure.New(failure.Refused, "`"+job.Command(o.Store, "predict")+"` goes on", "%d of %d tasks are not finished: %s, …", len(open), len(all), found.Describe(open[0]))
}

type tableWriter struct {
	TableOptions
	readers []job.Reader
	out     columnar.Rows
	left    int64 // texts left out

	// The cells of the next row.
	row         int64
	id          string
	token       int64
	real, kind  int32
	predictions []int32 // by model
	measures    []measures
}

// measures are a model's at one position; nil where one is not defined.
type measures struct{ entropy, within, au, eu, divergence, logprob *float64 }

// columns are those of the layout.
func (t *tableWriter) columns() []columnar.Cell {
	models := t.Corpus.Models
	t.predictions, t.measures = make([]int32, len(models)), make([]measures, len(models))
	all := []columnar.Cell{{Name: "row_id", Value: &t.row}}
	if t.Corpus.Layout != table.Study {
		return append(all, columnar.Cell{Name: "data_id", Value: &t.id}, columnar.Cell{Name: "token_id", Value: &t.token},
			columnar.Cell{Name: "real_token", Value: &t.real}, columnar.Cell{Name: "token_type", Value: &t.kind},
			columnar.Cell{Name: "SLM_predictions", Value: &t.predictions[job.Small]}, columnar.Cell{Name: "LLM_predictions", Value: &t.predictions[job.Reference]})
	}
	for i, model := range models {
		add := func(suffix string, cell any) {
			all = append(all, columnar.Cell{Name: model.Side + "_" + suffix, Value: cell})
		}
		add("sentence_id", &t.id)
		add("token_id", &t.token)
		add("real_token", &t.real)
		add("predictions", &t.predictions[i])
		if m := &t.measures[i]; t.Corpus.Top > 0 {
			add("entropy", &m.entropy)
			add("entropy_error", &m.within)
			add("AU", &m.au)
			add("EU", &m.eu)
			if t.Corpus.Pairs && i < len(models)-1 {
				add("KL", &m.divergence)
				add("reference_logprob", &m.logprob)
			}
		}
	}
	return append(all, columnar.Cell{Name: "token_type", Value: &t.kind})
}

func (t *tableWriter) shard(ctx context.Context, k int) error {
	m, err := t.Corpus.OpenManifest(ctx, t.Store, k)
	if err != nil {
		return err
	}
	var read []*job.Committed[job.Prediction] // by reader
	for _, reader := range t.readers {
		c, err := job.OpenCommitted[job.Prediction](ctx, t.Store, t.Corpus.Task(k, reader.Side))
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
				return fmt.Errorf("%s has no row of text %d", t.Corpus.Task(k, t.readers[i].Side), x.Ordinal)
			}
			said[i] = &rows[0]
		}
		if err := t.text(x, k, said); err != nil {
			return err
		}
	}
	return nil
}

// text writes the rows of a text by what each reader found along it; the first is the
// one that tokenises.
func (t *tableWriter) text(x *job.Source, k int, said []*job.Prediction) error {
	tokens := said[0]
	n := len(tokens.IDs)
	for i, p := range said {
		if p.Error != nil { // of the one that tokenises, it is the reason of the others
			t.left++
			t.Log.Warn("text left out", "id", x.ID, "reason", t.readers[i].Side+": "+*p.Error+": "+*p.Message)
			return nil
		}
		whole := len(p.Predictions) == n && (t.Corpus.Top == 0 || len(p.AU) == n && len(p.EU) == n)
		if t.Corpus.KeepsLogits(t.readers[i]) {
			whole = whole && len(p.Logits) == n*t.Corpus.Logits && len(p.LogitIDs) == len(p.Logits)
		}
		if t.readers[i].Entropy {
			whole = len(p.Entropy) == n && len(p.EntropyError) == n && (!t.Corpus.Pairs || len(p.TopLogprobs) == n*t.Corpus.Top && len(p.TopIDs) == n*t.Corpus.Top)
		}
		if !whole || p.Read != tokens.Read {
			task := t.Corpus.Task(k, t.readers[i].Side)
			return failure.New(failure.Refused, "remove "+task.Prefix()+" of it and run the same command: the model reads the shard again",
				"%s in %s read other tokens of text %q than %s has", task, t.Store, x.ID, t.Corpus.Tokenizes().Side)
		}
	}
	t.id = x.ID
	for i, id := range tokens.IDs {
		t.token, t.real, t.kind = int64(i), id, inResponse
		if i < int(tokens.Prompt) {
			t.kind = inPrompt
		}
		t.position(said, i)
		if err := t.out.Write(); err != nil {
			return err
		}
		t.row++
	}
	return nil
}

// position fills in what the readers found at a position.
func (t *tableWriter) position(said []*job.Prediction, i int) {
	for j, r := range t.readers {
		m := &t.measures[r.Model]
		switch {
		case r.Entropy:
			m.entropy, m.within = &said[j].Entropy[i], &said[j].EntropyError[i]
		case t.Corpus.Top > 0:
			t.predictions[r.Model] = said[j].Predictions[i]
			m.au, m.eu = defined(&said[j].AU[i]), &said[j].EU[i]
		default:
			t.predictions[r.Model] = said[j].Predictions[i]
		}
	}
	if t.Corpus.Pairs {
		t.pairs(said, i)
	}
}

// pairs compares each model's distribution at a position with that of the last model, the reference.
func (t *tableWriter) pairs(said []*job.Prediction, i int) {
	k := t.Corpus.Top
	top := func(p *job.Prediction) ([]int32, []float64) {
		return p.TopIDs[i*k : (i+1)*k], p.TopLogprobs[i*k : (i+1)*k]
	}
	var ids []int32 // the reference's, which is read first
	var logprobs []float64
	for j, r := range t.readers {
		if !r.Entropy {
			continue
		}
		if r.Model == len(t.Corpus.Models)-1 {
			ids, logprobs = top(said[j])
			continue
		}
		others, theirs := top(said[j])
		bound := divergence(ids, logprobs, others, theirs)
		m := &t.measures[r.Model]
		m.divergence, m.logprob = &bound, logprobOf(t.predictions[r.Model], ids, logprobs)
	}
}

// defined is nil for NaN.
func defined(v *float64) *float64 {
	if math.IsNaN(*v) {
		return nil
	}
	return v
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
