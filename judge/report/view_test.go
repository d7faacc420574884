package report

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/job/jobtest"
	"tokenfork/internal/store"
	"tokenfork/judge/merge"
)

func serveView(t *testing.T, st store.Store) (*View, string) {
	t.Helper()
	v, err := NewView(t.Context(), Options{Store: st, TempDir: t.TempDir(), Console: io.Discard}, "token")
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(v)
	t.Cleanup(func() {
		server.Close()
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
	return v, server.URL + "/token/"
}

// TestViewInBrowser goes from page to page by keys, filters, search and a text's id.
func TestViewInBrowser(t *testing.T) {
	st := synthetic{texts: 80, seed: 4, margins: true}.write(t)
	rows := resultRows(t, st)
	v, address := serveView(t, st)
	if len(v.pages) < 3 || len(v.marks) != len(rows) {
		t.Fatalf("%d pages of %d mismatches, want 3 of %d", len(v.pages), len(v.marks), len(rows))
	}
	b := openTab(t)
	moved := func(do func()) {
		t.Helper()
		before := b.loads
		do()
		b.waitLoad(before)
	}
	b.load(address)
	_, second := v.rows(0)
	b.want(`rows.length`, fmt.Sprint(second))
	b.eval(`go(rows.length - 1, true)`)
	b.want(`location.hash`, link(&rows[second-1]))
	moved(func() { b.key("n") })
	b.want(`location.hash`, link(&rows[second]))
	b.want(`paging.page`, "2")
	moved(func() { b.key("p") })
	b.want(`location.hash`, link(&rows[second-1]))

	_, third := v.rows(1)
	b.load(fmt.Sprintf("%s?page=2&differ=1%s", address, link(&rows[third-1])))
	b.want(`document.querySelector("input[name=differ]").checked`, "true")
	next := third
	for !differs(&rows[next]) {
		next++
	}
	moved(func() { b.key("n") })
	b.want(`location.hash`, link(&rows[next]))
	b.want(`document.querySelector("input[name=differ]").checked`, "true")

	b.load(address)
	b.eval(`go(rows.length - 1, true)`)
	b.key("/")
	for _, c := range "nowhere" {
		b.key(string(c))
	}
	b.until(`hits.length === 0`)
	b.key("Escape")
	moved(func() { b.key("n") })
	b.want(`document.getElementById("count").textContent.includes("no more that match")`, "true")
	b.want(`paging.page`, "1")

	last := &rows[len(rows)-1]
	b.load(address)
	b.eval(`document.getElementById("goto").focus()`)
	b.call("Input.insertText", map[string]any{"text": last.SentenceID})
	moved(func() { b.key("Enter"); b.eval(`document.activeElement.blur()`) })
	b.want(`texts[rows[here].text].id`, last.SentenceID)
	if len(b.said) > 0 {
		t.Errorf("the console says %q", b.said)
	}
}

// TestViewAnswersItsUserOnly asks as another user of the host and as a foreign page would.
func TestViewAnswersItsUserOnly(t *testing.T) {
	_, address := serveView(t, synthetic{texts: 3, seed: 4}.write(t))
	for _, c := range []struct {
		path, host, method string
		want               int
	}{
		{"", "", "GET", 200}, {"", "localhost:9", "GET", 200}, {"", "[::1]:9", "GET", 200}, {"", "127.0.0.1", "GET", 200},
		{"", "evil.example", "GET", 403}, {"", "127.0.0.1.evil.example:80", "GET", 403}, {"", "192.168.0.7", "GET", 403},
		{"../", "", "GET", 404}, {"../tokem/", "", "GET", 404}, {"../../etc/passwd", "", "GET", 404}, {"results.parquet", "", "GET", 404},
		{"", "", "POST", 405}, {"?page=2", "", "GET", 404}, {"?page=-1", "", "GET", 404}, {"find?from=x", "", "GET", 404}, {"find?from=1&text=nowhere", "", "GET", 303},
	} {
		r, err := http.NewRequestWithContext(t.Context(), c.method, address+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = c.host
		answer, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != c.want {
			t.Errorf("%s %q at %q: %d, want %d", c.method, c.path, c.host, answer.StatusCode, c.want)
		}
		if p := answer.Header.Get("Content-Security-Policy"); !strings.Contains(p, "default-src 'none'") {
			t.Errorf("%q: policy %q", c.path, p)
		}
	}
}

// TestViewOfADataset reads pages over several files, and refuses a damaged one.
func TestViewOfADataset(t *testing.T) {
	st := jobtest.Large(t, 3, 2)
	accept := func(*job.Text, *job.Result, *job.Verdict) error { return nil }
	_, err := merge.Merge(t.Context(), merge.Options{Jobs: []merge.Source{{Store: st, Judging: jobtest.Judging, Accept: accept}}, Out: st, Parts: 2, Formats: []string{"parquet"}, TempDir: t.TempDir(), Console: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	v, _ := serveView(t, st)
	if len(v.files) != 2 || len(v.ids) != 3 {
		t.Fatalf("%d files of %d texts", len(v.files), len(v.ids))
	}
	seen := 0
	for page := range v.pages {
		texts, err := v.texts(t.Context(), page)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range texts {
			seen += len(x.Rows)
		}
	}
	if seen != 3*jobtest.LargePerText {
		t.Errorf("%d mismatches on all pages", seen)
	}
	if err := store.ReplaceBytes(t.Context(), st, "results/part-00001.parquet", []byte("PAR1")); err != nil {
		t.Fatal(err)
	}
	if _, err := NewView(t.Context(), Options{Store: st, TempDir: t.TempDir(), Console: io.Discard}, "token"); failure.Code(err) != failure.Refused {
		t.Errorf("a damaged part: %v", err)
	}
}
