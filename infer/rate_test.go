package infer

import (
	"context"
	"math"
	"strings"
	"testing"
	"time"

	"tokenfork/internal/job"
	"tokenfork/internal/vllm"
)

// SampledWork is what a side's load comes to: work of prompts and of continuations, and prompt tokens
// beyond the cache.
func (c *Calibration) SampledWork(ctx context.Context, side job.Side) (prefill, decode, blocks float64, err error) {
	if err := c.sample(ctx); err != nil {
		return 0, 0, 0, err
	}
	l := c.forks(side)(served{length: 1 << 20, capacity: 1 << 40})
	for _, q := range l.prefill {
		prefill += q.work(vllm.Usage{PromptTokens: q.Prompt.Len(), CachedTokens: -1})
	}
	for _, q := range l.decode {
		decode, blocks = decode+q.work(vllm.Usage{}), blocks+q.blocks
	}
	return prefill, decode, blocks, nil
}

// TestRate gives the rate of a steady stream whatever its beginning and its end are like.
func TestRate(t *testing.T) {
	at := func(ms int, work float64) completion {
		return completion{time.Duration(ms) * time.Millisecond, work, 5}
	}
	var stream []completion
	for i := range 10 {
		stream = append(stream, at(1000+i, 1)) // all were sent at once
	}
	for i := range 200 {
		stream = append(stream, at(1010+10*(i+1), 7)) // 700 a second
	}
	for i := range 10 {
		stream = append(stream, at(9000+1000*i, 1)) // fewer and fewer are left
	}
	for _, c := range []struct {
		name    string
		done    []completion
		prefill float64
		want    float64
	}{
		{"steady", stream, 0, 200 * 7 / 2.001},
		{"without the time of blocks", stream, 1000, 200 * 7 / (2.001 - 200*5/1000.0)},
		{"few", []completion{at(500, 30), at(1000, 20)}, 0, 50},
		{"none", nil, 0, 0},
	} {
		if got := rate(c.done, 10, c.prefill); math.Abs(got-c.want) > 1e-6 {
			t.Errorf("%s: %g, want %g", c.name, got, c.want)
		}
	}
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
