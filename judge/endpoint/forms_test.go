package endpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tokenfork/internal/failure"
)

// What servers write in place of OpenAI's types, in members that are not used
// and in those that are.
func TestFormsOfAnswers(t *testing.T) {
	message := func(m string) string {
		return `{"created":1748724739.7,"choices":[{"finish_reason":"STOP","message":` + m + `}],"usage":{"prompt_tokens":9.0,"completion_tokens":2.5}}`
	}
	for name, c := range map[string]struct {
		body      string
		text      string
		reasoning string
		tokens    int
	}{
		"float created":             {message(`{"content":"yes"}`), "yes", "", 0},
		"parts":                     {message(`{"content":[{"type":"text","text":"ye"},{"type":"text","text":"s"}]}`), "yes", "", 0},
		"parts that think":          {message(`{"content":[{"type":"thinking","thinking":[{"type":"text","text":"no?"}]},{"type":"text","text":"yes"}]}`), "yes", "a part of content that is not text", 0},
		"thoughts apart":            {message(`{"content":null,"reasoning_content":"yes"}`), "", "reasoning_content", 0},
		"thoughts, new name":        {message(`{"content":"yes","reasoning":"no?"}`), "yes", "reasoning", 0},
		"null and odd members":      {message(`{"content":"yes","refusal":null,"reasoning":null,"tool_calls":[],"annotations":{}}`), "yes", "", 0},
		"arguments of a call":       {message(`{"content":null,"tool_calls":[{"function":{"name":"answer","arguments":"yes"}}]}`), "yes", "", 0},
		"blank lines before":        {"\n\n\n" + message(`{"content":"yes"}`), "yes", "", 0},
		"events":                    {"data: {\"choices\":[{\"delta\":{\"content\":\"ye\"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"s\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n", "yes", "", 0},
		"events after comments":     {": OPENROUTER PROCESSING\n\nevent: message\ndata: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":null}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"yes\"}}]}\n\ndata: [DONE]\n", "yes", "", 0},
		"a whole event":             {"\ufeffdata: " + message(`{"content":"yes"}`) + "\n\ndata: [DONE]\n", "yes", "", 0},
		"a call in events":          {`data: {"choices":[{"delta":{"tool_calls":[{"function":{"arguments":"ye"}}]}}]}` + "\n" + `data: {"choices":[{"delta":{"tool_calls":[{"function":{"arguments":"s"}}]},"finish_reason":"stop"}]}`, "yes", "", 0},
		"events with logprobs":      {`data: {"choices":[{"delta":{"content":"yes"},"logprobs":{"content":[{"token":"yes","logprob":-0.1}]},"finish_reason":"stop"}]}`, "yes", "", 1},
		"an odd finish in events":   {`data: {"model":["m"],"choices":[{"delta":{"content":"yes"},"finish_reason":["stop"]}]}` + "\ndata: [DONE]", "yes", "", 0},
		"byte order mark":           {"\ufeff" + message(`{"content":"yes"}`) + "\x00", "yes", "", 0},
		"an empty error":            {`{"error":{"code":0,"message":""},"choices":[{"error":"","message":{"content":"yes"}}]}`, "yes", "", 0},
		"choices in another order":  {`{"choices":[{"index":1,"message":{"content":"no"}},{"index":0,"message":{"content":"yes"}}]}`, "yes", "", 0},
		"a completion's text":       {`{"choices":[{"text":"yes"}]}`, "yes", "", 0},
		"a message of text":         {message(`"yes"`), "yes", "", 0},
		"one part":                  {message(`{"content":{"type":"text","text":"yes"}}`), "yes", "", 0},
		"an object":                 {message(`{"content":{"a":1}}`), `{"a":1}`, "", 0},
		"parts in capitals":         {message(`{"content":[{"type":"TEXT","text":"yes"}]}`), "yes", "", 0},
		"arguments as an object":    {message(`{"content":"\n","tool_calls":[{"function":{"arguments":{"a":1}}}]}`), `{"a":1}`, "", 0},
		"a call beside words":       {message(`{"content":"Well.","tool_calls":[{"function":{"arguments":"yes"}}]}`), "Well.\nyes", "", 0},
		"two calls":                 {message(`{"content":null,"tool_calls":[{"function":{"arguments":"yes"}},{"function":{"arguments":"no"}}]}`), "yes\nno", "", 0},
		"function_call":             {message(`{"content":null,"function_call":{"name":"answer","arguments":"yes"}}`), "yes", "", 0},
		"thoughts of another name":  {message(`{"content":"","reasoning":null,"thinking_blocks":[{"thinking":"yes"}]}`), "", "thinking_blocks", 0},
		"logprobs with empty bytes": {`{"choices":[{"message":{"content":"yes"},"logprobs":{"content":[{"token":"yes","logprob":-0.1,"bytes":[]}]}}]}`, "yes", "", 1},
		"usage of null":             {`{"choices":[{"message":{"content":"yes"}}],"usage":null}`, "yes", "", 0},
		"usage of another kind":     {`{"choices":[{"message":{"content":"yes"}}],"usage":"none"}`, "yes", "", 0},
		"minus infinity": {`{"choices":[{"message":{"content":"-Infinity NaN \" yes"},"logprobs":{"content":[{"token":"y","logprob":-0.1,"top_logprobs":[{"token":"x","logprob":-Infinity}]}]}}]}`,
			`-Infinity NaN " yes`, "", 1},
		"null logprob":     {`{"choices":[{"message":{"content":"yes"},"logprobs":{"content":[{"token":"yes","logprob":null,"top_logprobs":[]}]}}]}`, "yes", "", 0},
		"positive logprob": {`{"choices":[{"message":{"content":"yes"},"logprobs":{"content":[{"token":"yes","logprob":0.7}]}}]}`, "yes", "", 0},
		"legacy logprobs":  {`{"choices":[{"message":{"content":"yes"},"logprobs":{"tokens":["yes"],"token_logprobs":[-0.1],"top_logprobs":[{"x":-1.0}]}}]}`, "yes", "", 0},
	} {
		s := &fakeServer{chat: obliging(func(string) (int, string) { return 200, c.body })}
		reply, err := open(t, s, nil).Ask(t.Context(), question)
		if err != nil || reply.Text != c.text || reply.Reasoning != c.reasoning || len(reply.Tokens) != c.tokens {
			t.Errorf("%s: got %+v, %v", name, reply, err)
		}
	}
}

