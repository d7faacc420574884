package judge

import (
	"strings"
	"sync"
	"sync/atomic"

	"tokenfork/internal/failure"
	"tokenfork/judge/endpoint"
)

// enoughUnusable answers, with none that could be used, show that it is not the
// questions.
const enoughUnusable = 20

// firstAnswers stops a judge that cannot be used at all before it is asked
// everything.
type firstAnswers struct {
	usable atomic.Bool

	mu   sync.Mutex
	seen int
}

func (f *firstAnswers) used() { f.usable.Store(true) }

// unusable counts a failure and gives the error that ends the run if there were
// nothing but these. What a server says of one text's content or length is no
// evidence against it.
func (f *firstAnswers) unusable(e *endpoint.Error) error {
	if f.usable.Load() || e.Class == endpoint.ContentFilter || e.Class == endpoint.ContextLength {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.seen++; f.seen < enoughUnusable {
		return nil
	}
	said := strings.TrimSpace(e.Raw)
	if said == "" {
		said = "nothing"
	} else if len(said) > 600 {
		said = strings.ToValidUTF8(said[:300], "") + " … " + strings.ToValidUTF8(said[len(said)-300:], "")
	}
	return failure.New(failure.Refused, advice(e), "none of the judge's first %d answers can be used; the last: %s; it said: %s", f.seen, e.Error(), said) // not %w: it is no verdict on a question
}

// advice is what to change after such failures.
func advice(e *endpoint.Error) string {
	const noThoughts = `--judge-body '{"chat_template_kwargs":{"enable_thinking":false}}' (vLLM, SGLang) or '{"reasoning_effort":"low"}' (hosted)`
	switch {
	case e.Class == endpoint.Rejected && strings.Contains(e.Message, "max_"): // max_tokens, max_completion_tokens
		return "lower --judge-max-tokens to what the server takes"
	case e.Class == Length:
		return "raise --judge-max-tokens, give a local judge a longer --max-model-len in --judge-args, or let it think less: " + noThoughts
	case strings.Contains(e.Message, "all of it is in"):
		return "start the server without a reasoning parser, or let the judge think less: " + noThoughts
	case e.Class == Malformed:
		return "try another judge, --verdict-only, or another --judge-prompt; of a judge that thinks: " + noThoughts
	case e.Class == endpoint.Refusal:
		return "try another judge, or another --judge-prompt"
	}
	return "check --judge-model and --judge-body, and see the server's log"
}
