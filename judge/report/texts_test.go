package report

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tokenfork/internal/columnar"
	"tokenfork/internal/job"
	"tokenfork/internal/store"
)

// resultRows are all rows of a job's results.
func resultRows(t *testing.T, st store.Store) (rows []row) {
	t.Helper()
	if _, err := each(t.Context(), st, ResultsKey, t.TempDir(), "", func(r *row) error { rows = append(rows, *r); return nil }); err != nil {
		t.Fatal(err)
	}
	return rows
}

func count(rows []row, wanted func(r *row) bool) (n int) {
	for i := range rows {
		if wanted(&rows[i]) {
			n++
		}
	}
	return n
}

func differs(r *row) bool   { return r.MeaningMatch != nil && !*r.MeaningMatch }
func isNearTie(r *row) bool { return marksOf(r)&nearTie != 0 }

func link(r *row) string { return "#" + newShownText(r).link(r.Position) }

// TestTextsInBrowser reads the page from a file as a user does: keys, clicks, filters, search, links.
func TestTextsInBrowser(t *testing.T) {
	st := synthetic{texts: 20, seed: 3, margins: true, measures: true}.write(t)
	dir, _ := makeReport(t, st, 10)
	rows := resultRows(t, st)
	b := openTab(t)
	page := "file://" + filepath.Join(dir, TextsKey)
	b.load(page)
	first := count(rows, func(r *row) bool { return r.SentenceID == rows[0].SentenceID })
	b.want(`document.querySelectorAll("#read a.m").length`, fmt.Sprint(first))
	b.want(`document.getElementById("count").textContent`, fmt.Sprintf("1 of %d mismatches", len(rows)))
	b.want(`location.hash`, link(&rows[0]))

	for i, key := range []string{"n", "ArrowRight", "n", "p", "ArrowLeft"} {
		b.key(key)
		b.want(`location.hash`, link(&rows[[]int{1, 2, 3, 2, 1}[i]]))
	}
	b.want(`document.activeElement.getAttribute("href")`, link(&rows[1]))
	if label := fmt.Sprint(b.eval(`document.activeElement.getAttribute("aria-label")`)); !strings.HasPrefix(label, fmt.Sprintf("Mismatch at %d: ", rows[1].Position)) {
		t.Errorf("a screen reader is told %q", label)
	}
	for _, want := range []string{" <a>", "small goes on.", "elsewhere.", fmt.Sprintf("position %d", rows[1].Position), "entropy", "margin"} {
		b.want(fmt.Sprintf(`document.getElementById("detail").textContent.includes(%q)`, want), "true")
	}
	b.eval(fmt.Sprintf(`document.querySelector('#read a.m[data-row="%d"]').focus()`, first-1))
	b.key("n") // into the next text, which takes the place of the first
	b.want(`document.querySelector("#read a.m").getAttribute("href")`, link(&rows[first]))
	b.key("p")
	b.eval(`document.querySelector('#read a.m[data-row="1"]').focus()`)
	b.mouse(`#read a.m[data-row="4"]`, false)
	b.want(fmt.Sprintf(`document.getElementById("detail").textContent.includes("position %d")`, rows[4].Position), "true")
	b.want(`location.hash`, link(&rows[1]))
	b.mouse(`#read a.m[data-row="4"]`, true)
	b.want(`location.hash`, link(&rows[4]))

	b.mouse(`input[name=differ]`, true)
	n := count(rows, differs)
	b.until(fmt.Sprintf(`document.getElementById("count").textContent.endsWith("of %d mismatches")`, n))
	b.mouse(`#next`, true)
	b.want(`document.querySelector("a.here").classList.contains("differ")`, "true")
	b.mouse(`input[name=tie]`, true)
	b.until(fmt.Sprintf(`document.getElementById("count").textContent.endsWith("of %d mismatches")`, count(rows, func(r *row) bool { return differs(r) && isNearTie(r) })))
	b.mouse(`input[name=differ]`, true)
	b.mouse(`input[name=tie]`, true)
	b.eval(`(() => { const s = document.querySelector("select[name=class]"); s.value = "number"; s.dispatchEvent(new Event("change")); })()`)
	numbers := count(rows, func(r *row) bool { return r.RealToken == "7" })
	b.until(fmt.Sprintf(`document.getElementById("count").textContent.endsWith("of %d mismatches")`, numbers))
	b.eval(`(() => { const s = document.querySelector("select[name=class]"); s.value = ""; s.dispatchEvent(new Event("change")); })()`)

	b.key("/")
	for _, c := range "Say <THE" { // no letter of it moves
		b.key(string(c))
	}
	found := count(rows, func(r *row) bool { return r.Explanation != nil })
	b.until(fmt.Sprintf(`document.getElementById("count").textContent.endsWith("%d mismatches")`, found))
	b.key("Escape")
	b.want(`document.activeElement.classList.contains("here")`, "true")

	last := rows[len(rows)-1]
	b.load(page + link(&last))
	b.want(`document.querySelector("a.here").getAttribute("href")`, link(&last))
	b.want(`document.getElementById("text").selectedOptions[0].textContent.startsWith(`+fmt.Sprintf("%q", last.SentenceID+": ")+`)`, "true")
	b.eval(`(() => { const s = document.getElementById("text"); s.value = "0"; s.dispatchEvent(new Event("change")); })()`)
	b.want(`location.hash`, link(&rows[0]))

	b.call("Emulation.setEmulatedMedia", map[string]any{"media": "print"})
	b.want(`getComputedStyle(document.querySelector(".tools")).display`, "none")
	b.want(`[...new Set([...document.querySelectorAll("a.m")].map((a) => getComputedStyle(a).borderBottomWidth))].length > 1`, "true") // without colours
	if len(b.said) > 0 {
		t.Errorf("the console says %q", b.said)
	}
	for _, r := range b.requests {
		if !strings.HasPrefix(r, page) {
			t.Errorf("it asks for %s", r)
		}
	}
}

