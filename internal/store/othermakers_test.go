package store

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"tokenfork/internal/failure"
)

// fakeServer is a fake of an S3 server of one bucket that answers in the ways of other makers.
type fakeServer struct {
	mu      sync.Mutex
	objects map[string]string // by key in the bucket

	put  func(w http.ResponseWriter, guarded, there bool) bool       // answers a PUT that is then not carried out
	get  func(w http.ResponseWriter, r *http.Request, b string) bool // likewise
	list func(keys []string) string                                  // a listing's inner part
}

func (f *fakeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/bucket"), "/")
	content, there := f.objects[key]
	switch {
	case r.URL.Query().Has("list-type"):
		var keys []string
		for k := range f.objects {
			if strings.HasPrefix(k, r.URL.Query().Get("prefix")) {
				keys = append(keys, k)
			}
		}
		fmt.Fprintf(w, "<ListBucketResult><Name>bucket</Name>%s</ListBucketResult>", f.list(keys))
	case r.Method == http.MethodPut:
		b, _ := io.ReadAll(r.Body)
		guarded := r.Header.Get("If-None-Match") != ""
		if f.put != nil && f.put(w, guarded, there) {
			return
		}
		if guarded && there {
			w.WriteHeader(http.StatusPreconditionFailed)
			return
		}
		f.objects[key] = string(b)
	case r.Method == http.MethodDelete:
		delete(f.objects, key)
	case !there:
		w.WriteHeader(http.StatusNotFound)
	case f.get == nil || !f.get(w, r, content):
		fmt.Fprint(w, content)
	}
}

func contents(keys ...string) (b string) {
	for _, k := range keys {
		b += "<Contents><Key>" + k + "</Key><Size>1</Size></Contents>"
	}
	return b
}

// openFake gives a store on the fake.
func openFake(t *testing.T, f *fakeServer) Store {
	f.objects = map[string]string{}
	if f.list == nil {
		f.list = func(keys []string) string { return contents(keys...) }
	}
	srv := httptest.NewServer(f)
	t.Cleanup(srv.Close)
	t.Setenv("AWS_ACCESS_KEY_ID", "id")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	t.Setenv("AWS_REGION", "r")
	s, err := Open(t.Context(), "s3://bucket/a b", Options{S3Endpoint: srv.URL, S3PathStyle: true, TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func answer(status int) func(w http.ResponseWriter, guarded, there bool) bool {
	return func(w http.ResponseWriter, guarded, there bool) bool {
		if guarded && there {
			w.WriteHeader(status)
		}
		return guarded && there
	}
}

// The probe of a place for a job finds a server out whose writes, reads or listings are not S3's.
func TestProbeOfOtherMakers(t *testing.T) {
	page := func(w http.ResponseWriter) bool {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, "<html>please log in</html>")
		return true
	}
	for name, c := range map[string]struct {
		server *fakeServer
		want   string // "": it will do
	}{
		"as S3":           {&fakeServer{}, ""},
		"409 for a key":   {&fakeServer{put: answer(http.StatusConflict)}, ErrNoExclusive.Error()},
		"403 for a key":   {&fakeServer{put: answer(http.StatusForbidden)}, ErrNoExclusive.Error()},
		"405 for a guard": {&fakeServer{put: func(w http.ResponseWriter, guarded, _ bool) bool { return guarded && answer(405)(w, true, true) }}, ErrNoExclusive.Error()},
		"404 for all":     {&fakeServer{put: func(w http.ResponseWriter, _, _ bool) bool { return answer(404)(w, true, true) }}, "no S3 server answers there"},
		"a page for PUT":  {&fakeServer{put: func(w http.ResponseWriter, _, _ bool) bool { return page(w) }}, "a web page came in place of S3's answer"},
		"a page for GET":  {&fakeServer{get: func(w http.ResponseWriter, _ *http.Request, _ string) bool { return page(w) }}, "a web page came in place of S3's answer"},
		"other bytes":     {&fakeServer{get: func(w http.ResponseWriter, _ *http.Request, b string) bool { fmt.Fprint(w, b[1:]); return true }}, "other bytes than were written"},
		"listed by URL": {&fakeServer{list: func(k []string) string {
			return "<EncodingType>url</EncodingType>" + contents(strings.ReplaceAll(k[0], " ", "+"))
		}}, ""},
		"listed encoded":   {&fakeServer{list: func(k []string) string { return contents(strings.ReplaceAll(k[0], " ", "%20")) }}, "was asked for and"},
		"listed later":     {&fakeServer{list: func([]string) string { return "" }}, "the listing lacks a key"},
		"prefix not kept":  {&fakeServer{list: func(k []string) string { return contents("a", k[0]) }}, "was asked for and"},
		"cut without more": {&fakeServer{list: func(k []string) string { return "<IsTruncated>true</IsTruncated>" }}, "it is cut"},
	} {
		err := Probe(t.Context(), openFake(t, c.server))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || failure.Hint(err) == "") {
			t.Errorf("%s: %v, hint %q; want %q", name, err, failure.Hint(err), c.want)
		}
	}
}

// A listing of a server that walks through folders is put in order; one that comes round again is
// refused, and ends.
func TestListingsOfOtherMakers(t *testing.T) {
	var keys []string
	for o, err := range openFake(t, &fakeServer{list: func([]string) string { return contents("a b/c/1", "a b/c.d", "a b/b") }}).List(t.Context(), "") {
		must(t, err)
		keys = append(keys, o.Key)
	}
	if want := []string{"b", "c.d", "c/1"}; !slices.Equal(keys, want) {
		t.Errorf("%q, want %q", keys, want)
	}
	for want, page := range map[string]string{
		"names no way on":       "<IsTruncated>true</IsTruncated>" + contents("a b/1"),
		"\"a b/1\" comes twice": "<IsTruncated>true</IsTruncated><NextContinuationToken>x</NextContinuationToken>" + contents("a b/1"),
	} {
		var err error
		for _, err = range openFake(t, &fakeServer{list: func([]string) string { return page }}).List(context.Background(), "") {
			if err != nil {
				break
			}
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// A server without ranges sends a body that broke off again from its start.
func TestRangesIgnored(t *testing.T) {
	broken := false
	s := openFake(t, &fakeServer{get: func(w http.ResponseWriter, _ *http.Request, b string) bool {
		if broken {
			return false
		}
		broken = true
		w.Header().Set("Content-Length", fmt.Sprint(len(b)))
		fmt.Fprint(w, b[:len(b)/2])
		return true
	}})
	want := strings.Repeat("0123456789", 1000)
	must(t, CreateBytes(t.Context(), s, "k", []byte(want)))
	if got, err := ReadAll(t.Context(), s, "k"); err != nil || string(got) != want {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// A node without credentials whose own service for them refuses: that is not a right that S3 denies.
func TestNoCredentialsOnANode(t *testing.T) {
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	defer service.Close()
	s := openFake(t, &fakeServer{})
	for name, value := range map[string]string{"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_PROFILE": "", "AWS_EC2_METADATA_DISABLED": "",
		"AWS_SHARED_CREDENTIALS_FILE": "/nonexistent", "AWS_CONFIG_FILE": "/nonexistent", "AWS_EC2_METADATA_SERVICE_ENDPOINT": service.URL} {
		t.Setenv(name, value)
	}
	s, err := Open(t.Context(), "s3://bucket/job", s.(*s3Store).o)
	must(t, err)
	if _, err := s.Open(t.Context(), "k"); failure.Code(err) != failure.Stopped || !strings.Contains(failure.Hint(err), "log in") {
		t.Errorf("%v, hint %q", err, failure.Hint(err))
	}
}