// Errors keep their status and their words in whichever form they come.
func TestFormsOfErrors(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		body   string
		class  string
		says   string
	}{
		"text":             {400, `{"error":"no such option","error_type":"validation"}`, Rejected, "400 Bad Request: no such option"},
		"a list":           {400, `[{"error":{"code":400,"message":"Bad thing","status":"INVALID_ARGUMENT"}}]`, Rejected, "Bad thing"},
		"detail":           {422, `{"detail":[{"loc":["body","seed"],"msg":"Extra inputs"}]}`, Rejected, "Extra inputs"},
		"provider's words": {400, `{"error":{"message":"Provider returned error","code":400,"metadata":{"raw":"the real reason"}}}`, Rejected, "the real reason"},
		"web page":         {418, `<html><head><style>x{}</style></head><h1>Blocked &amp; logged</h1></html>`, Rejected, "a web page: Blocked & logged"},
		"moderation":       {403, `{"error":{"message":"flagged by moderation","metadata":{"reasons":["violence"]}}}`, ContentFilter, `violence`},
		"no such model":    {404, `{"error":"gone"}`, Rejected, "404 Not Found: gone"},
		"not JSON":         {400, `{"error":{"message":"Failed to generate JSON.","code":"json_validate_failed","failed_generation":"{\"ex"}}`, Malformed, "Failed to generate"},
		"could not finish": {400, `{"error":{"message":"Could not finish the message because max_tokens or model output limit was reached."}}`, Length, "Could not finish"},
		"flagged, by 502":  {200, `{"error":{"message":"This content was flagged for a risk","code":502}}`, ContentFilter, "flagged"},
		"Gemini's block":   {200, `{"choices":[],"prompt_feedback":{"block_reason":"SAFETY"}}`, ContentFilter, "block_reason"},
		"Bedrock's guard":  {200, `{"choices":[{"finish_reason":"guardrail_intervened","message":{"content":"Sorry"}}]}`, ContentFilter, "guardrail"},
		"refusal as part":  {200, `{"choices":[{"message":{"content":[{"type":"refusal","refusal":"I won't."}]}}]}`, Refusal, "refused"},
		"finish reason":    {200, `{"choices":[{"finish_reason":"content_filter: PROHIBITED_CONTENT","message":{"role":"assistant"}}]}`, ContentFilter, "prohibited_content"},
	} {
		s := &fakeServer{chat: obliging(func(string) (int, string) { return c.status, c.body })}
		_, err := open(t, s, nil).Ask(t.Context(), question)
		var e *Error
		if !errors.As(err, &e) || e.Class != c.class || !strings.Contains(e.Message, c.says) || s.asked() != 1 {
			t.Errorf("%s: got %v after %d questions", name, err, s.asked())
		}
	}
}

