package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"tokenfork/internal/secret"
)

// flags name the judge and its settings again: what messages advise and a job
// keeps. Those that only say how fast, how long or for how much are left out. A
// folder is named from the root, a secret not at all.
func (f *judgeFlags) flags(w *workFlags) ([]string, error) {
	var all []string
	add := func(name, value, otherwise string) {
		if value != otherwise {
			all = append(all, name, value)
		}
	}
	model, err := fromRoot(f.JudgeModel)
	if err != nil {
		return nil, err
	}
	prompt := f.JudgePrompt
	if path, ok := strings.CutPrefix(prompt, "file="); ok {
		if path, err = filepath.Abs(path); err != nil {
			return nil, err
		}
		prompt = "file=" + path
	}
	add("--judge", f.Judge, "")
	add("--judge-model", model, "")
	add("--judge-prompt", prompt, "")
	add("--judge-context", f.JudgeContext.String(), "sentences=2")
	for _, is := range []struct {
		name string
		on   bool
	}{{"--blind", f.Blind}, {"--verdict-only", f.VerdictOnly}, {"--swap", f.Swap}} {
		if is.on {
			all = append(all, is.name)
		}
	}
	add("--votes", strconv.Itoa(f.Votes), "1")
	add("--judge-temperature", f.JudgeTemperature, "0")
	add("--judge-max-tokens", strconv.Itoa(f.JudgeMaxTokens), "512")
	add("--judge-seed", strconv.FormatInt(f.JudgeSeed, 10), "0")
	add("--judge-normalise", f.JudgeNormalise, "space")
	add("--judge-body", f.JudgeBody, "")
	for _, name := range slices.Sorted(maps.Keys(f.JudgeQuery)) {
		value := f.JudgeQuery[name]
		if secret.Variable(name, value) {
			value = "SECRET"
		}
		add("--judge-query", name+"="+value, "")
	}
	for _, name := range slices.Sorted(maps.Keys(f.JudgeHeader)) {
		add("--judge-header", name+"="+f.JudgeHeader[name], "") // the name of a variable
	}
	first, err := fromRoot(f.JudgeFirstModel)
	if err != nil {
		return nil, err
	}
	add("--judge-first", f.JudgeFirst, "")
	add("--judge-first-model", first, "")
	add("--judge-first-args", f.JudgeFirstArgs, "")
	if f.EscalateBelow != nil {
		add("--escalate-below", strconv.FormatFloat(*f.EscalateBelow, 'f', -1, 64), "")
	}
	if f.Judge == "local" || f.JudgeFirst == "local" {
		add("--vllm", w.VLLM, "vllm")
	}
	if f.Judge == "local" {
		add("--judge-tp", strconv.Itoa(f.JudgeTP), "0")
		add("--judge-args", f.JudgeArgs, "")
	}
	return all, nil
}

// fromRoot is a folder's whole path, and any other name as it is.
func fromRoot(name string) (string, error) {
	if _, err := os.Stat(name); name == "" || err != nil {
		return name, nil
	}
	return filepath.Abs(name)
}
