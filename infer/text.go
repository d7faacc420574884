package infer

import (
	"fmt"
	"math"
	"slices"
	"sync"

	"tokenfork/internal/fleet"
	"tokenfork/internal/fork"
	"tokenfork/internal/job"
	"tokenfork/internal/vllm"
)

// text is a text's work for one server.
type text struct {
	*job.Text
	side    job.Side       // whose server
	encoded *vllm.Sequence // the real tokens, as requests send them
	forks   []*branch
	rests   []*rest // what has to be generated, ascending by position

	mu       sync.Mutex
	open     int // rests not yet finished
	counters job.Counters
	spent    func(job.Counters) // told of each answer; may be nil
}

// branch is one fork on its way.
type branch struct {
	position int32
	fork     job.Side // whose predicted token
	tail     *fork.Tail
	replayed int
	rest     *rest
	err      *fleet.FailedError
	margin   float64
}

// rest is what a server generates, for all forks that lead to it.
type rest struct {
	fork.Rest
	sharers []*branch
	taken   []int32   // tokens generated so far
	gaps    []float64 // of taken: the lead of the best logprob over the next
	audits  *branch   // set if this only checks that fork's replay
	crashes int       // how often the server died with it in flight
}

// work lays out the text's forks for the side's server. limit is the
// served model's length in tokens; auditShare of the replayed forks are
// generated as well.
func work(s *job.Text, side job.Side, set *job.Settings, ends fork.Ends, limit int, auditShare float64) *text {
	w := &text{Text: s, side: side, counters: job.Counters{}}
	rests := map[restKey]*rest{}
	for _, p := range s.Mismatches {
		for _, f := range forksOf(set.Trajectories, side) {
			b := w.add(p, f, set, ends, limit, rests)
			if auditShare > 0 && b.err == nil {
				w.audit(b, ends, set.MaxNewTokens, auditShare)
			}
		}
	}
	slices.SortStableFunc(w.rests, func(a, b *rest) int { return int(a.At - b.At) })
	if w.open = len(w.rests); w.open > 0 {
		w.encoded = vllm.NewSequence(s.Real)
	}
	return w
}

// restKey keeps the forks of a sampled run apart: each has its own seed.
type restKey struct {
	fork.Rest
	position int32
	fork     job.Side
}

// forksOf lists whose forks the side's server carries on.
func forksOf(trajectories string, side job.Side) []job.Side {
	switch {
	case trajectories == job.Own:
		return []job.Side{side}
	case side == job.Reference:
		return []job.Side{job.Small, job.Reference}
	default:
		return nil
	}
}

func (w *text) add(p int32, of job.Side, set *job.Settings, ends fork.Ends, limit int, rests map[restKey]*rest) *branch {
	b := &branch{position: p, fork: of, margin: math.Inf(1)}
	w.forks = append(w.forks, b)
	if set.Trajectories == job.Real && of == job.Reference {
		b.tail = fork.ReadOff(ends, w.Real, int(p), set.MaxNewTokens)
		return b
	}
	token := w.Predictions(of)[p]
	b.tail, _ = fork.Direct(ends, w.Real, int(p), token, set.MaxNewTokens)
	if b.tail.Done() {
		return b
	}
	// By the fork, not by what is left of it after replay: the list of failures
	// must not depend on how the work is saved.
	if need := int(p) + 1 + set.MaxNewTokens; need > limit {
		b.err = &fleet.FailedError{Class: fleet.ClassContextLength, Err: fmt.Errorf("%d tokens with its continuation, the server takes %d", need, limit)}
		return b
	}
	key := restKey{position: p, fork: of}
	var r *fork.Rest
	if greedy := set.Temperature == 0; greedy && set.Replay {
		b.tail, r = fork.Walk(ends, w.Real, w.Predictions(w.side), int(p), token, set.MaxNewTokens)
		key = restKey{}
	} else {
		b.tail, r = fork.Direct(ends, w.Real, int(p), token, set.MaxNewTokens)
	}
	b.replayed = len(b.tail.IDs) - 1
	if r == nil {
		return b
	}
	key.Rest = *r
	if rests[key] == nil {
		rests[key] = &rest{Rest: *r}
		w.rests = append(w.rests, rests[key])
	}
	b.rest = rests[key]
	b.rest.sharers = append(b.rest.sharers, b)
	return b
}

// forced is what stands between the real tokens and the next one to generate.
func (r *rest) forced() []int32 {
	if r.Token == fork.None {
		return r.taken
	}
	return append([]int32{r.Token}, r.taken...)
}

// wants is how many tokens to ask for next; 0 when all sharers are done. While
// only the token after a decimal point is in question, one will do.
func (r *rest) wants() int {
	n := 0
	for _, b := range r.sharers {
		switch {
		case b.tail.Done():
		case b.tail.Undecided():
			n = max(n, 1)
		default:
			n = max(n, b.tail.Left())
		}
	}
	return n
}

// take feeds a generated token to every sharer. gap is the lead of the best
// logprob over the next, NaN where it is not known.
func (r *rest) take(id int32, gap float64) {
	r.taken, r.gaps = append(r.taken, id), append(r.gaps, gap)
	for _, b := range r.sharers {
		if !b.tail.Done() {
			kept := len(b.tail.IDs)
			b.tail.Take(id)
			if len(b.tail.IDs) > kept || b.tail.Finish == job.FinishEOS { // not what --decimals only looks at
				b.margin = min(b.margin, gap)
			}
		}
	}
}

// fail marks every sharer: a failed rest fails all that wait for it.
func (r *rest) fail(f *fleet.FailedError) {
	for _, b := range r.sharers {
		b.err = f
	}
}

// rows are the text's finished continuations.
func (w *text) rows(engine string, margins bool) []job.Continuation {
	rows := make([]job.Continuation, len(w.forks))
	for i, b := range w.forks {
		rows[i] = b.row(w.Ordinal, engine, margins)
	}
	return rows
}

func (b *branch) row(ordinal int64, engine string, margins bool) job.Continuation {
	c := job.Continuation{Ordinal: ordinal, Position: b.position, Fork: int32(b.fork), RestAt: -1, RestID: -1, Engine: &engine}
	if b.rest != nil {
		c.RestAt, c.RestID = b.rest.At, b.rest.Token
	}
	if b.err != nil {
		msg := b.err.Err.Error()
		c.Error, c.Message = &b.err.Class, &msg
		return c
	}
	c.IDs, c.Finish, c.Replayed = b.tail.IDs, &b.tail.Finish, int32(b.replayed)
	if margins && b.rest != nil && b.replayed == 0 && !math.IsNaN(b.margin) && !math.IsInf(b.margin, 1) { // infinite: no generated token was kept
		c.Margin = &b.margin
	}
	return c
}
