package tokenizer

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// The tests of this file compare with what the tokenizers library says; the script
// testdata/reference.py asks it. All ids of all vocabularies:
//
//	go test ./internal/tokenizer -tokenizers.all

var names = []string{
	"qwen2.5", "qwen3", "r1-distill-qwen", "llama3.1", "deepseek-v3", "smollm2", "mistral-nemo", "gpt-oss",
	"llama2", "mistral", "gemma", "gemma3", "phi3",
	"llama2-gguf", "smollm2-gguf", "distill-gguf",
	"unigram", "odd", "dummy",
}

var everyToken = flag.Bool("tokenizers.all", false, "compare every id of every vocabulary; otherwise one in 16 of most large ones")

type expected struct {
	Path      string
	Size      int
	IDs       []int32   // that are compared
	Middle    []string  // the text of each
	Bytes     []*string // of each, in hex
	Added     map[string]int32
	Sequences []struct {
		IDs  []int32
		Text string
	}
	Ends []struct {
		Spec string
		IDs  []int32
		Dots map[string][]int32
	}
	Digits map[string][]int32
}

var answers string // the folder of the library's answers

func TestMain(m *testing.M) {
	os.Exit(func() int {
		defer func() { os.RemoveAll(answers) }()
		return m.Run()
	}())
}

// ask runs the script once for all tests.
func ask(t *testing.T) string {
	t.Helper()
	if answers != "" {
		return answers
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	venv := os.Getenv("TOKENFORK_VENV")
	if venv == "" {
		venv = filepath.Join(root, ".venv")
	}
	python := filepath.Join(venv, "bin", "python")
	if _, err := os.Stat(python); errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("no Python environment at %s: make it with scripts/setup-vllm, or name one by TOKENFORK_VENV", venv)
	}
	out, err := os.MkdirTemp("", "tokenizer-")
	if err != nil {
		t.Fatal(err)
	}
	answers = out
	step := "16"
	if *everyToken {
		step = "1"
	}
	cmd := exec.Command(python, "testdata/reference.py", filepath.Join(root, ".cache", "tokenizers"), out, step)
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("reference.py: %v\n%s", err, text)
	}
	return out
}

func readAnswer(t *testing.T, name string, into any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(ask(t), name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatal(err)
	}
}

// loadReal is a tokenizer and what the library says of it.
func loadReal(t *testing.T, name string) (*Tokenizer, expected) {
	t.Helper()
	var want expected
	readAnswer(t, name, &want)
	tok, err := Load(want.Path)
	if err != nil {
		t.Fatal(err)
	}
	return tok, want
}

// TestAgainstTheLibrary loads each tokenizer once: the answers are large.
func TestAgainstTheLibrary(t *testing.T) {
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			tok, want := loadReal(t, name)
			for check, run := range map[string]func(*testing.T, *Tokenizer, expected){
				"every id": everyID, "sequences": sequences, "added tokens": addedTokens,
				"ends": endsOfVocabulary, "decimals": decimalsByText,
			} {
				t.Run(check, func(t *testing.T) { run(t, tok, want) })
			}
		})
	}
}

func everyID(t *testing.T, tok *Tokenizer, want expected) {
	if tok.Size() != want.Size || len(want.Middle) != len(want.IDs) || len(want.IDs) < min(want.Size, 300) || *everyToken && len(want.IDs) != want.Size {
		t.Fatalf("size %d, want %d, of which %d are compared", tok.Size(), want.Size, len(want.IDs))
	}
	compared := 0
	for i, id := range want.IDs {
		if got := tok.Decode([]int32{id}); got != want.Middle[i] {
			t.Errorf("id %d decodes to %q, want %q", id, got, want.Middle[i])
		}
		if want.Bytes[i] == nil {
			continue
		}
		compared++
		if got := hex.EncodeToString(tok.Bytes(id)); got != *want.Bytes[i] {
			t.Errorf("id %d is bytes %s, want %s", id, got, *want.Bytes[i])
		}
	}
	// 13 bytes occur in no UTF-8, so no text shows the library's character for them.
	if compared < len(want.IDs)-13 {
		t.Errorf("bytes of %d ids compared, want %d", compared, len(want.IDs)-13)
	}
}

func sequences(t *testing.T, tok *Tokenizer, want expected) {
	if n := len(want.Sequences); n < 6000/16 || *everyToken && n < 6000 {
		t.Fatalf("%d sequences", n)
	}
	for _, s := range want.Sequences {
		if got := tok.Decode(s.IDs); got != s.Text {
			t.Errorf("%v decodes to %q, want %q", s.IDs, got, s.Text)
		}
	}
}

