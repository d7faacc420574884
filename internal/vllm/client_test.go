package vllm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// answering returns a client whose server gives every completion the body and
// keeps the last request's path and body.
func answering(t *testing.T, status int, body string) (*Client, *strings.Builder) {
	t.Helper()
	var sent strings.Builder
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent.Reset()
		fmt.Fprint(&sent, r.URL.Path, " ")
		_, _ = io.Copy(&sent, r.Body)
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
	t.Cleanup(server.Close)
	c, err := NewClient(server.URL, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	c.Model = "tokenfork-x"
	return c, &sent
}

const oneToken = `{"choices":[{"index":0,"token_ids":[8],"finish_reason":"length"}]}`

func TestRequestOnTheWire(t *testing.T) {
	text := NewSequence([]int32{5, 60, 700, 8000})
	tests := []struct {
		name    string
		api     API
		request CompletionRequest
		want    string
	}{
		{"greedy", Completions, CompletionRequest{Prompt: text.Prompt(2, 9), MaxTokens: 1},
			`/v1/completions {"model":"tokenfork-x","prompt":[5,60,9],"max_tokens":1,"temperature":0,"top_p":1,"top_k":-1,"min_p":0,` +
				`"repetition_penalty":1,"presence_penalty":0,"frequency_penalty":0,"n":1,"min_tokens":0,"ignore_eos":true,"stop_token_ids":[],` +
				`"include_stop_str_in_output":true,"skip_special_tokens":false,"return_token_ids":true,"echo":false,"stream":false}`},
		{"sampled, with margins and stops", Completions, CompletionRequest{Prompt: text.Prompt(4), MaxTokens: 1,
			StopTokenIDs: NewSequence([]int32{13, 2}), Margins: true, Sampling: Sampling{Temperature: 0.7, TopP: 0.95, Seed: 42}},
			`/v1/completions {"model":"tokenfork-x","prompt":[5,60,700,8000],"max_tokens":1,"temperature":0.7,"top_p":0.95,"top_k":-1,"min_p":0,` +
				`"repetition_penalty":1,"presence_penalty":0,"frequency_penalty":0,"n":1,"min_tokens":0,"ignore_eos":true,"stop_token_ids":[13,2],` +
				`"seed":42,"logprobs":2,` +
				`"include_stop_str_in_output":true,"skip_special_tokens":false,"return_token_ids":true,"return_tokens_as_token_ids":true,"echo":false,"stream":false}`},
		{"generate", Generate, CompletionRequest{Prompt: text.Prompt(0, 1, 2), MaxTokens: 1},
			`/inference/v1/generate {"model":"tokenfork-x","token_ids":[1,2],"sampling_params":{"detokenize":false,"max_tokens":1,"temperature":0,"top_p":1,"top_k":-1,"min_p":0,` +
				`"repetition_penalty":1,"presence_penalty":0,"frequency_penalty":0,"n":1,"min_tokens":0,"ignore_eos":true,"stop_token_ids":[]},"stream":false}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, sent := answering(t, 200, oneToken)
			c.API = tt.api
			_, err := c.Complete(t.Context(), tt.request)
			var answer *AnswerError // one that lacks logprobs where they were asked for
			if err != nil && !(tt.request.Margins && errors.As(err, &answer)) {
				t.Fatal(err)
			}
			if got := sent.String(); got != tt.want {
				t.Errorf("sent\n     %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestPromptsOnTheWire(t *testing.T) {
	text := NewSequence([]int32{5, 60, 700})
	for n := range 4 {
		for _, tail := range [][]int32{nil, {1}, {0, 2147483647}} {
			p := text.Prompt(n, tail...)
			want := append(slices.Clone([]int32{5, 60, 700}[:n]), tail...)
			var got []int32
			if err := json.Unmarshal(p.appendWire(nil), &got); err != nil || !slices.Equal(got, want) || p.Len() != len(want) {
				t.Errorf("prompt of %d and %v is %s, %d ids", n, tail, p.appendWire(nil), p.Len())
			}
		}
	}
}

func TestRequestsRefusedBeforeSending(t *testing.T) {
	c, sent := answering(t, 200, oneToken)
	for name, r := range map[string]CompletionRequest{
		"no prompt": {MaxTokens: 1},
		"no tokens": {Prompt: Tokens(1)},
	} {
		if _, err := c.Complete(t.Context(), r); err == nil || sent.Len() > 0 {
			t.Errorf("%s: error %v, sent %q", name, err, sent)
		}
	}
}

func TestCompletionIsRead(t *testing.T) {
	tests := []struct {
		name, body string
		margins    bool
		want       Completion
	}{
		{"stop token and cache", `{"choices":[{"index":0,"token_ids":[4,13],"finish_reason":"stop","stop_reason":13,"prompt_token_ids":[1]}],
			"usage":{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":5}}}`, false,
			Completion{TokenIDs: []int32{4, 13}, FinishReason: "stop", StopTokenID: 13,
				Usage: Usage{PromptTokens: 9, GeneratedTokens: 2, CachedTokens: 5}}},
		{"EOS, cache not told", `{"choices":[{"index":0,"token_ids":[2],"finish_reason":"stop","stop_reason":null}],"usage":{"prompt_tokens":9,"completion_tokens":1}}`, false,
			Completion{TokenIDs: []int32{2}, FinishReason: "stop", StopTokenID: -1,
				Usage: Usage{PromptTokens: 9, GeneratedTokens: 1, CachedTokens: -1}}},
		{"margins of completions", `{"choices":[{"index":0,"token_ids":[4,5,6],"finish_reason":"length","logprobs":{"top_logprobs":[
			{"token_id:4":-0.5,"token_id:9":-1.75},{"token_id:7":-3,"token_id:5":-1,"token_id:8":-2},{"token_id:6":-9}]}}]}`, true,
			Completion{TokenIDs: []int32{4, 5, 6}, FinishReason: "length", StopTokenID: -1, Gaps: []float64{1.25, 1, math.Inf(1)},
				Usage: Usage{CachedTokens: -1}}},
		{"margins of generate", `{"choices":[{"index":0,"token_ids":[4],"finish_reason":"length","logprobs":{"content":[
			{"token_id":4,"logprob":-1.75,"top_logprobs":[{"token_id":4,"logprob":-1.75},{"token_id":9,"logprob":-0.5}]}]}}]}`, true,
			Completion{TokenIDs: []int32{4}, FinishReason: "length", StopTokenID: -1, Gaps: []float64{1.25},
				Usage: Usage{CachedTokens: -1}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, _ := answering(t, 200, tt.body)
			got, err := c.Complete(t.Context(), CompletionRequest{
				Prompt: Tokens(1), MaxTokens: len(tt.want.TokenIDs), Margins: tt.margins})
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

func TestNoErrorLooksLikeAContinuation(t *testing.T) {
	choice := func(rest string) string { return `{"choices":[{"index":0,` + rest + `}]}` }
	tests := []struct{ name, body, want string }{
		{"not JSON", `<html>`, "unreadable"},
		{"cut JSON", `{"choices":[{"index":0,"token_ids":[1`, "unreadable"},
		{"nothing", `{}`, "0 choices for one prompt"},
		{"too many", `{"choices":[{"index":0,"token_ids":[1],"finish_reason":"length"},{"index":1,"token_ids":[1],"finish_reason":"length"}]}`, "2 choices"},
		{"no ids", choice(`"text":"abc","finish_reason":"length"`), "no token ids"},
		{"null ids", choice(`"text":"","token_ids":null,"finish_reason":"stop"`), "no token ids"},
		{"empty ids", choice(`"text":"","token_ids":[],"finish_reason":"stop"`), "no token ids"},
		{"error", choice(`"token_ids":[1],"finish_reason":"error"`), `finish reason "error"`},
		{"null finish", choice(`"token_ids":[1],"finish_reason":null`), "no finish reason"},
		{"too many ids", choice(`"token_ids":[1,2,3],"finish_reason":"length"`), "3 tokens, asked for 2"},
		{"cut by the model's length", choice(`"token_ids":[1],"finish_reason":"length"`), "cut at 1 of 2 tokens"},
		{"stop string", choice(`"token_ids":[1],"finish_reason":"stop","stop_reason":"."`), "is no token id"},
		{"other stop", choice(`"token_ids":[1],"finish_reason":"stop","stop_reason":2`), "the last one is 1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, _ := answering(t, 200, tt.body)
			got, err := c.Complete(t.Context(), CompletionRequest{Prompt: Tokens(1), MaxTokens: 2})
			var answer *AnswerError
			if !errors.As(err, &answer) || !strings.Contains(answer.Reason, tt.want) || len(got.TokenIDs) > 0 {
				t.Fatalf("got %v, %v", got, err)
			}
			if IsContextLength(err) != strings.HasPrefix(tt.want, "cut") || IsGone(err) {
				t.Errorf("context length %v, gone %v", IsContextLength(err), IsGone(err))
			}
		})
	}
}

// A server that gets SIGTERM answers its open requests so, with what there is.
func TestAbortedRequestIsGone(t *testing.T) {
	for _, ids := range []string{"null", "[]", "[1]", "[1,2]"} {
		c, _ := answering(t, 200, `{"choices":[{"index":0,"token_ids":`+ids+`,"finish_reason":"abort"}]}`)
		if got, err := c.Complete(t.Context(), CompletionRequest{Prompt: Tokens(1), MaxTokens: 2}); !IsGone(err) {
			t.Errorf("%s: got %v, %v, want gone", ids, got, err)
		}
	}
}

// Of an answer no more is read than what was asked for can take.
func TestAnswersWithoutEnd(t *testing.T) {
	var status, written atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(int(status.Load()))
		for {
			n, err := w.Write([]byte(strings.Repeat("{", 4096)))
			if written.Add(int64(n)); err != nil || n == 0 {
				return
			}
		}
	}))
	t.Cleanup(server.Close)
	c, err := NewClient(server.URL, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	ids := make([]int32, 1000)
	for name, ask := range map[string]func() error{
		"completion": func() error {
			_, err := c.Complete(t.Context(), CompletionRequest{Prompt: Tokens(ids...), MaxTokens: 100, Margins: true})
			return err
		},
		"predictions":  func() error { _, err := c.Predict(t.Context(), ids, 1); return err },
		"models":       func() error { _, err := c.Models(t.Context()); return err },
		"health":       func() error { return c.Health(t.Context()) },
		"metrics":      func() error { _, err := c.Metrics(t.Context()); return err },
		"tokens":       func() error { _, err := c.Tokenize(t.Context(), "a text", false); return err },
		"chat's start": func() error { _, err := c.TokenizeChat(t.Context(), []Message{{Content: "a"}}); return err },
	} {
		for _, code := range []int64{200, 500} {
			status.Store(code)
			written.Store(0)
			err := ask()
			var answer *AnswerError
			var refused *StatusError
			switch {
			case code == 200 && (!errors.As(err, &answer) || !strings.Contains(answer.Reason, "which nothing asked for can take")):
				t.Errorf("%s: %v", name, err)
			case code == 500 && (!errors.As(err, &refused) || len(refused.Message) > 300):
				t.Errorf("%s: %v", name, err)
			}
			if n := written.Load(); n > 64<<20 { // what sockets hold included
				t.Errorf("%s: the server could write %d MiB", name, n>>20)
			}
		}
	}
}

// The longest tokens that models have fit.
func TestAnswerBoundHasRoom(t *testing.T) {
	word := strings.Repeat(`\u4f60`, 128) // 128 characters, escaped
	tests := map[string]struct {
		each    string
		margins bool
	}{
		"plain":    {fmt.Sprintf(`{"text":"%s","token_ids":[151935],"token":"%s"},`, word, word), false},
		"generate": {fmt.Sprintf(`{"token":"%s","logprob":-0.123456789012345,"top_logprobs":[{"token":"%s","logprob":-0.1},{"token":"%s","logprob":-0.1}]},`, word, word, word), true},
	}
	for name, tt := range tests {
		r := CompletionRequest{Prompt: Tokens(make([]int32, 5000)...), MaxTokens: 300, Margins: tt.margins}
		size := int64(len(tt.each))*300 + 5000*int64(len(`2147483647, `))
		if most := r.answerBound(); size > most || most > 8*size {
			t.Errorf("%s: an answer of %d bytes, a bound of %d", name, size, most)
		}
	}
}

func TestStatusErrors(t *testing.T) {
	tests := []struct {
		status        int
		body          string
		message       string
		context, gone bool
	}{
		{400, `{"error":{"message":"This model's maximum context length is 512 tokens. However,","type":"BadRequestError"}}`, "This model's maximum context length is 512 tokens. However,", true, false},
		{400, `{"error":{"message":"The decoder prompt (length 520) is longer than the maximum model length of 512."}}`, "The decoder prompt (length 520) is longer than the maximum model length of 512.", true, false},
		{400, `{"error":{"message":"max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)"}}`, "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)", true, false},
		{400, `{"object":"error","message":"Token id 300 is out of vocabulary","type":"BadRequestError"}`, "Token id 300 is out of vocabulary", false, false},
		{404, `{"detail":"Not Found"}`, `"Not Found"`, false, false},
		{500, `{"error":{"message":"EngineCore encountered an issue. See stack trace (above) for the root cause.","type":"InternalServerError"}}`, "EngineCore encountered an issue. See stack trace (above) for the root cause.", false, true},
		{502, "<html>bad gateway</html>\n", "<html>bad gateway</html>", false, false},
		{307, "", "", false, false},
	}
	for _, tt := range tests {
		c, _ := answering(t, tt.status, tt.body)
		_, err := c.Complete(t.Context(), CompletionRequest{Prompt: Tokens(1), MaxTokens: 1})
		var status *StatusError
		if !errors.As(err, &status) || status.Status != tt.status || status.Message != tt.message || status.Request != "POST /v1/completions" {
			t.Errorf("status %d: %v", tt.status, err)
		}
		if IsContextLength(err) != tt.context || IsGone(err) != tt.gone {
			t.Errorf("%v: context length %v, gone %v", err, IsContextLength(err), IsGone(err))
		}
	}
}

func TestGone(t *testing.T) {
	nobody, err := NewClient("unix://"+filepath.Join(shortDir(t), "s"), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := nobody.Health(t.Context()); !IsGone(err) {
		t.Errorf("no socket: %v", err)
	}
	cut := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		fmt.Fprint(w, `{"choices":`)
		panic(http.ErrAbortHandler)
	}))
	defer cut.Close()
	c, err := NewClient(cut.URL, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Complete(t.Context(), CompletionRequest{Prompt: Tokens(1), MaxTokens: 1}); !IsGone(err) {
		t.Errorf("cut answer: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Health(ended); IsGone(err) || !errors.Is(err, context.Canceled) {
		t.Errorf("caller that gave up: %v", err)
	}
	c.Close()
	if err := c.Health(t.Context()); !IsGone(err) || !errors.Is(err, ErrClosed) {
		t.Errorf("closed client: %v", err)
	}
}

// A server that closes idle connections must not cost requests.
func TestIdleConnectionsClosedByServer(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, oneToken) }))
	server.Config.IdleTimeout = time.Millisecond
	server.Start()
	defer server.Close()
	c, err := NewClient(server.URL, "")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 200 {
				if _, err := c.Complete(t.Context(), CompletionRequest{Prompt: Tokens(1), MaxTokens: 1}); err != nil {
					t.Error(err)
					return
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
	all.Wait()
}

// Bodies come from a pool: no request may carry bytes of another.
func TestManyInFlight(t *testing.T) {
	path := filepath.Join(shortDir(t), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var request struct{ Prompt []int32 }
		if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		var sum int32
		for _, id := range request.Prompt {
			sum += id
		}
		fmt.Fprintf(w, `{"choices":[{"index":0,"token_ids":[%d],"finish_reason":"length"}]}`, sum)
	})}
	go func() { _ = server.Serve(listener) }() // ends with Close
	defer server.Close()
	c, err := NewClient("unix://"+path, "")
	if err != nil {
		t.Fatal(err)
	}
	ids := make([]int32, 3000)
	for i := range ids {
		ids[i] = int32(i)
	}
	text := NewSequence(ids)
	var all sync.WaitGroup
	for n := range 1500 {
		all.Go(func() {
			got, err := c.Complete(t.Context(), CompletionRequest{Prompt: text.Prompt(n, 7), MaxTokens: 1})
			if want := int32(n*(n-1)/2 + 7); err != nil || got.TokenIDs[0] != want {
				t.Errorf("prompt of %d: %v, %v", n, got, err)
			}
		})
	}
	all.Wait()
}

