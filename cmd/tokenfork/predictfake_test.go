package main

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
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
	"tokenfork/internal/store"
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
	t.Parallel()
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
	out := must(t, []int{0}, "plan", filepath.Join(place, "table.parquet"), "--job", place, "--alignment", "next", "--small-model", filepath.Join(j.dir, "small"), "--reference-model", filepath.Join(j.dir, "reference"))
	if strings.Contains(out, "checksum") {
		t.Errorf("predict's own table can change unseen:\n%s", out)
	}
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
	t.Parallel()
	j := newFakeTexts(t, 7)
	list := filepath.Join(j.dir, "points")
	at := func(point, table string) (*exec.Cmd, *bytes.Buffer) {
		cmd, out := command(j.args("--out", table, "--shards", "2")...)
		cmd.Env = append(cmd.Env, pointVar+"="+point)
		return cmd, out
	}
	must := func(point, table, what string) {
		t.Helper()
		cmd, out := at(point, table)
		if err := cmd.Run(); err != nil {
			t.Fatalf("%s: %v\n%s", what, err, out)
		}
		j.check(t, table, what)
	}
	must("list "+list, filepath.Join(j.dir, "clean.csv"), "undisturbed")
	points := pointsIn(t, list)
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
		cmd, out := at(point, table)
		err := cmd.Run()
		if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
			t.Errorf("%s: not killed (%v):\n%s", point, err, out)
		}
		must("", table, point)
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
	task := []string{"--job", filepath.Join(j.dir, "job"), "--shards", "1", "--shard", "0"}
	j.flags = narrow
	if out := must(t, []int{failure.Partial}, j.args(task...)...); !strings.Contains(out, "run the same command with --retry") {
		t.Error(out)
	}
	j.flags = wide
	must(t, []int{0}, j.args(append(task, "--retry")...)...)
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
	t.Parallel()
	j := newFakeTexts(t, 12)
	c := &slurmJob{t: t, cluster: slurmtest.Start(t, "MaxArraySize=3"), folder: filepath.Join(j.dir, "job")}
	c.where = []string{"--job", c.folder}
	t.Cleanup(c.tell)
	models := []string{"--small-model", filepath.Join(j.dir, "small"), "--reference-model", filepath.Join(j.dir, "reference")}
	predict := append([]string{"--predict", j.file, "--predict-flags", shell.Join(append([]string{"--shards", "5"}, slices.DeleteFunc(slices.Clone(j.flags), func(f string) bool {
		return strings.HasPrefix(f, j.dir) || strings.HasSuffix(f, "-model") || f == "--tmp"
	})...)), "--plan-flags", "--shards 2", "--grace=2s"}, models...)
	c.submit(predict...)
	c.over()
	if out := must(t, []int{0}, "status", "--job", c.folder); !strings.Contains(out, "next: tokenfork submit --job "+c.folder+"\n") {
		t.Error(out)
	}
	must(t, []int{0}, "predict", "--job", c.folder, "--table-only", "--out", filepath.Join(j.dir, "out.csv"))
	j.check(t, filepath.Join(j.dir, "out.csv"), "from Slurm")
	c.startServers(models...)
	must(t, []int{0}, "check", "--job", c.folder)
	if n := len(c.submissions()); n != 2 {
		t.Errorf("%d submissions", n)
	}
}

// startServers runs infer's tasks one at a time. Each starts servers of its own, from
// models that the first one copies to the node and the second one finds there.
func (j *slurmJob) startServers(models ...string) {
	j.t.Helper()
	self, err := os.Executable()
	ok(j.t, err)
	scratch := j.t.TempDir()
	j.env = []string{fakevllm.Var + "=" + fakevllm.Config{}.Env(j.t)}
	j.submit(append([]string{"--throttle=1", "--stage-model", "--scratch", scratch, "--vllm", self + " " + fakevllm.Command}, models...)...)
	j.over()
	last := j.submissions()[len(j.submissions())-1]
	for task := range 2 {
		log, err := os.ReadFile(filepath.Join(last.Folder, "logs", last.Arrays[0].LogOf(task)))
		ok(j.t, err)
		if starts(string(log)) != 2 || strings.Count(string(log), "serve "+scratch) != 2 {
			j.t.Errorf("task %d does not start two servers with the models in %s:\n%s", task, scratch, log)
		}
	}
	if staged := glob(j.t, filepath.Join(scratch, "tokenfork-models-*/*/*/config.json")); len(staged) != 2 {
		j.t.Errorf("staged: %v", staged)
	}
}

// meeting is a command that becomes vllm once it has been started a second time.
func meeting(t *testing.T, dir, vllm string) string {
	t.Helper()
	script, here := filepath.Join(dir, "meet"), filepath.Join(dir, "here")
	ok(t, os.Mkdir(here, 0o700))
	text := fmt.Sprintf("#!/bin/sh\n: >%[1]s/$$\nuntil [ $(ls %[1]s | wc -l) -gt 1 ]; do sleep 0.05; done\nexec %[2]s \"$@\"\n", here, vllm)
	ok(t, os.WriteFile(script, []byte(text), 0o700))
	return script
}

