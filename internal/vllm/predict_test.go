package vllm

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestPredict(t *testing.T) {
	const end = `],"logprobs":{"top_logprobs":[{"token_id:9":-0.2,"token_id:3":-1.5}]}}],"usage":{"prompt_tokens":3,"completion_tokens":1}}`
	answer := func(positions string) string {
		return `{"choices":[{"index":0,"token_ids":[9],"finish_reason":"length","prompt_logprobs":[null` + positions + end
	}
	tests := []struct {
		name, body string
		want       []int32
		says       string
	}{
		{"the text's own token and two others", answer(`,{"7":{"logprob":-0.1,"rank":1,"decoded_token":"a"},"6":{"logprob":-3,"rank":2}},{"8":{"logprob":-5,"rank":30},"5":{"logprob":-2,"rank":2},"4":{"logprob":-1,"rank":1}}`), []int32{7, 4, 9}, ""},
		{"too few scores", answer(`,{"7":{"logprob":-0.1,"rank":1}},{"8":{"rank":1}}`), nil, "1 scores at position 1, asked for 2"},
		{"no token of rank 1", answer(`,{"7":{"rank":1},"3":{"rank":2}},{"8":{"rank":30}}`), nil, "position 2 have no token of rank 1"},
		{"two of rank 1", answer(`,{"7":{"rank":1},"6":{"rank":1}},{"8":{"rank":1}}`), nil, "position 1"},
		{"no position", answer(`,null,{"8":{"rank":1}}`), nil, "position 1 have no token"},
		{"too few", answer(`,{"7":{"rank":1}}`), nil, "of a text of 3 tokens"},
		{"a server that gives none", `{"choices":[{"index":0,"token_ids":[9],"finish_reason":"length"}]}`, nil, "of a text of 3 tokens"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, asked := answering(t, 200, tt.body)
			read, err := c.Predict(t.Context(), []int32{1, 2, 3}, 2)
			var got []int32
			if read != nil {
				got = read.Best
				if want := []float64{-0.1, -3, -1, -2, -0.2, -1.5}; !slices.Equal(read.Top, want) {
					t.Errorf("scores %v, want %v", read.Top, want)
				}
				if want := []int32{7, 6, 4, 5, 9, 3}; !slices.Equal(read.TopIDs, want) {
					t.Errorf("tokens %v, want %v", read.TopIDs, want)
				}
			}
			var unfit *AnswerError
			if !slices.Equal(got, tt.want) || tt.says != "" && (!errors.As(err, &unfit) || !strings.Contains(unfit.Reason, tt.says)) {
				t.Errorf("got %v, %v", got, err)
			}
			if body := asked.String(); !strings.Contains(body, `"prompt":[1,2,3],"max_tokens":1,"temperature":0`) || !strings.HasSuffix(body, `"stream":false,"return_tokens_as_token_ids":true,"logprobs":2,"prompt_logprobs":2}`) {
				t.Errorf("asked %s", body)
			}
		})
	}
}