func addedTokens(t *testing.T, tok *Tokenizer, want expected) {
	for content, id := range want.Added {
		if got, ok := tok.ID(content); !ok || got != id {
			t.Errorf("%q has id %d (%v), want %d", content, got, ok, id)
		}
	}
	if count := len(tok.ids); count != len(want.Added) || count == 0 {
		t.Errorf("%d added tokens, want %d", count, len(want.Added))
	}
}

func endsOfVocabulary(t *testing.T, tok *Tokenizer, want expected) {
	asked := map[int32]bool{}
	for _, id := range want.IDs {
		asked[id] = true
	}
	only := func(ids []int32) []int32 {
		return slices.DeleteFunc(slices.Clone(ids), func(id int32) bool { return !asked[id] })
	}
	for _, w := range want.Ends {
		ends, err := NewEnds(tok, w.Spec, nil, true)
		if err != nil {
			t.Fatal(err)
		}
		d := ends.decimals
		got := map[string][]int32{"dot": only(d.Dot.sorted), "digit_dot": only(d.DigitDot.sorted)}
		if !equalSets(got, w.Dots) {
			t.Errorf("%q: %v, want %v", w.Spec, got, w.Dots)
		}
		got = map[string][]int32{"ends_digit": only(d.EndsDigit.sorted), "starts_digit": only(d.StartsDigit.sorted)}
		if !equalSets(got, want.Digits) {
			t.Errorf("%v, want %v", got, want.Digits)
		}
		if !slices.Equal(only(ends.IDs()), w.IDs) {
			t.Errorf("%q: ends differ:\n%v\nwant\n%v", w.Spec, ends.IDs(), w.IDs)
		}
		t.Logf("%q: %d ends", w.Spec, len(w.IDs))
	}
}

func equalSets(a, b map[string][]int32) bool { return maps.EqualFunc(a, b, slices.Equal) }

// The library numbers added tokens itself; a file is read as it does, or refused.
func TestNumberingOfAddedTokens(t *testing.T) {
	var cases []struct {
		File  string
		Alone []string
	}
	readAnswer(t, "case-numbered", &cases)
	read := 0
	for _, c := range cases {
		tok, err := Parse([]byte(c.File))
		if err != nil {
			continue
		}
		read++
		for id, want := range c.Alone {
			if got := tok.Decode([]int32{int32(id)}); got != want {
				t.Fatalf("id %d decodes to %q, want %q, in %s", id, got, want, c.File)
			}
		}
	}
	if read < len(cases)/5 || read == len(cases) {
		t.Errorf("%d of %d files read", read, len(cases))
	}
	t.Logf("%d of %d files read, the others refused", read, len(cases))
}

func TestInvalidUTF8(t *testing.T) {
	var answer struct {
		Edges string
		Texts []string
	}
	readAnswer(t, "case-invalid", &answer)
	edges, err := hex.DecodeString(answer.Edges)
	if err != nil {
		t.Fatal(err)
	}
	n := len(edges)
	if len(answer.Texts) != n*n*n*n {
		t.Fatalf("%d texts for %d edges", len(answer.Texts), n)
	}
	for i, want := range answer.Texts {
		b := []byte{edges[i/n/n/n], edges[i/n/n%n], edges[i/n%n], edges[i%n]}
		if got := string(AppendText(nil, b)); got != want {
			t.Fatalf("%x decodes to %q, want %q", b, got, want)
		}
	}
}

func TestRealTokenizersDiffer(t *testing.T) {
	qwen25, _ := loadReal(t, "qwen2.5")
	qwen3, _ := loadReal(t, "qwen3")
	distill, _ := loadReal(t, "r1-distill-qwen")
	for _, test := range []struct {
		small, reference *Tokenizer
		want             string
	}{
		{qwen25, qwen25, ""},
		{qwen25, qwen3, "compare tokenizers: id 151665 is no token in small, the added token `<tool_response>` in reference"},
		{qwen25, distill, "compare tokenizers: id 151643 is the added token `<|endoftext|>` in small, the added token `<｜end▁of▁sentence｜>` in reference"},
	} {
		err := Equal(test.small, test.reference)
		if err == nil && test.want != "" || err != nil && err.Error() != test.want {
			t.Errorf("got %v, want %q", err, test.want)
		}
	}
}
