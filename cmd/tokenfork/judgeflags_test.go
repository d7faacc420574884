package main

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"tokenfork/internal/failure"
)

// What a job keeps of a judge's flags gives the same judge and settings again, and no secret.
func TestJudgeFlags(t *testing.T) {
	for _, args := range []string{
		"--judge http://h:1/v1 --judge-model M",
		"--judge local --judge-model /models/j --judge-tp 2 --judge-args --dtype=float32 --vllm /opt/vllm --verdict-only --judge-context mismatch",
		"--judge https://h/v1 --judge-prompt file=/p.tmpl --blind --swap --votes 3 --judge-temperature 0.7 --judge-max-tokens 99 --judge-seed 5 --judge-normalise exact",
		"--judge https://h/v1 --judge-model B --judge-first local --judge-first-model /models/s --judge-first-args --dtype=float32 --escalate-below 0.85 --vllm /opt/vllm",
		`--judge https://h/v1 --judge-body {"a":1} --judge-query api-version=1 --judge-header api-key=AZURE_KEY`,
	} {
		parse := func(args []string) []string {
			t.Helper()
			var c struct {
				workFlags  `embed:""`
				judgeFlags `embed:""`
			}
			parser, err := kong.New(&c, kong.WithHyphenPrefixedParameters(true))
			ok(t, err)
			_, err = parser.Parse(args)
			ok(t, err)
			flags, err := c.flags(&c.workFlags)
			ok(t, err)
			return flags
		}
		flags := parse(strings.Fields(args))
		if again := parse(flags); !slices.Equal(flags, again) {
			t.Errorf("%s: kept %q, which gives %q", args, flags, again)
		}
		want := strings.Fields(args)
		slices.Sort(want)
		if slices.Sort(flags); !slices.Equal(flags, want) {
			t.Errorf("%s: kept %q", args, flags)
		}
	}
	for want, f := range map[string]judgeFlags{
		"--judge-query api-key=SECRET": {Judge: "https://h/v1", JudgeQuery: map[string]string{"api-key": "abcd1234"}},
		"--judge SECRET":               {Judge: "https://me:abcd1234@h/v1"},
		"--judge-first SECRET":         {Judge: "https://h/v1", firstFlags: firstFlags{JudgeFirst: "https://h/v1?key=abcd1234"}},
		"--judge-args SECRET":          {Judge: "local", judgeServerFlags: judgeServerFlags{JudgeArgs: "--hf-token abcd1234"}},
	} {
		flags, err := f.flags(&workFlags{})
		ok(t, err)
		if said := strings.Join(flags, " "); strings.Contains(said, "abcd1234") || !strings.Contains(said, want) {
			t.Errorf("kept %s", said)
		}
	}
}

// A secret in a flag that becomes a command line, or part of a judging, is refused
// without being shown.
func TestSecretsInFlags(t *testing.T) {
	for _, flags := range [][2]string{{"--vllm", "env HF_TOKEN=abcd1234 vllm"}, {"--judge-args", "--hf-token abcd1234"}, {"--judge-body", `{"user":"https://me:abcd1234@h"}`}} {
		j := newFakeJob(t, 1, 20, 1)
		out := must(t, []int{failure.Usage}, append(j.args(filepath.Join(j.dir, "job")), flags[0], flags[1], "--judge", "local", "--judge-model", filepath.Join(j.dir, "reference"))...)
		if strings.Contains(out, "abcd1234") || !strings.Contains(out, flags[0]+" ") || !strings.Contains(out, "in plain text") {
			t.Error(out)
		}
	}
}
