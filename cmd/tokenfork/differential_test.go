package main

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"tokenfork/internal/failure"
	"tokenfork/internal/vllm/fakevllm"
	"tokenfork/judge/merge"
)

var (
	differentialN    = flag.Int("differential.n", 20, "random jobs that TestDifferential compares")
	differentialSeed = flag.Uint64("differential.seed", 0, "seed of the first one; 0 takes one from the clock")
)

// TestDifferential plans, infers and merges random tables with fake models whose
// next token is a hash of the prefix, by way of faults, kills and retries, and
// compares every row of the results with what a brute force over the same models
// gives: no replay, no sharing, one token after the other. The brute force is
// written from the contract (docs/plan.md, docs/infer.md and docs/formats.md) and
// shares no code with the program.
//
//	go test ./cmd/tokenfork -run TestDifferential -differential.n 2000
func TestDifferential(t *testing.T) {
	first := *differentialSeed
	if first == 0 {
		first = uint64(time.Now().UnixNano()) % 1_000_000_000
	}
	t.Logf("seeds %d to %d", first, first+uint64(*differentialN)-1)
	var mu sync.Mutex
	seen := map[string]int{}
	t.Run("jobs", func(t *testing.T) {
		for seed := first; seed < first+uint64(*differentialN); seed++ {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				d := newDifferential(t, seed)
				d.run(t)
				mu.Lock()
				defer mu.Unlock()
				for what, n := range d.seen {
					seen[what] += n
				}
			})
		}
	})
	t.Log(seen)
	if *differentialN >= 20 && !t.Failed() {
		for _, what := range []string{"rows", "stop", "length", "eos", "predicted", "replayed"} {
			if seen[what] == 0 {
				t.Errorf("no %s in any job: the tables do not exercise it", what)
			}
		}
	}
}

// piece is a token with, by hand, the sets of ends to which it belongs: d the
// default, r R2R's rule, c the characters ;,
type piece struct {
	text string
	ends string
}

// pieces are the ordinary tokens. Half of an é and of an emoji are among them.
var pieces = []piece{
	{" a", ""}, {" b", ""}, {" cat", ""}, {"dog", ""}, {" hen", ""}, {"x", ""}, {" (", ""}, {"\xc3", ""}, {"\xa9", ""}, {"\xf0\x9f", ""},
	{"3", ""}, {"7", ""}, {" 5", ""}, {"41", ""},
	{".", "dr"}, {"!", "dr"}, {" ?", "dr"}, {"\n", "dr"}, {"2.", "dr"}, {"。", "r"}, {"！", "r"}, {".\"", ""}, {"\".", "d"}, {":\n", "d"}, {"(.", "d"}, {").", "dr"},
	{";", "c"}, {" ,", "c"}, {"abcd.", ""}, {"abc.", "dr"},
}

// added follow the pieces: the end of text, another special token, and the tags.
var added = []string{"<eos>", "<pad>", "<think>", "</think>"}

const (
	eosID  = 30 // len(pieces)
	tagsAt = 32
	known  = 34 // ids that a text is known of
)

// endsFlag are the values of --ends by the letter of their set.
var endsFlag = map[string]string{"d": "", "r": "r2r", "c": ";,"}

// differential is one random job.
type differential struct {
	r      *rand.Rand
	models [2]fakevllm.Model
	texts  []*randomText

	layout, alignment, trajectories, ends string
	first, limit, shards, maxLen          int
	decimals, replay, margins, types      bool
	reference                             bool // the table has the reference's predictions

	dir, table string
	seen       map[string]int
}

