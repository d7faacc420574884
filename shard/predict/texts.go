package predict

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strings"

	"tokenfork/internal/failure"
)

// Text is one text to read.
type Text struct {
	ID       string
	Prompt   string
	Response *string // nil: the reference writes it
}

// Read yields the texts of the files, in their order: a line of a .jsonl file
// is {"id", "prompt", "response"}, any other file is one text without a prompt.
// An error ends it.
func Read(files []string) iter.Seq2[Text, error] {
	return func(yield func(Text, error) bool) {
		seen := map[string]bool{}
		once := func(t Text, err error) bool {
			if err == nil && seen[t.ID] {
				err = failure.New(failure.Refused, "give each text an id of its own", "the id %q is there twice", t.ID)
			}
			seen[t.ID] = true
			return yield(t, err) && err == nil
		}
		for _, name := range files {
			if !readFile(name, once) {
				return
			}
		}
	}
}

func readFile(name string, yield func(Text, error) bool) bool {
	if filepath.Ext(name) == ".jsonl" {
		return readLines(name, yield)
	}
	b, err := os.ReadFile(name)
	response := string(b)
	base := filepath.Base(name)
	return yield(Text{ID: strings.TrimSuffix(base, filepath.Ext(base)), Response: &response}, err)
}

func readLines(name string, yield func(Text, error) bool) bool {
	f, err := os.Open(name)
	if err != nil {
		return yield(Text{}, err)
	}
	defer f.Close()
	lines := bufio.NewReader(f)
	for n := 1; ; n++ {
		line, err := lines.ReadBytes('\n')
		if len(bytes.TrimSpace(line)) > 0 {
			t, perr := parseLine(line)
			if perr != nil {
				perr = failure.New(failure.Refused, `a line is {"id": "a", "prompt": "…", "response": "…"}`, "%s:%d: %w", name, n, perr)
			}
			if !yield(t, perr) {
				return false
			}
		}
		if errors.Is(err, io.EOF) {
			return true
		}
		if err != nil {
			return yield(Text{}, fmt.Errorf("read %s: %w", name, err))
		}
	}
}

func parseLine(line []byte) (Text, error) {
	var w struct {
		ID       json.RawMessage `json:"id"`
		Prompt   string          `json:"prompt"`
		Response *string         `json:"response"`
	}
	if err := json.Unmarshal(line, &w); err != nil {
		return Text{}, err
	}
	t := Text{ID: string(w.ID), Prompt: w.Prompt, Response: w.Response}
	var number int64
	if json.Unmarshal(w.ID, &number) != nil && json.Unmarshal(w.ID, &t.ID) != nil || t.ID == "" || t.ID == "null" {
		return Text{}, fmt.Errorf("the id is %q, not a string or a whole number", w.ID)
	}
	if t.Prompt == "" && t.Response == nil {
		return Text{}, fmt.Errorf("text %q has neither a prompt nor a response", t.ID)
	}
	return t, nil
}
