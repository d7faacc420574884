package endpoint

import (
	"cmp"
	"context"
	"net/http"
	"strings"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/terminal"
	"tokenfork/internal/vllm"
)

// findModel looks the model up in the server's list, where it has one. A model
// that the user has named is asked although the list is odd, forbidden or
// without it: gateways know more names than they list.
func (c *Client) findModel(ctx context.Context) error {
	models, f := c.models(ctx)
	if f != nil {
		switch {
		case f.fatal != nil:
			return f.fatal
		case f.status == 0 && !f.foreign || f.retry && c.cfg.Model == "": // not reached, or not ready
			return failure.New(failure.Stopped, "start it, or check --judge", "ask the judge at %s for its models: %w", c.cfg.URL, f.error(c))
		case c.cfg.Model == "" && (f.status == http.StatusNotFound || f.status == http.StatusMethodNotAllowed):
			return failure.New(failure.Usage, "name the model with --judge-model", "the judge at %s has no list of models", c.cfg.URL)
		case c.cfg.Model == "":
			return cmp.Or(f.denied, failure.New(failure.Refused, "check --judge, and name the model with --judge-model", "the judge at %s does not list its models: %w", c.cfg.URL, f.error(c)))
		case f.status != http.StatusNotFound && f.status != http.StatusMethodNotAllowed:
			c.cfg.Log.Warn("the judge's list of models cannot be read; --judge-model is asked", "model", c.cfg.Model, "said", f.error(c).Message)
		}
		return nil
	}
	var names []string
	for _, m := range models {
		names = append(names, m.ID)
		c.dialect.vllm = c.dialect.vllm || m.OwnedBy == "vllm"
	}
	if c.cfg.Model == "" && len(names) == 1 && !strings.Contains(names[0], "*") {
		c.cfg.Model = names[0]
	}
	if c.cfg.Model == "" {
		return failure.New(failure.Usage, "name one with --judge-model: "+terminal.Clip(strings.Join(names, ", "), 300), "the judge at %s serves %d models", c.cfg.URL, len(names))
	}
	for _, m := range models {
		if called(m.ID, c.cfg.Model) {
			c.window, c.about = m.window(), m.about()
			return nil
		}
	}
	c.others = names
	return nil
}

// called says whether a server's name for a model is the one asked for: Google
// writes models/NAME, Ollama NAME:latest, LiteLLM openai/* for all of a provider.
func called(listed, asked string) bool {
	before, after, wild := strings.Cut(listed, "*")
	return listed == asked || listed == "models/"+asked || listed == asked+":latest" ||
		wild && strings.HasPrefix(asked, before) && strings.HasSuffix(asked, after)
}

// models asks a few times where the server cannot be reached: it may be starting.
func (c *Client) models(ctx context.Context) ([]model, *fault) {
	for tries := 1; ; tries++ {
		listed, f := c.listModels(ctx)
		if f == nil || !f.retry || tries == triesToReach || c.cfg.Model != "" && f.status > 0 {
			return listed, f
		}
		if err := sleep(ctx, max(f.wait, backoff(tries))); err != nil {
			return nil, &fault{fatal: err}
		}
	}
}

func (c *Client) listModels(ctx context.Context) ([]model, *fault) {
	limited, cancel := context.WithTimeout(ctx, min(c.cfg.Timeout, time.Minute))
	defer cancel()
	x := &exchange{most: maxReply}
	_, err := c.api.ListModels(withExchange(limited, x))
	if f := c.explain(ctx, err); f != nil {
		return nil, f
	}
	if x.status != http.StatusOK {
		return nil, c.refused(x.status, readWords(x.body), x.header)
	}
	listed, err := parseModels(x.body)
	if err != nil {
		return nil, &fault{class: ServerError, foreign: true, message: err.Error() + c.proxied()}
	}
	return listed, nil
}

// CacheBlock is how many tokens a block of the server's prefix cache holds: what is
// shorter is not kept. 0 where the server does not say; vLLM does, in its metrics.
func (c *Client) CacheBlock(ctx context.Context) int {
	root, own := strings.CutSuffix(c.url, "/v1")
	if !c.dialect.vllm || !own {
		return 0
	}
	limited, cancel := context.WithTimeout(ctx, min(c.cfg.Timeout, time.Minute))
	defer cancel()
	x := &exchange{most: maxReply}
	req, err := http.NewRequestWithContext(withExchange(limited, x), http.MethodGet, root+"/metrics", nil)
	if err != nil {
		return 0
	}
	if c.cfg.Key != "" {
		req.Header.Set("Authorization", "Bearer "+c.cfg.Key)
	}
	if _, err := c.wire.Do(req); err != nil || x.status != http.StatusOK {
		return 0
	}
	m, err := vllm.ParseMetrics(x.body)
	if err != nil {
		return 0
	}
	return m.BlockSize
}
