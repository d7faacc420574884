package endpoint

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tokenfork/internal/failure"
)

// fakeServer answers in memory, so that waiting costs no time in a synctest
// bubble; it shows the faults that a good server does not.
type fakeServer struct {
	owner string
	chat  func(n int, body string) (status int, reply string)
	head  http.Header // added to each reply to a chat request
	list  int         // status of the model list, 0 is 200

	metrics string // of a vLLM, for the key k; "" has none

	mu     sync.Mutex
	bodies []string
}

func (s *fakeServer) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	switch {
	case r.URL.Path == "/v1/models" && s.list > 0:
		w.WriteHeader(s.list)
	case r.URL.Path == "/v1/models":
		fmt.Fprintf(w, `{"object":"list","data":[{"id":"m","owned_by":%q}]}`, s.owner)
	case r.URL.Path == "/v1/chat/completions":
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		s.bodies = append(s.bodies, string(body))
		n := len(s.bodies)
		s.mu.Unlock()
		status, reply := s.chat(n, string(body))
		if status < 0 {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}
		for k := range s.head {
			w.Header().Set(k, s.head.Get(k))
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, reply)
	case r.URL.Path == "/metrics" && s.metrics != "" && r.Header.Get("Authorization") == "Bearer k":
		_, _ = io.WriteString(w, s.metrics)
	default:
		w.WriteHeader(404)
	}
	return w.Result(), nil
}

// asked counts the requests that were no probes.
func (s *fakeServer) asked() (n int) {
	for _, b := range s.bodies {
		if !isProbe(b) {
			n++
		}
	}
	return n
}

func isProbe(body string) bool { return strings.Contains(body, "Greet the reader") }

// answer is a chat completion whose text is content.
func answer(content string) string {
	return fmt.Sprintf(`{"choices":[{"message":{"role":"assistant","content":%q},"finish_reason":"stop",
		"logprobs":{"content":[{"token":"x","logprob":-0.5,"bytes":[120],"top_logprobs":[{"token":"y","logprob":-1}]}]}}],
		"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15,"prompt_tokens_details":{"cached_tokens":4}}}`, content)
}

// obliging answers the probe as the schema wants it, and all else by reply.
func obliging(reply func(body string) (int, string)) func(int, string) (int, string) {
	return func(_ int, body string) (int, string) {
		if isProbe(body) {
			return 200, answer(`{"b":"hello, rea`)
		}
		return reply(body)
	}
}

var (
	zero     = 0.0
	question = Request{Prompt: "Same?", Schema: json.RawMessage(`{"type":"object","properties":{"b":{"type":"string"},"a":{"type":"boolean"}}}`),
		MaxTokens: 100, Temperature: &zero, TopLogprobs: 5}
)

