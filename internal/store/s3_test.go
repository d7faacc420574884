package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"

	"tokenfork/internal/failure"
	"tokenfork/internal/store/storetest"
)

const bigSize = 33 << 20 // three parts

func random(seed byte, size int) []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// openFaulty is a store on a real server, through the proxy that breaks things.
func openFaulty(t *testing.T, o Options) (*s3Store, *storetest.Proxy) {
	t.Helper()
	p := storetest.StartS3(t)
	o.S3Endpoint, o.S3PathStyle = p.URL, true
	return open(t, "s3://"+p.Bucket+"/job", o).(*s3Store), p
}

var (
	put      = storetest.Method(http.MethodPut, "")
	get      = storetest.Method(http.MethodGet, "")
	list     = storetest.Method(http.MethodGet, "list-type")
	part     = storetest.Method(http.MethodPut, "partNumber")
	begin    = storetest.Method(http.MethodPost, "uploads")
	complete = storetest.Method(http.MethodPost, "uploadId")
)

// TestPassingFaults: trouble that passes is waited out, and no promise is broken by it.
func TestPassingFaults(t *testing.T) {
	server := storetest.StartS3(t)
	for name, f := range map[string]storetest.Fault{
		"slow down":           {Status: 503, Code: "SlowDown", Times: 2},
		"internal error":      {Status: 500, Code: "InternalError", Times: 3},
		"bad gateway":         {Status: 502, Times: 3},
		"too many requests":   {Status: 429, Times: 2},
		"request timeout":     {Status: 400, Code: "RequestTimeout", Times: 2},
		"clock skew":          {Status: 403, Code: "RequestTimeTooSkewed", Times: 2},
		"delay":               {Delay: 50 * time.Millisecond},
		"no answer":           {Hang: true, Times: 1},
		"lost reply":          {LoseReply: true, Times: 2},
		"cut request":         {CutRequestAt: 1000, Times: 2},
		"cut reply":           {CutReplyAt: 20, Times: 2},
		"cut part":            {Match: part, CutRequestAt: 5 << 20, Times: 2},
		"slow part":           {Match: part, Status: 503, Code: "SlowDown", Times: 2},
		"silent part":         {Match: part, Hang: true, Times: 1},
		"lost begin":          {Match: begin, LoseReply: true, Times: 1},
		"lost completion":     {Match: complete, LoseReply: true, Times: 2},
		"conflict":            {Match: put, Status: 409, Code: "ConditionalRequestConflict", Times: 2},
		"conflict at the end": {Match: complete, Status: 409, Code: "ConditionalRequestConflict", Times: 1},
		"vanished upload":     {Match: complete, Status: 404, Code: "NoSuchUpload", Times: 1},
		"cut listing":         {Match: list, CutReplyAt: 200, Times: 2},
		"silent body":         {Match: get, CutReplyAt: 5 << 20, Hang: true, Times: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // they wait, for what passes
			proxy := server.Again(t)
			s := open(t, "s3://"+proxy.Bucket+"/job", Options{S3Endpoint: proxy.URL, S3PathStyle: true, stall: 2 * time.Second}).(*s3Store)
			// Every kind of request meets the fault: it is injected anew before each step.
			dir, total := strings.ReplaceAll(name, " ", "-"), 0
			step := func(do func() error) {
				t.Helper()
				hits := proxy.Inject(f)
				must(t, do())
				total += hits()
				proxy.Heal()
			}
			small, big := random(1, 100_000), random(2, bigSize)
			step(func() error { return CreateBytes(t.Context(), s, dir+"/small", small) })
			step(func() error { return CreateBytes(t.Context(), s, dir+"/big", big) })
			step(func() error { return ReplaceBytes(t.Context(), s, dir+"/big", big) })
			step(func() error { wantContent(t, s, dir+"/small", string(small)); return nil })
			sum := sha256.Sum256(big)
			step(func() error { wantSum(t, s, dir+"/big", bigSize, sum[:]); return nil })
			step(func() error { wantKeys(t, s, dir+"/", dir+"/big", dir+"/small"); return nil })
			step(func() error {
				if err := CreateBytes(t.Context(), s, dir+"/small", small); !errors.Is(err, fs.ErrExist) {
					return fmt.Errorf("second create: %v, want ErrExist", err)
				}
				return nil
			})
			step(func() error { return s.Remove(t.Context(), dir+"/small") })
			if total == 0 {
				t.Error("the fault struck no request")
			}
			wantNoUploads(t, s, dir+"/", slices.Contains([]string{"lost begin", "no answer", "lost reply", "cut reply"}, name))
		})
	}
}

