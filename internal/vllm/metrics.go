package vllm

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// Metrics are a server's own counters, summed over its engines. Counters run
// from the server's start; take differences. What a server does not tell is 0.
type Metrics struct {
	PromptTokens    int64 // of finished prefills, cached ones included
	GeneratedTokens int64
	FirstTokens     int64 // requests that have begun to generate
	Preemptions     int64 // requests thrown out of the KV cache and done again
	Waiting         int   // requests
	KVCapacity      int64 // tokens that the KV caches hold
	BlockSize       int   // tokens; shorter prefixes are not cached
}

// maxMetrics is in bytes: a server of many engines has some hundred kB.
const maxMetrics = 16 << 20

// Metrics reads the server's /metrics.
func (c *Client) Metrics(ctx context.Context) (Metrics, error) {
	data, err := c.do(ctx, http.MethodGet, "/metrics", nil, maxMetrics)
	if err != nil {
		return Metrics{}, err
	}
	m, err := ParseMetrics(data)
	if err != nil {
		return Metrics{}, &AnswerError{Reason: "GET /metrics: " + err.Error()}
	}
	return m, nil
}

// ParseMetrics reads what a server's /metrics says.
func ParseMetrics(text []byte) (m Metrics, err error) {
	sums := map[string]float64{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		name, labels, value, err := parseSample(lines.Text())
		if err != nil {
			return m, err
		}
		if sums[name] += value; name == "vllm:cache_config_info" {
			m.addCacheConfig(labels)
		}
	}
	m.PromptTokens = int64(sums["vllm:prompt_tokens_total"])
	m.GeneratedTokens = int64(sums["vllm:generation_tokens_total"])
	m.FirstTokens = int64(sums["vllm:time_to_first_token_seconds_count"])
	m.Preemptions = int64(sums["vllm:num_preemptions_total"])
	m.Waiting = int(sums["vllm:num_requests_waiting"])
	return m, lines.Err()
}

// addCacheConfig adds one engine's cache. Newer servers tell its size in
// tokens, which is right for models with several kinds of layers too.
func (m *Metrics) addCacheConfig(labels map[string]string) {
	number := func(key string) int64 {
		n, err := strconv.ParseInt(labels[key], 10, 64)
		if err != nil {
			return 0 // "None": not told
		}
		return n
	}
	m.BlockSize = int(number("block_size"))
	if tokens := number("kv_cache_size_tokens"); tokens > 0 {
		m.KVCapacity += tokens
		return
	}
	m.KVCapacity += number("num_gpu_blocks") * number("block_size")
}

// parseSample reads one line of the Prometheus text format. The name is empty
// for comments and blank lines.
func parseSample(line string) (name string, labels map[string]string, value float64, err error) {
	line = strings.TrimSpace(line)
	if line == "" || line[0] == '#' {
		return "", nil, 0, nil
	}
	end := strings.IndexAny(line, "{ \t")
	if end <= 0 {
		return "", nil, 0, fmt.Errorf("metrics line %q", line)
	}
	name, rest := line[:end], line[end:]
	if rest[0] == '{' {
		if labels, rest, err = parseLabels(rest[1:]); err != nil {
			return "", nil, 0, fmt.Errorf("metrics line %q: %w", line, err)
		}
	}
	fields := strings.Fields(rest) // value and perhaps a time
	if len(fields) == 0 {
		return "", nil, 0, fmt.Errorf("metrics line %q: no value", line)
	}
	if value, err = strconv.ParseFloat(fields[0], 64); err != nil {
		return "", nil, 0, fmt.Errorf("metrics line %q: %w", line, err)
	}
	return name, labels, value, nil
}

// parseLabels reads key="value" pairs up to the closing brace and returns what follows it.
func parseLabels(s string) (map[string]string, string, error) {
	labels := map[string]string{}
	for {
		s = strings.TrimLeft(s, ", ")
		if rest, ok := strings.CutPrefix(s, "}"); ok {
			return labels, rest, nil
		}
		key, rest, ok := strings.Cut(s, "=")
		if !ok {
			return nil, "", fmt.Errorf("label without a value")
		}
		quoted, err := strconv.QuotedPrefix(rest) // \\, \" and \n mean the same in Go
		if err != nil {
			return nil, "", fmt.Errorf("label %s: %w", key, err)
		}
		if labels[key], err = strconv.Unquote(quoted); err != nil {
			return nil, "", fmt.Errorf("label %s: %w", key, err)
		}
		s = rest[len(quoted):]
	}
}
