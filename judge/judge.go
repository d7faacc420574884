// Package judge says of each mismatch whether the two continuations mean the
// same: it frames the question, asks a model and reads its answer. A verdict
// that can't be had is listed as failed, never made up.
package judge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/singleflight"

	"tokenfork/internal/job"
	"tokenfork/judge/endpoint"
)

// Classes of answers that hold no verdict; the others are package endpoint's.
const (
	Malformed = endpoint.Malformed
	Length    = endpoint.Length
)

// asker is a server with a model.
type asker interface {
	Ask(ctx context.Context, r endpoint.Request) (*endpoint.Reply, error)
}

// Judge asks one model by one prompt. Its methods may be called from many goroutines.
type Judge struct {
	judging Judging
	hasher  hasher // of questions
	prompt  *Prompt
	asker   asker
	known   *memory
	batched sync.Map // answers that a batch has brought, by request, each taken once
	flight  singleflight.Group
	sent    prefixes
	first   firstAnswers
	room    atomic.Int64 // the limit that answers with thoughts were found to need
	count   struct{ identical, repeated atomic.Int64 }
}

func newJudge(p *Prompt, judging Judging, a asker) *Judge {
	return &Judge{judging: judging, hasher: hasher{judging: judging}, prompt: p, asker: a, known: newMemory(rememberedAnswers)}
}

// Remember takes over a verdict of an earlier run, for the question that it answers.
func (j *Judge) Remember(v *job.Verdict) {
	if v.Error == nil && v.MeaningMatch != nil {
		j.known.put(v.Question, answer{*v.MeaningMatch, v.Explanation, v.KeyDifferences, v.Confidence, v.ConfidenceSource})
	}
}

// request asks for logprobs: 5 tell two words apart, 20 are the most that
// servers give and cost nothing for a single token.
func (p *Prompt) request(s Settings, text string) endpoint.Request {
	r := endpoint.Request{Prompt: text, Schema: p.form.schema, MaxTokens: s.MaxTokens, Temperature: s.Temperature, TopLogprobs: 5}
	if s.VerdictOnly {
		r.MaxTokens, r.TopLogprobs = 1, 20
	}
	return r
}

// frame is the question as it is shown first, and the verdict's head.
func (j *Judge) frame(q *Question) (job.Verdict, [2]job.Side, error) {
	order := q.order(j.judging.Settings)
	head, rest, err := j.prompt.render(new(rendering), q, j.judging.Settings, order)
	if err != nil {
		return job.Verdict{}, order, err
	}
	asked, err := j.hasher.hash(q, head, rest)
	return job.Verdict{Ordinal: q.Ordinal, Position: q.Position, Question: asked,
		JudgeModel: j.judging.Model, PromptVersion: j.prompt.Version, PromptHash: j.prompt.Hash}, order, err
}

// Ask gives the verdict on a question. Where there is none, its Error says why;
// the error returned is one that must end the run.
func (j *Judge) Ask(ctx context.Context, q *Question) (job.Verdict, error) {
	v, order, err := j.frame(q)
	if err != nil {
		return job.Verdict{}, err
	}
	if q.Identical(j.judging.Settings.Normalisation) {
		j.count.identical.Add(1)
		fill(&v, answer{match: true, differences: []string{}, confidence: new(1.0), source: new(Identical)})
		return v, nil
	}
	a, err := j.once(v.Question, func() (answer, error) { return j.votes(ctx, q, v.Question, order) })
	var failed *endpoint.Error
	switch {
	case errors.As(err, &failed):
		v.Error, v.Message, v.Raw = &failed.Class, &failed.Message, nonEmpty(failed.Raw)
	case err != nil:
		return job.Verdict{}, err
	default:
		fill(&v, a)
	}
	return v, nil
}

func fill(v *job.Verdict, a answer) {
	v.MeaningMatch, v.Explanation, v.KeyDifferences, v.Confidence, v.ConfidenceSource = &a.match, a.explanation, a.differences, a.confidence, a.source
}

