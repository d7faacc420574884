package fakevllm

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// sampling has the fields of requests for tokens that the fake heeds.
type sampling struct {
	MaxTokens   int     `json:"max_tokens"`
	Temperature float64 `json:"temperature"`
	Seed        uint64  `json:"seed"`
	Stop        []int32 `json:"stop_token_ids"`
	IgnoreEOS   bool    `json:"ignore_eos"`
	Logprobs    int     `json:"logprobs"`
}

// request is one for tokens, of either API.
type request struct {
	sampling
	Model          string   `json:"model"`
	Prompt         []int32  `json:"prompt"`
	Tokens         []int32  `json:"token_ids"`
	Parameters     sampling `json:"sampling_params"`
	PromptLogprobs *int     `json:"prompt_logprobs"`
	CacheSalt      string   `json:"cache_salt"`
}

func fail(w http.ResponseWriter, status int, kind, format string, args ...any) {
	b, err := json.Marshal(map[string]any{"error": map[string]any{"message": fmt.Sprintf(format, args...), "type": kind, "code": status}})
	if err != nil {
		panic(err) // strings and a number
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(b) // the client may have gone
}

const badRequest = "BadRequestError"

// complete answers a request for tokens, by /v1/completions or the Generate API.
func (s *Server) complete(w http.ResponseWriter, r *http.Request, generate bool) {
	var q request
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		fail(w, http.StatusBadRequest, badRequest, "%v", err)
		return
	}
	if generate {
		q.Prompt, q.sampling = q.Tokens, q.Parameters
	}
	s.running.Add(1)
	defer s.running.Add(-1)
	before := s.asked.Add(1) - 1
	if !s.valid(w, &q) {
		return
	}
	f := s.cued(q.Prompt, before)
	if !s.works(w, r, f) {
		return
	}
	a := s.generate(&q)
	if !s.pause(r.Context(), time.Duration(len(a.ids))*s.config.TokenTime) {
		return
	}
	switch f.Kind {
	case Short:
		for len(a.ids) > 0 && (a.finish == "stop" || len(a.ids) == q.MaxTokens) {
			a.ids, a.finish, a.stop = a.ids[:len(a.ids)-1], "length", "null"
		}
	case WrongID:
		a.ids[0] = int32(s.config.Model.size()) + 7
	case OtherID:
		other := (a.ids[0] + 1) % int32(len(s.config.Model.Pieces))
		if len(a.ids) > 1 && !slices.Contains(q.Stop, other) {
			a.ids[0] = other
		}
	case WrongEnd:
		a.finish, a.stop = "stop", strconv.Itoa(int(a.ids[len(a.ids)-1])+1)
	}
	s.send(w, r, a.wire(&q, s, generate), f)
}

// valid refuses what vLLM refuses.
func (s *Server) valid(w http.ResponseWriter, q *request) bool {
	m := &s.config.Model
	unknown := slices.IndexFunc(q.Prompt, func(id int32) bool { return id < 0 || int(id) >= m.size() })
	switch {
	case q.Model != s.config.Name:
		fail(w, http.StatusNotFound, "NotFoundError", "The model `%s` does not exist.", q.Model)
	case len(q.Prompt) == 0:
		fail(w, http.StatusBadRequest, badRequest, "The decoder prompt cannot be empty")
	case unknown >= 0:
		fail(w, http.StatusBadRequest, badRequest, "Token id %d is out of vocabulary", q.Prompt[unknown])
	case len(q.Prompt) >= s.config.MaxModelLen:
		fail(w, http.StatusBadRequest, badRequest, "This model's maximum context length is %d tokens. However, your request has %d input tokens.", s.config.MaxModelLen, len(q.Prompt))
	default:
		return true
	}
	return false
}

// works says whether an answer is to be made, after whatever keeps it off.
func (s *Server) works(w http.ResponseWriter, r *http.Request, f Fault) bool {
	switch f.Kind {
	case Late:
		if !s.pause(r.Context(), f.For) {
			return false
		}
	case Hang:
		s.hung.Store(true)
	case Engine:
		s.engine.Store(true)
	case Die:
		s.die(f.For)
	case Refuse:
		fail(w, f.Status, http.StatusText(f.Status), "refused by the fake")
		return false
	}
	if !s.pause(r.Context(), 0) {
		return false
	}
	for s.hung.Load() {
		if !s.pause(r.Context(), 10*time.Millisecond) {
			return false
		}
	}
	if s.engine.Load() {
		fail(w, http.StatusInternalServerError, "EngineDeadError", "EngineCore encountered an issue. See stack trace (above) for the root cause.")
		return false
	}
	return true
}