// randomText is one text of the table.
type randomText struct {
	id        int64
	real      []int32
	recorded  [2][]int32 // by position, the text's length included; -1: none
	entropies [2][]float64
	prompt    int   // rows of the instruction, with types
	row       int64 // row_id of the first row
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

func newDifferential(t *testing.T, seed uint64) *differential {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 20250521))
	d := &differential{r: r, dir: t.TempDir(), seen: map[string]int{}}
	d.layout, d.alignment = pick(r, "study", "r2r"), pick(r, "next", "same")
	d.trajectories, d.ends = pick(r, "own", "own", "reference", "real"), pick(r, "d", "d", "r", "c")
	d.first, d.shards = r.IntN(2), 1+r.IntN(7)
	d.limit = pick(r, 0, 1, 2, 3, 5, 8, 16, 40, 128)
	d.decimals, d.replay, d.margins = r.IntN(2) == 0, r.IntN(4) > 0, r.IntN(3) == 0
	d.types = d.layout == "r2r" || r.IntN(2) == 0
	d.reference = d.layout == "study" || d.trajectories != "real" || r.IntN(2) == 0
	var texts fakevllm.Pieces
	for _, p := range pieces {
		texts = append(texts, p.text)
	}
	texts = append(texts, added...)
	d.models[0] = fakevllm.Model{Seed: seed + 1, Pieces: texts, AddedFrom: len(pieces), EOS: []int32{eosID}, Vocab: known + r.IntN(3)}
	d.models[1] = d.models[0]
	d.models[0].Apart = r.Uint64() | 1
	d.models[1].Vocab += pick(r, 0, 0, 2) // padding
	for n := 1 + r.IntN(6); n > 0; n-- {
		d.texts = append(d.texts, d.newText(len(d.texts)))
	}
	d.maxLen = 4096
	if r.IntN(4) == 0 { // some forks do not fit
		d.maxLen = 20 + d.limit
	}
	return d
}

// newText follows the models mostly, so that there is something to replay.
func (d *differential) newText(i int) *randomText {
	r := d.r
	x := &randomText{id: int64(r.IntN(1000)*10 + i), prompt: r.IntN(4)}
	n := 3 + r.IntN(pick(r, 6, 40, 120))
	follow := pick(r, 0.6, 0.8, 0.95)
	for len(x.real) <= n {
		said := [2]int32{d.models[0].Next(x.real), d.models[1].Next(x.real)}
		q := len(x.real)
		for side := range said {
			kept := said[side]
			unrecorded := q == n && d.alignment == "same" || q == 0 && d.alignment == "next"
			if unrecorded || r.IntN(15) == 0 || side == 1 && !d.reference {
				kept = -1
			}
			x.recorded[side] = append(x.recorded[side], kept)
			x.entropies[side] = append(x.entropies[side], float64(r.IntN(1000))/256)
		}
		if q == n {
			break
		}
		next := said[pick(r, 0, 1, 1)]
		if r.Float64() > follow || int(next) >= d.models[0].Vocab {
			next = int32(r.IntN(d.models[0].Vocab))
		}
		x.real = append(x.real, next)
	}
	return x
}

// writeTable makes the table's file.
func (d *differential) writeTable(t *testing.T) {
	t.Helper()
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	header := []string{"row_id", "data_id", "token_id", "real_token", "token_type", "SLM_predictions"}
	if d.reference {
		header = append(header, "LLM_predictions")
	}
	if d.layout == "study" {
		header = []string{"row_id"}
		for _, size := range []string{"1.5", "32.0"} {
			for _, c := range []string{"token_id", "sentence_id", "real_token", "predictions", "entropy", "AU", "EU"} {
				header = append(header, size+"_"+c)
			}
		}
		if d.types {
			header = append(header, "token_type")
		}
	}
	records := [][]string{header}
	row := int64(d.r.IntN(1000))
	for _, x := range d.texts {
		x.row = row
		for i := range x.real {
			records = append(records, d.record(x, i))
			row++
		}
	}
	if err := w.WriteAll(records); err != nil {
		t.Fatal(err)
	}
	d.table = write(t, d.dir, "table.csv", b.String())
}

// record is row i of the text: it holds the predictions for position i, or i+1 under next.
func (d *differential) record(x *randomText, i int) []string {
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	predicts := i
	if d.alignment == "next" {
		predicts++
	}
	prediction := func(side int) string {
		if id := x.recorded[side][predicts]; id >= 0 {
			return number(int64(id))
		}
		return ""
	}
	token := "1"
	if i < x.prompt {
		token = "0"
	}
	position, real, id := number(int64(i+d.first)), number(int64(x.real[i])), number(x.id)
	if d.layout == "r2r" {
		record := []string{number(x.row + int64(i)), id, position, real, token, prediction(0)}
		if d.reference {
			record = append(record, prediction(1))
		}
		return record
	}
	record := []string{number(x.row + int64(i))}
	for side := range 2 {
		e := strconv.FormatFloat(x.entropies[side][predicts], 'g', -1, 64)
		record = append(record, position, id, real, prediction(side), e, e, e)
	}
	if d.types {
		record = append(record, token)
	}
	return record
}

// expected is a row of the results.
type expected map[string]string

