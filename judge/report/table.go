package report

import (
	"encoding/csv"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"tokenfork/internal/stats"
	"tokenfork/internal/terminal"
)

// table is figures' numbers. Cells are strings, int64, float64 or stats.Estimate; NaN is empty.
// An estimate takes three columns of CSV.
type table struct {
	name    string
	columns []string
	rows    [][]any
	curve   bool // points of a drawing: nobody prints them, so they are CSV only
}

func (t *table) add(cells ...any) { t.rows = append(t.rows, cells) }

// spread gives the cells of a row for CSV: numbers in full.
func spread(cells []any) []string {
	var out []string
	for _, c := range cells {
		switch c := c.(type) {
		case stats.Estimate:
			out = append(out, full(c.Value), full(c.Low), full(c.High))
		case float64:
			out = append(out, full(c))
		default:
			out = append(out, fmt.Sprint(c))
		}
	}
	return out
}

func full(v float64) string {
	if math.IsNaN(v) {
		return ""
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}

// header names CSV's columns; only a table with rows knows which are estimates.
func (t *table) header() []string {
	var names []string
	for i, name := range t.columns {
		names = append(names, name)
		if len(t.rows) > 0 {
			if _, ok := t.rows[0][i].(stats.Estimate); ok {
				names = append(names, name+"_low", name+"_high")
			}
		}
	}
	return names
}

func (t *table) writeCSV(w io.Writer) error {
	c := csv.NewWriter(w)
	if err := c.Write(t.header()); err != nil {
		return err
	}
	for _, r := range t.rows {
		if err := c.Write(spread(r)); err != nil {
			return err
		}
	}
	c.Flush()
	return c.Error()
}

// short is a cell for people, in one line.
func short(cell any) string {
	switch c := cell.(type) {
	case int64:
		return terminal.Grouped(c)
	case float64:
		return rounded(c)
	case stats.Estimate:
		if math.IsNaN(c.Low) {
			return rounded(c.Value)
		}
		return fmt.Sprintf("%s [%s, %s]", rounded(c.Value), rounded(c.Low), rounded(c.High))
	}
	return terminal.Safe(visible(fmt.Sprint(cell)))
}

func rounded(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v):
		return "–"
	case math.IsInf(v, 0):
		return strings.Replace(strconv.FormatFloat(v, 'g', -1, 64), "Inf", "∞", 1)
	case a == 0 || a >= 0.01 && a < 1000:
		return strconv.FormatFloat(v, 'f', 3, 64)
	default:
		return strconv.FormatFloat(v, 'g', 3, 64)
	}
}

var latexEscapes = strings.NewReplacer(`\`, `\textbackslash{}`, "{", `\{`, "}", `\}`, "$", `\$`, "&", `\&`, "#", `\#`, "%", `\%`,
	"_", `\_`, "^", `\textasciicircum{}`, "~", `\textasciitilde{}`, "∞", `$\infty$`, "–", "--", "⏎", `$\hookleftarrow$`)

// writeLaTeX writes a tabular of the booktabs package.
func (t *table) writeLaTeX(w io.Writer) error {
	var b strings.Builder
	b.WriteString("% needs \\usepackage{booktabs}; texts need a UTF-8 engine\n\\begin{tabular}{")
	for i := range t.columns {
		b.WriteString(t.alignment(i))
	}
	b.WriteString("}\n\\toprule\n")
	cells := make([]string, len(t.columns))
	for i, name := range t.columns {
		cells[i] = latexEscapes.Replace(strings.ReplaceAll(name, "_", " "))
	}
	b.WriteString(strings.Join(cells, " & ") + " \\\\\n\\midrule\n")
	for _, r := range t.rows {
		for i, c := range r {
			cells[i] = latexEscapes.Replace(short(c))
		}
		if cells[0] != "" && strings.Contains("[*", cells[0][:1]) { // after \\ they would be its arguments
			cells[0] = "{}" + cells[0]
		}
		b.WriteString(strings.Join(cells, " & ") + " \\\\\n")
	}
	b.WriteString("\\bottomrule\n\\end{tabular}\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// alignment of a column: numbers right, texts left, long ones in a block.
func (t *table) alignment(column int) string {
	for _, r := range t.rows {
		text, ok := r[column].(string)
		if !ok {
			return "r"
		}
		if len(text) > 60 {
			return `p{0.2\textwidth}`
		}
	}
	return "l"
}
