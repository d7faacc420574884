package main

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tokenfork/internal/vllm/fakevllm"
	"tokenfork/judge/merge"
)

// fakeJob is a table of fake models, and fake servers of both models and a judge: a
// whole job takes a fraction of a second.
type fakeJob struct {
	dir, table string
	flags      []string // of run
	servers    []*fakevllm.Server
}

// newFakeJob makes a table of texts with so many tokens each. Faults are of all servers.
func newFakeJob(t testing.TB, texts, tokens, shards int, faults ...fakevllm.Fault) *fakeJob {
	t.Helper()
	return newFakeJobOf(t, fakevllm.Config{Faults: faults}, texts, tokens, shards)
}

// newFakeJobOf has servers that are like c but for their models.
func newFakeJobOf(t testing.TB, c fakevllm.Config, texts, tokens, shards int) *fakeJob {
	t.Helper()
	j := &fakeJob{dir: t.TempDir()}
	var vocabulary fakevllm.Pieces
	for _, p := range pieces {
		vocabulary = append(vocabulary, p.text)
	}
	models := [2]fakevllm.Model{{Seed: 7, Apart: 11}, {Seed: 7}}
	j.flags = []string{"--shards", fmt.Sprint(shards), "--max-new-tokens", "8", "--part-every", "5ms", "--alignment", "next", "--tmp", j.dir}
	for side, name := range []string{"small", "reference"} {
		m := &models[side]
		m.Pieces, m.AddedFrom, m.EOS = append(vocabulary, added...), len(pieces), []int32{eosID}
		m.Write(t, filepath.Join(j.dir, name))
		c.Model = *m
		s := fakevllm.Serve(t, c)
		j.servers = append(j.servers, s)
		j.flags = append(j.flags, "--"+name+"-model", filepath.Join(j.dir, name), "--"+name+"-url", s.URL)
	}
	judge := fakevllm.Serve(t, c)
	j.servers = append(j.servers, judge)
	j.flags = append(j.flags, "--judge", judge.URL, "--judge-model", "fake")
	j.table = filepath.Join(j.dir, "table.csv")
	writeFakeTable(t, j.table, models, texts, tokens)
	return j
}

// writeFakeTable writes texts that follow the reference, in R2R's layout.
func writeFakeTable(t testing.TB, path string, models [2]fakevllm.Model, texts, tokens int) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := bufio.NewWriter(f)
	fmt.Fprintln(w, "row_id,data_id,token_id,real_token,token_type,SLM_predictions,LLM_predictions")
	r := rand.New(rand.NewPCG(1, 2))
	row := 0
	for x := range texts {
		var real []int32
		for i := range tokens {
			next := models[1].Next(real)
			if r.IntN(10) == 0 || len(real) == 0 {
				next = int32(r.IntN(len(pieces)))
			}
			real = append(real, next)
			fmt.Fprintf(w, "%d,%d,%d,%d,1,%d,%d\n", row, x, i, next, models[0].Next(real), models[1].Next(real))
			row++
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// args of a whole run over the job at a place.
func (j *fakeJob) args(place string) []string {
	return append([]string{"run", j.table, "--job", place}, j.flags...)
}

// whole runs the job in this process.
func (j *fakeJob) whole(t testing.TB, place string) {
	t.Helper()
	var out bytes.Buffer
	if code := run(t.Context(), j.args(place), &out, &out); code != 0 {
		t.Fatalf("exit code %d:\n%s", code, &out)
	}
}

// differs names the results in which two folders differ.
func differs(t testing.TB, a, b string) []string {
	t.Helper()
	var names []string
	for _, name := range []string{merge.ArrowKey, merge.ParquetKey, merge.CSVKey, merge.FailuresKey} {
		x, err := os.ReadFile(filepath.Join(a, name))
		if err != nil {
			t.Fatal(err)
		}
		y, err := os.ReadFile(filepath.Join(b, name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(x, y) {
			names = append(names, name)
		}
	}
	return names
}

// files of a folder, by path in it.
func files(t testing.TB, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			all = append(all, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return all
}
