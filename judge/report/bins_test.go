package report

import (
	"math"
	"strings"
	"testing"

	"tokenfork/internal/job"
	"tokenfork/internal/stats"
	"tokenfork/internal/terminal"
)

func TestGroup(t *testing.T) {
	edges := []float64{1, 2, 3}
	for v, want := range map[float32]int32{1: 0, 1.5: 0, 2: 0, 2.5: 1, 3: 1, float32(math.NaN()): -1} {
		if got := group(edges, v); got != want {
			t.Errorf("%v is in group %d, want %d", v, got, want)
		}
	}
	if got := group([]float64{4}, 4); got != 0 {
		t.Errorf("all equal: group %d", got)
	}
	if got := group(nil, 4); got != -1 {
		t.Errorf("no edges: group %d", got)
	}
}

func TestBinWidth(t *testing.T) {
	for _, c := range []struct{ longest, narrowest, want int64 }{
		{32000, 16, 1024}, {16000, 16, 512}, {4096, 16, 512}, {4000, 16, 256}, {100, 16, 16}, {100, 512, 512}, {0, 16, 16},
	} {
		if got := binWidth(c.longest, c.narrowest); got != c.want {
			t.Errorf("%d positions: %d wide, want %d", c.longest, got, c.want)
		}
	}
}

func TestJoin(t *testing.T) {
	got := join([]job.Rate{{From: math.Inf(-1), To: 0, Positions: 0}, {From: 1, To: 2, Positions: 5, Mismatches: 1}, {From: 0, To: 1, Positions: 95, Mismatches: 2}})
	want := []valueRange{{math.Inf(-1), 0, 0, 0}, {0, 1, 95, 2}, {1, 2, 5, 1}}
	if len(got) != 3 || got[1] != want[1] || got[2] != want[2] {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestRounded(t *testing.T) {
	for v, want := range map[float64]string{0: "0.000", 0.1234: "0.123", 1e-5: "1e-05", 12345: "1.23e+04", math.Inf(1): "+∞"} {
		if got := rounded(v); got != want {
			t.Errorf("%v is %q, want %q", v, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", -123456: "-123,456", 1234567: "1,234,567"} {
		if got := terminal.Grouped(n); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
}

func TestLaTeX(t *testing.T) {
	x := &table{columns: []string{"a_b", "share"}}
	x.add(`50 % of $x_1$ & {\it more}~#1^`, stats.Estimate{Value: 0.5, Interval: stats.Interval{Low: 0.25, High: 0.75}})
	var b strings.Builder
	if err := x.writeLaTeX(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`a b & share \\`, `50 \% of \$x\_1\$ \& \{\textbackslash{}it more\}\textasciitilde{}\#1\textasciicircum{} & 0.500 [0.250, 0.750] \\`, `{lr}`} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %s in\n%s", want, &b)
		}
	}
}

// Text from a job is text in a paper and on a page, whatever it holds.
func TestLaTeXOfHostileText(t *testing.T) {
	x := &table{columns: []string{"judge", "text"}}
	x.add("[3em]*", "\x1b[2J\a^^41 \\input{/etc/passwd}\r\n\\end{tabular}\u202e% \xff")
	var b strings.Builder
	if err := x.writeLaTeX(&b); err != nil {
		t.Fatal(err)
	}
	want := `{}[3em]* & \textbackslash{}x1b[2J\textbackslash{}x07\textasciicircum{}\textasciicircum{}41 \textbackslash{}input\{/etc/passwd\}` +
		`$\hookleftarrow$\textbackslash{}end\{tabular\}\textbackslash{}u202e\% \textbackslash{}xff \\`
	if !strings.Contains(b.String(), want) {
		t.Errorf("no %s in\n%s", want, &b)
	}
}

func TestEvenTicks(t *testing.T) {
	for _, c := range []struct {
		from, to float64
		want     string
	}{
		{0, 1, "0.0 0.2 0.4 0.6 0.8 1.0"}, {0, 11, "0 2 4 6 8 10"}, {0, 32000, "0 10000 20000 30000"}, {0, 0.05, "0.00 0.01 0.02 0.03 0.04 0.05"}, {0.4, 1, "0.4 0.5 0.6 0.7 0.8 0.9 1.0"},
	} {
		var got []string
		for _, tick := range (evenTicks{}).Ticks(c.from, c.to) {
			got = append(got, tick.Label)
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%v to %v: %s, want %s", c.from, c.to, s, c.want)
		}
	}
}