// hostile are texts that try to be more than text.
var hostile = []string{
	`</script><script>window.hacked = 1</script>`, `<img src=x onerror="window.hacked = 1">`, `<!--<script>`, `"'` + "`${window.hacked = 1}", "&lt;b&gt;&amp;",
	"a\x00b\u2028\u2029\ufeff", "\u202eevil\u202c שלום עולם", `javascript:window.hacked=1`, `}}{{.Style}}`, "</style><style>body{display:none}", strings.Repeat("x<y>", 50_000), "",
}

func hostileJob(t *testing.T) store.Store {
	t.Helper()
	st := openStore(t, t.TempDir())
	create(t, st, ResultsKey, func(w io.Writer) error {
		options := []columnar.Option{columnar.Without("engine"), columnar.Without("job"), columnar.Without("ordinal"), columnar.Without("reason"), columnar.Without("stage")}
		return writeRows(w, columnar.NewParquetWriter[job.Result], options, func(write func(*job.Result) error) error {
			for i := range hostile {
				for p := range 2 {
					s := hostile[i]
					r := job.Result{SentenceID: fmt.Sprint(i, s[:min(len(s), 60)]), MismatchPosition: int64(p), Context: s, PredSmall: s, PredReference: s, RealToken: s, ContinuationSmall: &s, ContinuationReference: &s,
						FinishSmall: &s, MeaningMatch: ptr(p == 0), VerifyExplanation: &s, KeyDifferences: []string{s}, ConfidenceSource: &s, JudgeModel: &s, PromptVersion: &s, Status: "ok"}
					if err := write(&r); err != nil {
						return err
					}
				}
			}
			return nil
		})
	})
	return st
}

