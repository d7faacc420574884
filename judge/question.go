package judge

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"tokenfork/internal/fork"
	"tokenfork/internal/job"
	"tokenfork/internal/tokenizer"
)

// Ways to compare continuations before a judge is asked.
const (
	Space = "space" // but for the blanks inside a line and white space at the end
	Exact = "exact" // byte for byte
)

// Framer makes questions of a job's results.
type Framer struct {
	Plan    *job.Plan
	Text    *tokenizer.Tokenizer
	Context ContextRule
	Raw     bool // show special tokens as they are spelled

	framed sync.Pool // of *framed: what is known of the last text
}

// framed is what the questions about a text share.
type framed struct {
	text    *job.Text
	ordinal int64   // the text's ordinal: plan keeps one text after the other in one place
	starts  []int32 // by position, up to the text's end: the last sentence start before it, 0 if there is none
	shown   string  // of all tokens
	at      []int32 // where each token begins in shown, and where the last one ends
	buf     []byte
}

// frame takes what is known of the text; the caller puts it back.
func (f *Framer) frame(s *job.Text) *framed {
	k, _ := f.framed.Get().(*framed)
	if k == nil {
		k = &framed{}
	}
	if k.text == s && k.ordinal == s.Ordinal {
		return k
	}
	*k = framed{text: s, ordinal: s.Ordinal, starts: append(k.starts[:0], 0), at: append(k.at[:0], 0), buf: k.buf[:0]}
	start, ended := int32(0), false // whether an end is right before the position before
	for p, id := range s.Real {
		ends := f.endsAt(s.Real, p)
		if ended && !ends { // an end right after an end, a newline after a full stop, starts none
			start = int32(p)
		}
		ended = ends
		k.starts = append(k.starts, start)
		b, _ := f.shown(id)
		k.buf = append(k.buf, b...)
		k.at = append(k.at, int32(len(k.buf)))
	}
	k.shown = string(k.buf)
	return k
}

// Question is one mismatch with both continuations, as text and as ids.
type Question struct {
	Ordinal  int64
	Position int32  // from 0
	Before   string // real text before the fork, up to the current sentence
	Start    string // of the current sentence, up to the fork
	Forks    [2]Fork
	Row      *job.Result // what is known of the mismatch
	Job      string      // decides the mark that sets the texts apart
}

// Fork is a continuation as it is shown.
type Fork struct {
	Token  string // the predicted token, with as much more as its last character needs
	Rest   string
	IDs    []int32
	Finish string
	bytes  string // what the ids stand for, which need not be UTF-8
	whole  string // Token and Rest in one, or "" where they are not
}

// Text is the whole continuation.
func (f Fork) Text() string {
	if f.whole != "" {
		return f.whole
	}
	return f.Token + f.Rest
}

// Question asks about a result of the text. Both its continuations must be there.
func (f *Framer) Question(s *job.Text, r *job.Result) *Question {
	q := f.question(s, r)
	return &q
}

func (f *Framer) question(s *job.Text, r *job.Result) Question {
	p := int(r.MismatchPosition) - f.Plan.Settings.FirstPosition
	before, start, carry := f.context(s, p)
	return Question{Ordinal: s.Ordinal, Position: int32(p), Before: before, Start: start, Row: r, Job: f.Plan.ID,
		Forks: [2]Fork{f.fork(carry, r.ContinuationSmallIDs, *r.FinishSmall), f.fork(carry, r.ContinuationReferenceIDs, *r.FinishReference)}}
}

// context is the real text before p by the rule, in two pieces, and the bytes
// of a character that is only begun at p: they are shown with the forks, which
// may end it in two ways.
func (f *Framer) context(s *job.Text, p int) (before, start, carry string) {
	k := f.frame(s)
	defer f.framed.Put(k)
	from := f.contextBegin(k, p)
	middle := max(from, f.sentenceStart(k, p))
	head, tail := k.shown[k.at[from]:k.at[middle]], k.shown[k.at[middle]:k.at[p]]
	n := len(tail) - unfinished(tail)
	return text(head), text(tail[:n]), tail[n:]
}

// contextFrom is where the context begins: at a whole character.
func (f *Framer) contextFrom(s *job.Text, p int) int {
	k := f.frame(s)
	defer f.framed.Put(k)
	return f.contextBegin(k, p)
}

func (f *Framer) contextBegin(k *framed, p int) int {
	from := f.contextStart(k, p)
	for from > 0 && from < p && !beginsCharacter(f.Text.Bytes(k.text.Real[from])) {
		from++
	}
	return from
}

// beginsCharacter is false for a token that goes on with a character whose
// first bytes are in the token before.
func beginsCharacter(b []byte) bool { return len(b) == 0 || utf8.RuneStart(b[0]) }

// unfinished is the length of a begun UTF-8 character at the end of b.
func unfinished[T string | []byte](b T) int {
	for n := 1; n <= min(len(b), utf8.UTFMax-1); n++ {
		if last := b[len(b)-n:]; utf8.RuneStart(last[0]) {
			if utf8.FullRuneInString(string(last)) {
				return 0
			}
			return n
		}
	}
	return 0
}