// Trouble that passes is waited out, in whichever form it comes.
func TestFormsOfTrouble(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		body   string
		wait   time.Duration // 0: some backoff
	}{
		"429, text":           {429, `{"error":"Model is overloaded","error_type":"overloaded"}`, 0},
		"500, text":           {500, `{"error":"CUDA error"}`, 0},
		"429, Google":         {429, `[{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","message":"You exceeded your current quota","details":[{"retryDelay":"7s"}]}}]`, 7 * time.Second},
		"498":                 {498, `{"error":{"message":"capacity_exceeded"}}`, 0},
		"524, web page":       {524, `<html>A timeout occurred</html>`, 0},
		"200 with an error":   {200, `{"error":{"message":"Provider returned error","code":502}}`, 0},
		"error as an event":   {200, "event: error\ndata: {\"message\":\"engine died\"}\n\n", 0},
		"424":                 {424, `{"error":"Request failed during generation","error_type":"generation"}`, 0},
		"error in a choice":   {200, `{"choices":[{"error":{"code":503,"message":"busy"},"finish_reason":"error"}]}`, 0},
		"broken off":          {200, `{"choices":[{"message":{"content":"{\"ex"},"finish_reason":"insufficient_system_resource"}]}`, 0},
		"events broken off":   {200, "data: {\"choices\":[{\"delta\":{\"content\":\"ye\"}}]}\n\n", 0},
		"200 with a web page": {200, `<html><body>Please log in</body></html>`, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			failures := 2
			s := &fakeServer{chat: obliging(func(string) (int, string) {
				if failures--; failures >= 0 {
					return c.status, c.body
				}
				return 200, answer("fine")
			})}
			client := open(t, s, nil)
			start := time.Now()
			reply, err := client.Ask(t.Context(), question)
			if err != nil || reply.Text != "fine" || s.asked() != 3 {
				t.Errorf("%s: got %+v, %v after %d questions", name, reply, err, s.asked())
			}
			if took := time.Since(start); took == 0 || c.wait > 0 && took != 2*c.wait {
				t.Errorf("%s: took %s", name, took)
			}
		})
	}
}

