package judge

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"tokenfork/internal/failure"
	"tokenfork/internal/job/jobtest"
	"tokenfork/judge/endpoint"
)

// fakeEndpoint imitates what is reported of servers that call themselves
// OpenAI-compatible. It shows what we do then, not how they behave.
type fakeEndpoint struct {
	answer func(n int, r fakeRequest) (int, string) // the n-th request

	mu sync.Mutex
	n  int
}

type fakeRequest struct {
	Max, NewMax int
	Temperature *float64
	Logprobs    bool
	TopLogprobs int                   `json:"top_logprobs"`
	Thinking    *bool                 `json:"enable_thinking"`
	Format      struct{ Type string } `json:"response_format"`
	Messages    []struct{ Content string }
}

func (f *fakeEndpoint) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	if r.Method == http.MethodGet {
		_, err := io.WriteString(w, `{"object":"list","data":[{"id":"m","created":1.5}]}`)
		return w.Result(), err
	}
	var raw map[string]json.RawMessage
	var q fakeRequest
	b, err := io.ReadAll(r.Body)
	if err != nil || json.Unmarshal(b, &raw) != nil || json.Unmarshal(b, &q) != nil {
		return nil, fmt.Errorf("request %s: %w", b, err)
	}
	for name, to := range map[string]*int{"max_tokens": &q.Max, "max_completion_tokens": &q.NewMax} {
		if v, ok := raw[name]; ok && json.Unmarshal(v, to) != nil {
			return nil, fmt.Errorf("request %s", b)
		}
	}
	f.mu.Lock()
	f.n++
	n := f.n
	f.mu.Unlock()
	status, body := f.answer(n, q)
	w.WriteHeader(status)
	_, err = io.WriteString(w, body)
	return w.Result(), err
}

const goodAnswer = `{"explanation":"Both say the same.","key_differences":[],"meaning_match":true,"confidence":0.9}`

// completed is a completion with the content, which ended so.
func completed(content, finish string) (int, string) {
	return 200, fmt.Sprintf(`{"created":1748724739.7,"choices":[{"finish_reason":%q,"message":{"role":"assistant","content":%q}}],"usage":{"prompt_tokens":100,"completion_tokens":30.0}}`, finish, content)
}

func good() (int, string) { return completed(goodAnswer, "stop") }

func refusing(why string) (int, string) { return 400, fmt.Sprintf(`{"error":{"message":%q}}`, why) }

// every n-th request is answered so, the others well.
func every(k int, status int, body string) func(int, fakeRequest) (int, string) {
	return func(n int, _ fakeRequest) (int, string) {
		if n%k == 0 {
			return status, body
		}
		return good()
	}
}

// after n requests that are answered well, each is answered so.
func after(k, status int, body string) func(int, fakeRequest) (int, string) {
	return func(n int, _ fakeRequest) (int, string) {
		if n > k {
			return status, body
		}
		return good()
	}
}

// inProse takes no format and answers in prose.
func inProse(content string) func(int, fakeRequest) (int, string) {
	return func(_ int, r fakeRequest) (int, string) {
		if r.Format.Type != "" {
			return refusing("response_format is not supported")
		}
		return completed(content, "stop")
	}
}

func sensitiveReasoner(_ int, r fakeRequest) (int, string) {
	switch {
	case r.Max > 0:
		return refusing("Use 'max_completion_tokens' instead.")
	case r.Logprobs:
		return refusing("Unsupported parameter: 'logprobs'")
	case r.NewMax < 1000:
		return refusing("Could not finish the message because max_tokens or model output limit was reached.")
	}
	return good()
}

func thinkingAloud(_ int, r fakeRequest) (int, string) {
	const thoughts = "<think>\nA draft is {\"meaning_match\": false}. Verdict: False? No: the same.\n"
	if r.Max < 900 {
		return completed(thoughts, "length")
	}
	return completed(thoughts+"</think>\n```json\n"+goodAnswer+"\n```", "stop")
}

