package main

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/shell"
	"tokenfork/internal/vllm/fakevllm"
	"tokenfork/judge/merge"
	"tokenfork/slurm/slurmtest"
)

// fakeTexts are texts, fake servers of both models, and the table that follows from them
// by the models' definition alone.
type fakeTexts struct {
	dir, file string
	models    [2]fakevllm.Model
	servers   []*fakevllm.Server
	flags     []string // of predict
	want      []string // rows of the table in R2R's layout
}

// newFakeTexts makes so many texts; each third has no response.
func newFakeTexts(t *testing.T, texts int, faults ...fakevllm.Fault) *fakeTexts {
	t.Helper()
	j := &fakeTexts{dir: t.TempDir(), models: [2]fakevllm.Model{{Seed: 7, Apart: 11}, {Seed: 7}}}
	var vocabulary fakevllm.Pieces
	for _, p := range pieces {
		vocabulary = append(vocabulary, p.text)
	}
	j.flags = []string{"--max-response", "9", "--part-every", "5ms", "--tmp", j.dir}
	for side, name := range []string{"small", "reference"} {
		m := &j.models[side]
		m.Pieces, m.AddedFrom, m.EOS = append(vocabulary, added...), len(pieces), []int32{eosID}
		m.Write(t, filepath.Join(j.dir, name))
		s := fakevllm.Serve(t, fakevllm.Config{Model: *m, Faults: faults})
		j.servers = append(j.servers, s)
		j.flags = append(j.flags, "--"+name+"-model", filepath.Join(j.dir, name), "--"+name+"-url", s.URL)
	}
	j.file = filepath.Join(j.dir, "texts.jsonl")
	j.write(t, texts)
	return j
}