// want are all rows, by brute force.
func (d *differential) want() []expected {
	var rows []expected
	for _, x := range d.texts {
		before := 0 // the previous mismatch
		for p := range x.real {
			row := p // that holds the prediction
			if d.alignment == "next" {
				row = p - 1
			}
			small, reference := x.recorded[0][p], x.recorded[1][p]
			if d.trajectories == "real" {
				reference = x.real[p]
			}
			if small < 0 || reference < 0 || small == reference || d.types && row < x.prompt {
				continue
			}
			rows = append(rows, d.row(x, p, row, before, [2]int32{small, reference}))
			before = p
		}
	}
	return rows
}

func (d *differential) row(x *randomText, p, row, before int, predicted [2]int32) expected {
	e := expected{"sentence_id": fmt.Sprint(x.id), "mismatch_position": fmt.Sprint(p + d.first),
		"context": d.text(x.real[before:p]), "context_ids": list(x.real[before:p]), "real_token": d.text(x.real[p : p+1]), "real_token_id": fmt.Sprint(x.real[p]),
		"row_id": fmt.Sprint(x.row + int64(row)), "real_row_id": fmt.Sprint(x.row + int64(p)), "status": "not_judged"}
	if p == 0 { // no context before the first token
		e["context_ids"] = "[]"
	}
	for side, name := range []string{"small", "reference"} {
		e["pred_"+name+"_id"], e["pred_"+name] = fmt.Sprint(predicted[side]), d.text(predicted[side:side+1])
		for _, measure := range []string{"_entropy", "_au", "_eu"} {
			e[name+measure] = ""
			if d.layout == "study" {
				e[name+measure] = strconv.FormatFloat(x.entropies[side][p], 'g', -1, 64)
			}
		}
		c := d.carryOn(x, p, side, predicted[side])
		ids, text := "", ""
		if c.failed != "" {
			e["status"] = "infer_failed:" + c.failed
		} else {
			ids, text = list(c.ids), d.text(c.ids)
			d.seen[c.finish]++
			d.seen["replayed"] += c.replayed
		}
		e["continuation_"+name+"_ids"], e["continuation_"+name], e["finish_"+name] = ids, text, c.finish
		e["replayed_"+name] = ""
		if c.failed == "" {
			e["replayed_"+name] = fmt.Sprint(c.replayed)
		}
		if d.margins {
			e["margin_"+name] = c.margin
		}
	}
	d.seen["rows"]++
	return e
}

// carried is a continuation.
type carried struct {
	ids      []int32
	finish   string
	replayed int
	margin   string
	failed   string
}

// carryOn is side's fork at p.
func (d *differential) carryOn(x *randomText, p, side int, token int32) carried {
	model := 1 // who goes on
	if d.trajectories == "own" {
		model = side
	}
	var prev int32 = -1
	if p > 0 {
		prev = x.real[p-1]
	}
	if d.trajectories == "real" && side == 1 {
		c, _ := d.follow(prev, token, func(taken []int32) (int32, bool) {
			at := p + 1 + len(taken)
			if at >= len(x.real) {
				return 0, false
			}
			return x.real[at], true
		})
		if c.finish == "eos" { // it stands in the text: nobody generated it
			c.ids = append(c.ids, eosID)
		}
		return c
	}
	var gaps []float64
	c, asked := d.follow(prev, token, func(taken []int32) (int32, bool) {
		prefix := slices.Concat(x.real[:p], []int32{token}, taken)
		gaps = append(gaps[:len(taken)], d.models[model].Gap(prefix)) // a look ahead whose token is kept asks twice
		return d.models[model].Next(prefix), true
	})
	if asked && p+1+d.limit > d.maxLen {
		return carried{failed: "context_length"}
	}
	read := 0 // of the table; an end of text that is not kept, and what a look ahead sees, are among them
	if d.replay && token == x.real[p] {
		read = d.recordedFrom(x, p+1, model)
	}
	c.replayed = min(read, len(c.ids)-1)
	counts := len(c.ids) - 1 // generated tokens that decided the continuation: not what a look ahead sees and drops
	if c.finish == "eos" {
		counts++
	}
	if asked && read == 0 && counts > 0 {
		c.margin = strconv.FormatFloat(slices.Min(gaps[:counts]), 'g', -1, 64)
	}
	return c
}

// recordedFrom is how many tokens of the model the table has from position q on,
// along the real text.
func (d *differential) recordedFrom(x *randomText, q, model int) (n int) {
	for ; q < len(x.recorded[model]) && x.recorded[model][q] >= 0; q++ {
		n++
		if q == len(x.real) || x.recorded[model][q] != x.real[q] {
			break
		}
	}
	return n
}

