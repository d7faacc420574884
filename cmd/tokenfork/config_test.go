package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"tokenfork/internal/failure"
)

func runSays(t *testing.T, args ...string) (code int, out, err string) {
	t.Helper()
	var stdout, stderr strings.Builder
	code = run(t.Context(), args, &stdout, &stderr)
	return code, stdout.String(), stderr.String()
}

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tokenfork.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestConfig sets flags by all four means, and has config say which counts.
func TestConfig(t *testing.T) {
	path := writeConfig(t, `# for all commands
job: /shared/job
small: 1.50
grace: 3s
vllm: /file/vllm
judge: http://127.0.0.1:1
s3-endpoint: http://file
infer:
  grace: 4s
  shard: [3, 4]
  small-url: ["http://a:1", "http://b:2"]
  retry: true
judge:
  votes: 3
  judge-query: {api-version: 2024-01-01, api-key: hunter2}
`)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if code, _, said := runSays(t, "config", "infer", "--config", path); code != failure.Usage || !strings.Contains(said, "judge is set a second time") {
		t.Errorf("a repeated name: %d %s", code, said)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(text), "judge: http://127.0.0.1:1\n", "", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TOKENFORK_VLLM", "/env/vllm")
	t.Setenv("TOKENFORK_S3_ENDPOINT", "http://env")
	for command, want := range map[string]string{
		"infer": `job /shared/job file|grace 4s file|vllm /flag/vllm flag|s3-endpoint http://env env TOKENFORK_S3_ENDPOINT|shard [3 4] file|small-url [http://a:1 http://b:2] file|retry true file|part-every 1m0s default`,
		"judge": `job /shared/job file|grace 3s file|votes 3 file|judge-query SECRET file`,
		"plan":  `job /shared/job file|small 1.50 file`,
	} {
		args := []string{"config", "--config", path, command}
		if command == "infer" {
			args = append(args, "--vllm", "/flag/vllm")
		}
		_, out, said := runSays(t, args...)
		out = regexp.MustCompile(` +`).ReplaceAllString(out, " ")
		for line := range strings.SplitSeq(want, "|") {
			if !strings.Contains(out, "--"+line+"\n") {
				t.Errorf("%s: no %q in\n%s%s", command, line, out, said)
			}
		}
	}
}

func TestConfigRefusesWhatNoCommandKnows(t *testing.T) {
	for text, want := range map[string]string{
		"jobb: x":                           "line 1: no flag is called jobb, did you mean job?",
		"infr:\n  grace: 3s":                "line 1: no flag is called infr, did you mean infer?",
		"infer:\n  votes: 3":                "line 2: no flag is called votes",
		"job: x\njob: y":                    "line 2: job is set a second time",
		"job:":                              "job: has no value",
		"job: [a, b]":                       "job: want a single value",
		"infer: 3":                          "line 1: want flags and their values",
		"- job":                             "want flags and their values",
		"job: x\n---\njob: y":               "more than one YAML document",
		"job: [":                            "not YAML",
		"version: true":                     "no flag is called version",
		"job: x\ngrace: soon":               `invalid duration "soon"`,
		"job: x\ninfer:\n  shard: [1, two]": `"two"`,
	} {
		code, out, said := runSays(t, "infer", "--config", writeConfig(t, text))
		if code != failure.Usage || !strings.Contains(said, want) || out != "" {
			t.Errorf("%q: code %d, %q, want %q", text, code, said, want)
		}
	}
}

// TestConfigReachesACommand runs one by a file alone; an empty file changes nothing.
func TestConfigReachesACommand(t *testing.T) {
	j := newFakeJob(t, 2, 60, 1)
	at := filepath.Join(j.dir, "job")
	j.whole(t, at)
	if code, out, said := runSays(t, "status", "--config", writeConfig(t, "job: "+at)); code != 0 || out == "" {
		t.Errorf("code %d: %s%s", code, out, said)
	}
	if code, _, said := runSays(t, "status", "--job", at, "--config", writeConfig(t, "# nothing\n")); code != 0 {
		t.Errorf("an empty file: code %d: %s", code, said)
	}
}

func TestMistypedNames(t *testing.T) {
	path := writeConfig(t, "grace: 3s")
	for want, args := range map[string][]string{
		`did you mean "--resamples"?`:  {"report", "--job", "x", "--resample", "y"},
		`did you mean "infer"?`:        {"infr"},
		"did you mean tokenfork.yaml?": {"status", "--job", "x", "--config", strings.Replace(path, "tokenfork.", "tokenfrok.", 1)},
	} {
		if code, _, said := runSays(t, args...); code != failure.Usage || !strings.Contains(said, want) {
			t.Errorf("%q: code %d, %s", args, code, said)
		}
	}
	table := filepath.Join(filepath.Dir(path), "table.csv")
	if err := os.WriteFile(table, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, said := runSays(t, "plan", strings.Replace(table, "table", "tabel", 1), "--job", filepath.Join(t.TempDir(), "j"), "--small-model", "x", "--reference-model", "y"); code == 0 || !strings.Contains(said, "did you mean table.csv?") {
		t.Errorf("a mistyped table: code %d, %s", code, said)
	}
}