// TestHostileTexts opens texts that would run as script, end the page's own one, or turn
// the direction of what follows.
func TestHostileTexts(t *testing.T) {
	st := hostileJob(t)
	dir, _ := makeReport(t, st, 2)
	v, address := serveView(t, st)
	if len(v.marks) != 2*len(hostile) {
		t.Fatalf("%d mismatches", len(v.marks))
	}
	b := openTab(t)
	for _, page := range []string{"file://" + filepath.Join(dir, TextsKey), address} {
		b.load(page)
		for i := range 2 * len(hostile) {
			if i > 0 {
				b.key("n")
			}
			b.want(`document.querySelector("a.here").dataset.row`, fmt.Sprint(i))
			b.want(`document.querySelectorAll("script, style, img, iframe, #read b").length`, "3")
			b.want(`/[\u202a-\u202e\u0000]/.test(document.body.innerText)`, "false")
		}
		b.want(`window.hacked`, "<nil>")
		b.want(`texts.map((t) => t.rows[0].real).join("|")`, strings.Join(hostile, "|"))
		b.eval(`document.body.append(Object.assign(document.createElement("script"), {textContent: "window.hacked = 2"}))`)
		b.want(`window.hacked`, "<nil>") // nor would a script run that got in
	}
	if len(b.said) == 0 {
		t.Error("the policy refused nothing")
	}
	for _, said := range b.said {
		if !strings.Contains(said, "Executing inline script violates") {
			t.Errorf("the console says %.500s", said)
		}
	}
	for _, r := range b.requests {
		if !strings.HasPrefix(r, "file://"+dir) && !strings.HasPrefix(r, address) {
			t.Errorf("it asks for %s", r)
		}
	}
}

// TestTextSample compares the choice with its rule: in the order of the hashes, as many
// texts as fit, whatever order they come in.
func TestTextSample(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	type text struct {
		id   string
		rows int
		hash uint64
	}
	var all []text
	for i := range 300 {
		x := text{id: fmt.Sprint(i), rows: 1 + r.IntN(150)}
		if i%100 == 7 {
			x.rows = maxShown + 1
		}
		x.hash = exampleKey(5, &row{SentenceID: x.id, Position: 1})
		all = append(all, x)
	}
	s := newTextSample()
	s.seed = 5
	for _, x := range all {
		for p := range x.rows {
			one := &row{SentenceID: x.id, Position: int64(p + 1), Context: "<x>"}
			if p == 0 {
				s.begin(one)
			}
			if err := s.add(one, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	var want, got []string
	sorted := slices.SortedFunc(slices.Values(all), func(a, b text) int { return cmp.Compare(a.hash, b.hash) })
	n := 0
	for _, x := range sorted {
		if x.rows > maxShown {
			continue
		}
		if n += x.rows; n > maxShown {
			break
		}
		want = append(want, x.id)
	}
	for _, x := range s.shown() {
		got = append(got, x.ID)
		if bytes.ContainsAny(x.Rows[0], "<>") {
			t.Errorf("unescaped: %s", x.Rows[0])
		}
	}
	order := func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b)) }
	if !slices.IsSortedFunc(got, order) {
		t.Errorf("not in the results' order: %q", got)
	}
	if slices.SortFunc(want, order); !slices.Equal(got, want) {
		t.Errorf("chose %q, want %q", got, want)
	}
}

// TestPageSaysItIsASample has more mismatches than the page holds.
func TestPageSaysItIsASample(t *testing.T) {
	st := synthetic{texts: 300, seed: 9}.write(t)
	dir, about := makeReport(t, st, 2)
	if about.Mismatches <= maxShown {
		t.Fatalf("only %d mismatches", about.Mismatches)
	}
	page, err := os.ReadFile(filepath.Join(dir, TextsKey))
	if err != nil {
		t.Fatal(err)
	}
	if shown := bytes.Count(page, []byte(`{"p":`)); shown > maxShown || shown < maxShown-100 {
		t.Errorf("%d mismatches are on the page", shown)
	}
	if !bytes.Contains(page, []byte("A sample of whole texts")) {
		t.Error("it does not say that it is a sample")
	}
}