// follow takes tokens after a predicted one until the sentence ends, the limit is
// reached, or there are none. asked says whether one was wanted.
func (d *differential) follow(prev, token int32, next func(taken []int32) (int32, bool)) (c carried, asked bool) {
	c.ids = []int32{token}
	finish := "predicted"
	for {
		last := c.ids[len(c.ids)-1]
		if d.isEnd(last) {
			left := len(c.ids)-1 < d.limit
			if last == eosID && len(c.ids) > 1 {
				c.ids, c.finish = c.ids[:len(c.ids)-1], "eos"
				return c, asked
			}
			if !d.decimals || last == eosID || !left || !d.afterDigit(prev, last) {
				c.finish = finish
				return c, asked
			}
			asked = true
			if id, ok := next(c.ids[1:]); !ok || !startsWithDigit(d.text1(id)) {
				c.finish = finish
				return c, asked
			}
		}
		asked = asked || len(c.ids)-1 < d.limit
		id, ok := int32(0), true
		if len(c.ids)-1 < d.limit {
			id, ok = next(c.ids[1:])
		}
		switch {
		case len(c.ids)-1 == d.limit:
			c.finish = "length"
			return c, asked
		case !ok:
			c.finish = "end_of_text"
			return c, asked
		}
		prev, finish = last, "stop"
		c.ids = append(c.ids, id)
	}
}

// isEnd says whether a sentence ends with id by any of the three rules.
func (d *differential) isEnd(id int32) bool {
	switch {
	case int(id) < len(pieces):
		return strings.Contains(pieces[id].ends, d.ends)
	default:
		return id == eosID || id == tagsAt || id == tagsAt+1
	}
}

// afterDigit says whether id ends in a point that a digit precedes.
func (d *differential) afterDigit(prev, id int32) bool {
	text := d.text1(id)
	if !strings.HasSuffix(text, ".") {
		return false
	}
	if text == "." && prev >= 0 {
		text = d.text1(prev) + text
	}
	return len(text) > 1 && startsWithDigit(text[len(text)-2:])
}

func startsWithDigit(s string) bool { return s != "" && s[0] >= '0' && s[0] <= '9' }

func (d *differential) text1(id int32) string { return d.models[1].Text([]int32{id}) }

// text is as readers see it: U+FFFD for each largest part of a character.
func (d *differential) text(ids []int32) string {
	s := d.models[1].Text(ids)
	var b strings.Builder
	for len(s) > 0 {
		c, n := utf8.DecodeRuneInString(s)
		if c == utf8.RuneError {
			for _, part := range []string{"\xf0\x9f\xa9", "\xf0\x9f"} { // what the pieces can make
				if strings.HasPrefix(s, part) {
					n = max(n, len(part))
				}
			}
		}
		b.WriteRune(c)
		s = s[n:]
	}
	return b.String()
}

func list(ids []int32) string {
	b, err := json.Marshal(ids)
	if err != nil {
		panic(err) // numbers
	}
	return string(b)
}

// run takes the job through plan, infer and merge, and compares the rows.
func (d *differential) run(t *testing.T) {
	d.writeTable(t)
	for side, name := range []string{"small", "reference"} {
		d.models[side].Write(t, filepath.Join(d.dir, name))
	}
	job := filepath.Join(d.dir, "job")
	plan := []string{"plan", d.table, "--job", job, "--alignment", d.alignment, "--trajectories", d.trajectories, "--max-new-tokens", fmt.Sprint(d.limit),
		"--shards", fmt.Sprint(d.shards), "--small-model", filepath.Join(d.dir, "small"), "--reference-model", filepath.Join(d.dir, "reference"), "--tmp", d.dir}
	if e := endsFlag[d.ends]; e != "" {
		plan = append(plan, "--ends", e)
	}
	for flag, on := range map[string]bool{"--decimals": d.decimals, "--margins": d.margins} {
		if on {
			plan = append(plan, flag)
		}
	}
	if !d.replay {
		plan = append(plan, "--replay", "off")
	}
	want := d.want()
	d.tokenfork(t, []int{0}, plan...)
	if len(want) > 0 {
		d.infer(t, job)
	}
	code := 0
	if slices.ContainsFunc(want, func(e expected) bool { return e["status"] != "not_judged" }) {
		code = failure.Partial
	}
	d.tokenfork(t, []int{code}, "merge", "--job", job, "--judge", "none")
	d.compare(t, want, filepath.Join(job, merge.CSVKey))
}

