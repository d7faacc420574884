package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strconv"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/store"
	"tokenfork/internal/vllm"
)

// Engine is what answers: recorded once for each model of a job, since another one may
// answer differently. Of a server that somebody else runs less is known.
type Engine struct {
	vllm.Engine
	Args          []string `json:"args,omitempty"` // the user's
	Root          string   `json:"root,omitempty"` // what a server at a URL says it was given
	Deterministic bool     `json:"deterministic,omitempty"`
}

// Ask makes the record that the engine is: args are the user's flags of a server of the
// task's own, length what any other takes.
func (e *Engine) Ask(ctx context.Context, s Server, args []string, length int) error {
	if own, ok := s.Engine(); ok {
		e.Engine, e.Args = own, args
		return nil
	}
	client, _, err := s.Client(ctx)
	if err != nil {
		return err
	}
	if e.Version, err = client.Version(ctx); err != nil {
		return fmt.Errorf("ask the server at %s for its version: %w", client.URL(), err)
	}
	e.MaxModelLen = strconv.Itoa(length)
	models, err := client.Models(ctx)
	if err != nil {
		return fmt.Errorf("ask the server at %s for its model: %w", client.URL(), err)
	}
	for _, m := range models {
		if m.ID == client.Model {
			e.Root = m.Root
		}
	}
	return nil
}

// Keep writes the record, or compares with the one that is there, and gives the hash of
// the record that counts for this task's rows.
func (e Engine) Keep(ctx context.Context, s store.Store, key string, allowMixed bool, log *slog.Logger) (string, error) {
	b, err := json.MarshalIndent(e, "", " ")
	if err != nil {
		return "", err
	}
	hash := job.EngineHash(b)
	if err = store.CreateBytes(ctx, s, key, b); !errors.Is(err, fs.ErrExist) {
		return hash, err
	}
	first, err := store.ReadAll(ctx, s, key)
	if err != nil {
		return hash, fmt.Errorf("read %s: %w", key, err)
	}
	var there Engine
	if json.Unmarshal(first, &there) == nil && there.Root == "" && e.Root != "" { // a record of an earlier version has none
		e.Root = ""
		return e.Keep(ctx, s, key, allowMixed, log)
	}
	if bytes.Equal(first, b) {
		return hash, nil
	}
	if allowMixed {
		log.Warn("another engine than the first task's", "first", string(first), "this", string(b))
		return hash, nil
	}
	return hash, failure.New(failure.Refused, "use the same vLLM and flags for every task, or --allow-mixed-engines",
		"%s was made by\n%s\nthis task's engine is\n%s", key, first, b)
}
