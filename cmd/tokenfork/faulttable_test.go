package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestFaultTable holds the table of docs/reliability.md to the code: every fault has a
// test that exists, and every message is one that the program prints.
func TestFaultTable(t *testing.T) {
	b, err := os.ReadFile("../../docs/reliability.md")
	if err != nil {
		t.Fatal(err)
	}
	tests, said := sources(t)
	quoted, verb := regexp.MustCompile("`([^`]*)`"), regexp.MustCompile(`\bTest[A-Z]\w*`)
	numbers := 0
	for line := range strings.Lines(string(b)) {
		cells := strings.Split(strings.ReplaceAll(line, `\|`, "\x00"), " | ")
		if !strings.HasPrefix(line, "| ") || len(cells) != 5 || strings.HasPrefix(line, "| #") {
			continue
		}
		if n := strings.TrimPrefix(cells[0], "| "); n != "|" && n != "" {
			numbers++
		}
		names := verb.FindAllString(cells[4], -1)
		if len(names) == 0 {
			t.Errorf("no test: %s", line)
		}
		for _, name := range names {
			if !tests[name] {
				t.Errorf("there is no %s: %s", name, line)
			}
		}
		for _, message := range quoted.FindAllStringSubmatch(cells[3], -1) {
			for _, piece := range strings.Split(message[1], "…") {
				if piece = strings.TrimSpace(piece); !strings.Contains(said, piece) {
					t.Errorf("nothing prints %q: %s", piece, line)
				}
			}
		}
	}
	if numbers != 36 {
		t.Errorf("%d numbered faults", numbers)
	}
}

// sources are the names of all tests, and the program's text with its verbs left out.
func sources(t *testing.T) (tests map[string]bool, said string) {
	t.Helper()
	tests = map[string]bool{}
	name, verb := regexp.MustCompile(`(?m)^func (Test\w+)\(`), regexp.MustCompile(`%[-+.0-9]*[a-z]|" \+ [^"]+ \+ "`)
	var all strings.Builder
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if err == nil && strings.HasPrefix(d.Name(), ".") && d.Name() != "." && d.Name() != ".." {
				return fs.SkipDir
			}
			return err
		}
		if filepath.Ext(path) != ".go" && filepath.Ext(path) != ".bash" {
			return nil
		}
		b, err := os.ReadFile(path)
		if strings.HasSuffix(path, "_test.go") {
			for _, m := range name.FindAllStringSubmatch(string(b), -1) {
				tests[m[1]] = true
			}
			return err
		}
		all.Write(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return tests, verb.ReplaceAllString(strings.ReplaceAll(all.String(), `\"`, `"`), "…")
}
