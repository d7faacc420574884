package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"tokenfork/internal/job/jobtest"
)

// hostileName is of a folder that a user may have, and whose name a terminal or a
// shell would act on.
const hostileName = "it's \"my\" job $(touch pwned)\n; touch pwned #\x1b]0;pwned\a \u202egnp"

// Every command that is printed works when it is pasted, wherever the job lies, and
// nothing that is printed acts on the terminal.
func TestPrintedCommandsCanBePasted(t *testing.T) {
	s := jobtest.Make(t, 4, 2)
	dir := filepath.Join(t.TempDir(), hostileName)
	if err := os.CopyFS(dir, os.DirFS(s.String())); err != nil {
		t.Fatal(err)
	}
	here := t.TempDir()
	paste := func(command string) []string { // gives the words that the shell makes of it
		cmd := exec.Command("bash", "-c", `tokenfork() { printf '%s\0' "$@"; }; `+command)
		cmd.Dir = here
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("pasted %q: %v: %s", command, err, out)
		}
		return strings.Split(string(out), "\x00")
	}
	var said bytes.Buffer
	commands := map[string]int{}
	show := func(args ...string) {
		said.Reset()
		run(t.Context(), args, &said, &said)
		if strings.ContainsAny(said.String(), "\x1b\a\u202e\r") {
			t.Errorf("%q prints what acts on a terminal: %q", args[0], &said)
		}
		for _, m := range regexp.MustCompile(`(?s)(?:next: |fix: )(tokenfork .*?pwned.*?gnp'.*?)\n`).FindAllStringSubmatch(said.String(), -1) {
			words := paste(m[1])
			commands[words[0]]++
			if i := slices.Index(words, "--job"); i < 0 || words[i+1] != dir {
				t.Errorf("pasted %q: the words are %q", m[1], words)
			}
		}
	}
	show("status", "--job", dir)
	show("check", "--job", dir)
	show("merge", "--job", dir, "--judge", "none")
	show("status", "--job", dir)
	if err := os.Remove(filepath.Join(dir, "parts/infer/00001/small/commit.json")); err != nil {
		t.Fatal(err)
	}
	show("status", "--job", dir)
	show("check", "--job", dir)
	for _, verb := range []string{"merge", "check", "status"} {
		if commands[verb] == 0 {
			t.Errorf("no command with %s was printed: %v", verb, commands)
		}
	}
	if left, _ := os.ReadDir(here); len(left) > 0 {
		t.Errorf("pasting made %v", left)
	}
}
