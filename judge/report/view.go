package report

import (
	"bytes"
	"cmp"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"

	"tokenfork/internal/columnar"
	"tokenfork/internal/job"
	"tokenfork/internal/progress"
	"tokenfork/internal/stats"
)

// pageRows is from how many mismatches on a page of View takes no further text.
const pageRows = 1000

// View serves the texts of a job's results, some on a page. Of each mismatch it holds
// two bytes, of each text its id; a page is read when it is asked for.
type View struct {
	about  *About
	files  []*viewFile
	marks  []uint16
	starts []int // first row of each text
	ids    []string
	pages  []int // first text of each page

	reading sync.Mutex // the files are read by one request at a time
	token   string
}

// viewFile is one file of the results.
type viewFile struct {
	*local
	groups *columnar.ParquetGroups[row]
	from   []int // first row of each group, among all results
	to     int
}

// index is what View reads of every row.
type index struct {
	SentenceID      string   `col:"sentence_id"`
	Position        int64    `col:"mismatch_position"`
	MeaningMatch    *bool    `col:"meaning_match"`
	Confidence      *float64 `col:"verify_confidence"`
	RealToken       string   `col:"real_token"`
	FinishSmall     *string  `col:"finish_small"`
	FinishReference *string  `col:"finish_reference"`
	MarginSmall     *float64 `col:"margin_small,optional"`
	MarginReference *float64 `col:"margin_reference,optional"`
}

// NewView reads where the texts of the results are. Requests must have the token as the
// first part of their path.
func NewView(ctx context.Context, o Options, token string) (_ *View, err error) {
	b := &builder{Bootstrap: stats.Bootstrap{Seed: o.Seed}}
	v := &View{about: &About{}, token: token}
	expected, err := b.plan(ctx, o.Store, v.about)
	if err != nil {
		return nil, err
	}
	keys, err := b.resultKeys(ctx, o.Store)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, v.Close())
		}
	}()
	meter := progress.New(o.Console, "view", "mismatches", max(expected, -1))
	defer meter.Close()
	for _, key := range keys {
		if err := v.open(ctx, o, key, b.sums[key], meter.Add); err != nil {
			return nil, err
		}
	}
	for t := range v.starts {
		if len(v.pages) == 0 || v.starts[t]-v.starts[v.pages[len(v.pages)-1]] >= pageRows {
			v.pages = append(v.pages, t)
		}
	}
	v.about.Mismatches, v.about.Texts = int64(len(v.marks)), int64(len(v.starts))
	return v, nil
}

func (v *View) open(ctx context.Context, o Options, key, sum string, read func(int64)) error {
	l, err := fetch(ctx, o.Store, key, o.TempDir, sum)
	if err != nil {
		return unmerged(o.Store, key, err)
	}
	f := &viewFile{local: l}
	v.files = append(v.files, f)
	rows, err := columnar.ReadParquet[index](l)
	if err != nil {
		return damaged(o.Store, key, err)
	}
	f.to = len(v.marks)
	last := int64(-1)
	for r, err := range rows.Rows() {
		if err != nil {
			return damaged(o.Store, key, err)
		}
		if n := len(v.ids); n == 0 || r.SentenceID != v.ids[n-1] || r.Position <= last {
			v.starts, v.ids = append(v.starts, len(v.marks)), append(v.ids, strings.Clone(r.SentenceID))
		}
		last = r.Position
		v.marks = append(v.marks, marksOf(&row{MeaningMatch: r.MeaningMatch, Confidence: r.Confidence, RealToken: r.RealToken, FinishSmall: r.FinishSmall, FinishReference: r.FinishReference, MarginSmall: r.MarginSmall, MarginReference: r.MarginReference}))
		if read(1); ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if f.groups, err = columnar.OpenParquetGroups[row](l); err != nil {
		return damaged(o.Store, key, err)
	}
	for _, n := range f.groups.Rows {
		f.from = append(f.from, f.to)
		f.to += int(n)
	}
	return nil
}

// Close lets go of the files.
func (v *View) Close() error {
	var all error
	for _, f := range v.files {
		all = errors.Join(all, f.close())
	}
	return all
}

// ServeHTTP answers a page's requests. Only who knows the token gets any, and only under a
// name of this host itself: a name that an attacker's DNS turned to it is refused.
func (v *View) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", textsPolicy+"; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	token, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch {
	case !isLoopback(r.Host):
		http.Error(w, "tokenfork view answers to 127.0.0.1 and localhost only", http.StatusForbidden)
	case subtle.ConstantTimeCompare([]byte(token), []byte(v.token)) != 1:
		http.NotFound(w, r)
	case r.Method != http.MethodGet:
		http.Error(w, "only GET", http.StatusMethodNotAllowed)
	case rest == "":
		answerError(w, v.servePage(w, r))
	case rest == "find":
		answerError(w, v.serveFind(w, r))
	default:
		http.NotFound(w, r)
	}
}