// wantNoUploads checks that no parts lie about under a prefix; a begun upload whose id was
// lost is the one thing that only the bucket's lifecycle can clean up.
func wantNoUploads(t *testing.T, s *s3Store, prefix string, lost bool) {
	t.Helper()
	out, err := s.client.ListMultipartUploads(t.Context(), &s3.ListMultipartUploadsInput{Bucket: &s.bucket})
	must(t, err)
	n := 0
	for _, u := range out.Uploads {
		if strings.HasPrefix(*u.Key, s.full(prefix)) {
			n++
			must(t, s.abort(t.Context(), *u.Key, u.UploadId))
		}
	}
	if n > 0 != lost {
		t.Errorf("%d unfinished uploads", n)
	}
}

func TestTruncatedBodyIsResumed(t *testing.T) {
	s, proxy := openFaulty(t, Options{})
	content := random(3, 8<<20)
	must(t, CreateBytes(t.Context(), s, "part", content))
	ranges := make(chan string, 10)
	hits := proxy.Inject(storetest.Fault{CutReplyAt: 1 << 20, Times: 5, Match: func(r *http.Request) bool {
		if r.Method == http.MethodGet {
			ranges <- r.Header.Get("Range")
		}
		return get(r)
	}})
	sum := sha256.Sum256(content)
	wantSum(t, s, "part", int64(len(content)), sum[:])
	close(ranges)
	var got []string
	for r := range ranges {
		got = append(got, r)
	}
	if hits() != 5 || len(got) != 6 || got[0] != "" || !strings.HasPrefix(got[5], "bytes=") {
		t.Errorf("%d cuts, ranges asked for: %q", hits(), got)
	}
}

func TestBodyReplacedWhileRead(t *testing.T) {
	s, proxy := openFaulty(t, Options{})
	must(t, CreateBytes(t.Context(), s, "part", random(4, 1<<20)))
	proxy.Inject(storetest.Fault{Match: get, CutReplyAt: 1000, Times: 1})
	r, err := s.Open(t.Context(), "part")
	must(t, err)
	defer r.Close()
	must(t, ReplaceBytes(t.Context(), s, "part", random(5, 1<<20)))
	if _, err := io.Copy(io.Discard, r); err == nil || !strings.Contains(err.Error(), "replaced while") {
		t.Errorf("read on with %v", err)
	}
}

// TestLostReplyOfTheLoser: the key is another's although our own request also got no answer.
func TestLostReplyOfTheLoser(t *testing.T) {
	s, proxy := openFaulty(t, Options{})
	for _, size := range []int{10, bigSize} {
		key := fmt.Sprint("claim", size)
		must(t, CreateBytes(t.Context(), s, key, []byte("theirs")))
		proxy.Inject(storetest.Fault{Match: put, LoseReply: true, Times: 2})
		proxy.Inject(storetest.Fault{Match: complete, LoseReply: true, Times: 2})
		if err := CreateBytes(t.Context(), s, key, random(6, size)); !errors.Is(err, fs.ErrExist) {
			t.Errorf("create: %v, want ErrExist", err)
		}
		proxy.Heal()
		wantContent(t, s, key, "theirs")
	}
}

