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
	var all keptFlags
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
	all.add("--judge", f.Judge, "")
	all.add("--judge-model", model, "")
	all.add("--judge-prompt", prompt, "")
	all.add("--judge-context", f.JudgeContext.String(), "sentences=2")
	for _, is := range []struct {
		name string
		on   bool
	}{{"--blind", f.Blind}, {"--verdict-only", f.VerdictOnly}, {"--swap", f.Swap}} {
		if is.on {
			all = append(all, is.name)
		}
	}
	all.add("--votes", strconv.Itoa(f.Votes), "1")
	all.add("--judge-temperature", f.JudgeTemperature, "0")
	all.add("--judge-max-tokens", strconv.Itoa(f.JudgeMaxTokens), "512")
	all.add("--judge-seed", strconv.FormatInt(f.JudgeSeed, 10), "0")
	all.add("--judge-normalise", f.JudgeNormalise, "space")
	all.add("--judge-body", f.JudgeBody, "")
	for _, name := range slices.Sorted(maps.Keys(f.JudgeQuery)) {
		value := f.JudgeQuery[name]
		if secret.Variable(name, value) {
			value = "SECRET"
		}
		all = append(all, "--judge-query", name+"="+value)
	}
	for _, name := range slices.Sorted(maps.Keys(f.JudgeHeader)) {
		all = append(all, "--judge-header", name+"="+f.JudgeHeader[name]) // the name of a variable
	}
	first, err := fromRoot(f.JudgeFirstModel)
	if err != nil {
		return nil, err
	}
	all.add("--judge-first", f.JudgeFirst, "")
	all.add("--judge-first-model", first, "")
	all.add("--judge-first-args", f.JudgeFirstArgs, "")
	if f.EscalateBelow != nil {
		all.add("--escalate-below", strconv.FormatFloat(*f.EscalateBelow, 'f', -1, 64), "")
	}
	if f.Judge == "local" || f.JudgeFirst == "local" {
		all.add("--vllm", w.VLLM, "vllm")
	}
	if f.Judge == "local" {
		all.add("--judge-tp", strconv.Itoa(f.JudgeTP), "0")
		all.add("--judge-args", f.JudgeArgs, "")
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
