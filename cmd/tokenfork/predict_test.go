package main

import (
	"bytes"
	"compress/gzip"
	"encoding/csv"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"tokenfork/internal/failure"
	"tokenfork/internal/tokenizer"
	"tokenfork/internal/vllm"
	"tokenfork/internal/vllm/vllmtest"
)

// readTable gives the columns of a CSV table by text.
func readTable(t *testing.T, name, text string, columns ...string) map[string][][]int32 {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][][]int32{}
	for _, row := range rows[1:] {
		id := row[slices.Index(rows[0], text)]
		var values []int32
		for _, column := range columns {
			n, err := strconv.ParseFloat(row[slices.Index(rows[0], column)], 64)
			if err != nil {
				t.Fatalf("%s of %q: %v", column, row, err)
			}
			values = append(values, int32(n))
		}
		out[id] = append(out[id], values)
	}
	return out
}

// written are texts of the demo that people wrote, by their numbers in its table.
var written = map[string]string{"5": "06-code-written.toml", "6": "07-dialogue-written.toml"}

// predicted makes a table of texts whose table transformers has made: tokens,
// their types and the predictions of both models are the same.
func (m *mainJob) predicted(t *testing.T, _ string) {
	want := readTable(t, m.table, "1.5_sentence_id", "1.5_real_token", "1.5_predictions", "32.0_predictions", "token_type")
	tok, err := tokenizer.Load(filepath.Join(vllmtest.Models(), "reference", "tokenizer.json"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file, table := filepath.Join(dir, "texts.jsonl"), filepath.Join(dir, "table.csv")
	texts := m.texts(t, want, tok)
	write := func(texts ...map[string]any) {
		var lines bytes.Buffer
		for _, text := range texts {
			if err := json.NewEncoder(&lines).Encode(text); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(file, lines.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	predict := func(out string) []string {
		return append([]string{"predict", file, "--out", out, "--max-response", "12", "--small-url", m.small.URL, "--reference-url", m.reference.URL}, m.models()...)
	}

	open := map[string]any{"id": "open", "prompt": "The lighthouse keeper saw a small boat"}
	write(append(texts, open, map[string]any{"id": "long", "response": strings.Repeat("word ", 3000)})...)
	if out := must(t, []int{failure.Partial}, predict(table)...); !strings.Contains(out, "text left out") || !strings.Contains(out, "id=long") {
		t.Errorf("what is left out is not named:\n%s", out)
	}
	m.sameAsTransformers(t, want, table)
	written := readTable(t, table, "data_id", "real_token", "LLM_predictions", "token_type")["open"]
	prompt := slices.IndexFunc(written, func(row []int32) bool { return row[2] == 2 })
	if prompt < 1 || len(written)-prompt > 12 || written[prompt-1][1] != written[prompt][0] {
		t.Errorf("the response that the reference wrote is not its own: %v", written)
	}

	before, err := os.ReadFile(table)
	if err != nil {
		t.Fatal(err)
	}
	m.small.Down(true) // all is in the parts
	m.reference.Down(true)
	must(t, []int{failure.Partial}, "predict", "--job", table+".parts", "--table-only", "--out", table)
	m.small.Down(false)
	m.reference.Down(false)
	if after, err := os.ReadFile(table); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the table is another one: %v", err)
	}
	write(append(texts, open)...)
	parquet, whole := filepath.Join(dir, "table.parquet"), filepath.Join(dir, "whole.csv")
	must(t, []int{0}, append(predict(whole), "--shards", "2")...)
	if after, err := os.ReadFile(whole); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the table in two shards is another one: %v", err)
	}
	if left, err := filepath.Glob(whole + ".*"); err != nil || len(left) > 0 {
		t.Errorf("left beside the table: %v, %v", left, err)
	}
	must(t, []int{0}, predict(parquet)...)
	must(t, []int{0}, append([]string{"plan", parquet, "--dry-run", "--job", filepath.Join(dir, "job"), "--alignment", "next"}, m.models()...)...)

	for i, name := range []string{"5", "6"} {
		texts[i]["prompt"] = m.message(t, name)
	}
	write(texts...)
	chat := filepath.Join(dir, "chat.csv")
	must(t, []int{0}, append(predict(chat), "--chat")...)
	m.sameAsTransformers(t, want, chat)
}

// texts are the written ones as text again: the prompt, and the rest.
func (m *mainJob) texts(t *testing.T, table map[string][][]int32, tok *tokenizer.Tokenizer) []map[string]any {
	t.Helper()
	var out []map[string]any
	for _, name := range []string{"5", "6"} {
		var sides [2][]int32
		for _, row := range table[name] {
			side := min(row[3], 1)
			sides[side] = append(sides[side], row[0])
		}
		number, err := strconv.Atoi(name)
		if err != nil || len(sides[0]) == 0 || len(sides[1]) == 0 {
			t.Fatalf("text %s has %d and %d tokens, %v", name, len(sides[0]), len(sides[1]), err)
		}
		out = append(out, map[string]any{"id": number, "prompt": tok.Decode(sides[0]), "response": tok.Decode(sides[1])})
	}
	return out
}

// message is the prompt as its file has it, without the chat template.
func (m *mainJob) message(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(vllmtest.Root(), "testdata/texts", written[name]))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, "prompt = "); ok {
			message, err := strconv.Unquote(strings.TrimSpace(value))
			if err != nil {
				t.Fatal(err)
			}
			return message
		}
	}
	t.Fatalf("no prompt in %s", written[name])
	return ""
}

