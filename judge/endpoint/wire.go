package endpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// wire adds members to the JSON body of a request. go-openai leaves out a
// temperature of 0, which the server would take for its own default, and has
// no fields for vLLM's sampling parameters.
type wire struct{ http *http.Client }

type membersKey struct{}

// withMembers carries members, JSON without braces, to the request's body.
func withMembers(ctx context.Context, members []byte) context.Context {
	return context.WithValue(ctx, membersKey{}, members)
}

// maxReply bounds what a broken server can make us hold.
const maxReply = 64 << 20

func (w *wire) Do(req *http.Request) (*http.Response, error) {
	if members, _ := req.Context().Value(membersKey{}).([]byte); len(members) > 0 && req.Body != nil {
		if err := addMembers(req, members); err != nil {
			return nil, err
		}
	}
	resp, err := w.http.Do(req)
	if err != nil || strings.HasSuffix(req.URL.Path, "/content") { // a batch's answers are long
		return resp, err
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, maxReply), resp.Body}
	return resp, nil
}

func addMembers(req *http.Request, members []byte) error {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return fmt.Errorf("read request body: %w", err)
	}
	if body, err = insert(body, members); err != nil {
		return err
	}
	req.ContentLength = int64(len(body))
	req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	req.Body, err = req.GetBody()
	return err
}

// insert puts members first in the object, so that the order of its own stays.
func insert(object, members []byte) ([]byte, error) {
	if !bytes.HasPrefix(object, []byte("{\"")) {
		return nil, errors.New("request body is not an object with members")
	}
	return bytes.Join([][]byte{[]byte("{"), members, []byte(","), object[1:]}, nil), nil
}

// greedyVLLM states what vLLM would otherwise take from the model's
// generation_config.json, a repetition penalty for instance.
const greedyVLLM = `"top_p":1,"top_k":-1,"min_p":0,"repetition_penalty":1,"presence_penalty":0,"frequency_penalty":0`

// members are the request's parts that go-openai can't write, or (max_tokens)
// keeps from models whose servers want the newer name.
func (d dialect) members(r Request) []byte {
	limit := "max_tokens"
	if d.newLimit {
		limit = "max_completion_tokens"
	}
	b := fmt.Appendf(nil, `"%s":%d`, limit, r.MaxTokens)
	if r.Temperature != nil {
		b = fmt.Appendf(b, `,"temperature":%s`, strconv.FormatFloat(*r.Temperature, 'f', -1, 64))
	}
	if d.vllm {
		b = append(b, ","+greedyVLLM...)
	}
	return b
}