// pause says whether client and server are still there after so long. What comes
// late from a server that has died meanwhile never comes.
func (s *Server) pause(client context.Context, d time.Duration) bool {
	s.mu.Lock()
	life := s.life
	s.mu.Unlock()
	if d > 0 {
		select {
		case <-client.Done():
			return false
		case <-life.Done():
		case <-time.After(d):
		}
	}
	if life.Err() != nil || s.dead() {
		panic(http.ErrAbortHandler)
	}
	return true
}

func (s *Server) send(w http.ResponseWriter, r *http.Request, body []byte, f Fault) {
	w.Header().Set("Content-Type", "application/json")
	if f.Kind == Endless {
		for spaces := bytes.Repeat([]byte(" "), 64<<10); ; { // JSON goes on behind them
			if _, err := w.Write(spaces); err != nil {
				return
			}
		}
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	switch f.Kind {
	case Cut:
		_, _ = w.Write(body[:len(body)/2])
		panic(http.ErrAbortHandler)
	case Slow:
		const pieces = 10
		for i := range pieces {
			_, _ = w.Write(body[i*len(body)/pieces : (i+1)*len(body)/pieces])
			if err := http.NewResponseController(w).Flush(); err != nil || !s.pause(r.Context(), f.For/pieces) {
				return
			}
		}
	default:
		_, _ = w.Write(body) // a client that has gone asks again
	}
}

// answer is what the model says to a prompt.
type answer struct {
	ids    []int32
	states []state // before each id
	finish string
	stop   string // JSON: the stop token or null
	cached int
	seed   uint64
}

func (s *Server) generate(q *request) answer {
	m := &s.config.Model
	a := answer{finish: "length", stop: "null", cached: s.cache(q.Prompt, q.CacheSalt)}
	if q.PromptLogprobs != nil { // vLLM then fills the cache and does not read it
		a.cached = 0
	}
	if q.Temperature > 0 {
		a.seed = q.Seed + 1
	}
	at := prefixState(q.Prompt)
	for limit := min(q.MaxTokens, s.config.MaxModelLen-len(q.Prompt)); len(a.ids) < limit && a.finish == "length"; {
		id := m.next(at, a.seed)
		a.ids, a.states = append(a.ids, id), append(a.states, at)
		at = at.add(id)
		switch {
		case !q.IgnoreEOS && slices.Contains(m.EOS, id):
			a.finish = "stop"
		case slices.Contains(q.Stop, id):
			a.finish, a.stop = "stop", strconv.Itoa(int(id))
		}
	}
	s.prompt.Add(int64(len(q.Prompt)))
	s.cached.Add(int64(a.cached))
	s.generated.Add(int64(len(a.ids)))
	s.answered.Add(1)
	return a
}

// cache is how many of the prompt's tokens are in the salt's prefix cache: whole blocks,
// never the last token. Nothing is ever thrown out.
func (s *Server) cache(prompt []int32, salt string) (cached int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if salt == "" && slices.Contains(s.config.Modes, Warm) {
		return (len(prompt) - 1) / s.config.BlockSize * s.config.BlockSize
	}
	at, hit := prefixState(nil), true
	for _, c := range salt {
		at = at.add(c)
	}
	for i, id := range prompt {
		at = at.add(id)
		if (i+1)%s.config.BlockSize != 0 {
			continue
		}
		if hit = hit && s.blocks[at] && i+1 < len(prompt); hit {
			cached = i + 1
		}
		s.blocks[at] = true
	}
	return cached
}

type logprob struct {
	Token   string    `json:"token"`
	Logprob float64   `json:"logprob"`
	Top     []logprob `json:"top_logprobs,omitempty"`
}

// wire is the answer as either API writes it.
func (a *answer) wire(q *request, s *Server, generate bool) []byte {
	m := &s.config.Model
	choice := map[string]any{"index": 0, "token_ids": a.ids, "finish_reason": a.finish, "stop_reason": json.RawMessage(a.stop)}
	if !generate {
		choice["text"] = m.Text(a.ids)
	}
	if q.PromptLogprobs != nil {
		choice["prompt_logprobs"] = s.read(q.Prompt, *q.PromptLogprobs)
	}
	if q.Logprobs > 0 {
		choice["logprobs"] = a.logprobs(s, q.Logprobs, generate)
	}
	b, err := json.Marshal(map[string]any{"id": "fake", "choices": []any{choice}, "usage": map[string]any{
		"prompt_tokens": len(q.Prompt), "completion_tokens": len(a.ids), "total_tokens": len(q.Prompt) + len(a.ids),
		"prompt_tokens_details": map[string]any{"cached_tokens": a.cached}}})
	if err != nil {
		panic(err) // numbers and strings
	}
	return b
}

func (a *answer) logprobs(s *Server, n int, generate bool) any {
	m := &s.config.Model
	var content []logprob
	var tops []map[string]float64
	for i, id := range a.ids {
		own, top := logprob{Token: tokenName(id)}, map[string]float64{}
		for rank := range n {
			other, p := m.ranked(a.states[i], m.next(a.states[i], a.seed), rank)
			if p = s.score(a.states[i], p); rank > 0 && slices.Contains(s.config.Modes, Drifting) {
				p -= float64(a.cached) / (1 << 20)
			}
			own.Top = append(own.Top, logprob{Token: tokenName(other), Logprob: p})
			top[tokenName(other)] = p
		}
		own.Logprob = own.Top[0].Logprob
		content, tops = append(content, own), append(tops, top)
	}
	if generate {
		return map[string]any{"content": content}
	}
	return map[string]any{"top_logprobs": tops}
}

func tokenName(id int32) string { return "token_id:" + strconv.Itoa(int(id)) }

// read gives, for each position, the n most probable ids and the one that is there.
func (s *Server) read(prompt []int32, n int) []map[string]any {
	m := &s.config.Model
	out := make([]map[string]any, 0, len(prompt))
	at := prefixState(nil)
	for i, id := range prompt {
		best := m.next(at, 0)
		all := map[string]any{}
		for rank := range m.size() {
			other, p := m.ranked(at, best, rank)
			if rank < n || other == id {
				all[strconv.Itoa(int(other))] = map[string]any{"logprob": s.score(at, p), "rank": rank + 1, "decoded_token": m.Text([]int32{other})}
			}
		}
		if i == 0 {
			all = nil // of the first token nothing is predicted
		}
		out, at = append(out, all), at.add(id)
	}
	return out
}

func (s *Server) tokenize(w http.ResponseWriter, r *http.Request) {
	var q struct {
		Prompt   string `json:"prompt"`
		Messages []struct {
			Content string `json:"content"`
		} `json:"messages"`
	}
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		fail(w, http.StatusBadRequest, badRequest, "%v", err)
		return
	}
	for _, m := range q.Messages {
		q.Prompt += m.Content
	}
	ids := s.config.Model.Tokens(q.Prompt)
	b, err := json.Marshal(map[string]any{"count": len(ids), "max_model_len": s.config.MaxModelLen, "tokens": append([]int32{}, ids...)})
	if err != nil {
		panic(err) // numbers
	}
	s.send(w, r, b, Fault{})
}

