package shell

import (
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

var hostile = []string{"", "plain", "two words", "it's", `"$HOME" \ $(false) 100% ` + "`id`", "line\nsecond", "tab\there", "\x1b[2J\a", "\u202egnp", "\xff\x9b", "a|b;c&d", "~", "*", "日本"}

func TestBashReadsWhatQuoteWrites(t *testing.T) {
	out, err := exec.Command("bash", "-c", `printf '%s\0' `+Join(hostile)).Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00"); !slices.Equal(got, hostile) {
		t.Errorf("bash has\n%q, want\n%q", got, hostile)
	}
	if strings.ContainsAny(Join(hostile), "\x1b\a\t\u202e") {
		t.Errorf("a control character would reach a terminal: %q", Join(hostile))
	}
}

func TestSplit(t *testing.T) {
	for _, c := range []struct {
		line string
		want []string
	}{
		{"", []string{}},
		{`apptainer exec --nv "my image.sif" vllm`, []string{"apptainer", "exec", "--nv", "my image.sif", "vllm"}},
		{`'--constraint=a100|h100' --qos=high`, []string{"--constraint=a100|h100", "--qos=high"}},
		{`--constraint=a100\|h100 --empty=''`, []string{"--constraint=a100|h100", "--empty="}},
	} {
		if got, err := Split(c.line); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%q is %q, %v; want %q", c.line, got, err, c.want)
		}
	}
}

func TestSplitDropsNothing(t *testing.T) {
	for _, c := range []struct {
		line     string
		operator rune
		position int
	}{
		{"--constraint=a100|h100 --qos=high", '|', 18},
		{"module load cuda && vllm", '&', 18},
		{"vllm; true", ';', 5},
		{"vllm 2> log", '>', 7},
		{"vllm < x", '<', 6},
		{"é | x", '|', 3},
		{"|", '|', 1},
	} {
		_, err := Split(c.line)
		var e *OperatorError
		if !errors.As(err, &e) || e.Operator != c.operator || e.Position != c.position {
			t.Errorf("%q: %v, want %q at %d", c.line, err, c.operator, c.position)
		}
	}
	for _, line := range []string{"'open", `open"`, "a (b)", `end\`} {
		if words, err := Split(line); err == nil {
			t.Errorf("%q is taken for %q", line, words)
		}
	}
}