// A refusal of the key ends the run with the server's words, before anything
// was answered or when nothing is any more.
func TestDenied(t *testing.T) {
	for status, says := range map[int]string{401: "refuses the key: 401 Unauthorized: key [key] has expired", 403: "refuses: 403 Forbidden: key [key] has expired", 404: "no such page or model"} {
		for _, at := range []int{1, 2} {
			s := &fakeServer{chat: func(n int, _ string) (int, string) {
				if n >= at {
					return status, `{"error":"key sk-t************cret has expired"}`
				}
				return 200, answer(`{"b":"hello, rea`)
			}}
			c, err := connect(t.Context(), Config{URL: "http://judge.test", Key: "sk-the-secret", HTTP: &http.Client{Transport: s}})
			if err == nil {
				_, err = c.Ask(t.Context(), question)
			}
			if failure.Code(err) != failure.Refused || !strings.Contains(err.Error(), says) {
				t.Errorf("%d at request %d: got code %d, %v", status, at, failure.Code(err), err)
			}
		}
	}
}

func TestListsOfModels(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		list   string
		warns  string
		window int
	}{
		"OpenAI's":         {200, `{"object":"list","data":[{"id":"m","created":1}]}`, "", 0},
		"bare list":        {200, `[{"id":"m","created":1748724739.7,"context_length":4096}]`, "", 4096},
		"vLLM's":           {200, `{"data":[{"id":"m","owned_by":"vllm","max_model_len":2048}]}`, "", 2048},
		"Google's":         {200, `{"data":[{"id":"models/m","owned_by":"google"}]}`, "", 0},
		"Ollama's":         {200, `{"data":[{"id":"m:latest"}]}`, "", 0},
		"all of a kind":    {200, `{"data":[{"id":"*"}]}`, "", 0},
		"without it":       {200, `{"data":[{"id":"x"},{"id":"y"}]}`, "does not list the model", 0},
		"null":             {200, `{"object":"list","data":null}`, "cannot be read", 0},
		"web page":         {200, `<html>docs</html>`, "cannot be read", 0},
		"forbidden":        {403, `{"error":{"message":"This key may not list models"}}`, "This key may not list models", 0},
		"another's header": {401, `{"type":"error","error":{"message":"x-api-key header is required"}}`, "x-api-key", 0},
		"broken":           {500, `oops`, "oops", 0},
		"not implemented":  {501, `{"error":"not implemented"}`, "not implemented", 0},
		"none":             {404, ``, "", 0},
	} {
		s := &fakeServer{chat: obliging(func(string) (int, string) { return 200, answer("fine") })}
		listing := roundTrip(func(r *http.Request) (*http.Response, error) {
			if !strings.HasSuffix(r.URL.Path, "/models") {
				return s.RoundTrip(r)
			}
			w := httptest.NewRecorder()
			w.WriteHeader(c.status)
			_, err := io.WriteString(w, c.list)
			return w.Result(), err
		})
		var log bytes.Buffer
		client, err := connect(t.Context(), Config{URL: "http://judge.test", Model: "m", HTTP: &http.Client{Transport: listing}, Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if said := log.String(); !strings.Contains(said, c.warns) || c.warns == "" && strings.Contains(said, "WARN") {
			t.Errorf("%s: said %s", name, said)
		}
		if reply, err := client.Ask(t.Context(), question); err != nil || reply.Room != max(0, c.window-10) {
			t.Errorf("%s: got %+v, %v", name, reply, err)
		}
	}
}

// A server that wants more room for a probe keeps its schema.
func TestProbeGrows(t *testing.T) {
	for name, short := range map[string]func() (int, string){
		"no JSON so short": func() (int, string) {
			return 400, `{"error":{"message":"Failed to generate JSON","code":"json_validate_failed"}}`
		},
		"not finished":      func() (int, string) { return 400, `{"error":{"message":"Could not finish the message"}}` },
		"thoughts":          func() (int, string) { return 200, strings.Replace(answer("<think>\nHm, the"), "stop", "length", 1) },
		"thoughts, unnamed": func() (int, string) { return 200, strings.Replace(answer(""), "stop", "length", 1) },
	} {
		s := &fakeServer{chat: func(_ int, body string) (int, string) {
			if strings.Contains(body, `"max_tokens":32,`) {
				return short()
			}
			return 200, answer("<think>\nHm, {?\n</think>\n" + `{"b":"hello, rea`)
		}}
		if got, want := open(t, s, nil).dialect, (dialect{topLogprobs: 5}); got != want || len(s.bodies) != 2 {
			t.Errorf("%s: got %+v after %d questions", name, got, len(s.bodies))
		}
	}
}

// A probe whose thoughts never end asks for no more than the window holds, whether or not the server names it.
func TestProbeFitsTheWindow(t *testing.T) {
	for name, list := range map[string]string{"named": `{"data":[{"id":"m","max_model_len":1500}]}`, "not named": `{"data":[{"id":"m"}]}`} {
		s := &fakeServer{chat: func(_ int, body string) (int, string) {
			var asked struct {
				Max int `json:"max_tokens"`
			}
			if json.Unmarshal([]byte(body), &asked) != nil || asked.Max > 1400 {
				return 400, `{"error":{"message":"max_tokens cannot be greater than max_model_len=1500"}}`
			}
			return 200, strings.Replace(answer(""), "stop", "length", 1)
		}}
		listing := roundTrip(func(r *http.Request) (*http.Response, error) {
			if !strings.HasSuffix(r.URL.Path, "/models") {
				return s.RoundTrip(r)
			}
			w := httptest.NewRecorder()
			_, err := io.WriteString(w, list)
			return w.Result(), err
		})
		client, err := connect(t.Context(), Config{URL: "http://judge.test", Model: "m", HTTP: &http.Client{Transport: listing}, Log: slog.New(slog.DiscardHandler)})
		if err != nil || client.dialect.format != bySchema {
			t.Errorf("%s: %v after %d questions", name, err, len(s.bodies))
		}
	}
}

func TestFewerLogprobs(t *testing.T) {
	for said, want := range map[string]int{
		"top_logprobs must be at most 3": 3, "top_logprobs: input should be less than or equal to 2": 2, "logprobs are not supported": 5, "at most 50": 5,
	} {
		d := dialect{topLogprobs: 20}
		if d.fewerLogprobs(said); d.topLogprobs != want {
			t.Errorf("%s: got %d", said, d.topLogprobs)
		}
	}
}

// Usage that cannot be does not undo a budget.
func TestAbsurdUsage(t *testing.T) {
	for _, usage := range []string{`{"prompt_tokens":-5000,"completion_tokens":-1}`, `{"prompt_tokens":1e300,"completion_tokens":9e18}`, `{"prompt_tokens":"many"}`, `null`, `[]`, `{"prompt_tokens":0,"completion_tokens":0}`} {
		s := &fakeServer{chat: func(int, string) (int, string) {
			return 200, `{"choices":[{"message":{"content":"{\"b\":"}}],"usage":` + usage + `}`
		}}
		c := open(t, s, func(cfg *Config) { cfg.Budget.Tokens = 5000 })
		var err error
		n := 0
		for ; err == nil && n < 100; n++ {
			_, err = c.Ask(t.Context(), question)
		}
		if !errors.Is(err, ErrBudget) || n > 15 || c.Usage().PromptTokens != 0 {
			t.Errorf("%s: %d questions, %v, %+v", usage, n, err, c.Usage())
		}
	}
}

func TestLongAnswerIsNotHeld(t *testing.T) {
	s := &fakeServer{chat: obliging(func(string) (int, string) { return 200, answer(strings.Repeat("x", 8<<20)) })}
	_, err := open(t, s, nil).Ask(t.Context(), question)
	var e *Error
	if !errors.As(err, &e) || e.Class != Malformed || !strings.Contains(e.Message, "too long") {
		t.Errorf("got %v", err)
	}
}

// A break of hours by a quota ends the run as one by Retry-After does, but the
// answer that came with it counts.
func TestLongQuotaStopsTheRun(t *testing.T) {
	s := &fakeServer{chat: obliging(func(string) (int, string) { return 200, answer("fine") })}
	c := open(t, s, nil)
	s.head = http.Header{"X-Ratelimit-Remaining-Requests": {"0"}, "X-Ratelimit-Reset-Requests": {"23h59m"}}
	if reply, err := c.Ask(t.Context(), question); err != nil || reply.Text != "fine" {
		t.Errorf("got %+v, %v", reply, err)
	}
	if _, err := c.Ask(t.Context(), question); failure.Code(err) != failure.Stopped || !strings.Contains(err.Error(), "quota is used up for 23h59m") {
		t.Errorf("got %v", err)
	}
}

// A key goes nowhere that the user has not named, and not in the clear unsaid.
func TestKeyStaysWithTheServer(t *testing.T) {
	var stolen []string
	thief := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		stolen = append(stolen, r.Header.Get("Authorization"))
	}))
	defer thief.Close()
	server := httptest.NewServer(http.RedirectHandler(thief.URL+"/v1/x?secret=1", http.StatusTemporaryRedirect))
	defer server.Close()
	_, err := connect(t.Context(), Config{URL: server.URL, Key: "sk-1", Model: "m"})
	if failure.Code(err) != failure.Refused || !strings.Contains(err.Error(), "redirects to \""+thief.URL) || strings.Contains(err.Error(), "secret") || len(stolen) > 0 {
		t.Errorf("got %v; %d requests went on", err, len(stolen))
	}

	for url, warns := range map[string]bool{"http://judge.test": true, "https://judge.test": false, "http://localhost:1": false, "http://127.0.0.1:1": false} {
		var log bytes.Buffer
		s := &fakeServer{chat: obliging(func(string) (int, string) { return 200, answer("fine") })}
		if _, err := connect(t.Context(), Config{URL: url, Key: "sk-1", HTTP: &http.Client{Transport: s}, Log: slog.New(slog.NewTextHandler(&log, nil))}); err != nil {
			t.Error(err)
		}
		if got := strings.Contains(log.String(), "sent over http"); got != warns || strings.Contains(log.String(), "sk-1") {
			t.Errorf("%s: said %s", url, log.String())
		}
	}
}

