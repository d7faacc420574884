package judge

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/store"
	"tokenfork/internal/tokenizer"
)

// judgingFormat counts how questions are put: since 2, texts cannot hold control
// tokens. Judgings of format 1 can be merged and checked, not continued.
const judgingFormat = 2

// Judging is a judge, a prompt and settings: a job may be judged by several,
// which live side by side.
type Judging struct {
	Format        int      `json:"format"`
	Model         string   `json:"judge_model"`
	Identity      string   `json:"judge_identity,omitempty"` // what the judge is, where that is known beside its name
	PromptVersion string   `json:"prompt_version"`
	PromptHash    string   `json:"prompt_hash"`
	Settings      Settings `json:"settings"`
	First         *First   `json:"first,omitempty"` // of two judges
}

// ID is the judging's hash in 16 hex digits: the name of its folders in a job.
func (j Judging) ID() string {
	b, err := json.Marshal(j)
	if err != nil {
		panic(err) // strings and finite numbers always encode
	}
	return job.Sum(b)[:16]
}

// Record is a judging as a job keeps it: with the prompt, so that its verdicts
// can be checked against their questions anywhere.
type Record struct {
	Judging
	Prompt string   `json:"prompt"`
	Flags  []string `json:"flags,omitempty"` // of tokenfork judge, by which it was last judged
}

// Unknown are the flags of a judge that is not named: placeholders.
var Unknown = []string{"--judge", "URL|local", "--judge-model", "NAME"}

// FlagsOf are the flags that go on with the judging of that id, or, if it is "",
// with the only one. nil: the record is of a tokenfork that kept none.
func FlagsOf(all []Record, id string) []string {
	switch {
	case id == "" && len(all) != 1:
		return Unknown
	case id == "":
		return all[0].Flags
	}
	for _, r := range all {
		if r.ID() == id {
			return r.Flags
		}
	}
	return Unknown
}

// encode gives the record with its seal: its id is the hash of all but the flags.
func (r Record) encode() []byte {
	b, err := job.SealJSON(r)
	if err != nil {
		panic(err) // strings and finite numbers always encode
	}
	return b
}

// isEarly says whether b is the record as earlier versions wrote it, without flags
// and seal.
func (r Record) isEarly(b []byte) bool {
	early, err := json.MarshalIndent(r, "", " ")
	return err == nil && r.Flags == nil && bytes.Equal(b, append(early, '\n'))
}

// save keeps the record in the job. One that is there differs in nothing but the
// flags, for the key is its hash: the last ones count.
func (r Record) save(ctx context.Context, s store.Store) error {
	key := job.JudgingPrefix + r.ID() + ".json"
	old, err := store.ReadAll(ctx, s, key)
	switch {
	case err == nil && bytes.Equal(old, r.encode()):
		return nil
	case err == nil:
		err = store.ReplaceBytes(ctx, s, key, r.encode())
	case errors.Is(err, fs.ErrNotExist):
		err = store.CreateBytes(ctx, s, key, r.encode())
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("keep judging %s in %s: %w", r.ID(), s, err)
	}
	return nil
}

// Judgings lists the job's judgings by id.
func Judgings(ctx context.Context, s store.Store) ([]Record, error) {
	var all []Record
	for o, err := range s.List(ctx, job.JudgingPrefix) {
		if err != nil {
			return nil, fmt.Errorf("list the judgings of %s: %w", s, err)
		}
		b, err := store.ReadAll(ctx, s, o.Key)
		if err != nil {
			return nil, fmt.Errorf("read %s of %s: %w", o.Key, s, err)
		}
		var r Record
		if err := json.Unmarshal(b, &r); err != nil || job.JudgingPrefix+r.ID()+".json" != o.Key || !bytes.Equal(b, r.encode()) && !r.isEarly(b) {
			return nil, failure.New(failure.Refused, "remove it and start the judging again: its verdicts are kept", "%s of %s is damaged", o.Key, s)
		}
		all = append(all, r)
	}
	return all, nil
}

// Questions gives what identifies the question that a result's continuations ask
// in this judging, of two judges the second. It is safe for concurrent use.
func (r Record) Questions(plan *job.Plan, text *tokenizer.Tokenizer) (func(*job.Text, *job.Result) (string, error), error) {
	return r.questions(r.Judging, plan, text)
}

func (r Record) questions(by Judging, plan *job.Plan, text *tokenizer.Tokenizer) (func(*job.Text, *job.Result) (string, error), error) {
	p, err := newPrompt(r.Format, by.PromptVersion, r.Prompt, by.Settings)
	if err != nil {
		return nil, err
	}
	if p.Hash != by.PromptHash {
		return nil, failure.New(failure.Refused, "use the tokenfork that judged it, or judge again", "judging %s: its prompt %s has hash %.12s here, not %.12s",
			r.ID(), p.Version, p.Hash, by.PromptHash)
	}
	f, h := Framer{Plan: plan, Text: text, Context: by.Settings.Context, Raw: r.Format < judgingFormat}, &hasher{judging: by}
	type place struct {
		q    Question
		text rendering
	}
	places := sync.Pool{New: func() any { return new(place) }}
	return func(s *job.Text, row *job.Result) (string, error) {
		at := places.Get().(*place)
		defer places.Put(at)
		at.q = f.question(s, row)
		head, rest, err := p.render(&at.text, &at.q, by.Settings, at.q.order(by.Settings))
		if err != nil {
			return "", err
		}
		return h.hash(&at.q, head, rest)
	}, nil
}

// Accept gives a check of verdicts: each must answer the question that its
// row's continuations ask, of the judge that it names.
func (r Record) Accept(plan *job.Plan, text *tokenizer.Tokenizer) (func(*job.Text, *job.Result, *job.Verdict) error, error) {
	judges := []Judging{r.Judging}
	if r.First != nil {
		judges = append(judges, r.First.Judging)
	}
	questions := map[[2]string]func(*job.Text, *job.Result) (string, error){}
	for _, j := range judges {
		question, err := r.questions(j, plan, text)
		if err != nil {
			return nil, err
		}
		questions[[2]string{j.Model, j.PromptHash}] = question
	}
	return func(s *job.Text, row *job.Result, v *job.Verdict) error {
		asked := ""
		if question := questions[[2]string{v.JudgeModel, v.PromptHash}]; question != nil {
			var err error
			if asked, err = question(s, row); err != nil {
				return err
			}
		}
		if asked != v.Question {
			return failure.New(failure.Refused, "judge the job again: its continuations have changed since",
				"the verdict at position %d of text %s answers another question", row.MismatchPosition, s.ID)
		}
		return nil
	}, nil
}