// run over texts gives the results of predict and a run over its table, and loads each
// model once, both at the same time; started again it starts nothing.
func TestRunFromTexts(t *testing.T) {
	j := newFakeTexts(t, 10)
	own := ownedFakes(t, j.dir)
	flags := append([]string{"--judge", "none", "--max-response", "9", "--max-new-tokens", "8", "--tmp", j.dir}, own...)
	one, two := filepath.Join(j.dir, "one"), filepath.Join(j.dir, "two")
	met := append(slices.Clone(flags), "--vllm", meeting(t, j.dir, own[slices.Index(own, "--vllm")+1]), "--start-timeout", "2m")
	if n := starts(must(t, []int{0}, append([]string{"run", "--texts", j.file, "--job", one}, met...)...)); n != 2 {
		t.Errorf("%d servers were started, want 2", n)
	}
	table := filepath.Join(j.dir, "table.csv")
	must(t, []int{0}, j.args("--out", table)...)
	j.check(t, table, "beside")
	must(t, []int{0}, append([]string{"run", table, "--job", two, "--alignment", "next"}, flags...)...)
	if d := differs(t, one, two); !slices.Equal(d, []string{merge.FailuresKey}) { // it names the job
		t.Errorf("%v differ", d)
	}
	j.readOnce(t, one)
	if n := starts(must(t, []int{0}, append([]string{"run", "--texts", j.file, "--job", one}, flags...)...)); n != 0 {
		t.Errorf("%d servers were started for what is done", n)
	}
	must(t, []int{failure.Usage}, append([]string{"run", table, "--texts", j.file, "--job", one}, flags...)...)
}

// readOnce compares what the servers computed over predict and infer with the least: each text
// once, and of each fork what follows its last full block. Probes come on top, and the prompts
// of responses that the reference wrote.
func (j *fakeTexts) readOnce(t *testing.T, dir string) {
	t.Helper()
	at, err := store.Open(t.Context(), dir, store.Options{})
	ok(t, err)
	sum, err := merge.LoadSummary(t.Context(), at)
	ok(t, err)
	for _, side := range job.Sides {
		inferred := [...]job.Counters{sum.Run.Small, sum.Run.Reference}[side]
		read, both := sum.Run.Predict[side.String()], sum.Run.BothStages[side.String()]
		ideal := int64(len(j.want)) + inferred[job.IdealTokens] - inferred[job.IdealTextTokens]
		if read[job.IdealTokens] != int64(len(j.want)) || both[job.IdealTokens] != ideal || inferred[job.IdealTextTokens] == 0 {
			t.Errorf("%s: %v and %v are ideal, the texts have %d tokens", side, read, both, len(j.want))
		}
		written := read[job.PromptTokens] - int64(len(j.want))
		if (side == job.Small) != (written == 0) || both[job.ComputedTokens] != read[job.ComputedTokens]+inferred[job.ComputedTokens] {
			t.Errorf("%s: computed %v, and with infer %v", side, read, both)
		}
		if most := ideal + written + 4*inferred["probed"]; both[job.ComputedTokens] > most { // a probe computes a block of 4
			t.Errorf("%s: %d tokens were computed, want %d at most", side, both[job.ComputedTokens], most)
		}
	}
}

// Any number of models in the study's layout, on servers of the program's own and at
// URLs: the predictions are the models', entropy is within its error of the whole
// distribution's, AU and EU are those of the ten largest logits.
func TestPredictMeasures(t *testing.T) {
	j := newFakeTexts(t, 6)
	dir := func(side int) string { return filepath.Join(j.dir, []string{"small", "reference"}[side]) }
	models := []string{"--model", "1.5=" + dir(0), "--model", "7.0=" + dir(0), "--model", "32.0=" + dir(1)}
	common := append([]string{"predict", j.file, "--max-response", "9", "--tmp", j.dir}, models...)
	urls, half := []string{}, []string{}
	for i, name := range []string{"1.5", "7.0", "32.0"} {
		logits := fakevllm.Serve(t, fakevllm.Config{Model: j.models[i/2], Logits: true}).URL
		half = append(half, "--model-url", name+"="+logits)
		urls = append(urls, "--model-url", name+"="+logits, "--model-url", name+"="+j.servers[i/2].URL)
	}
	at, own := filepath.Join(j.dir, "urls.csv"), filepath.Join(j.dir, "own.csv")
	must(t, []int{0}, slices.Concat(common, []string{"--out", at, "--shards", "2"}, urls)...)
	j.measured(t, at)
	pairs := filepath.Join(j.dir, "pairs.csv")
	must(t, []int{0}, slices.Concat(common, []string{"--out", pairs, "--measures", "pairs"}, urls)...)
	j.measured(t, pairs)
	j.compared(t, pairs)
	must(t, []int{0}, append(append(common, "--out", own), ownedFakes(t, j.dir)[4:]...)...)
	a, err := os.ReadFile(at)
	b, err2 := os.ReadFile(own)
	if err != nil || err2 != nil || !bytes.Equal(a, b) {
		t.Errorf("the tables differ: %v, %v", err, err2)
	}
	must(t, []int{0}, "plan", at, "--dry-run", "--job", filepath.Join(j.dir, "job"), "--alignment", "next", "--small", "7", "--small-model", dir(0), "--reference-model", dir(1))
	if out := must(t, []int{failure.Refused}, slices.Concat(common, []string{"--out", filepath.Join(j.dir, "half.csv")}, half)...); !strings.Contains(out, "no server of the 32.0 model gives log-probabilities") {
		t.Error(out)
	}
	must(t, []int{0}, slices.Concat(common, []string{"--out", filepath.Join(j.dir, "none.csv"), "--measures", "none"}, half)...)
	must(t, []int{failure.Usage}, slices.Concat(common, []string{"--out", at, "--model", "../x=" + dir(0)}, urls)...)
}