func TestBodyQueryAndHeader(t *testing.T) {
	body, err := ParseBody(` {"top_p": 0.5, "chat_template_kwargs": {"enable_thinking": false}, "n_ctx": 12345678901234567890} `)
	if err != nil {
		t.Fatal(err)
	}
	var query, header string
	s := &fakeServer{owner: "vllm", chat: obliging(func(string) (int, string) { return 200, answer("fine") })}
	seen := roundTrip(func(r *http.Request) (*http.Response, error) {
		query, header = r.URL.RawQuery, r.Header.Get("Api-Key")
		return s.RoundTrip(r)
	})
	c := open(t, s, func(cfg *Config) {
		cfg.Body, cfg.HTTP = body, &http.Client{Transport: seen}
		cfg.Query, cfg.Header = map[string][]string{"api-version": {"2024-10-21"}}, http.Header{"Api-Key": {"secret-header"}}
	})
	if _, err := c.Ask(t.Context(), question); err != nil {
		t.Fatal(err)
	}
	last := s.bodies[len(s.bodies)-1]
	const want = `{"max_tokens":100,"temperature":0,"chat_template_kwargs":{"enable_thinking":false},"n_ctx":12345678901234567890,"top_p":0.5,"top_k":-1,`
	if !strings.HasPrefix(last, want) || strings.Count(last, "top_p") != 1 || !json.Valid([]byte(last)) {
		t.Errorf("asked %s", last)
	}
	if query != "api-version=2024-10-21" || header != "secret-header" {
		t.Errorf("query %q, header %q", query, header)
	}
	for _, bad := range []string{"[1]", "{", `{"model":"x"}`, `{"max_tokens":5}`, `{"stream":true}`} {
		if b, err := ParseBody(bad); failure.Code(err) != failure.Usage || failure.Hint(err) == "" {
			t.Errorf("%s: got %s, %v", bad, b, err)
		}
	}
	if b, err := ParseBody(""); b != nil || err != nil {
		t.Errorf("got %s, %v", b, err)
	}
}