// sameAsTransformers allows for near-ties, which two implementations resolve in two ways.
func (m *mainJob) sameAsTransformers(t *testing.T, want map[string][][]int32, table string) {
	t.Helper()
	got := readTable(t, table, "data_id", "real_token", "SLM_predictions", "LLM_predictions", "token_type")
	predictions, differ := 0, 0
	for _, name := range []string{"5", "6"} {
		if len(got[name]) != len(want[name]) {
			t.Errorf("text %s has %d tokens, want %d", name, len(got[name]), len(want[name]))
			continue
		}
		for i, row := range got[name] {
			if row[0] != want[name][i][0] || row[3] != want[name][i][3] {
				t.Errorf("text %s, token %d: %v, want %v", name, i, row, want[name][i])
			}
			for _, model := range []int{1, 2} {
				if predictions++; row[model] != want[name][i][model] {
					differ++
				}
			}
		}
	}
	if differ*100 > predictions {
		t.Errorf("%d of %d predictions differ from transformers'", differ, predictions)
	}
	t.Logf("%d of %d predictions differ from transformers'", differ, predictions)
}

// scores compares the log-probabilities of which predict makes the entropy and the divergence with
// those that transformers gives at every third of a text's first tokens (shard/predict/testdata).
func (m *mainJob) scores(t *testing.T) {
	f, err := os.Open(filepath.Join(vllmtest.Root(), "shard/predict/testdata/measures.json.gz"))
	ok(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	ok(t, err)
	var want struct{ Logprobs [][]float64 }
	ok(t, json.NewDecoder(z).Decode(&want))
	const step, k = 3, 20
	var ids []int32
	for _, row := range readTable(t, m.table, "32.0_sentence_id", "32.0_real_token")["0"][:step*len(want.Logprobs)] {
		ids = append(ids, row[0])
	}
	client, err := vllm.NewClient(m.reference.URL, "")
	ok(t, err)
	models, err := client.Models(t.Context())
	ok(t, err)
	client.Model = models[0].ID
	read, err := client.Predict(t.Context(), ids, k)
	ok(t, err)
	most := 0.0
	for i, at := range want.Logprobs {
		for j := range k {
			most = max(most, math.Abs(read.Top[step*i*k+j]-at[j]))
		}
	}
	if len(want.Logprobs) < 40 || most > 2e-4 { // 0.00006 was seen
		t.Errorf("at %d positions they differ by up to %g", len(want.Logprobs), most)
	}
	t.Logf("at %d positions they differ by up to %.2g", len(want.Logprobs), most)
}
