package check_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/job/jobtest"
	"tokenfork/internal/store"
	"tokenfork/internal/tokenizer"
	"tokenfork/judge"
	"tokenfork/judge/check"
	"tokenfork/judge/merge"
)

// merged is a finished job without a judging.
func merged(t *testing.T) (store.Store, string) {
	t.Helper()
	s := jobtest.Make(t, 6, 2)
	if _, err := merge.Merge(t.Context(), merge.Options{Jobs: []merge.Source{{Store: s}}, Out: s, TempDir: t.TempDir(), Console: new(bytes.Buffer)}); failure.Code(err) != failure.Partial {
		t.Fatal(err)
	}
	return s, s.String()
}

// look gives what check says, and its error.
func look(ctx context.Context, s store.Store, dir string) (said string, err error) {
	err = check.Check(ctx, check.Options{Store: s, TempDir: dir, Console: new(bytes.Buffer)}, func(f check.Finding) error {
		if f.Fix == "" {
			return fmt.Errorf("no fix is given: %s", f.Said)
		}
		said += f.Said + "\n"
		return nil
	})
	return said, err
}

// TestEveryDamageIsNamed damages one file after the other.
func TestEveryDamageIsNamed(t *testing.T) {
	s, dir := merged(t)
	if said, err := look(t.Context(), s, t.TempDir()); err != nil {
		t.Fatalf("a sound job: %v\n%s", err, said)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		whole, err := os.ReadFile(path)
		must(t, err)
		for name, bad := range damages(r, whole, filepath.Base(path)) {
			must(t, os.Remove(path))
			if bad != nil {
				must(t, os.WriteFile(path, bad, 0o600))
			}
			key, err := filepath.Rel(dir, path)
			must(t, err)
			said, err := look(t.Context(), s, t.TempDir())
			if failure.Code(err) != failure.Refused || !strings.Contains(said+fmt.Sprint(err), named(key, bad)) {
				t.Errorf("%s %s: no error found, the checker is broken: %v\n%s", key, name, err, said)
			}
			must(t, os.WriteFile(path, whole, 0o600))
		}
		return nil
	}))
}

// damages are a file cut, with a bit turned, and nil for none; what no result
// rests on can't be missed, and a turned bit may leave it as good.
func damages(r *rand.Rand, whole []byte, name string) map[string][]byte {
	at := r.IntN(len(whole))
	turned := bytes.Clone(whole)
	turned[at] ^= 1 << r.IntN(8)
	all := map[string][]byte{"cut": whole[:len(whole)/2]}
	if name != "attempt.json" {
		all[fmt.Sprintf("bit of byte %d", at)] = turned
		all["removed"] = nil
	}
	return all
}

// named is how check calls a key; a task without a commit goes by its shard.
func named(key string, bad []byte) string {
	at := strings.Split(key, "/")
	if at[len(at)-1] == "commit.json" && bad == nil {
		return fmt.Sprintf("%s of %s is not finished for shards %s", at[1], at[3], strings.TrimLeft(at[2][:4], "0")+at[2][4:])
	}
	return key
}

// merge takes a verdict of a part that names the inputs which are merged. check makes its
// question again all the same.
func TestVerdictOnAnotherQuestion(t *testing.T) {
	set := judge.Defaults()
	p, err := judge.LoadPrompt(set)
	must(t, err)
	r := judge.Record{Judging: judge.Judging{Format: 2, Model: "judge", PromptVersion: p.Version, PromptHash: p.Hash, Settings: set}, Prompt: p.Text}
	s := jobtest.LargeJudged(t, 1, 1, jobtest.LargeContinuation, r.ID(), func(plan *job.Plan, text *tokenizer.Tokenizer) func(*job.Text, *job.Result, *job.Verdict) {
		question, err := r.Questions(plan, text)
		must(t, err)
		return func(x *job.Text, row *job.Result, v *job.Verdict) {
			v.Question, err = question(x, row)
			must(t, err)
			v.PromptVersion, v.PromptHash = p.Version, p.Hash
			if row.MismatchPosition == 11 {
				v.Question = strings.Repeat("0", 64)
			}
		}
	})
	b, err := json.MarshalIndent(r, "", " ")
	must(t, err)
	must(t, store.CreateBytes(t.Context(), s, job.JudgingPrefix+r.ID()+".json", append(b, '\n')))
	_, err = merge.Merge(t.Context(), merge.Options{Jobs: []merge.Source{{Store: s, Judging: r.ID()}}, Out: s, TempDir: t.TempDir(), Console: new(bytes.Buffer)})
	must(t, err)
	if said, err := look(t.Context(), s, t.TempDir()); failure.Code(err) != failure.Refused || !strings.Contains(said, "position 11 of text text-0 answers another question") {
		t.Errorf("got %q, %v", said, err)
	}
}

