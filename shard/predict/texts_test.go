package predict

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tokenfork/internal/failure"
)

func TestRead(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	lines := file("a.jsonl", `{"id": 7, "prompt": "Q", "response": "A\n"}`+"\n\n"+`{"id": "x y", "prompt": "Q"}`+"\n"+`{"id": "r", "response": ""}`)
	var got []string
	for text, err := range Read([]string{lines, file("story.txt", "Once.\n")}) {
		if err != nil {
			t.Fatal(err)
		}
		response := "open"
		if text.Response != nil {
			response = *text.Response
		}
		got = append(got, text.ID+"|"+text.Prompt+"|"+response)
	}
	if want := "7|Q|A\n, x y|Q|open, r||, story||Once.\n"; strings.Join(got, ", ") != want {
		t.Errorf("read %q, want %q", got, want)
	}

	for content, says := range map[string]string{
		`{"id": "a", "prompt": "Q"}` + "\n" + `{"id": "a", "prompt": "R"}`: `the id "a" is there twice`,
		"\n{\"id\": ":                          "bad.jsonl:2: ",
		`{"prompt": "Q"}`:                      "bad.jsonl:1: the id is \"\"",
		`{"id": 1.5, "prompt": "Q"}`:           `the id is "1.5"`,
		`{"id": null, "prompt": "Q"}`:          `the id is "null"`,
		`{"id": "a"}`:                          `text "a" has neither a prompt nor a response`,
		`{"id": "a", "prompt": ["not", "it"]}`: "bad.jsonl:1: ",
	} {
		var last error
		for _, err := range Read([]string{file("bad.jsonl", content)}) {
			last = err
		}
		if last == nil || !strings.Contains(last.Error(), says) || failure.Code(last) != failure.Refused {
			t.Errorf("%q: %v, want %q", content, last, says)
		}
	}
}
