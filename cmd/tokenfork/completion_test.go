package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestCompletion has the shells complete lines by the tab key, on a terminal.
func TestCompletion(t *testing.T) {
	bin, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "a folder's", "tokenfork") // a path that must be quoted
	if err := os.Mkdir(filepath.Dir(link), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(bin, link); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ shell, line, want string }{
		{"bash --norc --noprofile -i", "tokenfork repTAB--resamTAB 5", "report --resamples 5"},
		{"bash --norc --noprofile -i", "tokenfork judge --judge-normTABspTAB", "judge --judge-normalise space"},
		{"bash --norc --noprofile -i", "tokenfork plan testdata/comTAB", "plan testdata/complete.py"},
		{"zsh -f -i", "tokenfork repTAB--resamTAB 5", "report --resamples 5"},
		{"fish --no-config -i", "tokenfork repTAB--resamTAB 5", "report --resamples 5"},
		{"fish --no-config -i", "tokenfork plan testdata/comTAB", "plan testdata/complete.py"},
	} {
		cmd := exec.Command("python3", append([]string{"testdata/complete.py", link, c.line}, strings.Fields(c.shell)...)...)
		cmd.Env = append(os.Environ(), "TOKENFORK_TEST_MAIN=1", "HOME="+t.TempDir())
		if said, err := cmd.CombinedOutput(); err != nil || strings.TrimSpace(string(said)) != c.want {
			t.Errorf("%s: %q: %v: %s, want %q (scripts/setup-report installs the shells)", c.shell, c.line, err, said, c.want)
		}
	}
}

// TestCompletionVariableAlone: a task that inherits a shell's variable still does its work.
func TestCompletionVariableAlone(t *testing.T) {
	t.Setenv("COMP_LINE", "tokenfork re")
	if code, out, _ := runSays(t, "--version"); code != 0 || !strings.HasPrefix(out, "tokenfork ") {
		t.Errorf("code %d: %s", code, out)
	}
}

// TestManual looks for every command on the page.
func TestManual(t *testing.T) {
	code, page, said := runSays(t, "man")
	if code != 0 || said != "" || !strings.HasPrefix(page, ".TH TOKENFORK 1 ") {
		t.Fatalf("code %d: %.200s%s", code, page, said)
	}
	parser, err := newParser(&cli{}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range parser.Model.Children {
		if !strings.Contains(page, `\fB`+c.Name) {
			t.Errorf("no %s", c.Name)
		}
	}
}