// Words in the shape of anything, cut anywhere, are read without a panic.
func FuzzReadWords(f *testing.F) {
	for _, s := range []string{`{"error":"x"}`, `[{"error":{"code":1e9,"details":[{"retryDelay":"3s"}]}}]`, `<html>`, `null`, `[]`, `[[1]]`, fmt.Sprint(strings.Repeat("[", 20000))} {
		f.Add([]byte(s))
	}
	c := &Client{}
	f.Fuzz(func(t *testing.T, body []byte) {
		readWords(body)
		c.parseCompletion(body)
		_, _ = parseModels(body)
	})
}

// What a server refuses in a form of its own is left out, whatever the status.
func TestDialectsOfOthers(t *testing.T) {
	for name, c := range map[string]struct {
		member string // that the server does not take
		status int
		says   string
		want   dialect
	}{
		"no logprobs, by 501":        {`"logprobs":true`, 501, `{"error":"logprobs is not implemented"}`, dialect{}},
		"no schema, by 500":          {`"response_format"`, 500, `{"error":"response_format is not supported by this backend"}`, dialect{format: byPrompt, topLogprobs: 5}},
		"no schema, by 404":          {`"response_format"`, 404, `{"error":{"message":"No endpoints found that can handle the requested parameters."}}`, dialect{format: byPrompt, topLogprobs: 5}},
		"the old limit is forbidden": {`"max_tokens"`, 422, `{"detail":[{"type":"extra_forbidden","loc":["body","max_tokens"],"msg":"Extra inputs are not permitted"}]}`, dialect{newLimit: true, topLogprobs: 5}},
		"streams only":               {`"stream":false`, 400, `{"error":{"message":"This model only support stream mode, please enable the stream parameter."}}`, dialect{stream: true, topLogprobs: 5}},
	} {
		s := &fakeServer{chat: func(_ int, body string) (int, string) {
			if strings.Contains(body, c.member) {
				return c.status, c.says
			}
			return 200, answer(`{"b":"hello, rea`)
		}}
		if got := open(t, s, nil).dialect; got != c.want || s.asked() > 3 {
			t.Errorf("%s: got %+v after %d questions", name, got, s.asked())
		}
	}
}