// chat answers as a judge whose verdict is a hash of the question: in JSON with all
// that tokenfork's own schemas ask for.
func (s *Server) chat(w http.ResponseWriter, r *http.Request) {
	var q struct {
		Messages []struct {
			Content string `json:"content"`
		} `json:"messages"`
	}
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil || len(q.Messages) == 0 {
		fail(w, http.StatusBadRequest, badRequest, "no messages: %v", err)
		return
	}
	s.running.Add(1)
	defer s.running.Add(-1)
	question := q.Messages[len(q.Messages)-1].Content
	at := prefixState(nil)
	for _, c := range []byte(question) {
		at = at.add(int32(c))
	}
	f := s.cuedChat(s.asked.Add(1) - 1)
	if !s.works(w, r, f) {
		return
	}
	verdict := mixed(uint64(at)^s.config.Model.Seed)%2 == 0
	content := fmt.Sprintf(`{"explanation":"%x","key_differences":[],"meaning_match":%t,"divergent":%t,"confidence":0.5}`, uint64(at), verdict, !verdict)
	s.prompt.Add(int64(len(question)))
	s.generated.Add(1)
	s.answered.Add(1)
	s.send(w, r, fmt.Appendf(nil, `{"id":"fake","object":"chat.completion","model":%q,"choices":[{"index":0,"message":{"role":"assistant","content":%q},"finish_reason":"stop"}],"usage":{"prompt_tokens":%d,"completion_tokens":1,"total_tokens":%d}}`,
		s.config.Name, content, len(question), len(question)+1), f)
}
