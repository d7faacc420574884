package endpoint

import (
	"context"
	"errors"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/terminal"
)

// probe is a question that no model answers by the schema of their own accord: a
// server that passes over the schema in silence gives itself away.
func probe(like Request, tokens int) Request {
	return Request{Prompt: "Greet the reader in a JSON object.", Schema: like.Schema, MaxTokens: tokens, Temperature: like.Temperature, TopLogprobs: like.TopLogprobs}
}

// The probe's limit: that of a model that thinks first grows until it answers.
const (
	probeTokens     = 32
	mostProbeTokens = 2048
	moreProbeTokens = 8 // times
)

// Negotiate finds out, with a question or two of a few words, what the server
// understands of want's schema, limit and logprobs. A question which it refuses
// later is then that question's fault.
func (c *Client) Negotiate(ctx context.Context, want Request) error {
	n := &negotiation{Client: c, d: dialect{topLogprobs: want.TopLogprobs, vllm: c.dialect.vllm}, want: want, start: time.Now()}
	limit, most := probeTokens, mostProbeTokens
	if c.window > 0 {
		most = max(probeTokens, min(most, c.window/2)) // the chat template takes some of the window
	}
	for {
		got, f := c.paid(ctx, n.d, probe(want, limit))
		cut := f == nil && got.cut() && !Begun(got.text) || f != nil && f.class == Length
		short := cut || f != nil && f.class == Malformed // no JSON is that short
		switch {
		case short && limit < most:
			limit = min(limit*moreProbeTokens, most)
		case f != nil && f.class == ContextLength && limit > probeTokens: // of a window that the server does not name
			most = limit / 2
			limit = most
		case cut || f == nil && n.d.holds(got.text, want):
			return n.agree(got)
		case f == nil:
			n.d.format++
		default:
			if err := n.adapt(ctx, f); err != nil {
				return err
			}
		}
	}
}

// negotiation is on its way to a dialect that the server understands.
type negotiation struct {
	*Client
	d        dialect
	want     Request
	start    time.Time
	failures int
	refusal  string // what the server said against a form that was given up
}

var (
	notTaken    = regexp.MustCompile(`extra inputs|extra_forbidden|not permitted|not supported|unsupported|unknown|unrecogni[sz]ed|unexpected|deprecated`)
	streamsOnly = regexp.MustCompile(`only supports? stream|stream mode|streaming is required|requires? stream|stream['"` + "`" + `]? (?:parameter )?must be (?:set to )?true`)
)

// adapt changes the dialect to one that the server may take, or waits where it
// is not the dialect's fault.
func (n *negotiation) adapt(ctx context.Context, f *fault) error {
	said := strings.ToLower(f.message)
	ofLogprobs := errors.Is(f.err, errNotForModel) || strings.Contains(said, "logprob")
	ofFormat := contains(said, []string{"response_format", "json_schema", "structured output", "requested parameters"}) // the last: OpenRouter
	d := &n.d
	named := ofLogprobs && d.topLogprobs > 0 || ofFormat && n.want.Schema != nil && d.format < byPrompt // with whatever status
	switch {
	case f.fatal != nil:
		return f.fatal
	case f.retry && !(named && f.status >= 500):
		return n.wait(ctx, f)
	case f.denied != nil && !(named && (f.status == http.StatusForbidden || f.status == http.StatusNotFound)):
		return f.denied
	case !d.newLimit && (strings.Contains(said, "max_completion_tokens") || strings.Contains(said, "max_tokens") && notTaken.MatchString(said)):
		d.newLimit = true
	case d.topLogprobs > 0 && ofLogprobs:
		d.fewerLogprobs(said)
	case strings.Contains(said, "temperature"):
		return n.refusedTemperature(f)
	case strings.Contains(said, "enable_thinking"):
		return failure.New(failure.Refused, `add --judge-body '{"enable_thinking":false}'`, "the judge %s does not take such questions: %w", n.cfg.Model, f.error(n.Client))
	case !d.stream && streamsOnly.MatchString(said):
		d.stream = true
	case n.want.Schema != nil && d.format < byPrompt:
		d.format++
		n.refusal = terminal.Clip(f.message, 300)
	case d.topLogprobs > 0:
		d.fewerLogprobs("")
	default:
		hint := "check --judge and --judge-model, and see the server's log; --judge-body adds members that it wants"
		if len(n.others) > 0 {
			hint = n.listed() + "; or " + hint
		}
		return failure.New(failure.Refused, hint, "the judge at %s refuses every form of question: %w", n.cfg.URL, f.error(n.Client))
	}
	return nil
}

func (n *negotiation) refusedTemperature(f *fault) error {
	hint := "--judge-temperature default leaves it to the model, --judge-temperature 1 is what most of these take"
	return failure.New(failure.Refused, hint, "the judge %s refuses the temperature: %w", n.cfg.Model, f.error(n.Client))
}

// wait waits for a server that is busy or loads its model, up to the patience,
// and a little for one with other trouble.
func (n *negotiation) wait(ctx context.Context, f *fault) error {
	n.failures++
	late := n.failures >= triesToReach
	if f.throttled || f.status == http.StatusServiceUnavailable && !f.foreign {
		late = time.Since(n.start) > n.cfg.Patience
		if n.mayTell() {
			n.cfg.Log.Info("waiting for the judge", "said", f.error(n.Client).Message)
		}
	}
	if late || f.wait > n.cfg.Patience {
		return failure.New(failure.Stopped, "check --judge, and start it again later: what is judged is kept", "the judge at %s: %w", n.cfg.URL, f.error(n.Client))
	}
	return sleep(ctx, max(f.wait, backoff(n.failures)))
}

// listed names the models that the server has, where it lacks the one asked for.
func (c *Client) listed() string {
	return "name one of these with --judge-model: " + terminal.Clip(strings.Join(c.others, ", "), 300)
}

// agree keeps the dialect and says what it costs the verdicts.
func (n *negotiation) agree(got completion) error {
	c, d, want := n.Client, n.d, n.want
	if len(c.others) > 0 {
		if got.model != c.cfg.Model && slices.Contains(c.others, got.model) {
			return failure.New(failure.Refused, c.listed(), "the judge at %s does not serve %q: %s answers in its place", c.cfg.URL, c.cfg.Model, got.model)
		}
		c.cfg.Log.Warn("the judge does not list the model, but answers by that name", "model", c.cfg.Model, "listed", terminal.Clip(strings.Join(c.others, ", "), 300))
	}
	if len(got.tokens) == 0 {
		d.topLogprobs = 0
	}
	if got.model != "" && got.model != c.cfg.Model {
		c.about = append(c.about, "answers as "+strconv.Quote(got.model)) // a dated version, where the name is an alias
	}
	c.dialect = d
	if want.Schema != nil && d.format != bySchema {
		about := []any{"format", d.format.String()}
		if n.refusal != "" {
			about = append(about, "said", n.refusal)
		}
		c.cfg.Log.Warn("the judge does not hold answers to a JSON schema; they are parsed and asked for again", about...)
	}
	if want.TopLogprobs > 0 && d.topLogprobs == 0 {
		c.cfg.Log.Warn("the judge gives no log probabilities; confidence is its own word or null")
	}
	return nil
}
