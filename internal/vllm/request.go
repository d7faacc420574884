package vllm

import (
	"encoding/json"
	"errors"
	"strconv"
)

// API is the endpoint that completions are asked at.
type API int

const (
	// Completions is /v1/completions, which every vLLM server has. It sends the
	// prompt's ids back.
	Completions API = iota
	// Generate is /inference/v1/generate: token ids in, token ids out, no
	// text made. Client.Check finds out if it is there.
	Generate
)

func (a API) path() string {
	if a == Generate {
		return "/inference/v1/generate"
	}
	return "/v1/completions"
}

// Sampling says how tokens are chosen. The zero value is greedy. All that it
// does not hold is stated in every request too: no penalties.
type Sampling struct {
	Temperature float64
	TopP        float64 // 0: off
	Seed        int64   // sent when Temperature > 0
}

// CompletionRequest asks for the continuation of a prompt.
type CompletionRequest struct {
	Prompt    Prompt
	MaxTokens int // at least 1
	// StopTokenIDs end a continuation and are kept in it. Nothing else ends it:
	// what the server itself takes for an EOS, its tokenizer's for instance,
	// may be none of the planned model's.
	StopTokenIDs *Sequence
	Sampling     Sampling
	Margins      bool // ask for Completion.Gaps
	// CacheSalt keeps the prefix cache of requests with it apart from all others'; "" shares one.
	CacheSalt string
}

func (r *CompletionRequest) check() error {
	if r.Prompt.Len() == 0 {
		return errors.New("completion request with an empty prompt")
	}
	if r.MaxTokens < 1 {
		return errors.New("completion request for no token: MaxTokens must be at least 1")
	}
	return nil
}

// A token takes no more bytes than these in an answer: its id in a list, and the token
// with its text in each of several forms, and its logprob.
const (
	idBytes    = 16
	tokenBytes = 2 << 10
)

// answerBound is more bytes than an answer takes: the prompt's ids, and what is
// said of each generated token and of the likeliest ones in its place.
func (r *CompletionRequest) answerBound() int64 {
	said := int64(1)
	if r.Margins {
		said += 1 + margins
	}
	return 64<<10 + int64(r.Prompt.Len())*idBytes + int64(r.MaxTokens)*said*tokenBytes
}

// margins is how many of the likeliest tokens a margin is found from.
const margins = 2

func (r *CompletionRequest) appendWire(b []byte, api API, model string) []byte {
	b = append(b, `{"model":`...)
	b = append(b, quoteJSON(model)...)
	if api == Generate {
		b = append(b, `,"token_ids":`...)
		b = r.Prompt.appendWire(b)
		b = append(b, `,"sampling_params":{"detokenize":false`...)
		b = r.appendSampling(b)
		b = append(b, '}')
		b = r.appendSalt(b)
		return append(b, `,"stream":false}`...)
	}
	b = append(b, `,"prompt":`...)
	b = r.Prompt.appendWire(b)
	b = r.appendSampling(b)
	b = append(b, `,"include_stop_str_in_output":true,"skip_special_tokens":false,"return_token_ids":true`...)
	if r.Margins {
		b = append(b, `,"return_tokens_as_token_ids":true`...) // else equal texts of two ids are one key
	}
	b = r.appendSalt(b)
	return append(b, `,"echo":false,"stream":false}`...)
}

func (r *CompletionRequest) appendSalt(b []byte) []byte {
	if r.CacheSalt == "" {
		return b
	}
	b = append(b, `,"cache_salt":`...)
	return append(b, quoteJSON(r.CacheSalt)...)
}

// appendSampling states every parameter: a server may have other defaults.
func (r *CompletionRequest) appendSampling(b []byte) []byte {
	s := r.Sampling
	if s.TopP == 0 {
		s.TopP = 1
	}
	b = append(b, `,"max_tokens":`...)
	b = strconv.AppendInt(b, int64(r.MaxTokens), 10)
	b = appendFloat(b, `,"temperature":`, s.Temperature)
	b = appendFloat(b, `,"top_p":`, s.TopP)
	b = append(b, `,"top_k":-1,"min_p":0,"repetition_penalty":1,"presence_penalty":0,"frequency_penalty":0,"n":1,"min_tokens":0,"ignore_eos":true,"stop_token_ids":`...)
	b = append(b, '[')
	if r.StopTokenIDs != nil {
		b = append(b, r.StopTokenIDs.wire...)
	}
	b = append(b, ']')
	if s.Temperature > 0 {
		b = append(b, `,"seed":`...)
		b = strconv.AppendInt(b, s.Seed, 10)
	}
	if r.Margins {
		b = append(b, `,"logprobs":`...)
		b = strconv.AppendInt(b, margins, 10)
	}
	return b
}

func quoteJSON(s string) []byte {
	b, _ := json.Marshal(s) // a string always marshals
	return b
}

func appendFloat(b []byte, key string, f float64) []byte {
	b = append(b, key...)
	return strconv.AppendFloat(b, f, 'g', -1, 64)
}
