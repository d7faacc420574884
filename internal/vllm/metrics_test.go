package vllm

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestMetricsOfTwoEngines(t *testing.T) {
	text := `# HELP vllm:prompt_tokens_total Number of prefill tokens processed.
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="a \"b\", c}"} 1.032e+03
vllm:prompt_tokens_total{engine="1",model_name="a"} 8 1795450263149
vllm:prompt_tokens_cached_total{engine="0"} 480.0
vllm:generation_tokens_total{engine="0"} 15.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.1"} 4.0
vllm:time_to_first_token_seconds_count{engine="0"} 5.0
vllm:time_to_first_token_seconds_count{engine="1"} 2.0
vllm:time_to_first_token_seconds_sum{engine="0"} 0.7
vllm:generation_tokens_created{engine="0"} 1.7e+09
vllm:prefix_cache_queries_total{engine="0"} 1032.0
vllm:prefix_cache_hits_total{engine="0"} 480.0
vllm:num_requests_running{engine="0"} 3.0
vllm:num_requests_running{engine="1"} 4.0
vllm:num_requests_waiting{engine="0"} 2.0
vllm:kv_cache_usage_perc{engine="0"} 0.5
vllm:kv_cache_usage_perc{engine="1"} 0.25
vllm:cache_config_info{block_size="32",cache_dtype="auto",engine="0",kv_cache_size_tokens="1000",num_gpu_blocks="99"} 1.0
vllm:cache_config_info{block_size="32",cache_dtype="auto",engine="1",num_gpu_blocks="10"} 1.0
python_info 1.0
x NaN
`
	got, err := ParseMetrics([]byte(text))
	want := Metrics{
		PromptTokens: 1040, GeneratedTokens: 15, FirstTokens: 7, Waiting: 2, KVCapacity: 1320, BlockSize: 32,
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
	for _, bad := range []string{"a{b=c} 1", `a{b="c" 1`, "a", "a{} x", `a{b="c"}`, " {} 1 "} {
		if _, err := ParseMetrics([]byte(bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestWatchdog(t *testing.T) {
	stuck := func(context.Context) (int64, error) { return 5, nil }
	fails := func(context.Context) error { return errors.New("no answer") }
	busy := func() int { return 3 }
	var n atomic.Int64
	moves := func(context.Context) (int64, error) { return n.Add(1), nil }
	tests := []struct {
		name string
		dog  Watchdog
		hung bool
	}{
		{"hung", Watchdog{Progress: stuck, InFlight: busy, Probe: fails}, true},
		{"counters out of reach too", Watchdog{Progress: func(ctx context.Context) (int64, error) { <-ctx.Done(); return 0, ctx.Err() }, InFlight: busy, Probe: fails}, true},
		{"makes headway", Watchdog{Progress: moves, InFlight: busy, Probe: fails}, false},
		{"idle", Watchdog{Progress: stuck, InFlight: func() int { return 0 }, Probe: fails}, false},
		{"answers the probe", Watchdog{Progress: stuck, InFlight: busy, Probe: func(context.Context) error { return nil }}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			if !tt.hung {
				ctx, cancel = context.WithTimeout(t.Context(), 300*time.Millisecond)
			}
			defer cancel()
			tt.dog.Stall = 20 * time.Millisecond
			err := tt.dog.Watch(ctx)
			var hang *HangError
			if errors.As(err, &hang) != tt.hung || err != nil && !strings.Contains(err.Error(), "with 3 in flight") {
				t.Errorf("Watch = %v, want hung: %v", err, tt.hung)
			}
		})
	}
}