// errNoPage is of a page that there is not.
var errNoPage = errors.New("no page")

func answerError(w http.ResponseWriter, err error) {
	switch {
	case errors.Is(err, errNoPage):
		http.Error(w, err.Error(), http.StatusNotFound)
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

func isLoopback(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && a.IsLoopback()
}

func (v *View) servePage(w http.ResponseWriter, r *http.Request) error {
	k, err := v.pageNumber(r.URL.Query().Get("page"))
	if err != nil {
		return err
	}
	texts, err := v.texts(r.Context(), k)
	if err != nil {
		return err
	}
	page := textsPage{About: v.about, Texts: texts, Paging: &paging{Page: k + 1, Pages: max(1, len(v.pages)), None: r.URL.Query().Has("none")}}
	var b bytes.Buffer
	if err := page.write(&b); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = b.WriteTo(w) // who left needs no answer
	return nil
}

// pageNumber reads a page's number; the first page without one.
func (v *View) pageNumber(s string) (int, error) {
	k, err := strconv.Atoi(cmp.Or(s, "1"))
	if err != nil || k < 1 || k > max(1, len(v.pages)) {
		return 0, fmt.Errorf("%w %q: there are %d", errNoPage, s, len(v.pages))
	}
	return k - 1, nil
}

// rows are the page's rows among all results.
func (v *View) rows(page int) (from, to int) {
	if len(v.pages) == 0 {
		return 0, 0
	}
	from, to = v.starts[v.pages[page]], len(v.marks)
	if page+1 < len(v.pages) {
		to = v.starts[v.pages[page+1]]
	}
	return from, to
}

// texts reads a page's texts.
func (v *View) texts(ctx context.Context, page int) ([]*shownText, error) {
	texts := []*shownText{}
	err := v.each(ctx, page, func(i int, r *row) (bool, error) {
		if _, starts := slices.BinarySearch(v.starts, i); starts {
			texts = append(texts, newShownText(r))
		}
		_, err := texts[len(texts)-1].add(r, v.marks[i])
		return true, err
	})
	return texts, err
}

// each gives f the page's rows until it wants no more.
func (v *View) each(ctx context.Context, page int, f func(i int, r *row) (bool, error)) error {
	v.reading.Lock()
	defer v.reading.Unlock()
	from, to := v.rows(page)
	for _, file := range v.files {
		for g, first := range file.from {
			end := first + int(file.groups.Rows[g])
			if end <= from || first >= to {
				continue
			}
			rows, err := file.groups.Read(g)
			if err != nil {
				return err
			}
			i := first - 1
			for r, err := range rows.Rows() {
				if err := cmp.Or(err, ctx.Err()); err != nil {
					return err
				}
				if i++; i < from {
					continue
				}
				if i >= to {
					break
				}
				if more, err := f(i, r); err != nil || !more {
					return err
				}
			}
		}
	}
	return nil
}

// serveFind sends the browser to the next page, in the direction asked for, with a mismatch
// that the filters let pass, or back to where it was.
func (v *View) serveFind(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	from, err := v.pageNumber(q.Get("from"))
	if err != nil {
		return err
	}
	by, hash := 1, ""
	if q.Get("by") == "-1" {
		by, hash = -1, "#last"
	}
	to := url.Values{"page": {strconv.Itoa(from + 1)}}
	for _, name := range []string{"differ", "unsure", "tie", "cut", "class", "q"} {
		if s := q.Get(name); s != "" {
			to.Set(name, s)
		}
	}
	at, link, err := v.find(r.Context(), from, by, q)
	if err != nil {
		return err
	}
	if at < 0 {
		to.Set("none", "1")
	} else {
		to.Set("page", strconv.Itoa(at+1))
	}
	w.Header().Set("Location", "./?"+to.Encode()+cmp.Or(link, hash))
	w.WriteHeader(http.StatusSeeOther)
	return nil
}

// find is the page that is wanted, or -1, and the fragment that goes with it.
func (v *View) find(ctx context.Context, from, by int, q url.Values) (page int, link string, err error) {
	if q.Has("text") {
		at := slices.Index(v.ids, q.Get("text"))
		if at < 0 {
			return -1, "", nil
		}
		page, exact := slices.BinarySearch(v.pages, at)
		if !exact {
			page--
		}
		err := v.each(ctx, page, func(i int, r *row) (bool, error) {
			if i == v.starts[at] {
				link = "#" + newShownText(r).link(r.Position)
			}
			return link == "", nil
		})
		return page, link, err
	}
	query := strings.ToLower(q.Get("q"))
	for page := from + by; page >= 0 && page < len(v.pages); page += by {
		if q.Has("any") {
			return page, "", nil
		}
		found, err := v.has(ctx, page, q, query)
		if found || err != nil {
			return page, "", err
		}
	}
	return -1, "", nil
}

// has says whether a mismatch of the page passes the filters. The page is read only if
// something is searched for and the marks do not rule it out.
func (v *View) has(ctx context.Context, page int, q url.Values, query string) (found bool, err error) {
	var need uint16
	for name, mark := range map[string]uint16{"differ": diverged, "unsure": unsure, "tie": nearTie, "cut": cut} {
		if q.Has(name) {
			need |= mark
		}
	}
	passes := func(i int) bool {
		class := q.Get("class")
		return v.marks[i]&need == need && (class == "" || job.TokenClasses[v.marks[i]>>classShift] == class)
	}
	from, to := v.rows(page)
	for i := from; i < to && !found; i++ {
		found = passes(i)
	}
	if !found || query == "" {
		return found, ctx.Err()
	}
	found = false
	err = v.each(ctx, page, func(i int, r *row) (bool, error) {
		found = passes(i) && strings.Contains(strings.ToLower(r.searched()), query)
		return !found, nil
	})
	return found, err
}

// searched is what a search looks through; texts.js has the same.
func (r *row) searched() string {
	parts := []string{r.Context + r.RealToken}
	for _, s := range []struct {
		continuation *string
		predicted    string
	}{{r.ContinuationSmall, r.PredSmall}, {r.ContinuationReference, r.PredReference}} {
		if s.continuation != nil {
			s.predicted = *s.continuation
		}
		parts = append(parts, s.predicted)
	}
	if r.Explanation != nil {
		parts = append(parts, *r.Explanation)
	}
	return strings.Join(append(parts, r.KeyDifferences...), "\n")
}

// link is a mismatch's fragment; texts.js has the same.
func (t *shownText) link(position int64) string {
	link := component(t.ID) + "@" + strconv.FormatInt(position, 10)
	if t.Job != "" {
		link = component(t.Job) + "/" + link
	}
	return link
}

// component is JavaScript's encodeURIComponent.
func component(s string) string {
	return strings.NewReplacer("+", "%20", "%21", "!", "%27", "'", "%28", "(", "%29", ")", "%2A", "*").Replace(url.QueryEscape(s))
}
