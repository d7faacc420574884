package judge

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"tokenfork/internal/job"
	"tokenfork/internal/vllm"
	"tokenfork/internal/vllm/vllmtest"
	"tokenfork/judge/endpoint"
)

// TestMain makes this binary the guard of a server, or a judge to be killed,
// where it is started as one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == vllm.GuardCommand {
		os.Exit(vllm.GuardMain(os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == "killed-judge" {
		os.Exit(killedMain())
	}
	os.Exit(m.Run())
}

// tap keeps what goes over the wire.
type tap struct {
	url, key string

	mu    sync.Mutex
	calls []call
}

type call struct{ request, response []byte }

func (w *tap) RoundTrip(req *http.Request) (*http.Response, error) {
	var c call
	if req.Body != nil {
		var err error
		if c.request, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
		req.Body = io.NopCloser(bytes.NewReader(c.request))
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	c.response, err = io.ReadAll(resp.Body)
	resp.Body = io.NopCloser(bytes.NewReader(c.response))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls = append(w.calls, c)
	return resp, err
}

func (w *tap) judge(t *testing.T, change func(*Settings)) *Judge {
	t.Helper()
	s := Defaults()
	s.MaxTokens = 160
	change(&s)
	p, err := LoadPrompt(s)
	if err != nil {
		t.Fatal(err)
	}
	client, err := endpoint.Open(t.Context(), endpoint.Config{URL: w.url, Key: w.key, HTTP: &http.Client{Transport: w}})
	if err == nil {
		err = client.Negotiate(t.Context(), p.request(s, ""))
	}
	if err != nil {
		t.Fatal(err)
	}
	return newJudge(p, Judging{Model: client.Model(), PromptVersion: p.Version, PromptHash: p.Hash, Settings: s}, client)
}

func ask(t *testing.T, j *Judge, q *Question) job.Verdict {
	t.Helper()
	v, err := j.Ask(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func pair(start, small, reference string) *Question {
	return &Question{Start: start, Row: &job.Result{}, Forks: [2]Fork{
		{Token: small, IDs: []int32{1}, Finish: job.FinishStop}, {Token: reference, IDs: []int32{2}, Finish: job.FinishStop}}}
}

// bounded holds answers to lengths that no model outgrows: strings and numbers
// are all that a grammar leaves open, and no token is shorter than a byte.
// Servers that people use refuse such a schema, or keep escapes from strings.
func bounded(t *testing.T, j *Judge) *Judge {
	t.Helper()
	schema := string(j.prompt.form.schema)
	for _, c := range [][2]string{
		{`"explanation":{"type":"string"}`, `"explanation":{"type":"string","maxLength":30}`},
		{`"items":{"type":"string"}`, `"maxItems":1,"items":{"type":"string","maxLength":10}`},
		{`{"type":"number"}`, `{"type":"number","minimum":0,"maximum":1}`},
	} {
		if !strings.Contains(schema, c[0]) {
			t.Fatalf("schema lacks %s: %s", c[0], schema)
		}
		schema = strings.Replace(schema, c[0], c[1], 1)
	}
	j.prompt.form.schema = json.RawMessage(schema)
	return j
}

// TestRealJudge asks a real vLLM. A model of this size judges badly; what is
// tested is that an answer has the form that it must have, and that its
// confidence is measured at the verdict.
func TestRealJudge(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a real vLLM server")
	}
	server := vllmtest.Start(t, "reference")[0]
	w := &tap{url: vllmtest.Record(t, server.Endpoint().URL()).URL}
	question := pair("It rained. We", " stayed home.", " left.")
	for prompt, property := range map[string]string{"seed": "meaning_match", "r2r": "divergent"} {
		t.Run(prompt, func(t *testing.T) {
			from := len(w.calls)
			j := w.judge(t, func(s *Settings) { s.Prompt = prompt })
			w.checkForm(t, w.calls[from:], property)
			from = len(w.calls)
			v := ask(t, bounded(t, j), question)
			w.checkVerdict(t, w.calls[from:], property, v)
		})
	}
	t.Run("one word", func(t *testing.T) { testRealWord(t, w) })
	t.Run("cut", func(t *testing.T) {
		from := len(w.calls)
		j := w.judge(t, func(s *Settings) { s.MaxTokens = 2 })
		v := ask(t, j, question)
		if v.Error == nil || *v.Error != Length || v.MeaningMatch != nil || len(*v.Raw) == 0 || len(w.calls[from:]) != 4 { // the models, the probe, two askings
			t.Errorf("got %+v after %d calls", v, len(w.calls[from:]))
		}
	})
	t.Run("too long", func(t *testing.T) {
		v := ask(t, w.judge(t, func(*Settings) {}), pair(strings.Repeat("word ", 4000), "a", "b"))
		if v.Error == nil || *v.Error != endpoint.ContextLength || v.MeaningMatch != nil {
			t.Errorf("got %+v", v)
		}
	})
	t.Run("unix socket", func(t *testing.T) {
		c, err := endpoint.Open(t.Context(), endpoint.Config{URL: server.Endpoint().URL()})
		if err != nil || c.Model() != server.Endpoint().Model {
			t.Errorf("got %v", err)
		}
	})
}

// completion is the part of a response that the test reads for itself.
type completion struct {
	Choices []struct {
		Message  struct{ Content string }
		Finish   string `json:"finish_reason"`
		Logprobs struct{ Content []tokenProbability }
	}
}

type tokenProbability struct {
	Token   string
	Logprob float64
	Top     []tokenProbability `json:"top_logprobs"`
}

// checkForm checks how the server was asked.
func (w *tap) checkForm(t *testing.T, calls []call, property string) {
	t.Helper()
	last := string(calls[len(calls)-1].request)
	for _, want := range []string{`"temperature":0,"top_p":1,"top_k":-1,"min_p":0,"repetition_penalty":1,`, `"type":"json_schema"`, `"strict":true`,
		`"properties":{"explanation":{"type":"string"},"key_differences":{"type":"array","items":{"type":"string"}},"` + property + `":`} {
		if !strings.Contains(last, want) {
			t.Errorf("agreed on a request without %s:\n%s", want, last)
		}
	}
}

// checkVerdict compares a verdict with what went over the wire.
func (w *tap) checkVerdict(t *testing.T, calls []call, property string, v job.Verdict) {
	t.Helper()
	if v.Error != nil {
		t.Fatalf("no verdict: %s: %s: %s", *v.Error, *v.Message, *v.Raw)
	}
	if *v.ConfidenceSource != LogprobMasked || *v.Confidence <= 0 || *v.Confidence > 1 {
		t.Errorf("confidence %v, %s", *v.Confidence, *v.ConfidenceSource)
	}
	if c, ok := answered(calls, *v.Explanation); !ok {
		t.Errorf("no answer with the explanation %q", *v.Explanation)
	} else {
		checkAnswer(t, c, property, v)
	}
}

// answered finds the response whose explanation it is.
func answered(calls []call, explanation string) (completion, bool) {
	for _, c := range calls {
		var got completion
		var object struct{ Explanation string }
		if json.Unmarshal(c.response, &got) == nil && len(got.Choices) > 0 &&
			json.Unmarshal([]byte(got.Choices[0].Message.Content), &object) == nil && object.Explanation == explanation {
			return got, true
		}
	}
	return completion{}, false
}

// checkAnswer finds the verdict's token in another way than the program does:
// by counting back from the member that follows.
func checkAnswer(t *testing.T, c completion, property string, v job.Verdict) {
	t.Helper()
	content := c.Choices[0].Message.Content
	last := -1
	for _, name := range []string{"explanation", "key_differences", property, "confidence"} {
		at := strings.LastIndex(content, `"`+name+`":`)
		if at < last {
			t.Errorf("%s is out of order in %s", name, content)
		}
		last = at
	}
	tokens := c.Choices[0].Logprobs.Content
	at := len(tokens) - 1
	for text := ""; at > 0 && !strings.Contains(text, `"`+property+`":`); at-- {
		text = tokens[at].Token + text
	}
	literal := map[string][2]string{"meaning_match": {"true", "false"}, "divergent": {"0", "1"}}[property]
	want := 0.0
	for ; at < len(tokens) && want == 0; at++ {
		if word := strings.TrimSpace(tokens[at].Token); word != literal[0] && word != literal[1] {
			continue
		} else if (word == literal[0]) != *v.MeaningMatch {
			t.Errorf("verdict %t, the answer says %s", *v.MeaningMatch, word)
		}
		var p [2]float64
		for _, alt := range tokens[at].Top {
			for i := range literal {
				if word := strings.TrimSpace(alt.Token); word != "" && strings.HasPrefix(literal[i], word) {
					p[i] += math.Exp(alt.Logprob)
				}
			}
		}
		if want = p[0] / (p[0] + p[1]); !*v.MeaningMatch {
			want = p[1] / (p[0] + p[1])
		}
	}
	if math.Abs(want-*v.Confidence) > 1e-9 {
		t.Errorf("confidence %v, by hand %v, of %s with %+v", *v.Confidence, want, content, tokens)
	}
}

// testRealWord asks for one word. A model that says another is held to a
// grammar when it is asked again, so that there always is a verdict.
func testRealWord(t *testing.T, w *tap) {
	path := filepath.Join(t.TempDir(), "word.tmpl")
	for i, text := range []string{`Is "{{.A.Text}}" the same as "{{.B.Text}}"? True or False?`, "Say False.", "Answer True or False: 2 is more than 1."} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		j := w.judge(t, func(s *Settings) { s.Prompt, s.VerdictOnly = "file="+path, true })
		from := len(w.calls)
		v := ask(t, j, pair("", "yes", fmt.Sprint("no", i)))
		source := map[int]string{1: LogprobFree, 2: LogprobMasked}[len(w.calls[from:])]
		if v.Error != nil || *v.ConfidenceSource != source || *v.Confidence <= 0 || v.Explanation != nil {
			t.Errorf("%s: got %+v after %d askings", text, v, len(w.calls[from:]))
		}
	}
}
