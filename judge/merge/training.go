package merge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"

	"tokenfork/internal/columnar"
	"tokenfork/internal/failure"
	"tokenfork/internal/job"
)

// trainingKey is where a part of the router's training set is: what step 4 of R2R's data
// labelling makes, but for the hidden states, which a server does not give.
func trainingKey(part int) string { return fmt.Sprintf("r2r/part-%05d.parquet", part) }

// training joins the verdicts with what predict keeps of every token. A row stands for a token,
// as in the table; it is of the texts that r2r.csv has.
type training struct {
	merger  *merger
	corpus  *job.Corpus
	next    func() (*reading, error, bool)
	numbers bool // the texts' ids are whole numbers
}

// reading is a text as predict read it: the model that tokenises, and the small one.
type reading struct {
	id            string
	tokens, small *job.Prediction
}

// training is nil if the job's texts were not read with logits. stop ends it.
func (m *merger) training(ctx context.Context) (t *training, stop func(), err error) {
	if !m.R2R || len(m.jobs) > 1 {
		return nil, func() {}, nil
	}
	src := m.jobs[0]
	corpus, err := job.LoadCorpus(ctx, src.Store)
	if errors.Is(err, fs.ErrNotExist) || err == nil && corpus.Logits == 0 {
		return nil, func() {}, nil
	}
	if err != nil {
		return nil, nil, err
	}
	t = &training{merger: m, corpus: corpus, numbers: src.job.Settings.SentenceIDType == "int64"}
	t.next, stop = iter.Pull2(t.readings(ctx, src))
	return t, stop, nil
}

// readings yields the texts in their order, one shard's parts at a time.
func (t *training) readings(ctx context.Context, src *source) iter.Seq2[*reading, error] {
	c := t.corpus
	sides := [2]string{c.Tokenizes().Side, c.Models[0].Side}
	return func(yield func(*reading, error) bool) {
		for k := range c.Shards {
			m, err := c.OpenManifest(ctx, src.Store, k)
			var read [2]*job.Committed[job.Prediction]
			for i := range sides {
				if err == nil {
					read[i], err = job.OpenCommitted[job.Prediction](ctx, src.Store, c.Task(k, sides[i]))
				}
			}
			if err != nil {
				yield(nil, fmt.Errorf("read what predict keeps of shard %d: %w", k, err))
				return
			}
			for x, err := range job.Sources(m) {
				r := &reading{}
				for i, into := range [2]**job.Prediction{&r.tokens, &r.small} {
					var rows []job.Prediction
					if err == nil {
						rows, err = read[i].Text(ctx, x.Ordinal)
					}
					if err == nil && len(rows) != 1 {
						err = fmt.Errorf("%s has %d rows of text %d", c.Task(k, sides[i]), len(rows), x.Ordinal)
					}
					if err == nil {
						*into = &rows[0]
					}
				}
				if err == nil {
					r.id = x.ID
				}
				if !yield(r, err) || err != nil {
					return
				}
			}
		}
	}
}

// output is one part of the training set.
func (t *training) output(part int) output {
	return output{trainingKey(part), func(w io.Writer) (sink, error) {
		s := &trainingSink{training: t}
		var id any = &s.id
		if t.numbers {
			id = &s.number
		}
		var err error
		s.out, err = columnar.NewParquetRows(w, []columnar.Cell{{Name: "token_id", Value: &s.token}, {Name: "data_id", Value: id}, {Name: "divergent", Value: &s.divergent},
			{Name: "small_token", Value: &s.small}, {Name: "real_token", Value: &s.real}, {Name: "small_logits", Value: &s.logits}, {Name: "small_indices", Value: &s.indices},
			{Name: "mismatch", Value: &s.mismatch}, {Name: "mask", Value: &s.mask}})
		return s, err
	}}
}

// trainingSink takes the results of whole texts.
type trainingSink struct {
	*training
	out  columnar.Rows
	rows []job.Result // of the text that is open

	// The cells of the next row.
	id                                                    string
	number, token, divergent, small, real, mismatch, mask int64
	logits                                                []float32
	indices                                               []int64
}