// compared compares the columns of pairs in a table of TestPredictMeasures with what the models say.
func (j *fakeTexts) compared(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(bytes.NewReader(b)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	at := func(column string) int { return slices.Index(rows[0], column) }
	if at("32.0_KL") >= 0 || at("32.0_reference_logprob") >= 0 {
		t.Error("the reference is compared with itself")
	}
	var prefix []int32
	known, apart := 0, 0
	for i, row := range rows[1:] {
		if row[at("32.0_token_id")] == "0" {
			prefix = nil
		}
		id, err := strconv.Atoi(row[at("1.5_real_token")])
		if err != nil {
			t.Fatal(err)
		}
		prefix = append(prefix, int32(id))
		var by [2]map[int32]float64
		for side, m := range j.models {
			by[side] = map[int32]float64{}
			best, all := m.Next(prefix), m.Logprobs(prefix)
			for rank, lp := range all {
				by[side][int32((int(best)+rank)%len(all))] = lp
			}
		}
		exact := 0.0
		for id, lp := range by[job.Reference] {
			exact += math.Exp(lp) * (lp - by[job.Small][id])
		}
		bound, err := strconv.ParseFloat(row[at("1.5_KL")], 64)
		if err != nil || bound > exact+1e-9 || bound < 0 || row[at("7.0_KL")] != row[at("1.5_KL")] {
			t.Fatalf("row %d: the bound is %g, the divergence %g: %v", i, bound, exact, err)
		}
		if exact > 0.1 && bound > exact/2 {
			apart++
		}
		if said := row[at("1.5_reference_logprob")]; said != "" {
			known++
			if lp, err := strconv.ParseFloat(said, 64); err != nil || math.Abs(lp-by[job.Reference][j.models[job.Small].Next(prefix)]) > 1e-9 {
				t.Errorf("row %d: the reference gives the small model's token %s, want %g", i, said, by[job.Reference][j.models[job.Small].Next(prefix)])
			}
		}
	}
	if known < len(rows)/4 || apart < len(rows)/8 {
		t.Errorf("of %d rows %d have the reference's log-probability, and %d a bound that says something", len(rows)-1, known, apart)
	}
}

// measured compares a table of TestPredictMeasures with what the models say.
func (j *fakeTexts) measured(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil || len(rows) != len(j.want)+1 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	cell := func(row []string, column string) string { return row[slices.Index(rows[0], column)] }
	number := func(row []string, column string) float64 {
		v, err := strconv.ParseFloat(cell(row, column), 64)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	var prefix []int32
	for i, row := range rows[1:] {
		want := strings.Split(j.want[i], ",")
		if cell(row, "32.0_token_id") == "0" {
			prefix = nil
		}
		prefix = append(prefix, int32(number(row, "1.5_real_token")))
		for k, column := range []string{"row_id", "1.5_sentence_id", "7.0_token_id", "32.0_real_token", "token_type", "1.5_predictions", "32.0_predictions"} {
			if cell(row, column) != want[k] {
				t.Fatalf("row %d: %s is %s, want %s", i, column, cell(row, column), want[k])
			}
		}
		for k, name := range []string{"1.5", "7.0", "32.0"} {
			entropy, sum := 0.0, 0.0
			logprobs := j.models[k/2].Logprobs(prefix)
			for _, lp := range logprobs {
				entropy -= lp * math.Exp(lp)
			}
			top := logprobs[:10]
			for _, lp := range top { // the fake's logits begin at 20 - 0.125
				sum += lp - top[0] + 20 - 0.125
			}
			if within := number(row, name+"_entropy_error"); within > 0.2 || math.Abs(number(row, name+"_entropy")-entropy) > within {
				t.Errorf("row %d: entropy of %s is %s within %g, want %g", i, name, cell(row, name+"_entropy"), within, entropy)
			}
			if eu := number(row, name+"_EU"); math.Abs(eu-10/(sum+10)) > 1e-12 || number(row, name+"_AU") <= 0 {
				t.Errorf("row %d: EU of %s is %g, want %g", i, name, eu, 10/(sum+10))
			}
		}
	}
}