func nonEmpty(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// once asks equal questions once.
func (j *Judge) once(question string, ask func() (answer, error)) (answer, error) {
	asked := false
	v, err, _ := j.flight.Do(question, func() (any, error) {
		if a, ok := j.known.get(question); ok {
			return a, nil
		}
		asked = true
		a, err := ask()
		if err == nil {
			j.known.put(question, a)
		}
		return a, err
	})
	if !asked {
		j.count.repeated.Add(1)
	}
	return v.(answer), err
}

// asking is one request of those that a question takes.
type asking struct {
	order   [2]job.Side
	request endpoint.Request
}

// askings are as many as the settings say.
func (j *Judge) askings(q *Question, question string, order [2]job.Side) ([]asking, error) {
	s := j.judging.Settings
	orders := [][2]job.Side{order}
	if s.Swap {
		orders = append(orders, exchanged(order))
	}
	var all []asking
	for range s.Votes {
		for _, o := range orders {
			text, err := j.prompt.Render(q, s, o)
			if err != nil {
				return nil, err
			}
			r := j.prompt.request(s, text)
			if s.Temperature == nil || *s.Temperature > 0 {
				r.Seed = new(voteSeed(s.Seed, question, len(all)))
			}
			all = append(all, asking{o, r})
		}
	}
	return all, nil
}

// votes makes all askings of a question. Of a single one the answer stands as
// it is; else the majority counts, the first answer in a tie, and the
// confidence is the share of the askings that agree.
func (j *Judge) votes(ctx context.Context, q *Question, question string, order [2]job.Side) (answer, error) {
	askings, err := j.askings(q, question, order)
	if err != nil {
		return answer{}, err
	}
	var all []answer
	for _, k := range askings {
		a, err := j.vote(ctx, k)
		if err != nil {
			return answer{}, err
		}
		all = append(all, a)
	}
	if len(all) == 1 {
		return all[0], nil
	}
	return majority(all), nil
}

func majority(all []answer) answer {
	agree := 0 // with the first answer
	for _, a := range all {
		agree += oneIf(a.match == all[0].match)
	}
	first := all[0]
	if others := len(all) - agree; others > agree {
		agree, first = others, all[slices.IndexFunc(all, func(a answer) bool { return a.match != first.match })]
	}
	first.confidence, first.source = new(float64(agree)/float64(len(all))), new(ByVotes)
	return first
}

const (
	tries      = 3 // of an asking whose answers can't be used
	emptyTries = 8 // of one whose answers are empty: the server's fault, which passes
	roomier    = 4 // times the limit for an answer that was cut; one that outgrows that too mostly never ends
	wordTokens = 8 // that "false" may take under a grammar: f, al, se

	leastThoughts = 512    // tokens, where a model thinks before its answer
	mostThoughts  = 32_768 // beyond which it is given up
)

// vote asks until there is a verdict, or no point in going on.
func (j *Judge) vote(ctx context.Context, k asking) (answer, error) {
	if a, ok := j.batched.LoadAndDelete(requestID(k.request)); ok {
		j.sent.add(k.request.Prompt)
		return a.(answer).named(j.judging.Settings.Blind, k.order), nil
	}
	r := k.request
	r.MaxTokens = max(r.MaxTokens, int(j.room.Load()))
	l := limit{least: k.request.MaxTokens}
	counted := false
	for asked := 1; ; asked++ {
		j.sent.add(r.Prompt) // again, too: most of it is in the cache then
		reply, err := j.asker.Ask(ctx, r)
		var a answer
		if err == nil {
			a, err = j.read(reply)
		}
		if err == nil {
			j.first.used()
			l.found(&j.room, r.MaxTokens)
			return a.named(j.judging.Settings.Blind, k.order), nil
		}
		var failed *endpoint.Error
		if !errors.As(err, &failed) {
			return answer{}, err
		}
		if next := l.next(r.MaxTokens, failed, reply); next > 0 {
			r.MaxTokens = next
			asked-- // that is no fault of the answer
			continue
		}
		if !counted && (failed.Class != Malformed || !j.rewords(r)) {
			counted = true
			if err := j.first.unusable(failed); err != nil {
				return answer{}, err
			}
		}
		if !again[failed.Class] {
			return answer{}, err
		}
		empty := failed.Class == Malformed && failed.Raw == "" && j.first.usable.Load()
		if asked >= emptyTries || asked >= tries && !empty || failed.Class == Length {
			return answer{}, &endpoint.Error{Class: failed.Class, Message: fmt.Sprintf("%s (asked %d times)", failed.Message, asked), Raw: failed.Raw}
		}
		r = j.otherwise(r)
	}
}

// limit finds the room that one question's answer needs.
type limit struct {
	least   int
	thinks  bool
	ceiling bool // the server takes no more
}

// next is the limit to ask again with after a failure, 0 if another makes no
// difference. A model that was cut while it thought gets four times as much
// until it has answered; a cut answer gets that once.
func (l *limit) next(now int, failed *endpoint.Error, reply *endpoint.Reply) int {
	switch {
	case (failed.Class == endpoint.ContextLength || failed.Class == endpoint.Rejected) && now > l.least:
		l.ceiling = true
		return max(l.least, now/2)
	case failed.Class != Length || l.ceiling:
		return 0
	}
	next, most := now*roomier, mostThoughts
	if reply == nil || !endpoint.Begun(reply.Text) {
		l.thinks = true
		next = max(next, leastThoughts)
	} else if now > l.least {
		return 0
	}
	if reply != nil && reply.Room > 0 {
		most = min(most, reply.Room)
	}
	if next = min(next, max(most, l.least*roomier)); reply != nil && reply.Room > 0 {
		next = min(next, reply.Room)
	}
	if next <= now {
		return 0
	}
	return next
}

// found keeps the limit for the questions that follow, if thoughts needed it.
func (l *limit) found(room *atomic.Int64, now int) {
	for old := room.Load(); l.thinks && int64(now) > old; old = room.Load() {
		if room.CompareAndSwap(old, int64(now)) {
			return
		}
	}
}

// rewords says whether otherwise asks for the answer in another form.
func (j *Judge) rewords(r endpoint.Request) bool {
	return j.prompt.form.schema == nil && r.Schema == nil
}

// otherwise is a request whose answer could not be used, put so that the next may be.
func (j *Judge) otherwise(r endpoint.Request) endpoint.Request {
	if j.rewords(r) { // a judge that will not answer in one word of itself
		r.Schema, r.MaxTokens = j.prompt.form.word, max(wordTokens, int(j.room.Load()))
	}
	if r.Seed != nil { // the same would draw the same answer
		r.Seed = new(voteSeed(int64(*r.Seed), r.Prompt, 0))
	}
	return r
}

// again are the classes after which the same question may do better.
var again = map[string]bool{Malformed: true, Length: true, endpoint.Refusal: true, endpoint.ContentFilter: true}

func (j *Judge) read(r *endpoint.Reply) (answer, error) {
	if r.Cut && (j.prompt.form.schema != nil && !whole(r.Text) || !endpoint.Begun(r.Text)) {
		return answer{}, &endpoint.Error{Class: Length, Message: "the answer was cut at its limit", Raw: r.Text}
	}
	a, err := j.prompt.form.read(r)
	if err == nil {
		return a, nil
	}
	message := err.Error()
	if strings.TrimSpace(r.Text) == "" {
		message = "the answer is empty"
		if r.Reasoning != "" {
			message += ": all of it is in " + r.Reasoning
		}
	}
	return answer{}, &endpoint.Error{Class: Malformed, Message: message, Raw: r.Text}
}

// whole says whether the answer came to its end: a limit may fall just there.
func whole(text string) bool {
	from, ok := endpoint.Spoken(text)
	said := strings.TrimSpace(text[from:])
	return ok && strings.HasPrefix(said, "{") && json.Valid([]byte(said))
}

// named says in a blind answer's explanation which side was which.
func (a answer) named(blind bool, order [2]job.Side) answer {
	if blind && a.explanation != nil {
		a.explanation = new(fmt.Sprintf("(A: %s, B: %s) %s", order[0], order[1], *a.explanation))
	}
	return a
}