// TestSweepOfEndpoints: each gives every verdict, or stops with the server's
// words and what to change.
func TestSweepOfEndpoints(t *testing.T) {
	const all = ""
	for name, c := range map[string]struct {
		answer func(int, fakeRequest) (int, string)
		stops  string // with these words; "" for a verdict on every question
		hint   string
	}{
		"busy, in text":       {every(3, 429, `{"error":"Model is overloaded","error_type":"overloaded"}`), all, ""},
		"broken, in text":     {every(4, 500, `{"error":"CUDA error"}`), all, ""},
		"errors with 200":     {every(5, 200, `{"error":{"message":"Provider returned error","code":502}}`), all, ""},
		"gateway's page":      {every(4, 524, `<html>A timeout occurred</html>`), all, ""},
		"no JSON at times":    {every(4, 400, `{"error":{"message":"Failed to generate JSON.","code":"json_validate_failed","failed_generation":""}}`), all, ""},
		"empty at times":      {every(3, 200, `{"choices":[{"finish_reason":"stop","message":{"content":""}}]}`), all, ""},
		"filtered at times":   {every(7, 200, `{"choices":[{"finish_reason":"content_filter: SAFETY","message":{"role":"assistant"}}]}`), all, ""},
		"broken off at times": {every(4, 200, `{"choices":[{"finish_reason":"insufficient_system_resource","message":{"content":"{\"ex"}}]}`), all, ""},
		"wants the new limit": {sensitiveReasoner, all, ""},
		"thinks aloud":        {thinkingAloud, all, ""},
		"fence":               {inProse("Sure!\n```json\n" + goodAnswer + "\n```\nHope that helps."), all, ""},
		"Markdown":            {inProse("Analysis…\n\n**Verdict (True/False):** **True**\n\n**Explanation:** same"), all, ""},
		"no logprobs for this model": {func(_ int, r fakeRequest) (int, string) {
			if r.Logprobs {
				return 403, `{"error":{"message":"You are not allowed to request logprobs from this model"}}`
			}
			return good()
		}, all, ""},
		"answers in its thoughts": {func(int, fakeRequest) (int, string) {
			return 200, `{"choices":[{"finish_reason":"stop","message":{"content":null,"reasoning_content":"{}"}}]}`
		}, "all of it is in reasoning_content", "reasoning parser"},
		"prose alone": {inProse("They are alike."), "They are alike.", "another judge"},
		"wants no thoughts": {func(_ int, r fakeRequest) (int, string) {
			if r.Thinking == nil {
				return refusing("parameter.enable_thinking must be set to false for non-streaming calls")
			}
			return good()
		}, "parameter.enable_thinking must be set", "--judge-body"},
		"one temperature": {func(_ int, r fakeRequest) (int, string) {
			if r.Temperature == nil || *r.Temperature != 1 {
				return refusing("invalid temperature: only 1 is allowed for this model")
			}
			return good()
		}, "only 1 is allowed", "--judge-temperature 1"},
		"login page":         {func(int, fakeRequest) (int, string) { return 200, "<html>Please log in</html>" }, "a web page: Please log in", "check --judge"},
		"no credit":          {func(int, fakeRequest) (int, string) { return 402, `{"error":{"message":"Top up"}}` }, "Top up", "add credit"},
		"no credit left":     {after(12, 402, `{"error":{"message":"Top up"}}`), "account is used up: 402 Payment Required: Top up", "add credit"},
		"no balance left":    {after(12, 400, `{"error":{"message":"Your credit balance is too low"}}`), "account is used up", "add credit"},
		"a break of a day":   {after(12, 429, `[{"error":{"code":429,"message":"Quota","details":[{"retryDelay":"86400s"}]}}]`), "asks for a break of 24h0m0s: 429", "again then"},
		"dead after a while": {after(12, 500, `{"error":"CUDA error"}`), "has not answered for 10m", "again later"},
		"key refused with 400": {func(int, fakeRequest) (int, string) {
			return 400, `[{"error":{"code":400,"message":"API key not valid. Please pass a valid API key."}}]`
		}, "refuses the key", "TOKENFORK_JUDGE_KEY"},
		"refused key": {func(int, fakeRequest) (int, string) { return 401, `{"error":"bad token"}` }, "401 Unauthorized: bad token", "TOKENFORK_JUDGE_KEY"},
	} {
		t.Run(name, func(t *testing.T) {
			s := jobtest.Make(t, 20, 2)
			synctest.Test(t, func(t *testing.T) {
				f := &fakeEndpoint{answer: c.answer}
				o := options(s, "")
				o.Connect = func(context.Context) (Backend, error) {
					return Backend{Config: endpoint.Config{URL: "http://judge.test/v1", Model: "m", HTTP: &http.Client{Transport: f}}}, nil
				}
				_, err := Run(t.Context(), o)
				if c.stops == all {
					if failure.Code(err) != failure.Partial || !strings.Contains(err.Error(), "1 of 100 mismatches got no verdict, 1 no_continuation") {
						t.Errorf("got %v", err)
					}
					return
				}
				if code := failure.Code(err); code != failure.Refused && code != failure.Stopped || !strings.Contains(err.Error(), c.stops) || !strings.Contains(failure.Hint(err), c.hint) {
					t.Errorf("got %v, hint %s", err, failure.Hint(err))
				}
				most := 150 // 62 questions, each three times, would be 186
				if name == "dead after a while" {
					most = 300 // in 10 minutes
				}
				if f.n > most {
					t.Errorf("asked %d times", f.n)
				}
			})
			// The decoders that were made in there leave their pool: no one outside may use their channels.
			runtime.GC()
			runtime.GC()
		})
	}
}
