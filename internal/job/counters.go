package job

// Counters are sums that a task keeps about its run: tokens, requests, restarts.
// They are stored with each part, so that a restart does not forget them.
type Counters map[string]int64

// Add adds b to c.
func (c Counters) Add(b Counters) {
	for k, v := range b {
		c[k] += v
	}
}

// Names of the counters that predict, infer and judge share, in commits and in summary.json.
const (
	Requests        = "requests"
	PromptTokens    = "prompt_tokens"    // sent
	CachedTokens    = "cached_tokens"    // of them, found in the server's prefix cache
	ComputedTokens  = "computed_tokens"  // of them, computed
	IdealTokens     = "ideal_tokens"     // the least that had to be computed; of a judge an estimate
	GeneratedTokens = "generated_tokens" // by the server

	// IdealTextTokens are those of infer's IdealTokens that are the texts themselves: nothing
	// where predict's reading left them in the servers' caches.
	IdealTextTokens = "ideal_text_tokens"
)
