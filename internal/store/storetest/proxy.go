package storetest

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// Proxy is the way to the S3 server. It passes requests on, but for those that
// a Fault strikes.
type Proxy struct {
	backend http.RoundTripper

	URL    string // the endpoint
	Bucket string
	Folder string // where the server keeps the bucket's objects as files

	mu         sync.Mutex
	faults     []*Fault
	operations []Operation
}

// Operation is a request as IAM sees it: the right that it needs, and its key,
// or the prefix of a listing.
type Operation struct {
	Action string `json:"action"`
	Key    string `json:"key"`
}

// Fault is what happens to requests. Fields combine where that makes sense.
type Fault struct {
	Match func(*http.Request) bool // nil: every request
	Times int                      // strikes so many requests; 0: all

	Delay        time.Duration // before the request is passed on
	Status       int           // answered at once, with Code as the S3 error code; nothing is passed on
	Code         string
	CutRequestAt int64 // the connection breaks after so many bytes of the request's body, 0: not
	CutReplyAt   int64 // the connection breaks after so many bytes of the reply's body, 0: not, -1: before the first
	LoseReply    bool  // the request is carried out, then the connection breaks
	Hang         bool  // the reply never comes; with CutReplyAt, its rest never comes
	Unguard      bool  // If-None-Match is ignored

	hits int
}

// Inject adds a fault; the first one that matches strikes. The function
// returned says how many requests it has struck.
func (p *Proxy) Inject(f Fault) (hits func() int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, &f)
	return func() int {
		p.mu.Lock()
		defer p.mu.Unlock()
		return f.hits
	}
}

// Operations are all requests so far.
func (p *Proxy) Operations() []Operation {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.operations)
}

func (p *Proxy) operation(r *http.Request) Operation {
	q := r.URL.Query()
	key := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/"+p.Bucket), "/")
	read := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch {
	case key == "" && q.Has("uploads"):
		return Operation{"s3:ListBucketMultipartUploads", ""}
	case key == "" && read:
		return Operation{"s3:ListBucket", q.Get("prefix")}
	case read && q.Has("uploadId"):
		return Operation{"s3:ListMultipartUploadParts", key}
	case read:
		return Operation{"s3:GetObject", key}
	case r.Method == http.MethodDelete && q.Has("uploadId"):
		return Operation{"s3:AbortMultipartUpload", key}
	case r.Method == http.MethodDelete:
		return Operation{"s3:DeleteObject", key}
	}
	return Operation{"s3:PutObject", key}
}

// Heal removes all faults.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = nil
}

// Method matches requests by method and by a query parameter's presence;
// an empty parameter stands for a request with none of S3's multipart ones.
func Method(method, parameter string) func(*http.Request) bool {
	return func(r *http.Request) bool {
		q := r.URL.Query()
		multipart := q.Has("uploads") || q.Has("uploadId")
		return r.Method == method && (q.Has(parameter) || parameter == "" && !multipart)
	}
}

func (p *Proxy) strike(r *http.Request) Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.faults {
		if (f.Match == nil || f.Match(r)) && (f.Times == 0 || f.hits < f.Times) {
			f.hits++
			return *f
		}
	}
	return Fault{}
}

func (p *Proxy) start(t testing.TB, backend http.RoundTripper) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.operations = append(p.operations, p.operation(r))
		p.mu.Unlock()
		p.serve(w, r, p.strike(r), backend)
	}))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	p.URL = server.URL
}

func (p *Proxy) serve(w http.ResponseWriter, r *http.Request, f Fault, backend http.RoundTripper) {
	time.Sleep(f.Delay)
	if f.Status != 0 {
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(f.Status)
		fmt.Fprintf(w, "<Error><Code>%s</Code><Message>injected</Message></Error>", f.Code)
		return
	}
	if f.CutRequestAt > 0 {
		r.Body = cutAt(r.Body, f.CutRequestAt, func() {})
	}
	hang := func() {
		if f.Hang {
			<-r.Context().Done()
		}
	}
	(&httputil.ReverseProxy{
		Transport: backend,
		Rewrite:   func(pr *httputil.ProxyRequest) { rewrite(pr, f) },
		ModifyResponse: func(reply *http.Response) error {
			switch {
			case f.CutReplyAt != 0:
				reply.Body = cutAt(reply.Body, max(0, f.CutReplyAt), hang)
			case f.LoseReply || f.Hang:
				hang()
				return errCut
			}
			return nil
		},
		ErrorHandler:  func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
		ErrorLog:      log.New(io.Discard, "", 0),
		FlushInterval: -1,
	}).ServeHTTP(w, r)
}

func rewrite(pr *httputil.ProxyRequest, f Fault) {
	pr.Out.URL.Scheme, pr.Out.URL.Host = "http", "s3"
	pr.Out.Host = pr.In.Host // it is signed
	if !f.Unguard || pr.In.Header.Get("If-None-Match") == "" {
		return
	}
	pr.Out.Header.Del("If-None-Match")
	sum := pr.In.Header.Get("X-Amz-Content-Sha256")
	creds := aws.Credentials{AccessKeyID: accessKey, SecretAccessKey: secretKey}
	err := v4.NewSigner().SignHTTP(pr.Out.Context(), creds, pr.Out, sum, "s3", region, time.Now(), func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
	if err != nil {
		panic(err)
	}
}

var errCut = errors.New("cut by the proxy")

// cutAt lets n bytes of body through, waits for then and fails.
func cutAt(body io.ReadCloser, n int64, then func()) io.ReadCloser {
	return &cutBody{ReadCloser: body, left: n, then: then}
}

type cutBody struct {
	io.ReadCloser
	left int64
	then func()
}

func (c *cutBody) Read(p []byte) (int, error) {
	if c.left == 0 {
		c.then()
		return 0, errCut
	}
	n, err := c.ReadCloser.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}
