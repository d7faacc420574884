package report

import (
	"context"
	_ "embed" // the page's template
	"encoding/base64"
	"fmt"
	"html/template"
	"io"

	"codeberg.org/go-fonts/liberation/liberationsansregular"

	"tokenfork/internal/store"
	"tokenfork/internal/terminal"
)

//go:embed page.html.tmpl
var pageText string

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{"short": short, "grouped": terminal.Grouped}).Parse(pageText))

// section is a figure on the page.
type section struct {
	Name, Title, Caption string
	Drawn                bool
	Picture              template.HTML
	Tables               []pageTable
}

type pageTable struct {
	Name    string
	Columns []string
	Rows    [][]any
	Long    bool // is folded away
}

// longTable is from how many rows on a table is folded away.
const longTable = 12

// writePage writes the page: no script, nothing from elsewhere.
func (b *builder) writePage(ctx context.Context, out store.Store, about *About, figures []*figure) error {
	var sections []section
	for _, f := range figures {
		s, err := b.section(f)
		if err != nil {
			return fmt.Errorf("write figure %s: %w", f.name, err)
		}
		sections = append(sections, s)
	}
	font := template.CSS(base64.StdEncoding.EncodeToString(liberationsansregular.TTF)) // base64 can hold nothing that ends the rule
	return out.Replace(ctx, PageKey, func(w io.Writer) error {
		return pageTemplate.Execute(w, map[string]any{"About": about, "Sections": sections, "Font": font})
	})
}

func (b *builder) section(f *figure) (section, error) {
	s := section{Name: f.name, Title: f.title, Caption: f.caption(b.Bootstrap), Drawn: f.why == ""}
	if f.picture != nil {
		svg, err := f.picture.inline()
		if err != nil {
			return s, err
		}
		s.Picture = template.HTML(svg) // our own drawing; texts in it are escaped
	}
	if s.Drawn {
		for _, t := range f.tables {
			if t.curve {
				continue
			}
			long := len(t.rows) > longTable && t.name != "examples"
			s.Tables = append(s.Tables, pageTable{t.name, t.columns, t.rows, long})
		}
	}
	return s, nil
}
