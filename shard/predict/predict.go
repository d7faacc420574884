// Package predict makes a table from texts: both models read every text once,
// and the table gets what each would have said at each position.
package predict

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"sync"

	"golang.org/x/sync/errgroup"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/progress"
	"tokenfork/internal/store"
	"tokenfork/internal/vllm"
)

// Options say what to read, by whom, and where the table goes.
type Options struct {
	Files []string
	Store store.Store // takes the table and, until it is done, what is known of each text
	Table string      // key of the table, which ends in .csv or .parquet

	Models      [2]Model // by job.Side; the reference tokenises, and writes what is missing
	Chat        bool     // prompts are messages to be put into the chat template
	MaxResponse int      // tokens that the reference writes at most

	Log     *slog.Logger
	Console io.Writer
}

// Model is one of the two.
type Model struct {
	Identity string  // what its answers depend on
	EOS      []int32 // end what it writes
	// Connect gives its servers, and what to do when they have done their work.
	Connect func(context.Context) ([]*vllm.Client, func() error, error)
}

// known is what an object beside the table keeps of a text.
type known struct {
	IDs         []int32 `json:"ids,omitempty"` // the reference's only
	Prompt      int     `json:"prompt,omitempty"`
	Predictions []int32 `json:"predictions"`
}

// Beside is what the name of the table gets where that is kept.
const Beside = ".parts"

// inFlight is how many texts a server reads at once: each is a whole prefill.
const inFlight = 32

type run struct {
	*Options
	prefix  string // of the objects beside the table
	mu      sync.Mutex
	refused map[string]string // by the ids of texts
}

// Run makes the table. Started again it goes on from the texts that are done.
// Texts that a server refuses are left out and listed; the error then is
// failure.Partial.
func Run(ctx context.Context, o Options) error {
	r := &run{Options: &o, prefix: o.Table + Beside + "/", refused: map[string]string{}}
	total, chats := int64(0), false
	for t, err := range Read(o.Files) { // what is wrong with them is known before a server starts
		if err != nil {
			return err
		}
		total++
		chats = chats || t.Messages != nil
	}
	if chats && !o.Chat {
		o.Log.Warn("the texts are chats, read as the messages' contents alone; --chat puts them into the model's chat template")
	}
	if total == 0 {
		return failure.New(failure.Refused, "name files with texts", "no text in %v", o.Files)
	}
	for _, side := range []job.Side{job.Reference, job.Small} {
		if err := r.side(ctx, side, total); err != nil {
			return r.stopped(ctx, err)
		}
	}
	if err := r.write(ctx); err != nil {
		return r.stopped(ctx, err)
	}
	if len(r.refused) == 0 {
		return r.clear(ctx)
	}
	for id, reason := range r.refused {
		o.Log.Warn("text left out", "id", id, "reason", reason)
	}
	return failure.New(failure.Partial, "give the servers a larger --max-model-len, or shorter texts, and run the same command",
		"%d of %d texts are left out of %s/%s", len(r.refused), total, o.Store, o.Table)
}

func (r *run) stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil || vllm.IsGone(err) {
		return failure.New(failure.Stopped, "run the same command: texts that are done are kept", "stopped: %w", err)
	}
	return err
}

// side lets a model read all texts that it has not read.
func (r *run) side(ctx context.Context, side job.Side, total int64) error {
	meter := progress.New(r.Console, "predict "+side.String(), "texts", total)
	defer meter.Close()
	var clients []*vllm.Client
	done := func() error { return nil }
	group, inner := errgroup.WithContext(ctx)
	group.SetLimit(inFlight)
	err := func() error {
		for t, err := range Read(r.Files) {
			if err != nil {
				return err
			}
			if inner.Err() != nil {
				return ctx.Err() // or what failed, which the group tells
			}
			key, ids, err := r.unread(ctx, side, &t)
			if err != nil {
				return err
			}
			if key == "" {
				meter.Resumed(1)
				continue
			}
			if clients == nil {
				all, end, err := r.Models[side].Connect(ctx)
				if err != nil {
					return err
				}
				clients, done = all, end
			}
			c := clients[0]
			clients = append(clients[1:], c)
			group.Go(func() error {
				defer meter.Add(1)
				return r.ask(inner, side, c, &t, key, ids)
			})
		}
		return nil
	}()
	return errors.Join(err, group.Wait(), done())
}

// unread is the text's question, with no key if the side has read it or can't.
func (r *run) unread(ctx context.Context, side job.Side, t *Text) (key string, ids []int32, err error) {
	key, ids, err = r.question(ctx, side, t)
	if err != nil || key == "" {
		return "", nil, err
	}
	if have, err := r.load(ctx, key); err != nil || have != nil {
		return "", nil, err
	}
	return key, ids, nil
}