func TestServerURLs(t *testing.T) {
	for raw, base := range map[string]string{
		"http://n1:8000": "http://n1:8000", "http://n1:8000/v1": "http://n1:8000", "http://n1:8000/v1/": "http://n1:8000",
		"https://h/p": "https://h/p", "unix:///run/s": "http://localhost",
		"n1:8000": "", "unix://run/s": "", "ftp://h": "", "": "", "http://": "",
	} {
		c, err := NewClient(raw, "")
		if (err != nil) != (base == "") || err == nil && c.base != base {
			t.Errorf("NewClient(%q) = %v, %v; want %q", raw, c, err, base)
		}
	}
}

func BenchmarkPrompt8000(b *testing.B) {
	ids := make([]int32, 8000)
	for i := range ids {
		ids[i] = int32(i * 18)
	}
	text := NewSequence(ids)
	b.ReportAllocs()
	for b.Loop() {
		body := newBody()
		r := CompletionRequest{Prompt: text.Prompt(7999, 1), MaxTokens: 128}
		body.b = r.appendWire(body.b, Completions, "m")
		b.SetBytes(int64(len(body.b)))
		body.release()
	}
}

// The check of the vocabulary asks for valid ids alone: an engine may die of another.
func TestVocabularyCheckAsksForValidIDs(t *testing.T) {
	var asked []int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q struct{ Prompt []int32 }
		if r.URL.Path == "/v1/models" {
			fmt.Fprint(w, `{"data":[{"id":"m"}]}`)
		} else if json.NewDecoder(r.Body).Decode(&q) != nil || r.URL.Path != "/v1/completions" {
			w.WriteHeader(http.StatusNotFound)
		} else if asked = append(asked, q.Prompt...); slices.Max(q.Prompt) >= 50 {
			w.WriteHeader(http.StatusBadRequest)
		} else {
			fmt.Fprint(w, oneToken)
		}
	}))
	defer server.Close()
	for size, refused := range map[int]bool{50: false, 40: false, 60: true} {
		c, err := NewClient(server.URL, "")
		if err != nil {
			t.Fatal(err)
		}
		asked = nil
		_, err = c.Check(t.Context(), Want{VocabSize: size})
		if (err != nil) != refused || len(asked) == 0 || slices.Max(asked) != int32(size-1) {
			t.Errorf("%d ids: asked for %v: %v", size, asked, err)
		}
	}
}