func (s *trainingSink) write(b *batch) error {
	rows, err := b.Rows()
	if err != nil {
		return err
	}
	for i := range rows {
		if s.merger.r2r(&rows[i]) == nil {
			continue
		}
		if len(s.rows) > 0 && s.rows[0].SentenceID != rows[i].SentenceID {
			if err := s.text(); err != nil {
				return err
			}
		}
		s.rows = append(s.rows, rows[i])
	}
	return nil
}

// Close writes what is open.
func (s *trainingSink) Close() error {
	if err := s.text(); err != nil {
		return err
	}
	return s.out.Close()
}

// text writes all tokens of the text that is open.
func (s *trainingSink) text() error {
	if len(s.rows) == 0 {
		return nil
	}
	defer func() { s.rows = s.rows[:0] }()
	id := s.rows[0].SentenceID
	var r *reading
	for r == nil || r.id != id {
		var err error
		var more bool
		if r, err, more = s.next(); err != nil {
			return err
		} else if !more {
			return s.other("text %s is not among the texts of %s, in their order", id, job.CorpusKey)
		}
	}
	k, n := s.corpus.Logits, len(r.tokens.IDs)
	if r.small.Error != nil || r.small.Read != r.tokens.Read || len(r.small.Predictions) != n || len(r.small.Logits) != n*k || len(r.small.LogitIDs) != n*k {
		return s.other("text %s has no logits of each of its tokens", id)
	}
	verdicts, err := s.verdicts(r)
	if err != nil {
		return err
	}
	s.id = id
	if s.numbers {
		if _, err := fmt.Sscan(id, &s.number); err != nil {
			return fmt.Errorf("text id %q: %w", id, err)
		}
	}
	for i, real := range r.tokens.IDs {
		s.token, s.real, s.small = int64(i)+int64(s.merger.sum.Settings.FirstPosition), int64(real), int64(r.small.Predictions[i])
		s.divergent, s.mismatch, s.mask = 0, 0, 1
		if i < int(r.tokens.Prompt) {
			s.mask = 0
		}
		if same, is := verdicts[i]; is {
			s.mismatch = 1
			if !same {
				s.divergent = 1
			}
		}
		s.logits, s.indices = s.logits[:0], s.indices[:0]
		for j := i * k; j < (i+1)*k; j++ {
			s.logits, s.indices = append(s.logits, float32(r.small.Logits[j])), append(s.indices, int64(r.small.LogitIDs[j]))
		}
		if err := s.out.Write(); err != nil {
			return err
		}
	}
	return nil
}

// verdicts are the open text's by the row that holds the prediction, once the mismatches are
// those of the text that predict read.
func (s *trainingSink) verdicts(r *reading) (map[int]bool, error) {
	set, all := &s.merger.sum.Settings, map[int]bool{}
	for i := range s.rows {
		x := &s.rows[i]
		p := int(x.MismatchPosition) - set.FirstPosition
		row := p - set.PredictionOffset()
		if row < 0 || p >= len(r.tokens.IDs) || r.tokens.IDs[p] != x.RealTokenID || r.small.Predictions[row] != x.PredSmallID {
			return nil, s.other("text %s, position %d: predict read or predicted another token there", x.SentenceID, x.MismatchPosition)
		}
		all[row] = *x.MeaningMatch
	}
	return all, nil
}

func (s *trainingSink) other(format string, args ...any) error {
	return failure.New(failure.Refused, "plan the table that predict wrote into this job, with the model that kept its logits as the small one; without r2r.csv, merge makes no training set",
		"the router's training set: "+format, args...)
}

// writeTraining writes the training set in as many parts as the texts have shards.
func (m *merger) writeTraining(ctx context.Context, s *spool) error {
	t, stop, err := m.training(ctx)
	if t == nil {
		return err
	}
	defer stop()
	m.sum.R2RParts = len(t.corpus.Shards)
	for part, texts := range split(s.texts, m.sum.R2RParts) {
		if err := m.writeAll(ctx, []output{t.output(part)}, s, texts, nil); err != nil {
			return err
		}
	}
	return nil
}
