package report

import (
	"cmp"
	"context"
	"crypto/sha256"
	_ "embed" // the template, the script and the style
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"math"
	"slices"

	"tokenfork/internal/job"
	"tokenfork/internal/store"
	"tokenfork/internal/terminal"
)

// TextsKey is the page that shows the texts.
const TextsKey = "texts.html"

// Limits of the texts on the report's page; View shows all.
const (
	maxShown      = 10_000   // mismatches
	maxShownBytes = 32 << 20 // of JSON
)

// unsureBelow is the confidence below which a verdict counts as unsure.
const unsureBelow = 0.75

var (
	//go:embed texts.html.tmpl
	textsText string
	//go:embed texts.js
	textsScript string
	//go:embed texts.css
	textsStyle string

	textsTemplate = template.Must(template.New("texts").Funcs(template.FuncMap{"grouped": terminal.Grouped}).Parse(textsText))
)

// shownText is a text on the page.
type shownText struct {
	ID   string            `json:"id"`
	Job  string            `json:"job,omitempty"` // only in merges of several jobs
	Rows []json.RawMessage `json:"rows"`          // of shownRow
}

// shownRow is a mismatch on the page.
type shownRow struct {
	Position    int64       `json:"p"`
	Before      string      `json:"before"` // the text from the previous mismatch on
	Real        string      `json:"real"`
	Sides       []shownSide `json:"sides"`
	Verdict     string      `json:"verdict"` // same, differ or none
	Confidence  *float64    `json:"conf,omitempty"`
	Source      *string     `json:"source,omitempty"`
	Explanation *string     `json:"why,omitempty"`
	Differences []string    `json:"diffs,omitempty"`
	Judge       string      `json:"judge,omitempty"`
	Class       string      `json:"class"`
	Unsure      bool        `json:"unsure,omitempty"`
	NearTie     bool        `json:"tie,omitempty"`
	Cut         bool        `json:"cut,omitempty"`
	Status      string      `json:"status"`
}

// shownSide is one side's continuation with its model's measures.
type shownSide struct {
	Predicted    string   `json:"pred"`
	Continuation *string  `json:"cont,omitempty"`
	Finish       *string  `json:"finish,omitempty"`
	Entropy      *float64 `json:"entropy,omitempty"`
	AU           *float64 `json:"au,omitempty"`
	EU           *float64 `json:"eu,omitempty"`
	Margin       *float64 `json:"margin,omitempty"`
}

func show(r *row, marks uint16) shownRow {
	s := shownRow{
		Position: r.Position, Before: r.Context, Real: r.RealToken, Verdict: "none", Confidence: r.Confidence, Source: r.ConfidenceSource,
		Explanation: r.Explanation, Differences: r.KeyDifferences, Class: job.TokenClasses[marks>>classShift],
		Unsure: marks&unsure != 0, NearTie: marks&nearTie != 0, Cut: marks&cut != 0, Status: r.Status,
		Sides: []shownSide{
			{r.PredSmall, r.ContinuationSmall, r.FinishSmall, r.SmallEntropy, r.SmallAU, r.SmallEU, r.MarginSmall},
			{r.PredReference, r.ContinuationReference, r.FinishReference, r.ReferenceEntropy, r.ReferenceAU, r.ReferenceEU, r.MarginReference},
		},
	}
	switch {
	case marks&diverged != 0:
		s.Verdict = "differ"
	case marks&judged != 0:
		s.Verdict = "same"
	}
	if r.JudgeModel != nil {
		s.Judge = *r.JudgeModel
		if r.PromptVersion != nil {
			s.Judge = judgeName(*r.JudgeModel, *r.PromptVersion)
		}
	}
	return s
}

func newShownText(r *row) *shownText {
	t := &shownText{ID: r.SentenceID}
	if r.Job != nil {
		t.Job = *r.Job
	}
	return t
}

// add adds the text's next row and gives the size of its JSON.
func (t *shownText) add(r *row, marks uint16) (int, error) {
	b, err := json.Marshal(show(r, marks)) // < and > are escaped, what is not UTF-8 is replaced
	if err != nil {
		return 0, fmt.Errorf("encode the mismatch at %d of text %s: %w", r.Position, r.SentenceID, err)
	}
	t.Rows = append(t.Rows, b)
	return len(b), nil
}