func (j *fakeTexts) write(t *testing.T, texts int) {
	t.Helper()
	r := rand.New(rand.NewPCG(3, 4))
	some := func() string {
		var b strings.Builder
		for range 5 + r.IntN(60) {
			b.WriteString(pieces[r.IntN(len(pieces))].text)
		}
		return strings.ToValidUTF8(b.String(), "?")
	}
	var lines bytes.Buffer
	for x := range texts {
		text := map[string]any{"id": fmt.Sprint("text ", x), "prompt": some()}
		prompt := j.models[job.Reference].Tokens(text["prompt"].(string))
		ids := slices.Clone(prompt)
		if x%3 == 2 {
			for range 9 {
				ids = append(ids, j.models[job.Reference].Next(ids))
				if ids[len(ids)-1] == eosID {
					break
				}
			}
		} else {
			text["response"] = some()
			ids = append(ids, j.models[job.Reference].Tokens(text["response"].(string))...)
		}
		for i, id := range ids {
			kind := 2
			if i < len(prompt) {
				kind = 0
			}
			j.want = append(j.want, fmt.Sprint(len(j.want), ",", text["id"], ",", i, ",", id, ",", kind, ",", j.models[job.Small].Next(ids[:i+1]), ",", j.models[job.Reference].Next(ids[:i+1])))
		}
		if err := json.NewEncoder(&lines).Encode(text); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(j.file, lines.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// args of predict with the texts.
func (j *fakeTexts) args(more ...string) []string {
	return slices.Concat([]string{"predict", j.file}, more, j.flags)
}

// check compares a table with what the models' definition says.
func (j *fakeTexts) check(t *testing.T, table, what string) {
	t.Helper()
	f, err := os.Open(table)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	var got []string
	for _, row := range rows[1:] {
		got = append(got, strings.Join(row, ","))
	}
	if !slices.Equal(got, j.want) {
		t.Errorf("%s: %d rows, want %d; the first of them %.3q, want %.3q", what, len(got), len(j.want), got, j.want)
	}
}

// Whatever the servers show and however the texts are cut, the table is what the models
// say along them, and the folder beside it is gone.
func TestPredictOnFakes(t *testing.T) {
	for name, test := range map[string]struct {
		shards int
		faults []fakevllm.Fault
	}{
		"well, one shard":  {1, nil},
		"well, by size":    {0, nil},
		"a shard a text":   {100, nil},
		"cut and refusals": {3, []fakevllm.Fault{{Kind: fakevllm.Cut, Every: 3, After: 4, Times: 1, Most: 5}, {Kind: fakevllm.Refuse, Status: 503, Every: 4, After: 4, Most: 3}, {Kind: fakevllm.Late, Every: 2, For: 3 * time.Millisecond}}},
		"gone for a while": {2, []fakevllm.Fault{{Kind: fakevllm.Die, For: 50 * time.Millisecond, After: 9, Most: 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			j := newFakeTexts(t, 14, test.faults...)
			table := filepath.Join(j.dir, "out.csv")
			must(t, []int{0}, j.args("--out", table, "--shards", strconv.Itoa(test.shards))...)
			j.check(t, table, name)
			if left, err := filepath.Glob(table + ".*"); err != nil || len(left) > 0 {
				t.Errorf("left beside the table: %v, %v", left, err)
			}
		})
	}
}

// Tasks of an array, in any order and twice, then the table; status and check know them.
func TestPredictInTasks(t *testing.T) {
	j := newFakeTexts(t, 9)
	place := filepath.Join(j.dir, "job")
	must(t, []int{0}, j.args("--job", place, "--shards", "4", "--shard", "2")...)
	if out := must(t, []int{failure.Refused}, "predict", "--job", place, "--table-only"); !strings.Contains(out, "6 of 8 tasks are not finished") {
		t.Error(out)
	}
	if out := must(t, []int{0}, "status", "--job", place); !strings.Contains(out, "predict  reference  1 done, 3 missing") || !strings.Contains(out, "tokenfork predict --job "+place+" --shard 0,1,3") {
		t.Error(out)
	}
	for _, k := range []string{"3", "0", "3", "1,2"} {
		must(t, []int{0}, append([]string{"predict", "--job", place, "--shard", k}, j.flags...)...)
	}
	must(t, []int{0}, "check", "--job", place)
	table := filepath.Join(j.dir, "out.csv")
	must(t, []int{0}, "predict", "--job", place, "--table-only", "--out", table)
	j.check(t, table, "from tasks")
	if out := must(t, []int{0}, "status", "--job", place); !strings.Contains(out, "next: tokenfork predict --job "+place+" --table-only") {
		t.Error(out)
	}
	must(t, []int{0}, "predict", "--job", place)
	if out := must(t, []int{0}, "status", "--job", place); !strings.Contains(out, "next: tokenfork plan "+place+"/table.parquet --job "+place) {
		t.Error(out)
	}
	must(t, []int{0}, "plan", filepath.Join(place, "table.parquet"), "--job", place, "--alignment", "next", "--small-model", filepath.Join(j.dir, "small"), "--reference-model", filepath.Join(j.dir, "reference"))
	must(t, []int{failure.Refused}, "check", "--job", place) // infer has not begun
	if out := must(t, []int{0}, "status", "--job", place); !strings.Contains(out, "next: tokenfork infer --job "+place) {
		t.Error(out)
	}
}

var killAll = flag.Bool("kill.all", false, "kill predict at every point, not at each fourth")

// A kill at named points of predict, then a restart: the table is the same bytes.
//
//	go test ./cmd/tokenfork -run TestKillPredict -kill.all
func TestKillPredict(t *testing.T) {
	j := newFakeTexts(t, 7)
	list := filepath.Join(j.dir, "points")
	t.Setenv(pointVar, "list "+list)
	args := func(table string) []string { return j.args("--out", table, "--shards", "2") }
	must := func(table, what string) {
		t.Helper()
		cmd, out := command(args(table)...)
		if err := cmd.Run(); err != nil {
			t.Fatalf("%s: %v\n%s", what, err, out)
		}
		j.check(t, table, what)
	}
	must(filepath.Join(j.dir, "clean.csv"), "undisturbed")
	points := map[string]bool{}
	b, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		points[strings.TrimSpace(line)] = true
	}
	for _, part := range []string{"corpus.json", "corpus/", "create parts/predict", "commit.json", "remove "} {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(points)), func(p string) bool { return strings.Contains(p, part) }) {
			t.Errorf("no point at %s", part)
		}
	}
	for i, point := range slices.Sorted(maps.Keys(points)) {
		if !*killAll && i%4 != 1 {
			continue
		}
		table := filepath.Join(j.dir, fmt.Sprint(i)+".csv")
		t.Setenv(pointVar, point)
		cmd, out := command(args(table)...)
		err := cmd.Run()
		if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
			t.Errorf("%s: not killed (%v):\n%s", point, err, out)
		}
		t.Setenv(pointVar, "")
		must(table, point)
	}
	t.Logf("%d points", len(points))
}

