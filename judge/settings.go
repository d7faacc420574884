package judge

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/tokenizer"
)

// Settings decide what a judge is asked and what its answers become. They are
// label settings: another value is another judging.
type Settings struct {
	Prompt        string      `json:"-"` // seed, r2r or file=PATH, "" for the job's own; a judging names it by version and hash
	Context       ContextRule `json:"context"`
	Blind         bool        `json:"blind"`        // call the sides A and B, in an order hashed from the seed
	VerdictOnly   bool        `json:"verdict_only"` // one token without an analysis
	Votes         int         `json:"votes"`        // ask so many times, the majority counts
	Swap          bool        `json:"swap"`         // ask each time with the sides exchanged too
	Temperature   *float64    `json:"temperature"`  // nil leaves it to the server
	MaxTokens     int         `json:"max_tokens"`   // of an analysis
	Seed          int64       `json:"seed"`
	Normalisation string      `json:"normalisation"` // what makes continuations identical: space or exact

	Body json.RawMessage `json:"body,omitempty"` // merged into each question; see endpoint.ParseBody
}

// Defaults are the settings of the study: its prompt, greedy, asked once.
func Defaults() Settings {
	return Settings{Prompt: "seed", Context: ContextRule{Kind: BySentences, N: 2}, Votes: 1, Temperature: new(float64), MaxTokens: 512, Normalisation: Space}
}

// promptFor is the prompt of a job for which none is named: R2R's for one that
// was planned as R2R does it.
func promptFor(s *job.Settings) string {
	if s.Trajectories == job.Real && s.Ends == tokenizer.R2REnds {
		return "r2r"
	}
	return "seed"
}

// Validate refuses values that can't be meant.
func (s Settings) Validate() error {
	usage := func(hint, format string, args ...any) error { return failure.New(failure.Usage, hint, format, args...) }
	switch {
	case s.Votes < 1:
		return usage("1 asks once", "%d votes", s.Votes)
	case s.Votes > 1 && s.Temperature != nil && *s.Temperature == 0:
		return usage("add for example --judge-temperature 0.7", "%d votes at temperature 0 are all the same", s.Votes)
	case s.Temperature != nil && (math.IsNaN(*s.Temperature) || *s.Temperature < 0 || *s.Temperature > 2):
		return usage("0 is greedy, default leaves it to the model", "judge temperature %v is not between 0 and 2", *s.Temperature)
	case s.MaxTokens < 1:
		return usage("512 is the default", "judge answers of at most %d tokens", s.MaxTokens)
	case s.Normalisation != Space && s.Normalisation != Exact:
		return usage("it is space or exact", "judge normalisation %q", s.Normalisation)
	}
	return nil
}

// ContextRule says how much real text before a fork the judge sees.
type ContextRule struct {
	Kind string
	N    int
}

// Kinds of context.
const (
	ByMismatch  = "mismatch"  // from the previous mismatch on: the results' context column
	BySentences = "sentences" // from N sentences before the current one, at most contextTokens
	ByTokens    = "tokens"    // the last N tokens
)

// contextTokens bounds the context by sentences, for texts without sentence ends.
const contextTokens = 512

func (r ContextRule) String() string {
	if r.Kind == ByMismatch {
		return r.Kind
	}
	return r.Kind + "=" + strconv.Itoa(r.N)
}

// MarshalText writes mismatch, sentences=N or tokens=N.
func (r ContextRule) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (r *ContextRule) UnmarshalText(text []byte) error {
	kind, number, counted := strings.Cut(string(text), "=")
	n, err := strconv.Atoi(number)
	switch {
	case kind == ByMismatch && !counted:
		*r = ContextRule{Kind: kind}
	case kind == BySentences && err == nil && n >= 0, kind == ByTokens && err == nil && n > 0:
		*r = ContextRule{kind, n}
	default:
		return fmt.Errorf("%q is not mismatch, sentences=N or tokens=N", text)
	}
	return nil
}

// Differences lists, by name, the settings in which two judgings differ.
func (j Judging) Differences(other Judging) []string {
	var d []string
	add := func(name string, here, there any) {
		if a, b := fmt.Sprint(here), fmt.Sprint(there); a != b {
			d = append(d, fmt.Sprintf("%s: %s, not %s", name, a, b))
		}
	}
	a, b := j.Settings, other.Settings
	add("judge model", j.Model, other.Model)
	add("judge identity", j.Identity, other.Identity)
	add("prompt", j.PromptVersion+" "+j.PromptHash[:min(12, len(j.PromptHash))], other.PromptVersion+" "+other.PromptHash[:min(12, len(other.PromptHash))])
	add("judge context", a.Context, b.Context)
	add("blind", a.Blind, b.Blind)
	add("verdict only", a.VerdictOnly, b.VerdictOnly)
	add("votes", a.Votes, b.Votes)
	add("swap", a.Swap, b.Swap)
	add("temperature", temperatureText(a.Temperature), temperatureText(b.Temperature))
	add("max tokens", a.MaxTokens, b.MaxTokens)
	add("seed", a.Seed, b.Seed)
	add("normalisation", a.Normalisation, b.Normalisation)
	add("body", string(a.Body), string(b.Body))
	add("first judge", j.First.String(), other.First.String())
	return d
}

func temperatureText(t *float64) string {
	if t == nil {
		return "default"
	}
	return strconv.FormatFloat(*t, 'f', -1, 64)
}

// String names the first judge of two, or says that there is none.
func (f *First) String() string {
	if f == nil {
		return "none"
	}
	return fmt.Sprintf("%s (%s), escalating below %v", f.Judging.Model, f.Judging.Identity, f.Below)
}