func TestUnknownEncoding(t *testing.T) {
	s := &fakeServer{head: http.Header{"Content-Encoding": {"br"}}, chat: func(int, string) (int, string) { return 200, "\x8b\x02" }}
	_, err := connect(t.Context(), Config{URL: "http://judge.test", HTTP: &http.Client{Transport: s}})
	if failure.Code(err) != failure.Refused || !strings.Contains(err.Error(), `as "br"`) {
		t.Errorf("got %v", err)
	}
}

func TestUntrustedCertificate(t *testing.T) {
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // it tells of the client that hangs up
	server.StartTLS()
	defer server.Close()
	_, err := connect(t.Context(), Config{URL: server.URL, Model: "m"})
	if failure.Code(err) != failure.Refused || !strings.Contains(err.Error(), "not trusted here") || !strings.Contains(failure.Hint(err), "SSL_CERT_FILE") {
		t.Errorf("got %v", err)
	}
}

func TestURLs(t *testing.T) {
	for given, want := range map[string]string{
		"http://h:1": "http://h:1/v1", "http://h/v1/": "http://h/v1", "https://h/api/v4": "https://h/api/v4", "https://h/v1/chat/completions": "https://h/v1", "http://h/a%2Fb/": "http://h/a%2Fb",
	} {
		if got, _, err := baseURL(given); err != nil || got != want {
			t.Errorf("%s: got %s, %v", given, got, err)
		}
	}
}