// question is the key under which the answer is kept, with the ids to read
// where they are known; "" where the text is left out.
func (r *run) question(ctx context.Context, side job.Side, t *Text) (key string, ids []int32, err error) {
	asked := []any{r.Models[job.Reference].Identity, r.Chat, t.Prompt, t.Response}
	if r.Chat && t.Messages != nil {
		asked = append(asked, t.Messages)
	}
	if t.Response == nil {
		asked = append(asked, r.MaxResponse)
	}
	key = r.key(job.Reference, asked)
	if side == job.Reference {
		return key, nil, nil
	}
	reference, err := r.load(ctx, key)
	if err != nil || reference == nil {
		return "", nil, err
	}
	return r.key(side, []any{r.Models[side].Identity, reference.IDs}), reference.IDs, nil
}

func (r *run) key(side job.Side, asked []any) string {
	b, err := json.Marshal(asked)
	if err != nil {
		panic(err) // texts and numbers
	}
	sum := sha256.Sum256(b)
	return r.prefix + side.String() + "-" + hex.EncodeToString(sum[:16]) + ".json"
}

// load is what is known of a text, nil if nothing is.
func (r *run) load(ctx context.Context, key string) (*known, error) {
	f, err := r.Store.Open(ctx, key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	k := new(known)
	if err := json.NewDecoder(f).Decode(k); err != nil {
		return nil, fmt.Errorf("read %s in %s: %w", key, r.Store, err)
	}
	return k, nil
}

// ask lets a server read a text, and keeps what it says.
func (r *run) ask(ctx context.Context, side job.Side, c *vllm.Client, t *Text, key string, ids []int32) error {
	k := &known{IDs: ids}
	var err error
	if side == job.Reference {
		k, err = r.tokens(ctx, c, t)
	}
	if err == nil {
		k.Predictions, err = c.Predict(ctx, k.IDs)
	}
	var status *vllm.StatusError
	if errors.Is(err, errEmpty) || vllm.IsContextLength(err) || errors.As(err, &status) && status.Status == 400 {
		r.mu.Lock()
		r.refused[t.ID] = fmt.Sprintf("%s: %v", side, err)
		r.mu.Unlock()
		return nil
	}
	if err != nil {
		return fmt.Errorf("text %q, %s: %w", t.ID, side, err)
	}
	if side == job.Small {
		k.IDs = nil // the reference's part has them
	}
	b, err := json.Marshal(k)
	if err != nil {
		return fmt.Errorf("keep text %q: %w", t.ID, err)
	}
	return store.ReplaceBytes(ctx, r.Store, key, b)
}

var errEmpty = errors.New("it has no token")

// tokens are the whole text's, its response written by the reference if it has none.
func (r *run) tokens(ctx context.Context, c *vllm.Client, t *Text) (*known, error) {
	k := new(known)
	var err error
	switch {
	case t.Prompt == "":
	case r.Chat:
		messages := t.Messages
		if messages == nil {
			messages = []vllm.Message{{Role: "user", Content: t.Prompt}}
		}
		k.IDs, err = c.TokenizeChat(ctx, messages)
	default:
		k.IDs, err = c.Tokenize(ctx, t.Prompt, true)
	}
	if err != nil {
		return nil, err
	}
	k.Prompt = len(k.IDs)
	var response []int32
	if t.Response == nil {
		response, err = r.respond(ctx, c, k.IDs)
	} else {
		response, err = c.Tokenize(ctx, *t.Response, t.Prompt == "")
	}
	if err == nil && k.Prompt+len(response) == 0 {
		err = errEmpty
	}
	k.IDs = append(k.IDs, response...)
	return k, err
}

// respond is the reference's greedy answer, with the end of text if it comes to it.
func (r *run) respond(ctx context.Context, c *vllm.Client, prompt []int32) ([]int32, error) {
	models, err := c.Models(ctx)
	if err != nil {
		return nil, err
	}
	most := r.MaxResponse
	for _, m := range models {
		if m.ID == c.Model && m.MaxModelLen > 0 {
			most = min(most, max(1, m.MaxModelLen-len(prompt)-1)) // reading it asks for one token more
		}
	}
	answer, err := c.Complete(ctx, vllm.CompletionRequest{
		Prompt: vllm.Tokens(prompt...), MaxTokens: most, StopTokenIDs: vllm.NewSequence(r.Models[job.Reference].EOS)})
	if err != nil {
		return nil, err
	}
	return answer.TokenIDs, nil
}

// clear removes what was kept beside the table.
func (r *run) clear(ctx context.Context) error {
	for object, err := range r.Store.List(ctx, r.prefix) {
		if err != nil {
			return err
		}
		if err := r.Store.Remove(ctx, object.Key); err != nil {
			return err
		}
	}
	return nil
}