func open(t *testing.T, s *fakeServer, change func(*Config)) *Client {
	t.Helper()
	cfg := Config{URL: "http://judge.test", HTTP: &http.Client{Transport: s}}
	if change != nil {
		change(&cfg)
	}
	c, err := connect(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func connect(ctx context.Context, cfg Config) (*Client, error) {
	c, err := Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return c, c.Negotiate(ctx, question)
}

func TestBytesOnTheWire(t *testing.T) {
	const common = `"model":"m","messages":[{"role":"user","content":"Same?"}],"stream":false,` +
		`"response_format":{"type":"json_schema","json_schema":{"name":"answer",` +
		`"schema":{"type":"object","properties":{"b":{"type":"string"},"a":{"type":"boolean"}}},"strict":true}},"logprobs":true,"top_logprobs":5}`
	for owner, want := range map[string]string{
		"openai": `{"max_tokens":100,"temperature":0,` + common,
		"vllm":   `{"max_tokens":100,"temperature":0,"top_p":1,"top_k":-1,"min_p":0,"repetition_penalty":1,"presence_penalty":0,"frequency_penalty":0,` + common,
	} {
		s := &fakeServer{owner: owner, chat: obliging(func(string) (int, string) { return 200, answer("yes") })}
		reply, err := open(t, s, nil).Ask(t.Context(), question)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.bodies[len(s.bodies)-1]; got != want {
			t.Errorf("%s: got\n%s\nwant\n%s", owner, got, want)
		}
		if reply.Text != "yes" || !reply.Masked || len(reply.Tokens) != 1 || reply.Tokens[0].Top[0].Text != "y" {
			t.Errorf("%s: got %+v", owner, reply)
		}
	}
}

func TestDialects(t *testing.T) {
	refuse := func(word string) func(string) (int, string) {
		return func(body string) (int, string) {
			if strings.Contains(body, word) {
				return 400, `{"error":{"message":"unsupported: ` + word + `","type":"invalid_request_error"}}`
			}
			return 200, answer(`{"greeting":"hello"}`)
		}
	}
	for name, c := range map[string]struct {
		chat func(string) (int, string)
		want dialect
	}{
		"all understood":         {func(string) (int, string) { return 200, answer(`{"b": "hi", "a": true}`) }, dialect{topLogprobs: 5}},
		"schema refused":         {refuse(`json_schema`), dialect{format: byObject, topLogprobs: 5}},
		"any format refused":     {refuse(`response_format`), dialect{format: byPrompt, topLogprobs: 5}},
		"schema passed over":     {refuse(`nothing`), dialect{format: byObject, topLogprobs: 5}},
		"formats passed over":    {func(string) (int, string) { return 200, answer(`Hello!`) }, dialect{format: byPrompt, topLogprobs: 5}},
		"logprobs refused":       {refuse(`logprobs`), dialect{format: byObject}},
		"wants the newer limit":  {newLimitOnly, dialect{topLogprobs: 5, newLimit: true}},
		"only an object begun":   {func(string) (int, string) { return 200, answer(`{`) }, dialect{format: byObject, topLogprobs: 5}},
		"thinks before it talks": {func(string) (int, string) { return 200, strings.Replace(answer(""), "stop", "length", 1) }, dialect{topLogprobs: 5}},
	} {
		s := &fakeServer{chat: func(_ int, body string) (int, string) { return c.chat(body) }}
		var log bytes.Buffer
		if got := open(t, s, func(c *Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) }).dialect; got != c.want {
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
		}
		if said := strings.Contains(log.String(), `unsupported: json_schema"`); said != (name == "schema refused") {
			t.Errorf("%s: logged %s", name, &log)
		}
	}
}

func newLimitOnly(body string) (int, string) {
	if strings.Contains(body, `"max_tokens"`) {
		return 400, `{"error":{"message":"Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.","code":"unsupported_parameter"}}`
	}
	return 200, answer(`{"b":"hello, rea`)
}

// go-openai itself keeps some models from logprobs.
func TestReasoningModel(t *testing.T) {
	s := &fakeServer{list: 404, chat: func(_ int, body string) (int, string) { return newLimitOnly(body) }}
	c := open(t, s, func(c *Config) { c.Model = "o3-mini" })
	if want := (dialect{newLimit: true}); c.dialect != want {
		t.Errorf("got %+v", c.dialect)
	}
}

func TestOpenRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		server *fakeServer
		cfg    Config
		code   int
		says   string
	}{
		"another model": {&fakeServer{chat: func(int, string) (int, string) {
			return 200, `{"model":"m","choices":[{"message":{"content":"{\"b\":"}}]}`
		}}, Config{Model: "llama"}, failure.Refused, `does not serve "llama": m answers in its place`},
		"key refused": {&fakeServer{list: 401}, Config{Key: "sk-1"}, failure.Refused, "refuses the key: 401"},
		"key refused by LiteLLM": {&fakeServer{list: 404, chat: func(int, string) (int, string) {
			return 400, `{"error":{"message":"No connected db.","type":"no_db_connection","param":null,"code":"400"}}`
		}}, Config{Model: "m", Key: "sk-1"}, failure.Refused, "refuses the key: 400 Bad Request: No connected db. (hint: set TOKENFORK_JUDGE_KEY"},
		"server down": {&fakeServer{list: 502}, Config{}, failure.Stopped, "502"},
		"no temperature": {&fakeServer{chat: func(int, string) (int, string) {
			return 400, `{"error":{"message":"'temperature' does not support 0 with this model"}}`
		}}, Config{}, failure.Refused, "refuses the temperature"},
		"nothing goes": {&fakeServer{chat: func(int, string) (int, string) { return 422, `{"detail":"no"}` }}, Config{}, failure.Refused, "422 Unprocessable Entity: no"},
		"not in a gateway's list": {&fakeServer{chat: func(int, string) (int, string) {
			return 400, `{"error":{"message":"Invalid model name passed in model=llama"}}`
		}}, Config{Model: "llama"}, failure.Refused, "model=llama (hint: name one of these with --judge-model: m;"},
		"not a URL":  {&fakeServer{}, Config{URL: "judge:80"}, failure.Usage, "neither an http nor a unix URL"},
		"key in URL": {&fakeServer{}, Config{URL: "https://u:secret@h/v1"}, failure.Usage, "URL of h holds a user"},
	} {
		synctest.Test(t, func(t *testing.T) {
			if c.cfg.URL == "" {
				c.cfg.URL = "http://judge.test"
			}
			c.cfg.HTTP = &http.Client{Transport: c.server}
			_, err := connect(t.Context(), c.cfg)
			if said := fmt.Sprintf("%v (hint: %s)", err, failure.Hint(err)); failure.Code(err) != c.code || !strings.Contains(said, c.says) {
				t.Errorf("%s: got code %d, %s", name, failure.Code(err), said)
			}
			if strings.Contains(fmt.Sprint(err), "secret") {
				t.Errorf("%s: the message shows a secret: %v", name, err)
			}
		})
	}
}