// textSample keeps the texts whose hashes come first, as many as the page can hold: all
// if they fit, else a choice that is the same for the same results. A text that alone is
// too large is left out.
type textSample struct {
	seed   uint64
	kept   []sampledText // by hash
	rows   int           // of kept
	bytes  int
	cutoff uint64       // texts from this hash on do not fit
	open   *sampledText // the text whose rows come; nil if it is not wanted
	texts  int          // seen
}

type sampledText struct {
	hash  uint64
	order int // in the results
	bytes int
	*shownText
}

func newTextSample() textSample { return textSample{cutoff: math.MaxUint64} }

// begin takes the first row's text.
func (s *textSample) begin(r *row) {
	s.end()
	if hash := exampleKey(s.seed, r); hash < s.cutoff {
		s.open = &sampledText{hash: hash, order: s.texts, shownText: newShownText(r)}
	}
	s.texts++
}

func (s *textSample) add(r *row, marks uint16) error {
	if s.open == nil {
		return nil
	}
	n, err := s.open.add(r, marks)
	if s.open.bytes += n; len(s.open.Rows) > maxShown || s.open.bytes > maxShownBytes {
		s.open = nil
	}
	return err
}

// end puts the open text among those that are kept, and drops the last ones that do not fit.
func (s *textSample) end() {
	if s.open == nil {
		return
	}
	at, _ := slices.BinarySearchFunc(s.kept, s.open.hash, func(t sampledText, hash uint64) int { return cmp.Compare(t.hash, hash) })
	s.kept = slices.Insert(s.kept, at, *s.open)
	s.rows, s.bytes = s.rows+len(s.open.Rows), s.bytes+s.open.bytes
	s.open = nil
	for s.rows > maxShown || s.bytes > maxShownBytes {
		last := s.kept[len(s.kept)-1]
		s.cutoff, s.kept = last.hash, s.kept[:len(s.kept)-1]
		s.rows, s.bytes = s.rows-len(last.Rows), s.bytes-last.bytes
	}
}

// shown are the kept texts in the order of the results.
func (s *textSample) shown() []*shownText {
	s.end()
	slices.SortFunc(s.kept, func(a, b sampledText) int { return cmp.Compare(a.order, b.order) })
	texts := make([]*shownText, len(s.kept))
	for i, t := range s.kept {
		texts[i] = t.shownText
	}
	return texts
}

// textsPage is what the page needs.
type textsPage struct {
	About  *About
	Texts  []*shownText
	Paging *paging
}

// Mismatches is how many are shown.
func (p *textsPage) Mismatches() (n int64) {
	for _, t := range p.Texts {
		n += int64(len(t.Rows))
	}
	return n
}

// paging is where a page is among the pages of View.
type paging struct {
	Page  int  `json:"page"`
	Pages int  `json:"pages"`
	None  bool `json:"none,omitempty"` // a search from here found nothing
}

func (b *builder) writeTexts(ctx context.Context, out store.Store, about *About) error {
	page := textsPage{About: about, Texts: b.sample.shown.shown()}
	return out.Replace(ctx, TextsKey, page.write)
}

// write writes the page. The policy lets nothing run but the page's own script, and
// the script puts texts into the page as texts only.
func (p *textsPage) write(w io.Writer) error {
	data, err := json.Marshal(map[string]any{"texts": p.Texts, "paging": p.Paging, "models": p.About.Models})
	if err != nil {
		return fmt.Errorf("encode texts: %w", err)
	}
	return textsTemplate.Execute(w, map[string]any{
		"Page": p, "Classes": job.TokenClasses, "Unsure": unsureBelow,
		"Policy": textsPolicy, "Style": template.CSS(textsStyle), "Script": template.JS(textsScript),
		"Data": template.JS(data), // JSON in which <, > and & are escaped
	})
}

var textsPolicy = "default-src 'none'; script-src " + sourceHash(textsScript) + "; style-src " + sourceHash(textsStyle) + "; img-src data:; base-uri 'none'; form-action 'none'"

// sourceHash names a script or a style in a policy.
func sourceHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}
