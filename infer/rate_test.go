package infer

import (
	"context"
	"strings"
	"testing"

	"tokenfork/internal/job"
	"tokenfork/internal/vllm"
)

// SampledWork is what a side's samples come to: work of prompts and of continuations, and prompt tokens
// beyond the cache.
func (c *Calibration) SampledWork(ctx context.Context, side job.Side) (prefill, decode, blocks float64, err error) {
	if err := c.sample(ctx); err != nil {
		return 0, 0, 0, err
	}
	for _, x := range c.forks(side)(served{length: 1 << 20, capacity: 1 << 40}) {
		prefill += x.prompt.work(vllm.Usage{PromptTokens: x.prompt.Prompt.Len(), CachedTokens: -1})
		for _, q := range x.continuations {
			decode, blocks = decode+q.work(vllm.Usage{}), blocks+float64(q.reads)
		}
	}
	return prefill, decode, blocks, nil
}

// TestReadRates refuses what calibrate did not write.
func TestReadRates(t *testing.T) {
	good := `{"format":1,"prefill_rate":[1,2],"decode_rate":[3,4],"judge_prefill_rate":0,"judge_decode_rate":0,"measured":[]}`
	if r, err := ReadRates("f", []byte(good)); err != nil || r.Decode != [2]float64{3, 4} {
		t.Errorf("%+v, %v", r, err)
	}
	for _, bad := range []string{"", "{}", "[1]", strings.Replace(good, "1,2", "-1,2", 1), strings.Replace(good, `"format":1`, `"format":2`, 1), strings.Replace(good, "measured", "other", 1)} {
		if _, err := ReadRates("f", []byte(bad)); err == nil || !strings.Contains(err.Error(), "f is no file of rates") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
