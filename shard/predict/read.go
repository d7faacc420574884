package predict

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"tokenfork/internal/fleet"
	"tokenfork/internal/job"
	"tokenfork/internal/vllm"
)

// Classes of texts that are left out, beside those of requests.
const (
	classEmpty  = "empty"     // it has no token
	classUnread = "no_tokens" // the model that tokenises has none of it
)

// read has the server read a text, and adds what that took. What the server refuses makes
// a failed row; an error ends the task.
func (r *reading) read(ctx context.Context, s fleet.Server, x *job.Source, before *job.Prediction, took job.Counters) (*job.Prediction, error) {
	row, err := r.predict(ctx, s, x, before, took)
	var failed *fleet.FailedError
	if errors.As(err, &failed) {
		message := failed.Err.Error()
		return &job.Prediction{Ordinal: x.Ordinal, Engine: &r.engine, Error: &failed.Class, Message: &message}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("text %q, %s: %w", x.ID, r.Side, err)
	}
	return row, nil
}

func (r *reading) predict(ctx context.Context, s fleet.Server, x *job.Source, before *job.Prediction, took job.Counters) (*job.Prediction, error) {
	row := &job.Prediction{Ordinal: x.Ordinal, Engine: &r.engine}
	crashes := 0
	ask := func(send func(context.Context, *vllm.Client) error) error {
		return fleet.Ask(ctx, s, &crashes, func(c *vllm.Client) error {
			if crashes < fleet.CrashesBeforeAlone {
				r.alone.RLock()
				defer r.alone.RUnlock()
			} else {
				r.alone.Lock()
				defer r.alone.Unlock()
			}
			s.Flying(1)
			defer s.Flying(-1)
			return send(ctx, c)
		})
	}
	ids := []int32(nil)
	switch {
	case before == nil:
		err := ask(func(ctx context.Context, c *vllm.Client) (err error) {
			row.IDs, row.Prompt, err = r.tokens(ctx, c, x, took)
			return err
		})
		if err != nil {
			return nil, err
		}
		ids = row.IDs
	case before.Error != nil:
		return nil, &fleet.FailedError{Class: classUnread, Err: fmt.Errorf("%s: %s", r.Corpus.Tokenizes().Side, *before.Error)}
	default:
		ids = before.IDs
	}
	if i := slices.IndexFunc(ids, func(id int32) bool { return id < 0 || int(id) >= r.model.VocabSize }); i >= 0 {
		return nil, &fleet.FailedError{Class: fleet.ClassRefused, Err: fmt.Errorf("token id %d: the model has %d ids", ids[i], r.model.VocabSize)}
	}
	row.Read = idsHash(ids)
	var read *vllm.Reading
	err := ask(func(ctx context.Context, c *vllm.Client) (err error) {
		read, err = c.Predict(ctx, ids, r.k())
		return err
	})
	if err != nil {
		return nil, err
	}
	took.Add(fleet.Spent(read.Usage, 1))
	took[job.IdealTokens] += int64(len(ids)) // each text once, whoever wrote it
	r.measure(row, read)
	return row, nil
}

// measure puts what the reading is for into the row.
func (r *reading) measure(row *job.Prediction, read *vllm.Reading) {
	if !r.Entropy {
		row.Predictions = read.Best
	}
	k := r.k()
	if r.Entropy && r.Corpus.Pairs {
		row.TopLogprobs, row.TopIDs = read.Top, read.TopIDs
	}
	for i := 0; i < len(read.Top) && r.Corpus.KeepsLogits(r.Reader); i += k {
		row.Logits = append(row.Logits, read.Top[i:i+r.Corpus.Logits]...)
		row.LogitIDs = append(row.LogitIDs, read.TopIDs[i:i+r.Corpus.Logits]...)
	}
	for i := 0; i < len(read.Top) && r.Corpus.Top > 0; i += k {
		if r.Entropy {
			h, within := entropy(read.Top[i:i+k], r.model.VocabSize)
			row.Entropy, row.EntropyError = append(row.Entropy, h), append(row.EntropyError, within)
		} else {
			au, eu := uncertainty(read.Top[i : i+evidence])
			row.AU, row.EU = append(row.AU, au), append(row.EU, eu)
		}
	}
}

// idsHash tells token ids from others.
func idsHash(ids []int32) string {
	b := make([]byte, 0, 4*len(ids))
	for _, id := range ids {
		b = binary.LittleEndian.AppendUint32(b, uint32(id))
	}
	return job.Sum(b)[:16]
}

// tokens are the whole text's, its response written by the model if it has none; of
// them so many are the prompt's.
func (r *reading) tokens(ctx context.Context, c *vllm.Client, x *job.Source, took job.Counters) (ids []int32, prompt int32, err error) {
	switch {
	case x.Prompt == "":
	case r.Corpus.Chat:
		ids, err = r.chat(ctx, c, x)
	default:
		ids, err = c.Tokenize(ctx, x.Prompt, true)
	}
	if err != nil {
		return nil, 0, err
	}
	prompt = int32(len(ids))
	var response []int32
	if x.Response == nil {
		response, err = r.respond(ctx, c, ids, took)
	} else {
		response, err = c.Tokenize(ctx, *x.Response, x.Prompt == "")
	}
	if err == nil && int(prompt)+len(response) == 0 {
		err = &fleet.FailedError{Class: classEmpty, Err: errors.New("it has no token")}
	}
	return append(ids, response...), prompt, err
}

// chat are the tokens of a prompt in the model's chat template.
func (r *reading) chat(ctx context.Context, c *vllm.Client, x *job.Source) ([]int32, error) {
	messages := []vllm.Message{{Role: "user", Content: x.Prompt}}
	if x.Messages != nil {
		messages = nil
		if err := json.Unmarshal([]byte(*x.Messages), &messages); err != nil {
			return nil, fmt.Errorf("messages: %w", err)
		}
	}
	return c.TokenizeChat(ctx, messages)
}

// respond is the model's greedy answer, with the end of text if it comes to it.
func (r *reading) respond(ctx context.Context, c *vllm.Client, prompt []int32, took job.Counters) ([]int32, error) {
	most := r.Corpus.MaxResponse
	if r.length > 0 {
		most = min(most, max(1, r.length-len(prompt)-1)) // reading it asks for one token more
	}
	answer, err := c.Complete(ctx, vllm.CompletionRequest{
		Prompt: vllm.Tokens(prompt...), MaxTokens: most, StopTokenIDs: vllm.NewSequence(r.model.EOS)})
	if err != nil {
		return nil, err
	}
	took.Add(fleet.Spent(answer.Usage, len(answer.TokenIDs)))
	return answer.TokenIDs, nil
}