// TestLastingFaults: what does not pass is said at once, with the way out.
func TestLastingFaults(t *testing.T) {
	s, proxy := openFaulty(t, Options{})
	must(t, CreateBytes(t.Context(), s, "there", []byte("x")))
	for _, test := range []struct {
		code     string
		status   int
		exit     int
		message  string
		hintWord string
	}{
		{"ExpiredToken", 400, failure.Stopped, "AWS credentials expired", "refresh"},
		{"AccessDenied", 403, failure.Other, "s3:PutObject on s3://bucket/job/new is denied", "s3:PutObject"},
		{"InvalidAccessKeyId", 403, failure.Other, "is denied", "other credentials"},
		{"QuotaExceeded", 403, failure.Other, "the bucket is full", "make room"},
		{"NoSuchBucket", 404, failure.Other, "there is no bucket bucket", "create it"},
		{"PermanentRedirect", 301, failure.Usage, "s3:PutObject on", "AWS_REGION"},
		{"NotImplemented", 501, failure.Refused, ErrNoExclusive.Error(), "--single-writer"},
		{"If-None-MatchNotSupported", 400, failure.Refused, ErrNoExclusive.Error(), "--single-writer"},
		{"InvalidRequest", 400, failure.Other, "InvalidRequest", ""},
	} {
		for _, size := range []int{10, bigSize} {
			hits := proxy.Inject(storetest.Fault{Match: func(r *http.Request) bool { return put(r) || begin(r) }, Status: test.status, Code: test.code})
			err := CreateBytes(t.Context(), s, "new", random(7, size))
			if err == nil || !strings.Contains(err.Error(), test.message) || failure.Code(err) != test.exit || !strings.Contains(failure.Hint(err), test.hintWord) {
				t.Errorf("%s: error %v, exit %d, hint %q", test.code, err, failure.Code(err), failure.Hint(err))
			}
			if hits() != 1 {
				t.Errorf("%s: tried %d times", test.code, hits())
			}
			proxy.Heal()
		}
		proxy.Inject(storetest.Fault{Status: test.status, Code: test.code})
		if _, err := s.Open(t.Context(), "there"); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: open: %v", test.code, err)
		}
		proxy.Heal()
	}
	wantKeys(t, s, "", "there")
}

func TestFailedUploadDropsItsParts(t *testing.T) {
	s, proxy := openFaulty(t, Options{})
	proxy.Inject(storetest.Fault{Match: func(r *http.Request) bool { return r.URL.Query().Get("partNumber") == "2" }, Status: 403, Code: "AccessDenied"})
	if err := CreateBytes(t.Context(), s, "big", make([]byte, bigSize)); err == nil {
		t.Error("create succeeded without its second part")
	}
	proxy.Heal()
	ctx, cancel := context.WithCancel(t.Context())
	proxy.Inject(storetest.Fault{Times: 1, Match: func(r *http.Request) bool {
		if part(r) {
			cancel()
		}
		return part(r)
	}, Delay: 100 * time.Millisecond})
	if err := CreateBytes(ctx, s, "big", make([]byte, bigSize)); !errors.Is(err, context.Canceled) {
		t.Errorf("create: %v, want context.Canceled", err)
	}
	wantKeys(t, s, "")
	wantNoUploads(t, s, "big", false)
}

