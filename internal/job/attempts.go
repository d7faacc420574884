package job

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/store"
)

// AttemptPrefix is where starts and ends of runners are kept, for status:
// attempts/<stage>/<shard>/<side>.<id>.start.json and .end.json. The results
// never depend on them.
const AttemptPrefix = "attempts/"

// Attempt says who works, for people and for status; nothing is decided by it.
// A process is one attempt at each of its tasks.
type Attempt struct {
	ID      string    `json:"id"` // of its records and its folder of parts; "" until one of them is made
	Host    string    `json:"host"`
	PID     int       `json:"pid"`
	Slurm   string    `json:"slurm,omitempty"` // job_task of the array
	Restart int       `json:"restart"`         // SLURM_RESTART_COUNT
	Started time.Time `json:"started"`
}

// ThisProcess describes this process, without an id.
func ThisProcess() Attempt {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	a := Attempt{Host: host, PID: os.Getpid(), Started: time.Now().UTC().Truncate(time.Second)}
	a.Restart, _ = strconv.Atoi(os.Getenv("SLURM_RESTART_COUNT")) // absent at the first start
	if id := os.Getenv("SLURM_ARRAY_JOB_ID"); id != "" {
		a.Slurm = id + "_" + os.Getenv("SLURM_ARRAY_TASK_ID")
	} else {
		a.Slurm = os.Getenv("SLURM_JOB_ID")
	}
	return a
}

// named gives an attempt an id if it has none.
func (a Attempt) named() Attempt {
	if a.ID == "" {
		a.ID = strings.ToLower(rand.Text()[:12])
	}
	return a
}

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

// RecordAttempt runs work on a shard, as the attempt that it is given, and keeps,
// beside it, that the attempt began and, if work fails, why. A store that takes no record refuses the work before it
// begins; a failing last record is added to the error.
func RecordAttempt(ctx context.Context, s store.Store, stage string, shard int, side string, who Attempt, work func(Attempt) error) error {
	who = who.named()
	key := fmt.Sprintf("%s%s/%05d/%s.%s", AttemptPrefix, stage, shard, side, who.ID)
	if err := keep(ctx, s, key+".start.json", who); err != nil {
		return fmt.Errorf("start %s of shard %d: %w", stage, shard, err)
	}
	err := work(who)
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
