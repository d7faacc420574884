package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"tokenfork/internal/store/storetest"
)

// TestStores runs every promise of Store against both backends.
func TestStores(t *testing.T) {
	proxy := storetest.StartS3(t)
	n := 0
	stores := map[string]func(t *testing.T) Store{
		"folder": func(t *testing.T) Store { return open(t, filepath.Join(t.TempDir(), "job"), Options{}) },
		"folder, single writer": func(t *testing.T) Store {
			s := newFolder(t.TempDir(), Options{SingleWriter: true})
			s.exclusive = nil
			return s
		},
		"s3": func(t *testing.T) Store {
			n++
			return open(t, fmt.Sprintf("s3://%s/jobs/%d/", proxy.Bucket, n), s3Options(proxy))
		},
		"s3, single writer": func(t *testing.T) Store {
			n++
			o := s3Options(proxy)
			o.SingleWriter = true
			return open(t, fmt.Sprintf("s3://%s/jobs/%d", proxy.Bucket, n), o)
		},
	}
	for name, fresh := range stores {
		for _, test := range suite {
			if strings.HasSuffix(name, "single writer") && test.race {
				continue
			}
			t.Run(name+"/"+test.name, func(t *testing.T) { test.run(t, fresh(t)) })
		}
	}
}

func s3Options(p *storetest.Proxy) Options {
	return Options{S3Endpoint: p.URL, S3PathStyle: true}
}

func open(t *testing.T, location string, o Options) Store {
	t.Helper()
	s, err := Open(t.Context(), location, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var suite = []struct {
	name string
	race bool // a promise that --single-writer gives up
	run  func(*testing.T, Store)
}{
	{"content comes back", false, testRoundTrip},
	{"first writer wins", false, testFirstWins},
	{"one of many creators wins", true, testManyCreators},
	{"readers see whole objects", false, testReplaceIsAtomic},
	{"failed write leaves nothing", false, testFailedWrite},
	{"missing object", false, testMissing},
	{"invalid keys", false, testInvalidKeys},
	{"order and prefix of a listing", false, testListOrder},
	{"more objects than a page", false, testLongList},
	{"stopped caller", false, testCancelled},
	{"big object", false, testBigObject},
	{"probe", false, testProbe},
}

func testRoundTrip(t *testing.T, s Store) {
	for _, content := range []string{"", "x", strings.Repeat("long ", 1<<18)} {
		key := fmt.Sprintf("parts/infer/%d.bin", len(content))
		must(t, CreateBytes(t.Context(), s, key, []byte(content)))
		wantContent(t, s, key, content)
		must(t, ReplaceBytes(t.Context(), s, key, []byte("other")))
		wantContent(t, s, key, "other")
		must(t, s.Remove(t.Context(), key))
		wantMissing(t, s, key)
		must(t, CreateBytes(t.Context(), s, key, []byte(content)))
		wantContent(t, s, key, content)
	}
}

func testFirstWins(t *testing.T, s Store) {
	must(t, CreateBytes(t.Context(), s, "commit.json", []byte("first")))
	for _, content := range []string{"second", "first"} {
		if err := CreateBytes(t.Context(), s, "commit.json", []byte(content)); !errors.Is(err, fs.ErrExist) {
			t.Errorf("second create: %v, want ErrExist", err)
		}
	}
	wantContent(t, s, "commit.json", "first")
	wantKeys(t, s, "", "commit.json")
}

func testManyCreators(t *testing.T, s Store) {
	for round := range 5 {
		key := fmt.Sprintf("claims/%d", round)
		var winner atomic.Value
		var won atomic.Int32
		var wg sync.WaitGroup
		for i := range 32 {
			wg.Go(func() {
				content := strings.Repeat(fmt.Sprintf("creator %d\n", i), 1000)
				switch err := CreateBytes(t.Context(), s, key, []byte(content)); {
				case err == nil:
					won.Add(1)
					winner.Store(content)
				case !errors.Is(err, fs.ErrExist):
					t.Errorf("lost with %v, want ErrExist", err)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Fatalf("%d creators of %s won", won.Load(), key)
		}
		wantContent(t, s, key, winner.Load().(string))
	}
}

func testReplaceIsAtomic(t *testing.T, s Store) {
	content := func(i int) []byte { return bytes.Repeat([]byte{byte('a' + i)}, 300_000+i) }
	must(t, ReplaceBytes(t.Context(), s, "summary.json", content(0)))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if err := ReplaceBytes(t.Context(), s, "summary.json", content(i)); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			b, err := ReadAll(t.Context(), s, "summary.json")
			if err != nil || !bytes.Equal(b, content(int(b[0]-'a'))) {
				t.Errorf("read %d bytes of a mixture, error %v", len(b), err)
			}
		})
	}
	wg.Wait()
	wantKeys(t, s, "", "summary.json")
}

func testFailedWrite(t *testing.T, s Store) {
	must(t, CreateBytes(t.Context(), s, "kept", []byte("kept")))
	failing := func(w io.Writer) error {
		if _, err := w.Write(make([]byte, 1<<20)); err != nil {
			return err
		}
		return io.ErrClosedPipe
	}
	for _, key := range []string{"a/new", "kept"} {
		if err := s.Create(t.Context(), key, failing); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("create: %v, want the writer's error", err)
		}
		if err := s.Replace(t.Context(), key, failing); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("replace: %v, want the writer's error", err)
		}
	}
	wantKeys(t, s, "", "kept")
	wantContent(t, s, "kept", "kept")
	wantNoTemp(t, s)
}

