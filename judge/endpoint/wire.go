package endpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// wire stands between go-openai and the server. It adds members to the JSON
// body of a request: go-openai leaves out a temperature of 0, which the server
// would take for its own default, and has no fields for other servers'
// parameters. And it keeps the answer for us to read: go-openai refuses one
// whose unused members have other types than OpenAI's.
type wire struct {
	http   *http.Client
	query  url.Values
	header http.Header
}

// exchange is a request that goes through the wire, and its answer.
type exchange struct {
	members []byte // JSON without braces, for the request's body
	most    int64  // bytes that are read of the answer
	status  int
	header  http.Header
	body    []byte
}

type exchangeKey struct{}

func withExchange(ctx context.Context, x *exchange) context.Context {
	return context.WithValue(ctx, exchangeKey{}, x)
}

// errTooLong is an answer that no question asks for.
var errTooLong = errors.New("the answer is too long")

// maxReply bounds what is read of answers whose length no request bounds.
const maxReply = 64 << 20

func (w *wire) Do(req *http.Request) (*http.Response, error) {
	x, _ := req.Context().Value(exchangeKey{}).(*exchange)
	w.address(req)
	if x != nil && len(x.members) > 0 && req.Body != nil {
		if err := addMembers(req, x.members); err != nil {
			return nil, err
		}
	}
	resp, err := w.http.Do(req)
	if err != nil {
		if named, ok := errors.AsType[*url.Error](err); ok { // with the whole URL
			err = named.Err
		}
		return nil, err
	}
	if x == nil {
		if !strings.HasSuffix(req.URL.Path, "/content") { // a batch's answers are long
			resp.Body = struct {
				io.Reader
				io.Closer
			}{io.LimitReader(resp.Body, maxReply), resp.Body}
		}
		return resp, nil
	}
	defer resp.Body.Close()
	if x.body, err = io.ReadAll(io.LimitReader(resp.Body, x.most+1)); err != nil {
		return nil, err
	}
	if int64(len(x.body)) > x.most {
		return nil, fmt.Errorf("%w: more than %d bytes", errTooLong, x.most)
	}
	x.status, x.header = resp.StatusCode, resp.Header
	return &http.Response{StatusCode: http.StatusOK, Header: resp.Header, Body: io.NopCloser(strings.NewReader("{}"))}, nil
}

// address adds the user's query and headers.
func (w *wire) address(req *http.Request) {
	if len(w.query) > 0 {
		q := req.URL.Query()
		for name, values := range w.query {
			q[name] = values
		}
		req.URL.RawQuery = q.Encode()
	}
	for name := range w.header {
		req.Header.Set(name, w.header.Get(name))
	}
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
	if bytes.Contains(members, []byte(`"stream":true`)) { // go-openai always writes the other
		object = bytes.Replace(object, []byte(`,"stream":false`), nil, 1)
	}
	return bytes.Join([][]byte{[]byte("{"), members, []byte(","), object[1:]}, nil), nil
}
