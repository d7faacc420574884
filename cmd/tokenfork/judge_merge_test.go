package main

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tokenfork/internal/failure"
	"tokenfork/internal/job/jobtest"
)

// fakeJudge says of every pair that it differs, or answers nothing that can be read.
func fakeJudge(t *testing.T, broken *bool) string { return serveJudge(t, new(bool), broken) }

// fakeJudgeSaying always says the same of every pair.
func fakeJudgeSaying(t *testing.T, match bool) string { return serveJudge(t, &match, new(bool)) }

func serveJudge(t *testing.T, match, broken *bool) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		content := fmt.Sprintf(`{"explanation":"e","key_differences":["d"],"meaning_match":%t,"confidence":0.5}`, *match)
		switch {
		case r.Method == http.MethodGet:
			fmt.Fprint(w, `{"data":[{"id":"fake"}]}`)
			return
		case *broken:
			content = "hm"
		}
		fmt.Fprintf(w, `{"choices":[{"message":{"content":%q},"finish_reason":"stop"}],"usage":{"prompt_tokens":10,"completion_tokens":5}}`, content)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// tokenfork runs the program in this process.
func tokenfork(t *testing.T, code int, args string) string {
	t.Helper()
	var out, err bytes.Buffer
	if got := run(t.Context(), strings.Fields(args), &out, &err); got != code {
		t.Fatalf("tokenfork %s: exit code %d, want %d\n%s%s", args, got, code, &out, &err)
	}
	return out.String() + err.String()
}

// column reads a column of the merged CSV and counts its values.
func column(t *testing.T, dir, name string) map[string]int {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, "results.csv"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for i, c := range rows[0] {
		if c != name {
			continue
		}
		for _, row := range rows[1:] {
			counts[row[i]]++
		}
	}
	return counts
}

func equal(a, b map[string]int) bool { return fmt.Sprint(a) == fmt.Sprint(b) }

func TestJudgeThenMerge(t *testing.T) {
	dir := jobtest.Make(t, 4, 2).String()
	broken := false
	url := fakeJudge(t, &broken)

	out := tokenfork(t, failure.Usage, "merge --job "+dir)
	if !strings.Contains(out, "no judge is given") {
		t.Errorf("got %s", out)
	}
	tokenfork(t, failure.Partial, "merge --job "+dir+" --judge none")
	if got := column(t, dir, "status"); !equal(got, map[string]int{"not_judged": 19, "infer_failed:context_length": 1}) {
		t.Errorf("got %v", got)
	}

	// merge judges what is not yet judged.
	tokenfork(t, 0, "judge --job "+dir+" --judge "+url+" --shard 1")
	tokenfork(t, failure.Partial, "merge --job "+dir+" --judge "+url)
	first := column(t, dir, "meaning_match")
	if !equal(first, map[string]int{"false": 15, "true": 4, "": 1}) {
		t.Errorf("got %v", first)
	}
	if got := column(t, dir, "confidence_source"); !equal(got, map[string]int{"self": 15, "identical": 4, "": 1}) {
		t.Errorf("got %v", got)
	}

	// Who judged is written again where it was lost.
	records, err := filepath.Glob(filepath.Join(dir, "judgings", "*"))
	if err != nil || len(records) != 1 || os.Remove(records[0]) != nil {
		t.Fatalf("records %v, %v", records, err)
	}
	tokenfork(t, failure.Usage, "merge --job "+dir)
	tokenfork(t, 0, "judge --job "+dir+" --judge "+url)

	// The only judging needs no name, one of several does.
	tokenfork(t, failure.Partial, "merge --job "+dir)
	tokenfork(t, failure.Partial, "judge --job "+dir+" --judge "+url+" --blind")
	out = tokenfork(t, failure.Usage, "merge --job "+dir)
	if !strings.Contains(out, "2 judgings") || !strings.Contains(out, "blind: ") {
		t.Errorf("got %s", out)
	}
	ids, err := os.ReadDir(filepath.Join(dir, "judgings"))
	if err != nil || len(ids) != 2 {
		t.Fatalf("judgings %v, %v", ids, err)
	}
	for _, id := range ids {
		tokenfork(t, failure.Partial, "merge --job "+dir+" --judging "+strings.TrimSuffix(id.Name(), ".json"))
	}
	tokenfork(t, failure.Usage, "merge --job "+dir+" --judging 0123")
}