// tokenfork runs the program in this process.
func (d *differential) tokenfork(t *testing.T, codes []int, args ...string) {
	t.Helper()
	var out bytes.Buffer
	if code := run(t.Context(), args, &out, &out); !slices.Contains(codes, code) {
		t.Fatalf("tokenfork %s\nexit code %d, want one of %v\n%s", strings.Join(args, " "), code, codes, &out)
	}
}

// serve puts a fake server before each model.
func (d *differential) serve(t *testing.T, faults ...fakevllm.Fault) []string {
	t.Helper()
	block, old := pick(d.r, 1, 4, 16), d.r.IntN(3) == 0
	var flags []string
	for side, name := range []string{"small", "reference"} {
		for range 1 + d.r.IntN(2) {
			s := fakevllm.Serve(t, fakevllm.Config{Model: d.models[side], MaxModelLen: d.maxLen, BlockSize: block, KVTokens: pick(d.r, 0, 4096+256), Old: old, Faults: faults})
			flags = append(flags, "--"+name+"-url", s.URL)
		}
	}
	return flags
}

// infer works through the job with servers that show faults, killed or retried at random.
func (d *differential) infer(t *testing.T, job string) {
	args := []string{"infer", "--job", job, "--part-every", "1ms", "--audit", pick(d.r, "0", "0.3"), "--in-flight", pick(d.r, "1", "16")}
	late := fakevllm.Fault{Kind: fakevllm.Late, Every: 10, For: 10 * time.Millisecond}
	codes := []int{0, failure.Partial} // where forks do not fit
	switch d.r.IntN(8) {
	case 0, 1: // killed at any moment
		flags := d.serve(t, fakevllm.Fault{Kind: fakevllm.Late, Every: 2, For: 5 * time.Millisecond})
		for range 1 + d.r.IntN(3) {
			cmd, _ := command(append(args, flags...)...)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(d.r.IntN(300)) * time.Millisecond)
			_ = cmd.Process.Kill() // it may have ended
			_ = cmd.Wait()
		}
		d.tokenfork(t, codes, append(args, flags...)...)
	case 2: // refused first, then done again
		flags := d.serve(t, fakevllm.Fault{Kind: fakevllm.Refuse, Status: 422, Every: 3})
		d.tokenfork(t, append(codes, failure.Other), append(args, flags...)...)
		d.tokenfork(t, codes, append(append(args, d.serve(t)...), "--retry")...)
	case 3: // the servers break connections and have to be asked again
		d.tokenfork(t, codes, append(args, d.serve(t, fakevllm.Fault{Kind: fakevllm.Cut, Every: 15, Times: 1}, late)...)...)
	case 4: // shard by shard
		flags := d.serve(t, late)
		for _, k := range d.r.Perm(d.shards) {
			if _, err := os.Stat(filepath.Join(job, "shards", fmt.Sprintf("%05d.arrow", k))); err == nil {
				d.tokenfork(t, codes, append(append(args, flags...), "--shard", fmt.Sprint(k))...)
			}
		}
	default:
		d.tokenfork(t, codes, append(args, d.serve(t, late)...)...)
	}
}

func (d *differential) compare(t *testing.T, want []expected, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	records, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if len(records) != len(want)+1 {
		t.Fatalf("%d rows, want %d (%s)", len(records)-1, len(want), d)
	}
	for i, e := range want {
		for j, column := range records[0] {
			if v, ok := e[column]; ok && v != records[i+1][j] && !sameNumber(v, records[i+1][j]) {
				t.Errorf("row %d of text %s at %s: %s is %q, want %q (%s)", i, e["sentence_id"], e["mismatch_position"], column, records[i+1][j], v, d)
			}
		}
		if t.Failed() {
			return
		}
	}
}

func sameNumber(a, b string) bool {
	x, err := strconv.ParseFloat(a, 64)
	if err != nil {
		return false
	}
	y, err := strconv.ParseFloat(b, 64)
	return err == nil && math.Abs(x-y) < 1e-12
}

func (d *differential) String() string {
	return fmt.Sprintf("%s %s from %d, trajectories %s, ends %s, limit %d, decimals %v, replay %v, %d shards, %d tokens fit, table %s",
		d.layout, d.alignment, d.first, d.trajectories, d.ends, d.limit, d.decimals, d.replay, d.shards, d.maxLen, d.table)
}