func testMissing(t *testing.T, s Store) {
	wantMissing(t, s, "never/there")
	must(t, s.Remove(t.Context(), "never/there"))
	wantKeys(t, s, "")
	must(t, CreateBytes(t.Context(), s, "a/b", nil))
	wantMissing(t, s, "a")
	wantMissing(t, s, "a/b/c")
}

func testInvalidKeys(t *testing.T, s Store) {
	for _, key := range []string{"", ".", "/a", "a/", "a//b", "../a", "a/../b", "a/.tmp-b"} {
		if err := CreateBytes(t.Context(), s, key, nil); err == nil {
			t.Errorf("create %q succeeded", key)
		}
		if _, err := s.Open(t.Context(), key); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("open %q: %v, want a refusal", key, err)
		}
		if err := s.Remove(t.Context(), key); err == nil {
			t.Errorf("remove %q succeeded", key)
		}
	}
}

func testListOrder(t *testing.T, s Store) {
	keys := []string{"a.b", "a/b", "a/b.c", "a/b/c", "ab", "b/1/x", "b/10", "b/10.x", "b/2", "ü"}
	keys = slices.DeleteFunc(keys, func(k string) bool { return k == "a/b" || k == "b/10" }) // folders cannot hold both a/b and a/b/c
	for _, i := range rand.Perm(len(keys)) {
		must(t, CreateBytes(t.Context(), s, keys[i], []byte(keys[i])))
	}
	for _, prefix := range []string{"", "a", "a/", "a/b", "a/b/", "b/1", "b/10", "b/1/", "z", "a/z/q"} {
		var want []string
		for _, key := range keys {
			if strings.HasPrefix(key, prefix) {
				want = append(want, key)
			}
		}
		wantKeys(t, s, prefix, want...)
	}
	for o, err := range s.List(t.Context(), "a") {
		must(t, err)
		if o.Size != int64(len(o.Key)) || o.Modified.IsZero() {
			t.Errorf("listing says %+v", o)
		}
		break // an iteration may stop early
	}
}

func testLongList(t *testing.T, s Store) {
	var want []string
	var wg sync.WaitGroup
	slots := make(chan struct{}, 16)
	for i := range 1234 {
		key := fmt.Sprintf("shards/%05d.arrow", i)
		want = append(want, key)
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if err := CreateBytes(t.Context(), s, key, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	wantKeys(t, s, "shards/", want...)
	wantKeys(t, s, "shards/0003", want[30:40]...)
}

func testCancelled(t *testing.T, s Store) {
	must(t, CreateBytes(t.Context(), s, "there", []byte("x")))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, openErr := s.Open(ctx, "there")
	var listErr error
	for _, err := range s.List(ctx, "") {
		listErr = err
	}
	for what, err := range map[string]error{
		"create": CreateBytes(ctx, s, "new", nil), "replace": ReplaceBytes(ctx, s, "there", nil),
		"open": openErr, "list": listErr, "remove": s.Remove(ctx, "there"),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v, want context.Canceled", what, err)
		}
	}
	wantKeys(t, s, "", "there")
	wantContent(t, s, "there", "x")
	wantNoTemp(t, s)
}

func testBigObject(t *testing.T, s Store) {
	const size = 40<<20 + 3
	for round, put := range []func(context.Context, string, func(io.Writer) error) error{s.Create, s.Replace} {
		sum := sha256.New()
		must(t, put(t.Context(), "results.arrow", func(w io.Writer) error {
			_, err := io.CopyN(io.MultiWriter(w, sum), rand.NewChaCha8([32]byte{byte(round)}), size)
			return err
		}))
		wantSum(t, s, "results.arrow", size, sum.Sum(nil))
	}
	err := s.Create(t.Context(), "results.arrow", func(w io.Writer) error {
		_, err := w.Write(make([]byte, size))
		return err
	})
	if !errors.Is(err, fs.ErrExist) {
		t.Errorf("second create: %v, want ErrExist", err)
	}
}

func testProbe(t *testing.T, s Store) {
	must(t, Probe(t.Context(), s))
	wantKeys(t, s, "")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantContent(t *testing.T, s Store, key, want string) {
	t.Helper()
	got, err := ReadAll(t.Context(), s, key)
	must(t, err)
	if string(got) != want {
		t.Errorf("%s holds %.40q (%d bytes), want %.40q (%d)", key, got, len(got), want, len(want))
	}
}

func wantSum(t *testing.T, s Store, key string, size int64, sum []byte) {
	t.Helper()
	r, err := s.Open(t.Context(), key)
	must(t, err)
	defer r.Close()
	got := sha256.New()
	n, err := io.Copy(got, r)
	must(t, err)
	if n != size || !bytes.Equal(got.Sum(nil), sum) {
		t.Errorf("%s: %d bytes of sha256 %x, want %d of %x", key, n, got.Sum(nil), size, sum)
	}
}

func wantMissing(t *testing.T, s Store, key string) {
	t.Helper()
	if _, err := s.Open(t.Context(), key); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open %s: %v, want ErrNotExist", key, err)
	}
}

func wantKeys(t *testing.T, s Store, prefix string, want ...string) {
	t.Helper()
	var got []string
	for o, err := range s.List(t.Context(), prefix) {
		must(t, err)
		got = append(got, o.Key)
	}
	if !slices.Equal(got, want) {
		t.Errorf("list %q: %d keys %.200q, want %d %.200q", prefix, len(got), got, len(want), want)
	}
}

// wantNoTemp looks behind a folder store's listing.
func wantNoTemp(t *testing.T, s Store) {
	t.Helper()
	d, ok := s.(*folder)
	if !ok {
		return
	}
	must(t, filepath.WalkDir(d.root, func(path string, _ fs.DirEntry, err error) error {
		if strings.Contains(path, tempMark) {
			t.Errorf("%s was left behind", path)
		}
		return err
	}))
}