func TestJudgeFailuresAreListedAndRetried(t *testing.T) {
	dir := jobtest.Make(t, 4, 1).String()
	broken := true
	url := fakeJudge(t, &broken)
	out := tokenfork(t, failure.Partial, "judge --job "+dir+" --judge "+url)
	if !strings.Contains(out, "16 of 20 mismatches got no verdict, 15 malformed, 1 no_continuation") {
		t.Errorf("got %s", out)
	}
	tokenfork(t, failure.Partial, "merge --job "+dir)
	if got := column(t, dir, "status"); !equal(got, map[string]int{"ok": 4, "judge_failed:malformed": 15, "infer_failed:context_length": 1}) {
		t.Errorf("got %v", got)
	}
	failures, err := os.ReadFile(filepath.Join(dir, "failures.csv"))
	if err != nil || !strings.Contains(string(failures), "tokenfork judge --job "+dir+" --retry") {
		t.Errorf("got %s, %v", failures, err)
	}
	broken = false
	tokenfork(t, failure.Partial, "judge --job "+dir+" --judge "+url+" --retry")
	tokenfork(t, failure.Partial, "merge --job "+dir)
	if got := column(t, dir, "status"); !equal(got, map[string]int{"ok": 19, "infer_failed:context_length": 1}) {
		t.Errorf("got %v", got)
	}
}

// onFullDisk merges on a small file system of its own, and again once that is full.
const onFullDisk = `set -eu
mount -t tmpfs -o size=4m none "$DISK"
cp -r "$JOB" "$DISK/job"
export TMPDIR=/tmp
"$0" merge --job "$DISK/job" --judge none || [ $? = 3 ]
cp -r "$DISK/job" "$JOB-before"
head -c 4m /dev/zero >"$DISK/filler" 2>/dev/null || true
code=0
"$0" merge --job "$DISK/job" --judge none --format r2r || code=$?
rm "$DISK/filler"
diff -r "$JOB-before" "$DISK/job"
exit $code
`

// TestMergeOnFullDisk: the earlier results stay as they were, nothing is left behind.
func TestMergeOnFullDisk(t *testing.T) {
	dir := jobtest.Make(t, 4, 2).String()
	cmd := exec.Command("unshare", "--mount", "bash", "-c", onFullDisk, os.Args[0])
	cmd.Env = append(os.Environ(), "TOKENFORK_TEST_MAIN=1", "DISK="+t.TempDir(), "JOB="+dir)
	out, err := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != failure.Stopped || !strings.Contains(string(out), "earlier result kept") || !strings.Contains(string(out), "make room for") {
		t.Errorf("exit code %d, %v\n%s", code, err, out)
	}
}

func TestJudgeGold(t *testing.T) {
	s := jobtest.Make(t, 4, 1)
	broken := false
	url := fakeJudge(t, &broken)
	labels := filepath.Join(t.TempDir(), "labels.csv")
	text := "sentence_id,mismatch_position,label\ns0,2,different\ns1,2,different\ns0,3,same\ns0,4,same\n"
	if err := os.WriteFile(labels, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out := tokenfork(t, 0, "judge --job "+s.String()+" --judge "+url+" --gold "+labels)
	if !strings.Contains(out, "4 labels from 2 texts") || !strings.Contains(out, "accuracy 0.750") || !strings.Contains(out, "fake, prompt seed-2") {
		t.Errorf("got %s", out)
	}
}
