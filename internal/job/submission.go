package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/shell"
	"tokenfork/internal/store"
)

// SubmissionPrefix is where a job's submissions to Slurm are kept, each in N.json.
const SubmissionPrefix = "submissions/"

// Submission is what was handed to Slurm at a time: it is claimed before the
// first sbatch and grows with each, so that no id is lost.
type Submission struct {
	N         int         `json:"n"`
	Submitted time.Time   `json:"submitted"`
	Host      string      `json:"host"`
	Args      []string    `json:"args"`   // of the submit command
	Folder    string      `json:"folder"` // of the scripts, the lists of shards and logs
	Arrays    []SlurmJob  `json:"arrays"`
	Refused   *SlurmError `json:"refused,omitempty"` // why it is incomplete

	// Asked is the job that sbatch was called for last, without an id yet: Slurm may have taken it all the same.
	Asked *SlurmJob `json:"asked,omitempty"`
	Saved time.Time `json:"saved,omitzero"`
	PID   int       `json:"pid,omitempty"` // of the submit command, on Host
	UID   int       `json:"uid,omitempty"` // of its user; 0: not told
}

// SlurmJob is a job or job array of a submission. Task i works on Shards[i].
type SlurmJob struct {
	Stage   string `json:"stage"`          // predict, plan, infer, judge, merge or report
	Side    string `json:"side,omitempty"` // of infer: small, reference or both
	ID      string `json:"id"`
	Name    string `json:"name,omitempty"`    // that no other job has
	Cluster string `json:"cluster,omitempty"` // of a multi-cluster site
	Shards  []int  `json:"shards,omitempty"`
	Log     string `json:"log"` // file name with Slurm's %A, %a and %j
}

// SlurmError is a call of sbatch that Slurm refused.
type SlurmError struct {
	Command string `json:"command"`
	Said    string `json:"said"`
}

func submissionKey(n int) string { return fmt.Sprintf("%s%d.json", SubmissionPrefix, n) }

// Submissions gives a job's submissions, oldest first.
func Submissions(ctx context.Context, s store.Store) ([]Submission, error) {
	var all []Submission
	for n := 1; ; n++ {
		b, err := store.ReadAll(ctx, s, submissionKey(n))
		if errors.Is(err, fs.ErrNotExist) {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read submissions of %s: %w", s, err)
		}
		var sub Submission
		if err := json.Unmarshal(b, &sub); err != nil {
			return nil, failure.New(failure.Refused, "replace its content by {}: status then does not know its Slurm ids", "%s of %s is damaged: %w", submissionKey(n), s, err)
		}
		all = append(all, sub)
	}
}

// Claim takes number n for the submission; the first to ask for it has it.
func (sub *Submission) Claim(ctx context.Context, s store.Store, n int) error {
	sub.N, sub.Saved = n, time.Now().UTC()
	b, err := json.MarshalIndent(sub, "", " ")
	if err != nil {
		return fmt.Errorf("encode submission: %w", err)
	}
	err = store.CreateBytes(ctx, s, submissionKey(n), b)
	if errors.Is(err, fs.ErrExist) {
		return failure.New(failure.Refused, "`tokenfork status` shows what it submits", "another submit of this job has begun at the same time")
	}
	return err
}

// Save keeps what the submission has become; only its claimer may.
func (sub *Submission) Save(ctx context.Context, s store.Store) error {
	sub.Saved = time.Now().UTC()
	b, err := json.MarshalIndent(sub, "", " ")
	if err != nil {
		return fmt.Errorf("encode submission: %w", err)
	}
	if err := store.ReplaceBytes(ctx, s, submissionKey(sub.N), b); err != nil {
		return fmt.Errorf("keep %s: %w", submissionKey(sub.N), err)
	}
	return nil
}

// answerTime is longer than submit waits for sbatch and then for squeue.
const answerTime = 3 * time.Minute

// UnderWay says whether the command that makes the submission still runs, as far as can be told.
func (sub *Submission) UnderWay(host string, runs func(pid int) bool) bool {
	return sub.Asked != nil && sub.Refused == nil && time.Since(sub.Saved) < answerTime && (sub.Host != host || runs(sub.PID))
}

// Again is the command that submits what the submission left undone.
func (sub *Submission) Again() string {
	args := sub.Args
	if !slices.Contains(args, "--missing") {
		args = append(slices.Clone(args), "--missing")
	}
	return "tokenfork " + shell.Join(args)
}

// OfTexts says whether it is a submission of predict and plan, and not of what follows.
func (sub *Submission) OfTexts() bool {
	return slices.ContainsFunc(sub.Args, func(arg string) bool { return arg == "--predict" || strings.HasPrefix(arg, "--predict=") })
}

// LogOf is the log's file name of the array's task, or of a job without tasks (-1).
func (j *SlurmJob) LogOf(task int) string {
	return strings.NewReplacer("%A", j.ID, "%a", strconv.Itoa(task), "%j", j.ID).Replace(j.Log)
}
