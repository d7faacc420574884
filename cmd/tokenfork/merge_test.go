package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/job/jobtest"
	"tokenfork/judge/merge"
)

// edit changes a job's own description of itself.
func edit(t *testing.T, dir string, change func(*job.Job)) {
	t.Helper()
	path := filepath.Join(dir, job.Key)
	b, err := os.ReadFile(path)
	var j job.Job
	if err == nil {
		err = json.Unmarshal(b, &j)
	}
	if err == nil {
		j.Sum = ""
		change(&j)
		b, err = job.SealJSON(&j)
	}
	if err == nil {
		err = os.WriteFile(path, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, elem ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func summaryOf(t *testing.T, dir string) (s merge.Summary) {
	t.Helper()
	if err := json.Unmarshal(read(t, dir, merge.SummaryKey), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// However the texts were split into shards, be it to more shards than are merged at
// once, the results are the same bytes.
func TestMergeIsTheSameForAnyShards(t *testing.T) {
	t.Parallel()
	one, many := jobtest.Make(t, 70, 1).String(), jobtest.Make(t, 70, 67).String()
	broken := false
	url := fakeJudge(t, &broken)
	for _, dir := range []string{one, many} {
		tokenfork(t, failure.Partial, "merge --format r2r --job "+dir+" --judge "+url)
	}
	for _, name := range []string{merge.ArrowKey, merge.ParquetKey, merge.CSVKey, merge.R2RKey} {
		if !bytes.Equal(read(t, one, name), read(t, many, name)) {
			t.Errorf("%s differs", name)
		}
	}
	if s := summaryOf(t, many); len(s.R2RLeftOut) != 1 || s.R2RLeftOut[0] != "s2" || bytes.Contains(read(t, many, merge.R2RKey), []byte("\ns2,")) {
		t.Errorf("the text without all verdicts is not left out: %v", s.R2RLeftOut)
	}
}

// R2R's table stays that of the results, whatever a later merge is asked for.
func TestMergeKeepsR2RTable(t *testing.T) {
	dir, other := jobtest.Make(t, 4, 2).String(), jobtest.Make(t, 4, 1).String()
	broken := false
	url := fakeJudge(t, &broken)
	tokenfork(t, failure.Partial, "merge --format r2r --job "+dir+" --judge "+url)
	whole := read(t, dir, merge.R2RKey)
	if err := os.WriteFile(filepath.Join(dir, merge.R2RKey), whole[:len(whole)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	tokenfork(t, failure.Partial, "merge --job "+dir+" --judge "+url)
	if !bytes.Equal(read(t, dir, merge.R2RKey), whole) || !summaryOf(t, dir).R2R {
		t.Error("the table is not written anew")
	}
	out := filepath.Join(t.TempDir(), "out")
	tokenfork(t, failure.Partial, "merge --format r2r --judge none "+dir+" "+other+" --out "+out)
	said := tokenfork(t, failure.Refused, "merge --judge none "+dir+" "+other+" --tag "+dir+"=a --out "+out)
	if !strings.Contains(said, "R2R's table has no column for --tag") {
		t.Errorf("got %s", said)
	}
}

func TestMergeAllowMissing(t *testing.T) {
	dir := jobtest.Make(t, 4, 2).String()
	if err := os.Remove(filepath.Join(dir, "parts/infer/00001/small/commit.json")); err != nil {
		t.Fatal(err)
	}
	if out := tokenfork(t, failure.Refused, "merge --judge none --job "+dir); !strings.Contains(out, "infer of shard 1, small") {
		t.Errorf("got %s", out)
	}
	tokenfork(t, failure.Partial, "merge --judge none --allow-missing --job "+dir)
	if got := column(t, dir, "status"); !equal(got, map[string]int{"not_judged": 9, "infer_failed:missing": 10, "infer_failed:context_length": 1}) {
		t.Errorf("got %v", got)
	}
	if s := summaryOf(t, dir); !s.Partial || len(s.Jobs[0].Missing) != 1 {
		t.Errorf("got %+v", s)
	}
}

// Two jobs over the same table: what both have counts once if it is the same.
func TestMergeJobsOfOneTable(t *testing.T) {
	a, b, out := jobtest.Make(t, 4, 2).String(), jobtest.Make(t, 4, 1).String(), filepath.Join(t.TempDir(), "out")
	tokenfork(t, failure.Partial, "merge --judge none --job "+a)
	tokenfork(t, failure.Partial, "merge --judge none "+a+" "+b+" --out "+out)
	if s := summaryOf(t, out); s.Mismatches != 20 || s.Repeated != 20 || s.ByStatus["not_judged"] != 19 || len(s.Jobs) != 2 {
		t.Errorf("got %+v", s)
	}
	if !bytes.Equal(read(t, a, merge.CSVKey), read(t, out, merge.CSVKey)) {
		t.Error("two equal jobs are not one")
	}

	// What one lacks the other has.
	if err := os.Remove(filepath.Join(a, "parts/infer/00001/reference/commit.json")); err != nil {
		t.Fatal(err)
	}
	if said := tokenfork(t, failure.Refused, "merge --judge none "+a+" "+b+" --out "+out); !strings.Contains(said, "of "+a+": infer of shard 1, reference") {
		t.Errorf("got %s", said)
	}
	tokenfork(t, failure.Partial, "merge --judge none --allow-missing "+a+" "+b+" --out "+out)
	s := summaryOf(t, out)
	if !s.Partial || len(s.Jobs[0].Missing) != 1 || len(s.Jobs[1].Missing) != 0 || s.Repeated != 10 {
		t.Errorf("got %+v", s)
	}
	if got := column(t, out, "status"); !equal(got, map[string]int{"not_judged": 19, "infer_failed:context_length": 1}) {
		t.Errorf("got %v", got)
	}
}

func TestMergeRefusesRowsThatDiffer(t *testing.T) {
	a, b, out := jobtest.Make(t, 2, 1).String(), jobtest.Make(t, 2, 1).String(), filepath.Join(t.TempDir(), "out")
	match := false
	url := serveJudge(t, &match, new(bool))
	tokenfork(t, 0, "judge --job "+a+" --judge "+url)
	match = true
	tokenfork(t, 0, "judge --job "+b+" --judge "+url)
	if said := tokenfork(t, failure.Refused, "merge "+a+" "+b+" --out "+out); !strings.Contains(said, "jobs 1 and 2 of those named have text s0 both, and differ at position 2") {
		t.Errorf("got %s", said)
	}
	if _, err := os.Stat(filepath.Join(out, merge.CSVKey)); err == nil {
		t.Error("results were written all the same")
	}
	// Merged without verdicts they are the same.
	tokenfork(t, 0, "merge --judge none "+a+" "+b+" --out "+out)
}

// What the results do not need does not keep a merge from writing them.
func TestMergeWithoutWhatItDoesNotNeed(t *testing.T) {
	dir := jobtest.Make(t, 2, 1).String()
	for _, key := range []string{job.CorpusKey, "infer-flags.json"} {
		if err := os.WriteFile(filepath.Join(dir, key), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tokenfork(t, 0, "merge --judge none --job "+dir)
}

// Two tables with the same sentence ids are told apart by a tag, or refused.
func TestMergeJobsOfTwoTables(t *testing.T) {
	a, b, out := jobtest.Make(t, 2, 1).String(), jobtest.Make(t, 2, 2).String(), filepath.Join(t.TempDir(), "out")
	edit(t, b, func(j *job.Job) { j.Input.Fingerprint = "another" })
	merging := "merge --judge none " + a + " " + b + " --out " + out
	if said := tokenfork(t, failure.Refused, merging); !strings.Contains(said, "text s0 is in "+a+" and in "+b) || !strings.Contains(said, "--tag "+b+"=NAME") {
		t.Errorf("got %s", said)
	}
	tokenfork(t, 0, merging+" --tag "+b+"=second")
	if got := column(t, out, "job"); !equal(got, map[string]int{"": 10, "second": 10}) {
		t.Errorf("got %v", got)
	}
	tokenfork(t, 0, merging+" --tag "+a+"=first,"+b+"=second")
	if got := column(t, out, "job"); !equal(got, map[string]int{"first": 10, "second": 10}) {
		t.Errorf("got %v", got)
	}
	tokenfork(t, failure.Usage, merging+" --tag elsewhere=x")
	tokenfork(t, failure.Usage, merging+" --format r2r --tag "+b+"=second")
	tokenfork(t, failure.Refused, "merge --judge none "+a+" "+b+" --out "+a+"/")
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(a, link); err != nil {
		t.Fatal(err)
	}
	for _, again := range []string{a + "/", link} {
		if said := tokenfork(t, failure.Usage, "merge --judge none "+a+" "+again+" --out "+out); !strings.Contains(said, again+" is named twice, first as "+a) {
			t.Errorf("got %s", said)
		}
	}
	tokenfork(t, failure.Usage, "merge --judge none "+a+" "+b+" --out "+filepath.Join(a, job.Key))
	for _, command := range []string{"check", "status"} { // out is no job
		if said := tokenfork(t, failure.Refused, command+" --job "+out); !strings.Contains(said, "but results that were merged") {
			t.Errorf("%s: %s", command, said)
		}
	}
	tokenfork(t, failure.Usage, "merge "+a+" "+b)
	tokenfork(t, failure.Usage, "merge --job "+a+" "+b)
}

func TestMergeRefusesJobsThatDoNotAgree(t *testing.T) {
	a, b, out := jobtest.Make(t, 2, 1).String(), jobtest.Make(t, 2, 1).String(), filepath.Join(t.TempDir(), "out")
	broken := false
	url := fakeJudge(t, &broken)
	tokenfork(t, 0, "judge --job "+a+" --judge "+url)
	merging := "merge " + a + " " + b + " --out " + out
	tokenfork(t, failure.Usage, merging) // b is not judged
	tokenfork(t, 0, "judge --blind --job "+b+" --judge "+url)
	if said := tokenfork(t, failure.Refused, merging); !strings.Contains(said, "judged differently: blind: true, not false") {
		t.Errorf("got %s", said)
	}
	edit(t, b, func(j *job.Job) { j.Settings.MaxNewTokens = 64 })
	if said := tokenfork(t, failure.Refused, merging+" --judge none"); !strings.Contains(said, "differ: max new tokens: 0 and 64") {
		t.Errorf("got %s", said)
	}
}
