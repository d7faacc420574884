package main

import (
	"bytes"
	"strings"
	"testing"

	"tokenfork/internal/failure"
)

func TestJudgeKey(t *testing.T) {
	for _, c := range []struct {
		url, own, openai string
		header           bool
		want             string
	}{
		{"https://host/v1", "own", "openai", false, "own"},
		{"https://host/v1", "", "openai", false, "openai"},
		{"http://host:8000", "own", "openai", false, "own"},
		{"http://host:8000", "", "openai", false, ""}, // not in the clear
		{"unix:///s", "", "openai", false, ""},
		{"local", "", "openai", false, ""},
		{"https://host/v1", "", "openai", true, ""},
	} {
		env := map[string]string{"TOKENFORK_JUDGE_KEY": c.own, "OPENAI_API_KEY": c.openai}
		if got := judgeKey(c.url, c.header, func(name string) string { return env[name] }); got != c.want {
			t.Errorf("%+v: got %q", c, got)
		}
	}
}

func TestJudgeName(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct{ judge, model, want string }{
		{"local", dir + "/", "001"},
		{"local", "Qwen/Qwen2.5-72B-Instruct", "Qwen/Qwen2.5-72B-Instruct"},
		{"http://h", "/models/x", "/models/x"},
		{"http://h", "", ""},
	} {
		f := judgeFlags{Judge: c.judge, JudgeModel: c.model}
		if got := modelName(f.Judge, f.JudgeModel); got != c.want {
			t.Errorf("%+v: got %q", c, got)
		}
	}
}

func TestJudgeUsage(t *testing.T) {
	for _, c := range []struct{ args, says string }{
		{"judge --job J", "no judge given"},
		{"judge --job J --judge none", "no judge given"},
		{"judge --job J --judge http://h --votes 3", "3 votes at temperature 0"},
		{"judge --job J --judge http://h --judge-temperature warm", `judge temperature "warm"`},
		{"judge --job J --judge http://h --budget $5", "needs --price-in and --price-out"},
		{"judge --job J --judge http://h --judge-context all", "mismatch, sentences=N or tokens=N"},
		{"judge --job J --judge http://h --judge-normalise none", "space"},
		{`judge --job J --judge http://h --judge-body {"model":"x"}`, "may not set"},
		{"judge --job J --judge http://h --judge-header api-key=TOKENFORK_NOT_SET", "TOKENFORK_NOT_SET is not set"},
		{"judge --job J --judge local", "no model for a local judge"},
		{"judge --job J --judge http://h --gold nowhere.csv", "nowhere.csv"},
	} {
		t.Chdir(t.TempDir())
		var out, err bytes.Buffer
		code := run(t.Context(), strings.Fields(c.args), &out, &err)
		if code != failure.Usage || !strings.Contains(err.String(), c.says) || !strings.Contains(err.String(), "hint: ") {
			t.Errorf("%s: code %d, %s", c.args, code, err.String())
		}
	}
}

func TestJudgeFlagsBecomeSettings(t *testing.T) {
	f := judgeFlags{JudgePrompt: "r2r", Votes: 3, JudgeTemperature: "0.7", JudgeMaxTokens: 9, JudgeSeed: 4, JudgeNormalise: "exact", Blind: true, Swap: true, VerdictOnly: true}
	if err := f.JudgeContext.UnmarshalText([]byte("tokens=5")); err != nil {
		t.Fatal(err)
	}
	s, err := f.settings()
	if err != nil || *s.Temperature != 0.7 || s.Context.N != 5 || !s.Blind || !s.Swap || !s.VerdictOnly || s.Votes != 3 || s.MaxTokens != 9 || s.Seed != 4 || s.Normalisation != "exact" || s.Prompt != "r2r" {
		t.Errorf("got %+v, %v", s, err)
	}
	f.JudgeTemperature = "default"
	if s, err = f.settings(); err != nil || s.Temperature != nil {
		t.Errorf("got %+v, %v", s, err)
	}
}
