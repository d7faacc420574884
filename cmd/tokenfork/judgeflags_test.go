package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
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
	f := judgeFlags{Judge: "https://h/v1", JudgeQuery: map[string]string{"api_key": "abcd1234"}}
	flags, err := f.flags(&workFlags{})
	ok(t, err)
	if said := strings.Join(flags, " "); strings.Contains(said, "abcd1234") || !strings.Contains(said, "--judge-query api_key=SECRET") {
		t.Errorf("kept %s", said)
	}
}
