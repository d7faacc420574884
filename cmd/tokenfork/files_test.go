package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/store/storetest"
	"tokenfork/judge/merge"
)

// A FIFO where a job, a model or a flag has a file is refused by name: no process writes
// to it, and what opened it would wait for ever.
func TestFIFOsInPlaceOfFiles(t *testing.T) {
	j := newFakeJob(t, 4, 40, 2)
	at := filepath.Join(j.dir, "job")
	j.whole(t, at)
	part := func() string {
		for _, key := range files(t, at) {
			if strings.HasPrefix(key, "parts/infer") && strings.HasSuffix(key, ".arrow") {
				return key
			}
		}
		t.Fatal("no part")
		return ""
	}()
	inJob := func(args ...string) []string { return append(args, "--job", at) }
	plan := append([]string{"plan", j.table, "--job", filepath.Join(j.dir, "other")}, j.some("--small-model", "--reference-model", "--alignment")...)
	for _, c := range []struct {
		path string
		args []string
	}{
		{filepath.Join(at, "job.json"), inJob("status")},
		{filepath.Join(at, "shards/00001.arrow"), inJob("merge", "--judge", "none")},
		{filepath.Join(at, part), inJob("merge", "--judge", "none")},
		{filepath.Join(at, part), inJob("check")},
		{filepath.Join(at, merge.ParquetKey), inJob("report", "--out", filepath.Join(j.dir, "report"))},
		{filepath.Join(j.dir, "small/config.json"), plan},
		{filepath.Join(j.dir, "reference/tokenizer.json"), plan},
		{filepath.Join(j.dir, "prompt"), append(inJob("judge", "--judge-prompt", "file="+filepath.Join(j.dir, "prompt")), j.some("--judge")...)},
		{filepath.Join(j.dir, "gold.csv"), append(inJob("judge", "--gold", filepath.Join(j.dir, "gold.csv")), j.some("--judge")...)},
	} {
		whole, err := os.ReadFile(c.path)
		if err == nil {
			err = os.Remove(c.path)
		}
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if err := syscall.Mkfifo(c.path, 0o600); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		cmd := exec.CommandContext(ctx, os.Args[0], c.args...)
		cmd.Env = append(os.Environ(), "TOKENFORK_TEST_MAIN=1")
		out, err := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != failure.Refused || !strings.Contains(string(out), "a FIFO, not a regular file") || !strings.Contains(string(out), filepath.Base(c.path)) {
			t.Errorf("%s for %q: exit code %d (%v, %v)\n%s", c.path, c.args, code, err, ctx.Err(), out)
		}
		cancel()
		if err := os.Remove(c.path); err != nil {
			t.Fatal(err)
		}
		if whole != nil {
			write(t, filepath.Dir(c.path), filepath.Base(c.path), string(whole))
		}
	}
	says(t, 0, inJob("check"))
}

// SIGTERM ends every command while it waits for what it reads: a FIFO that no process
// writes to, and an answer of S3 that does not come.
func TestSIGTERMWhileReading(t *testing.T) {
	j := newFakeJob(t, 4, 40, 1)
	s3 := storetest.StartS3(t)
	t.Setenv("TOKENFORK_S3_ENDPOINT", s3.URL)
	t.Setenv("TOKENFORK_S3_PATH_STYLE", "true")
	at := "s3://" + s3.Bucket + "/job"
	j.whole(t, at)
	var key atomic.Pointer[string] // whose reply never comes
	none := ""
	key.Store(&none)
	hits := s3.Inject(storetest.Fault{Hang: true, CutReplyAt: 100, Match: func(r *http.Request) bool {
		return r.Method == http.MethodGet && *key.Load() != "" && strings.Contains(r.URL.Path, *key.Load())
	}})
	fifo := filepath.Join(j.dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	models := j.some("--small-model", "--reference-model", "--alignment")
	for name, c := range map[string]struct {
		key  string
		args []string
	}{
		"plan from a FIFO": {"", append([]string{"plan", fifo, "--job", filepath.Join(j.dir, "planned")}, models...)},
		"infer":            {"/shards/", append([]string{"infer", "--retry", "--job", at}, j.some("--small-", "--reference-")...)},
		"judge":            {"/parts/infer/", append([]string{"judge", "--retry", "--judge-prompt", "r2r", "--job", at}, j.some("--judge")...)},
		"merge":            {"/parts/", append([]string{"merge", "--job", at}, j.some("--judge", "--tmp")...)},
		"check":            {"/parts/", []string{"check", "--job", at}},
		"report":           {"/" + merge.ParquetKey, []string{"report", "--job", at, "--out", filepath.Join(j.dir, "report")}},
		"status":           {"/job.json", []string{"status", "--job", at}},
	} {
		key.Store(&c.key)
		before := hits()
		cmd, out := command(c.args...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() { _ = cmd.Wait(); close(ended) }() // the exit code tells
		for waited := 0; waited < 500 && (c.key == "" && waited < 25 || c.key != "" && hits() == before); waited++ {
			time.Sleep(20 * time.Millisecond)
		}
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
			t.Errorf("%s goes on after SIGTERM", name)
		}
		if code := cmd.ProcessState.ExitCode(); code != failure.Stopped {
			t.Errorf("%s: exit code %d, want %d:\n%s", name, code, failure.Stopped, out)
		}
		key.Store(&none)
	}
}

// A row_id that several texts have is no key anywhere: whatever the order of the texts'
// row_ids, every mismatch has its own continuations and verdict.
func TestRowIDsOfSeveralTexts(t *testing.T) {
	j := newFakeJob(t, 6, 40, 2)
	clean := j.undisturbed(t)
	table := rows(t, j.table)
	for i, row := range table[1:] { // but for a text's first and last row, which plan compares
		switch text, at := i/40, i%40; at {
		case 0:
			row[0] = strconv.Itoa(text)
		case 39:
			row[0] = strconv.Itoa(1000 + text)
		default:
			row[0] = strconv.Itoa(100 + at)
		}
	}
	j.table = filepath.Join(j.dir, "mixed.csv")
	var mixed bytes.Buffer
	if err := csv.NewWriter(&mixed).WriteAll(table); err != nil {
		t.Fatal(err)
	}
	write(t, j.dir, "mixed.csv", mixed.String())
	at := filepath.Join(j.dir, "mixed")
	says(t, 0, j.args(at), "row_ids of several texts are mixed")
	a, b := rows(t, filepath.Join(clean, merge.CSVKey)), rows(t, filepath.Join(at, merge.CSVKey))
	if len(a) != len(b) {
		t.Fatalf("%d and %d rows", len(a), len(b))
	}
	shared := map[string]string{}
	several := 0
	own := []string{"row_id", "real_row_id", "meaning_match", "verify_explanation"} // the fake judge's word hashes the mark of the job
	for i := range a {
		for k, column := range a[0] {
			if !slices.Contains(own, column) && a[i][k] != b[i][k] {
				t.Fatalf("row %d: %s is %q, with unique row_ids %q", i, column, b[i][k], a[i][k])
			}
			if column == "row_id" && i > 0 {
				if text, ok := shared[b[i][k]]; ok && text != b[i][0] {
					several++
				}
				shared[b[i][k]] = b[i][0]
			}
		}
	}
	if several == 0 {
		t.Error("no row_id of a mismatch is in two texts: the table shows nothing")
	}
}