func text(s string) string {
	if utf8.ValidString(s) { // which is several times faster to find out than to replace nothing
		return s
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// shown is a token as the judge sees it: a special one in words, not as it is spelled,
// since the judge's own tokenizer may have it too.
func (f *Framer) shown(id int32) (b []byte, inWords bool) {
	if content, special := f.Text.Special(id); special && !f.Raw {
		return []byte(controlWords(content)), true
	}
	return f.Text.Bytes(id), false
}

// markBeside is a short word that none of the question's texts contains, both continuations
// among them. It is the same for all questions of a job but those whose texts hold it.
func (q *Question) markBeside(one, other string) string {
	texts := [...]string{q.Before, q.Start, one, other}
	m := firstMark(q.Job)
	for n := 1; slices.ContainsFunc(texts[:], func(text string) bool { return strings.Contains(text, m) }); n++ {
		m = jobMark(q.Job, n)
	}
	return m
}

// jobMark is the n-th mark that a job's questions try.
func jobMark(id string, n int) string { return "#" + job.Sum(fmt.Appendf(nil, "%s %d", id, n))[:4] }

// lastMark is the first mark of the job that was last asked for: there is one at a
// time, and a hash for every question shows in merge.
var lastMark atomic.Pointer[struct{ job, mark string }]

func firstMark(id string) string {
	last := lastMark.Load()
	if last == nil || last.job != id {
		last = &struct{ job, mark string }{id, jobMark(id, 0)}
		lastMark.Store(last)
	}
	return last.mark
}

func (f *Framer) contextStart(k *framed, p int) int {
	switch f.Context.Kind {
	case ByMismatch:
		return previousMismatch(k.text, p)
	case ByTokens:
		return max(0, p-f.Context.N)
	}
	start := f.sentenceStart(k, p)
	for n := f.Context.N; n > 0 && start > 0; n-- {
		start = int(k.starts[start])
	}
	return max(start, p-contextTokens, 0)
}

// previousMismatch is where the context column of the mismatch at p starts.
func previousMismatch(s *job.Text, p int) int {
	i, _ := slices.BinarySearch(s.Mismatches, int32(p))
	if i == 0 {
		return 0
	}
	return int(s.Mismatches[i-1])
}

// sentenceStart is where the sentence of a fork at p starts: at p itself if an
// end is right before it.
func (f *Framer) sentenceStart(k *framed, p int) int {
	if p > 0 && f.endsAt(k.text.Real, p-1) {
		return p
	}
	return int(k.starts[p])
}

func (f *Framer) endsAt(real []int32, at int) bool { return fork.EndsAt(f.Plan.Ends, real, at) }

// fork shows a continuation: of its ids the first, and more while a character is unfinished.
func (f *Framer) fork(carry string, ids []int32, finish string) Fork {
	b, token, otherwise := append(make([]byte, 0, 256), carry...), len(carry), false
	for n, id := range ids {
		said, inWords := f.shown(id)
		if n == 0 || token == len(b) && unfinished(b) > 0 {
			token += len(said)
		}
		b = append(b, said...)
		otherwise = otherwise || inWords
	}
	all := string(b)
	raw := all[len(carry):]
	if otherwise {
		raw = f.spelled(ids)
	}
	k := Fork{Token: text(all[:token]), Rest: text(all[token:]), IDs: ids, Finish: finish, bytes: raw}
	if k.Token == all[:token] && k.Rest == all[token:] {
		k.whole = all
	}
	return k
}

func (f *Framer) spelled(ids []int32) string {
	var b []byte
	for _, id := range ids {
		b = append(b, f.Text.Bytes(id)...)
	}
	return string(b)
}

// Identical says whether both continuations say the same by their bytes alone.
// One that was cut at the limit, or is blank, never does.
func (q *Question) Identical(normalisation string) bool {
	small, reference := q.Forks[job.Small], q.Forks[job.Reference]
	if small.Finish == job.FinishLength || reference.Finish == job.FinishLength {
		return false
	}
	a, b := small.bytes, reference.bytes
	if normalisation == Space {
		a, b = evenly(a), evenly(b)
	}
	return a == b && strings.TrimSpace(a) != ""
}

var blanks = regexp.MustCompile(`(^|[^\n \t])[ \t]+`)

// evenly makes one blank of those inside a line, and drops white space at the
// end. Line breaks and indentation stay: in code they have a meaning.
func evenly(s string) string {
	s = strings.TrimRight(strings.ReplaceAll(s, "\r\n", "\n"), " \t\r\n")
	return blanks.ReplaceAllString(s, "${1} ")
}

// order is which side is shown first. It depends on what is asked, not on
// where it stands, so that equal questions stay equal.
func (q *Question) order(s Settings) [2]job.Side {
	if !s.Blind {
		return job.Sides
	}
	b, err := json.Marshal([]any{s.Seed, q.Before, q.Start, q.Forks[job.Small].IDs, q.Forks[job.Reference].IDs})
	if err != nil {
		panic(err) // strings and numbers always encode
	}
	if h := sha256.Sum256(b); h[0]&1 == 1 {
		return exchanged(job.Sides)
	}
	return job.Sides
}

func exchanged(o [2]job.Side) [2]job.Side { return [2]job.Side{o[1], o[0]} }

// voteSeed differs for each asking of a question, and never by order or shard.
func voteSeed(seed int64, question string, vote int) int {
	b := append(binary.LittleEndian.AppendUint64(nil, uint64(seed)), question...)
	h := sha256.Sum256(binary.LittleEndian.AppendUint64(b, uint64(vote)))
	return int(binary.LittleEndian.Uint32(h[:]) >> 1) // 31 bits: servers differ in what they take
}