func TestOtherServerErrors(t *testing.T) {
	s, proxy := openFaulty(t, Options{RetryFor: time.Second})
	o := s3Options(proxy)
	if _, err := ReadAll(t.Context(), open(t, "s3://nobucket/job", o), "key"); failure.Code(err) != failure.Other || !strings.Contains(err.Error(), "no bucket nobucket") {
		t.Errorf("missing bucket: %v", err)
	}
	for i, op := range []func() error{
		func() error { return CreateBytes(t.Context(), s, "new", nil) },
		func() error { _, err := s.Open(t.Context(), "new"); return err },
		func() error { return s.Remove(t.Context(), "new") },
	} {
		hits := proxy.Inject(storetest.Fault{Status: 500, Code: "InternalError"})
		if err := op(); failure.Code(err) != failure.Stopped || !strings.Contains(err.Error(), "gave up after") || strings.Contains(err.Error(), "\n") || hits() < 2 {
			t.Errorf("operation %d against a server that is down: %v after %d tries", i, err, hits())
		}
		proxy.Heal()
	}
	must(t, CreateBytes(t.Context(), s, "part", random(8, 1<<20)))
	for _, rest := range []storetest.Fault{{Status: 503}, {CutReplyAt: -1}} {
		proxy.Inject(storetest.Fault{Match: get, CutReplyAt: 1000, Times: 1})
		proxy.Inject(rest)
		if _, err := ReadAll(t.Context(), s, "part"); failure.Code(err) != failure.Stopped || !strings.Contains(err.Error(), "gave up after") {
			t.Errorf("body never resumed: %v", err)
		}
		proxy.Heal()
	}

	proxy.Inject(storetest.Fault{Status: 403, Code: "RequestTimeTooSkewed"})
	if err := CreateBytes(t.Context(), s, "new", nil); failure.Code(err) != failure.Other || !strings.Contains(err.Error(), "host clock is") {
		t.Errorf("skewed clock: %v", err)
	}
	proxy.Heal()
	plain := o
	plain.S3Endpoint = strings.Replace(proxy.URL, "http:", "https:", 1)
	if err := CreateBytes(t.Context(), open(t, "s3://bucket/job", plain), "new", nil); !strings.Contains(failure.Hint(err), "endpoint") {
		t.Errorf("wrong scheme: %v", err)
	}

	t.Setenv("AWS_SECRET_ACCESS_KEY", "wrong")
	if err := CreateBytes(t.Context(), open(t, "s3://bucket/job", o), "new", nil); !strings.Contains(fmt.Sprint(err), "SignatureDoesNotMatch") {
		t.Errorf("wrong secret: %v", err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	if err := CreateBytes(t.Context(), open(t, "s3://bucket/job", o), "new", nil); failure.Code(err) != failure.Stopped || !strings.Contains(failure.Hint(err), "log in") {
		t.Errorf("no credentials: %v, hint %q", err, failure.Hint(err))
	}
	t.Setenv("AWS_REGION", "")
	if _, err := Open(t.Context(), "s3://bucket", Options{}); failure.Code(err) != failure.Usage || !strings.Contains(err.Error(), "region") {
		t.Errorf("no region: %v", err)
	}
}

func TestProbeRefusesAnOverwritingServer(t *testing.T) {
	s, proxy := openFaulty(t, Options{})
	hits := proxy.Inject(storetest.Fault{Match: put, Unguard: true})
	err := Probe(t.Context(), s)
	if failure.Code(err) != failure.Refused || !strings.Contains(err.Error(), "this endpoint overwrote a guarded key") || failure.Hint(err) == "" || hits() != 2 {
		t.Errorf("probe: %v, hint %q, %d writes", err, failure.Hint(err), hits())
	}
	wantKeys(t, s, "")
	s.o.SingleWriter = true
	must(t, Probe(t.Context(), s))
}

// TestWhatGoesOverTheWire: guards, no checksum that other servers refuse, and a signed payload.
func TestWhatGoesOverTheWire(t *testing.T) {
	s, proxy := openFaulty(t, Options{})
	seen := map[string]http.Header{}
	proxy.Inject(storetest.Fault{Match: func(r *http.Request) bool {
		seen[fmt.Sprintf("%s %t", r.Method, r.URL.Query().Has("uploadId"))] = r.Header.Clone()
		return false
	}})
	content := random(9, bigSize)
	must(t, CreateBytes(t.Context(), s, "big", content))
	must(t, CreateBytes(t.Context(), s, "small", []byte("x")))
	if seen["PUT false"].Get("If-None-Match") != "*" || seen["POST true"].Get("If-None-Match") != "*" || seen["PUT true"].Get("If-None-Match") != "" {
		t.Error("the guard is not on PutObject and CompleteMultipartUpload")
	}
	if got, want := seen["PUT false"].Get("X-Amz-Content-Sha256"), fmt.Sprintf("%x", sha256.Sum256([]byte("x"))); got != want {
		t.Errorf("payload signed as %q, want %q", got, want)
	}
	for request, header := range seen {
		for name := range header {
			if strings.Contains(strings.ToLower(name), "checksum") {
				t.Errorf("%s carries %s", request, name)
			}
		}
	}
	clear(seen)
	must(t, ReplaceBytes(t.Context(), s, "small", nil))
	if h, ok := seen["PUT false"]; !ok || h.Get("If-None-Match") != "" {
		t.Errorf("replace is guarded or unseen: %v", h)
	}
}

// TestRewrittenEncoding: front ends that rewrite Accept-Encoding, as Google's does, break a
// signature over it. The proxy is FAKE: it refuses such signatures.
func TestRewrittenEncoding(t *testing.T) {
	s, proxy := openFaulty(t, Options{})
	encodings := map[string]bool{}
	proxy.Inject(storetest.Fault{Status: http.StatusForbidden, Code: "SignatureDoesNotMatch", Match: func(r *http.Request) bool {
		encodings[r.Header.Get("Accept-Encoding")] = true
		return strings.Contains(r.Header.Get("Authorization"), "accept-encoding")
	}})
	must(t, Probe(t.Context(), s))
	content := random(9, bigSize)
	must(t, CreateBytes(t.Context(), s, "big", content))
	if got, err := ReadAll(t.Context(), s, "big"); err != nil || !bytes.Equal(got, content) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
	wantKeys(t, s, "", "big")
	if len(encodings) != 1 || !encodings["identity"] {
		t.Errorf("Accept-Encoding is %v, want identity: an answer must come as it is stored", slices.Collect(maps.Keys(encodings)))
	}
}

// TestStalls: silence ends a connection; a slow upload does not, though nothing is read meanwhile.
func TestStalls(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.CopyN(c, c, 1)
				_, _ = io.CopyN(io.Discard, c, 12)
				_, _ = c.Write([]byte("!"))
				_, _ = io.Copy(io.Discard, c)
			}()
		}
	}()
	c, err := watchStalls(new(net.Dialer).DialContext, 2*time.Second)(t.Context(), "tcp", l.Addr().String())
	must(t, err)
	defer c.Close()
	reply := make(chan error, 1)
	go func() {
		_, err := io.ReadFull(c, make([]byte, 2))
		reply <- err
	}()
	for range 13 {
		_, err := c.Write([]byte("x"))
		must(t, err)
		time.Sleep(250 * time.Millisecond)
	}
	must(t, <-reply)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read from a silent connection: %v, want a deadline", err)
	}
}

