package fleet

import (
	"maps"
	"testing"

	"tokenfork/internal/job"
	"tokenfork/internal/vllm"
)

// Nothing is known of the cache of a server that does not tell: that is not "nothing cached".
func TestSpent(t *testing.T) {
	for cached, want := range map[int]job.Counters{
		-1: {job.Requests: 1, job.PromptTokens: 10, job.GeneratedTokens: 3},
		0:  {job.Requests: 1, job.PromptTokens: 10, job.GeneratedTokens: 3, job.CachedTokens: 0, job.ComputedTokens: 10},
		4:  {job.Requests: 1, job.PromptTokens: 10, job.GeneratedTokens: 3, job.CachedTokens: 4, job.ComputedTokens: 6},
	} {
		if got := Spent(vllm.Usage{PromptTokens: 10, CachedTokens: cached}, 3); !maps.Equal(got, want) {
			t.Errorf("%d cached: %v, want %v", cached, got, want)
		}
	}
}
