package report

import (
	"context"
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"

	"tokenfork/internal/stats"
	"tokenfork/internal/store"
	"tokenfork/internal/terminal"
	"tokenfork/judge/agreement"
)

// agreed numbers the four pairs of verdicts.
func agreed(a, b bool) int32 { return int32(2*oneIf(!a) + oneIf(!b)) }

// confusion has the counts of pairs of verdicts, by agreed.
func confusion(rows []float64) *agreement.Confusion {
	var n [4]int
	for i, v := range rows {
		n[i] = int(v)
	}
	return &agreement.Confusion{SameSame: n[0], SameDifferent: n[1], DifferentSame: n[2], DifferentDifferent: n[3]}
}

// count makes numbers of what was compared.
func (c *comparer) count() {
	b := stats.Bootstrap{Seed: c.Seed, Times: c.Resamples}
	shares := c.flips.Shares(b)
	for group, missing := range c.missing {
		what, choice := group/rowChoices, group%rowChoices
		r := stats.Share{Estimate: stats.Point(math.NaN())}
		if group < len(shares) && shares[group].N > 0 {
			r = shares[group]
		}
		if r.N+missing == 0 || !c.said.margins && (choice == nearTies || choice == noNearTies) {
			continue
		}
		f := Flips{Of: comparedNames[what], Rows: rowNames[choice], N: r.N, Missing: missing, Flipped: r.Hits, Texts: r.Clusters, estimate: r.Estimate}
		f.Share, f.Interval = known(r.Estimate)
		c.said.Flips = append(c.said.Flips, f)
	}
	for _, m := range []struct {
		name string
		of   func(*agreement.Confusion) float64
	}{
		{"same, then different", func(n *agreement.Confusion) float64 { return float64(n.SameDifferent) / float64(n.N()) }},
		{"different, then same", func(n *agreement.Confusion) float64 { return float64(n.DifferentSame) / float64(n.N()) }},
		{"divergence rate, first job", func(n *agreement.Confusion) float64 { return divergent(n.DifferentSame, n) }},
		{"divergence rate, second job", func(n *agreement.Confusion) float64 { return divergent(n.SameDifferent, n) }},
		{"second less first", func(n *agreement.Confusion) float64 {
			return float64(n.SameDifferent-n.DifferentSame) / float64(n.N())
		}},
		{"Cohen's kappa", (*agreement.Confusion).Kappa},
	} {
		if c.verdicts.Groups() == 0 {
			break
		}
		f := Figure{Name: m.name, estimate: c.verdicts.Statistic(b, func(rows []float64) float64 { return m.of(confusion(rows)) })}
		f.Value, f.Interval = known(f.estimate)
		c.said.Verdicts = append(c.said.Verdicts, f)
	}
}

// divergent is the share of pairs that one job calls different: those only it does, and those both do.
func divergent(alone int, n *agreement.Confusion) float64 {
	return float64(alone+n.DifferentDifferent) / float64(n.N())
}

// known are the parts of an estimate that are numbers.
func known(e stats.Estimate) (v *float64, i *stats.Interval) {
	if !math.IsNaN(e.Value) {
		v = &e.Value
	}
	if !math.IsNaN(e.Low) {
		i = &e.Interval
	}
	return v, i
}

// figure draws the shares and has them as tables.
func (c *Comparison) figure() *figure {
	f := &figure{name: "compare"}
	flips := &table{name: "compare", columns: []string{"compared", "rows", "n", "missing", "sentences", "flipped", "share"}}
	verdicts := &table{name: "compare-verdicts", columns: []string{"verdicts", "estimate"}}
	p := panel{x: "not the same in both jobs (%)", names: []string{"verdict", "reference", "small"}}
	looks := [3]look{allRows: bare(0), nearTies: bare(1), noNearTies: bare(2)}
	var drawn [3]*series
	for i := range drawn {
		drawn[i] = &series{name: rowNames[i], look: looks[i], sideways: true}
	}
	for _, r := range c.Flips {
		flips.add(r.Of, r.Rows, r.N, r.Missing, int64(r.Texts), r.Flipped, r.estimate)
		for i, s := range drawn {
			if r.Rows == rowNames[i] && r.Share != nil {
				at := float64(len(comparedNames) - 1)
				for k, name := range comparedNames {
					if name == r.Of {
						at -= float64(k)
					}
				}
				s.marks = append(s.marks, mark{at + (1-float64(i))*0.18, scaled(r.estimate, 100)})
			}
		}
	}
	for _, s := range drawn {
		if len(s.marks) > 0 {
			p.series = append(p.series, s)
		}
	}
	for _, v := range c.Verdicts {
		verdicts.add(v.Name, v.estimate)
	}
	f.tables = []*table{flips, verdicts}
	if len(p.series) > 0 {
		f.picture = &picture{width: columnWidth, height: figureHeight, panels: []panel{p}}
	}
	return f
}

// CompareKey is what Write keeps of the comparison beside figure and tables.
const CompareKey = "compare.json"

// Write writes compare.json, figures/compare.* and tables/compare*.*.
func (c *Comparison) Write(ctx context.Context, out store.Store) error {
	if err := c.figure().write(ctx, out); err != nil {
		return err
	}
	return replaceJSON(ctx, out, CompareKey, c)
}

// Print writes the comparison for people.
func (c *Comparison) Print(w io.Writer) error {
	fmt.Fprintf(w, "%s mismatches in %s texts are in both jobs; %s are only in %s, %s only in %s\n", terminal.Grouped(c.Mismatches), terminal.Grouped(int64(c.Texts)),
		terminal.Grouped(c.Only[0]), c.Places[0], terminal.Grouped(c.Only[1]), c.Places[1])
	for _, d := range c.Differ {
		fmt.Fprintln(w, "  differs: "+short(d))
	}
	if !c.margins {
		fmt.Fprintln(w, "  near ties are not known: neither job was planned with --margins")
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, table := range c.figure().tables {
		if len(table.rows) == 0 {
			continue
		}
		fmt.Fprintln(t, "\n"+strings.ReplaceAll(strings.Join(table.columns, "\t"), "_", " "))
		for _, r := range table.rows {
			cells := make([]string, len(r))
			for i, cell := range r {
				cells[i] = short(cell)
			}
			fmt.Fprintln(t, strings.Join(cells, "\t"))
		}
	}
	fmt.Fprintf(t, "\n95 %% intervals in brackets: percentiles of %d resamples of whole texts, seed %d\n", c.Resamples, c.Seed)
	return t.Flush()
}