func TestRetriesAreTold(t *testing.T) {
	var out bytes.Buffer
	r := newRetryer(Options{Logger: slog.New(slog.NewTextHandler(&out, nil))})
	for range 11 {
		r.tell(io.ErrUnexpectedEOF)
	}
	if out.Len() > 0 {
		t.Errorf("a hiccup is logged: %s", &out)
	}
	r.first = r.first.Add(-10 * time.Second)
	r.tell(io.ErrUnexpectedEOF)
	r.tell(io.ErrUnexpectedEOF)
	if got := out.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "S3 slow: 12 retries") {
		t.Errorf("logged %q", got)
	}
	r.worded = r.worded.Add(-time.Minute)
	r.tell(io.ErrUnexpectedEOF)
	if got := out.String(); strings.Count(got, "\n") != 2 || !strings.Contains(got, "S3 slow: 2 retries") {
		t.Errorf("logged %q", got)
	}
}

// TestHiddenKeys: who may list a prefix alone may be told 403 of a key that is not there.
func TestHiddenKeys(t *testing.T) {
	s, p := openFaulty(t, Options{})
	must(t, CreateBytes(t.Context(), s, "there", []byte("x")))
	must(t, CreateBytes(t.Context(), s, "missing-not", []byte("x")))
	p.Inject(storetest.Fault{Match: func(r *http.Request) bool { return !r.URL.Query().Has("list-type") && r.Method != http.MethodPut }, Status: 403, Code: "AccessDenied"})
	if _, err := s.Open(t.Context(), "missing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a key that is not there: %v", err)
	}
	if _, err := s.Open(t.Context(), "there"); err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(failure.Hint(err), "s3:GetObject") {
		t.Errorf("a key that may not be read: %v", err)
	}
	for key, want := range map[string]bool{"missing": false, "there": true} {
		attempt, err := s.attemptAt(t.Context(), s.full(key))
		if attempt != nil || (err != nil) != want {
			t.Errorf("who wrote %s: %v, %v", key, attempt, err)
		}
	}
	p.Inject(storetest.Fault{Match: list, Status: 403, Code: "AccessDenied"})
	if _, err := s.Open(t.Context(), "missing"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nobody says that it is not there: %v", err)
	}
}

// TestOperations: what a test of IAM policies reads.
func TestOperations(t *testing.T) {
	s, p := openFaulty(t, Options{})
	must(t, CreateBytes(t.Context(), s, "big", make([]byte, bigSize)))
	wantContent(t, s, "big", string(make([]byte, bigSize)))
	wantKeys(t, s, "b", "big")
	must(t, s.Remove(t.Context(), "big"))
	p.Inject(storetest.Fault{Match: complete, Status: 400, Code: "InvalidPart"})
	if err := CreateBytes(t.Context(), s, "broken", make([]byte, bigSize)); err == nil {
		t.Error("an upload was completed that the server refused")
	}
	got := map[storetest.Operation]int{}
	for _, op := range p.Operations() {
		got[op]++
	}
	want := map[storetest.Operation]int{
		{Action: "s3:PutObject", Key: "job/big"}: 5, {Action: "s3:GetObject", Key: "job/big"}: 1,
		{Action: "s3:ListBucket", Key: "job/b"}: 1, {Action: "s3:DeleteObject", Key: "job/big"}: 1,
		{Action: "s3:PutObject", Key: "job/broken"}: 5, {Action: "s3:AbortMultipartUpload", Key: "job/broken"}: 1,
	}
	if !maps.Equal(got, want) {
		t.Errorf("recorded %v, want %v", got, want)
	}
}