// TestMovedJob: failures.csv names the job as it was called when it was merged.
func TestMovedJob(t *testing.T) {
	_, dir := merged(t)
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	must(t, os.Rename(dir, elsewhere))
	failures, err := os.ReadFile(filepath.Join(elsewhere, merge.FailuresKey))
	must(t, err)
	if !strings.Contains(string(failures), "--job "+dir+" --retry") {
		t.Fatalf("no failure to look at:\n%s", failures)
	}
	s, err := store.Open(t.Context(), elsewhere, store.Options{})
	must(t, err)
	if said, err := look(t.Context(), s, t.TempDir()); err != nil {
		t.Errorf("%v\n%s", err, said)
	}
}

// TestRowsThatAreNotPlanned: whole parts with the wrong rows.
func TestRowsThatAreNotPlanned(t *testing.T) {
	s, dir := merged(t)
	m, err := job.OpenManifest(t.Context(), s, 1)
	must(t, err)
	task := job.Task{Stage: "infer", Shard: 1, Side: "small", Manifest: m.Shard.SHA256}
	must(t, os.RemoveAll(filepath.Join(dir, task.Prefix())))
	log, err := job.OpenLog[job.Continuation](t.Context(), s, "a job", task, job.Attempt{}, time.Hour)
	must(t, err)
	var ordinals []int64
	for x, err := range m.Texts() {
		must(t, err)
		ordinals = append(ordinals, x.Ordinal)
		must(t, log.Add([]job.Continuation{{Ordinal: x.Ordinal, Position: 1, IDs: []int32{3, 11}, RestAt: -1}}))
	}
	_, err = log.Commit(t.Context(), ordinals)
	must(t, err)
	said, err := look(t.Context(), s, t.TempDir())
	if failure.Code(err) != failure.Refused || !strings.Contains(said, "infer of shard 1, small has 1 rows of text 1, planned were 5") {
		t.Errorf("%v\n%s", err, said)
	}
}

// TestResultsOfEarlierParts: a merge that is older than what is finished.
func TestResultsOfEarlierParts(t *testing.T) {
	s, dir := merged(t)
	csv := filepath.Join(dir, merge.CSVKey)
	whole, err := os.ReadFile(csv)
	must(t, err)
	must(t, os.WriteFile(csv, append(whole, "one more,row\n"...), 0o600))
	said, err := look(t.Context(), s, t.TempDir())
	want := fmt.Sprintf("results.csv is damaged or older than its parts: from byte %d on", len(whole))
	if failure.Code(err) != failure.Refused || !strings.Contains(said, want) || strings.Contains(said, "parquet") {
		t.Errorf("%v\n%s", err, said)
	}
}

// TestLeftOverParts ends a merge before it removed an earlier one's dataset, and
// another before it put its summary in place.
func TestLeftOverParts(t *testing.T) {
	s, dir := merged(t)
	again := func() {
		t.Helper()
		if _, err := merge.Merge(t.Context(), merge.Options{Jobs: []merge.Source{{Store: s}}, Out: s, Parts: 2, TempDir: t.TempDir(), Console: new(bytes.Buffer)}); failure.Code(err) != failure.Partial {
			t.Fatal(err)
		}
	}
	whole, err := os.ReadFile(filepath.Join(dir, merge.ParquetKey))
	must(t, err)
	again()
	if said, err := look(t.Context(), s, t.TempDir()); err != nil {
		t.Fatalf("a sound dataset: %v\n%s", err, said)
	}
	must(t, os.WriteFile(filepath.Join(dir, merge.ParquetKey), whole, 0o600))
	for _, want := range []string{merge.ParquetKey + " is left over", merge.SummaryKey + " is missing"} {
		if said, err := look(t.Context(), s, t.TempDir()); failure.Code(err) != failure.Refused || !strings.Contains(said, want) {
			t.Errorf("%v\n%s\nwant %s", err, said, want)
		}
		must(t, os.RemoveAll(filepath.Join(dir, merge.SummaryKey)))
	}
	again()
	if said, err := look(t.Context(), s, t.TempDir()); err != nil {
		t.Errorf("after the same merge: %v\n%s", err, said)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
