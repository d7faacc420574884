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

// Names of the counters, in commits and in summary.json, that several stages have or progress shows.
const (
	Requests        = "requests"
	PromptTokens    = "prompt_tokens"    // sent
	CachedTokens    = "cached_tokens"    // of them, found in the server's prefix cache
	ComputedTokens  = "computed_tokens"  // of them, computed
	IdealTokens     = "ideal_tokens"     // the least that had to be computed; of a judge an estimate
	GeneratedTokens = "generated_tokens" // by the server
	ReplayedTokens  = "replayed_tokens"  // of infer: read off the table instead
	SharedTokens    = "shared_tokens"    // of infer: generated once for several forks: what the others took

	// IdealTextTokens are those of infer's IdealTokens that are the texts themselves: nothing
	// where predict's reading left them in the servers' caches.
	IdealTextTokens = "ideal_text_tokens"
)
