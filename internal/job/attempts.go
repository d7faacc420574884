package job

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/store"
)

// AttemptPrefix is where starts and ends of runners are kept, for status:
// attempts/<stage>/<shard>/<side>.<id>.start.json and .end.json. The results
// never depend on them.
const AttemptPrefix = "attempts/"

// Ending is how an attempt ended without finishing its shard.
type Ending struct {
	Attempt
	Ended time.Time `json:"ended"`
	Code  int       `json:"code"` // the process's exit code
	Error string    `json:"error"`
	Hint  string    `json:"hint,omitempty"`
}

// endingTimeout bounds the last write of a process that is told to go.
const endingTimeout = 10 * time.Second

// RecordAttempt runs work on a shard and keeps, beside it, that an attempt began and,
// if work fails, why. A store that takes no record refuses the work before it
// begins; a failing last record is added to the error.
func RecordAttempt(ctx context.Context, s store.Store, stage string, shard int, side string, who Attempt, work func() error) error {
	who.ID = strings.ToLower(rand.Text()[:12])
	key := fmt.Sprintf("%s%s/%05d/%s.%s", AttemptPrefix, stage, shard, side, who.ID)
	if err := keep(ctx, s, key+".start.json", who); err != nil {
		return fmt.Errorf("start %s of shard %d: %w", stage, shard, err)
	}
	err := work()
	if err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endingTimeout)
	defer cancel()
	return errors.Join(err, keep(ctx, s, key+".end.json",
		Ending{Attempt: who, Ended: time.Now().UTC().Truncate(time.Second), Code: failure.Code(err), Error: err.Error(), Hint: failure.Hint(err)}))
}

func keep(ctx context.Context, s store.Store, key string, v any) error {
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", key, err)
	}
	if err := store.CreateBytes(ctx, s, key, append(b, '\n')); err != nil {
		return fmt.Errorf("keep %s: %w", key, err)
	}
	return nil
}
