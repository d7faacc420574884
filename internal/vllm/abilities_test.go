package vllm

import (
	"os"
	"strings"
	"testing"
)

func TestParseVersion(t *testing.T) {
	for said, want := range map[string]string{
		"0.25.1": "0.25.1", "vllm 0.32.0+cpu": "0.32.0", "INFO 11-28 10:00:00 [x.py:1] ready\n0.33.0rc1": "0.33.0", "v0.20.2": "0.20.2", "0.27.1.dev3+g1234567": "0.27.1",
		"0.1.dev1+gabc": "", "GNU bash, version 5.2": "", "": "",
	} {
		v, ok := ParseVersion(said)
		if ok != (want != "") || ok && v.String() != want {
			t.Errorf("%q: %v, %v; want %q", said, v, ok, want)
		}
	}
	if (Version{0, 26, 0}).Compare(Version{0, 25, 9}) <= 0 || Oldest.Compare(Newest) >= 0 {
		t.Error("the order is wrong")
	}
}

// TestAbilities holds the table here to that of docs/infer.md, which scripts/vllm-abilities makes.
func TestAbilities(t *testing.T) {
	b, err := os.ReadFile("../../docs/infer.md")
	if err != nil {
		t.Fatal(err)
	}
	var columns []string
	rows := 0
	for line := range strings.Lines(string(b)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range cells {
			cells[i] = strings.Trim(strings.TrimSpace(cells[i]), "`")
		}
		if cells[0] == "vLLM" {
			columns = cells
		}
		v, ok := ParseVersion(cells[0])
		if !ok || len(cells) != len(columns) {
			continue
		}
		rows++
		if v.Compare(Oldest) < 0 || v.Compare(Newest) > 0 {
			t.Errorf("%s is not between %s and %s", v, Oldest, Newest)
		}
		for _, a := range Abilities {
			for i, column := range columns {
				if column == a.Name && (cells[i] == "yes") != (v.Compare(a.Since) >= 0) {
					t.Errorf("%s of %s: %q", a.Name, v, cells[i])
				}
			}
		}
	}
	if rows < 10 {
		t.Errorf("%d versions in the table", rows)
	}
	for _, a := range Abilities {
		if !strings.Contains(strings.Join(columns, "|"), a.Name) {
			t.Errorf("no column %s", a.Name)
		}
	}
}