func TestQuestionsWithoutAnswer(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		reply  string
		class  string
		raw    string
	}{
		"refusal":         {200, `{"choices":[{"message":{"refusal":"I won't"},"finish_reason":"stop"}]}`, Refusal, "I won't"},
		"content filter":  {200, `{"choices":[{"message":{"content":"par"},"finish_reason":"content_filter"}]}`, ContentFilter, "par"},
		"filtered prompt": {400, `{"error":{"message":"blocked","code":"content_filter"}}`, ContentFilter, ""},
		"too long":        {400, `{"error":{"message":"This model's maximum context length is 4096 tokens","code":400}}`, ContextLength, ""},
		"too long, old":   {400, `{"object":"error","message":"maximum context length is 9"}`, ContextLength, ""},
		"too big":         {413, `<html>`, ContextLength, ""},
		"other":           {400, `{"error":{"message":"bad"}}`, Rejected, ""},
	} {
		s := &fakeServer{chat: obliging(func(string) (int, string) { return c.status, c.reply })}
		_, err := open(t, s, nil).Ask(t.Context(), question)
		var e *Error
		if !errors.As(err, &e) || e.Class != c.class || e.Raw != c.raw {
			t.Errorf("%s: got %#v", name, err)
		}
		if len(s.bodies) != 2 { // probe and question
			t.Errorf("%s: %d requests", name, len(s.bodies))
		}
	}
}

func TestCutAnswerIsMarked(t *testing.T) {
	s := &fakeServer{chat: obliging(func(string) (int, string) { return 200, strings.Replace(answer(`{"a`), "stop", "length", 1) })}
	reply, err := open(t, s, nil).Ask(t.Context(), question)
	if err != nil || !reply.Cut {
		t.Errorf("got %+v, %v", reply, err)
	}
}

func TestRetries(t *testing.T) {
	for name, status := range map[string]int{"5xx": 503, "overloaded": 529, "too many": 429, "hangs": -1, "gibberish": 200} {
		synctest.Test(t, func(t *testing.T) {
			failures := 3
			s := &fakeServer{chat: obliging(func(string) (int, string) {
				if failures--; failures >= 0 {
					return status, "{"
				}
				return 200, answer("fine")
			})}
			reply, err := open(t, s, nil).Ask(t.Context(), question)
			if err != nil || reply.Text != "fine" || s.asked() != 4 {
				t.Errorf("%s: got %+v, %v after %d requests", name, reply, err, s.asked())
			}
		})
	}
}

// A question that the server breaks on is given up when others are answered.
func TestPoisonousQuestion(t *testing.T) {
	for status, class := range map[int]string{500: ServerError, -1: Timeout} {
		synctest.Test(t, func(t *testing.T) {
			s := &fakeServer{chat: obliging(func(string) (int, string) { return status, `{"error":{"message":"boom"}}` })}
			_, err := open(t, s, nil).Ask(t.Context(), question)
			var e *Error
			if !errors.As(err, &e) || e.Class != class || s.asked() != triesPerQuestion {
				t.Errorf("%d: got %v after %d requests", status, err, s.asked())
			}
		})
	}
}

func TestDeadServerStopsTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeServer{chat: func(n int, _ string) (int, string) {
			if n == 1 {
				return 200, answer(`{"b":"hello, rea`)
			}
			return 500, "down"
		}}
		c := open(t, s, nil)
		start := time.Now()
		_, err := c.Ask(t.Context(), question)
		if took := time.Since(start); failure.Code(err) != failure.Stopped || took < 10*time.Minute || took > 15*time.Minute {
			t.Errorf("got %v after %s", err, took)
		}
	})
}

func TestRetryAfterHoldsEveryoneBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var first atomic.Bool
		s := &fakeServer{head: http.Header{"Retry-After": {"90"}}, chat: obliging(func(string) (int, string) {
			if first.CompareAndSwap(false, true) {
				return 429, `{"error":{"message":"slow down"}}`
			}
			return 200, answer("fine")
		})}
		var log bytes.Buffer
		c := open(t, s, func(c *Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
		start := time.Now()
		if _, err := c.Ask(t.Context(), question); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != 90*time.Second {
			t.Errorf("went on after %s", took)
		}
		if said := log.String(); strings.Count(said, "fewer questions") != 1 || !strings.Contains(said, "at_once=4 wait=1m30s") {
			t.Errorf("said %s", said)
		}
		if u := c.Usage(); u.Throttled != 1 || u.Retries != 0 {
			t.Errorf("got %+v", u)
		}
	})
}

func TestLongBreakStopsTheRun(t *testing.T) {
	s := &fakeServer{head: http.Header{"Retry-After": {"7200"}}, chat: obliging(func(string) (int, string) { return 429, "" })}
	_, err := open(t, s, nil).Ask(t.Context(), question)
	if failure.Code(err) != failure.Stopped || !strings.Contains(err.Error(), "2h") {
		t.Errorf("got %v", err)
	}
}

func TestUsedUpAccountStopsTheRun(t *testing.T) {
	s := &fakeServer{chat: obliging(func(string) (int, string) {
		return 429, `{"error":{"message":"You exceeded your current quota","type":"insufficient_quota","code":"insufficient_quota"}}`
	})}
	_, err := open(t, s, nil).Ask(t.Context(), question)
	if failure.Code(err) != failure.Stopped || !strings.Contains(err.Error(), "used up") {
		t.Errorf("got %v", err)
	}
}

func TestKeyIsSentAndNeverShown(t *testing.T) {
	const key = "sk-0123456789"
	var log bytes.Buffer
	var sent string
	s := &fakeServer{chat: obliging(func(string) (int, string) {
		return 400, `{"error":{"message":"no rights for ` + key + `"}}`
	})}
	seen := roundTrip(func(r *http.Request) (*http.Response, error) {
		sent = r.Header.Get("Authorization")
		return s.RoundTrip(r)
	})
	c := open(t, s, func(c *Config) {
		c.Key, c.HTTP, c.Log = key, &http.Client{Transport: seen}, slog.New(slog.NewTextHandler(&log, nil))
	})
	_, err := c.Ask(t.Context(), question)
	if sent != "Bearer "+key {
		t.Errorf("sent %q", sent)
	}
	if all := fmt.Sprintf("%v %+v %#v %s %s", err, err, err, failure.Hint(err), log.String()); strings.Contains(all, key) {
		t.Errorf("shown: %s", all)
	}
}

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "judge.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &fakeServer{chat: obliging(func(string) (int, string) { return 200, answer("fine") })}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		resp, err := s.RoundTrip(r)
		if err != nil {
			t.Error(err)
			return
		}
		w.WriteHeader(resp.StatusCode)
		if _, err := io.Copy(w, resp.Body); err != nil {
			t.Error(err)
		}
	})}
	go func() { _ = server.Serve(l) }()
	defer server.Close()
	c, err := connect(t.Context(), Config{URL: "unix://" + path})
	if err != nil {
		t.Fatal(err)
	}
	if reply, err := c.Ask(t.Context(), question); err != nil || reply.Text != "fine" {
		t.Errorf("got %+v, %v", reply, err)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestCancelledRunEndsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeServer{chat: obliging(func(string) (int, string) { return -1, "" })}
		c := open(t, s, nil)
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("stopped by a signal")
		go func() { time.Sleep(time.Second); cancel(why) }()
		start := time.Now()
		_, err := c.Ask(ctx, question)
		if !errors.Is(err, why) || time.Since(start) != time.Second {
			t.Errorf("got %v after %s", err, time.Since(start))
		}
	})
}

// vLLM says how many tokens a block of its cache has; other servers do not.
func TestCacheBlock(t *testing.T) {
	const metrics = `vllm:cache_config_info{block_size="32",cache_dtype="auto"} 1.0`
	for _, c := range []struct {
		url, owner, metrics string
		want                int
	}{
		{"http://judge.test", "vllm", metrics, 32},
		{"http://judge.test/v1", "vllm", metrics, 32},
		{"http://judge.test", "", metrics, 0},
		{"http://judge.test", "vllm", "", 0},
		{"http://judge.test", "vllm", "<html>", 0},
		{"http://judge.test/v1", "vllm", "other 1", 0},
	} {
		s := &fakeServer{owner: c.owner, metrics: c.metrics}
		client, err := Open(t.Context(), Config{URL: c.url, Key: "k", HTTP: &http.Client{Transport: s}})
		if err != nil {
			t.Fatal(err)
		}
		if got := client.CacheBlock(t.Context()); got != c.want {
			t.Errorf("%+v: got %d", c, got)
		}
	}
}