// A text that does not fit is left out and named; the same command with a larger window
// reads it, and nothing else again.
func TestPredictLeftOut(t *testing.T) {
	j := newFakeTexts(t, 8)
	table, wide := filepath.Join(j.dir, "out.csv"), j.flags
	narrow := slices.Clone(wide)
	narrow[slices.Index(narrow, j.servers[job.Small].URL)] = fakevllm.Serve(t, fakevllm.Config{Model: j.models[0], MaxModelLen: 40}).URL
	j.flags = narrow
	out := must(t, []int{failure.Partial}, j.args("--out", table)...)
	if !strings.Contains(out, "text left out") || !strings.Contains(out, "small: context_length: ") || !strings.Contains(out, "of 8 texts are left out of "+j.dir+"/out.csv") {
		t.Error(out)
	}
	j.flags = wide
	read := j.servers[job.Reference].Asked()
	must(t, []int{0}, j.args("--out", table)...)
	j.check(t, table, "with a larger window")
	if more := j.servers[job.Reference].Asked() - read; more > 0 {
		t.Errorf("the reference was asked %d times again", more)
	}
	other := filepath.Join(j.dir, "other.jsonl")
	if err := os.WriteFile(other, []byte(`{"text": "abc"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	j.flags = narrow
	must(t, []int{failure.Partial}, j.args("--out", table)...)
	if out := must(t, []int{failure.Refused}, append([]string{"predict", other, "--out", table}, j.flags...)...); !strings.Contains(out, "was begun with other texts") {
		t.Error(out)
	}
}

// predict as arrays of a real Slurm; then the table and
// the plan; the other stages are submitted as a second step.
func TestPredictOnSlurm(t *testing.T) {
	j := newFakeTexts(t, 12)
	c := &slurmJob{t: t, cluster: slurmtest.Start(t, "MaxArraySize=3"), folder: filepath.Join(j.dir, "job")}
	c.where = []string{"--job", c.folder}
	t.Cleanup(c.tell)
	predict := []string{"--predict", j.file, "--predict-flags", shell.Join(append([]string{"--shards", "5"}, slices.DeleteFunc(slices.Clone(j.flags), func(f string) bool {
		return strings.HasPrefix(f, j.dir) || strings.HasSuffix(f, "-model") || f == "--tmp"
	})...)), "--plan-flags", "--shards 2", "--grace=2s", "--small-model", filepath.Join(j.dir, "small"), "--reference-model", filepath.Join(j.dir, "reference")}
	c.submit(predict...)
	c.over()
	if out := must(t, []int{0}, "status", "--job", c.folder); !strings.Contains(out, "next: tokenfork submit --job "+c.folder+"\n") {
		t.Error(out)
	}
	must(t, []int{0}, "predict", "--job", c.folder, "--table-only", "--out", filepath.Join(j.dir, "out.csv"))
	j.check(t, filepath.Join(j.dir, "out.csv"), "from Slurm")
	c.submit("--infer-flags", "--small-url "+j.servers[0].URL+" --reference-url "+j.servers[1].URL)
	c.over()
	must(t, []int{0}, "check", "--job", c.folder)
	if n := len(c.submissions()); n != 2 {
		t.Errorf("%d submissions", n)
	}
}

// run over texts gives the results of predict and a run over its table, and loads each
// model once; started again it starts nothing.
func TestRunFromTexts(t *testing.T) {
	j := newFakeTexts(t, 10)
	own := ownedFakes(t, j.dir)
	flags := append([]string{"--judge", "none", "--max-response", "9", "--max-new-tokens", "8", "--tmp", j.dir}, own...)
	one, two := filepath.Join(j.dir, "one"), filepath.Join(j.dir, "two")
	if n := starts(must(t, []int{0}, append([]string{"run", "--texts", j.file, "--job", one}, flags...)...)); n != 2 {
		t.Errorf("%d servers were started, want 2", n)
	}
	table := filepath.Join(j.dir, "table.csv")
	must(t, []int{0}, j.args("--out", table)...)
	j.check(t, table, "beside")
	must(t, []int{0}, append([]string{"run", table, "--job", two, "--alignment", "next"}, flags...)...)
	if d := differs(t, one, two); !slices.Equal(d, []string{merge.FailuresKey}) { // it names the job
		t.Errorf("%v differ", d)
	}
	if n := starts(must(t, []int{0}, append([]string{"run", "--texts", j.file, "--job", one}, flags...)...)); n != 0 {
		t.Errorf("%d servers were started for what is done", n)
	}
	must(t, []int{failure.Usage}, append([]string{"run", table, "--texts", j.file, "--job", one}, flags...)...)
}
