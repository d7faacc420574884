package tokenizer

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tokenfork/internal/failure"
)

const (
	byteLevelDecoder = `{"type":"ByteLevel"}`
	abc              = `{"type":"BPE","vocab":{"a":0,"Ġb":1,"c.":2},"merges":[]}`
)

func file(decoder, model, added string) string {
	return `{"decoder":` + decoder + `,"model":` + model + `,"added_tokens":[` + added + `]}`
}

func TestParseRefuses(t *testing.T) {
	sequence := func(decoders string) string { return `{"type":"Sequence","decoders":[` + decoders + `]}` }
	fuse, fallback := `{"type":"Fuse"},`, `{"type":"ByteFallback"},`
	for _, test := range []struct{ name, file, want string }{
		{"empty", "", "read tokenizer.json: unexpected end of JSON input"},
		{"truncated", `{"model":{"vocab":{"a"`, "unexpected end of JSON input"},
		{"not UTF-8", "{\"\xff\":1}", "not valid UTF-8"},
		{"no decoder", file("null", abc, ""), "no decoder"},
		{"WordPiece", file(`{"type":"WordPiece","prefix":"##"}`, abc, ""), "decoder [WordPiece]: `WordPiece` cannot be decoded here"},
		{"Replace by a regular expression", file(`{"type":"Replace","pattern":{"Regex":"a+"},"content":" "}`, abc, ""), "`Replace` can only replace a string"},
		{"Replace across tokens", file(sequence(fuse+`{"type":"Replace","pattern":{"String":"ab"},"content":""}`), abc, ""), "after Fuse one character"},
		{"Strip of each token", file(`{"type":"Strip","content":" ","start":1,"stop":0}`, abc, ""), "`Strip` can only remove one kind of character, after Fuse"},
		{"Metaspace after Fuse", file(sequence(fuse+`{"type":"Metaspace","replacement":"▁"}`), abc, ""), "decoder [Fuse Metaspace]: `Metaspace` must"},
		{"ByteFallback after Fuse", file(sequence(fuse+`{"type":"ByteFallback"}`), abc, ""), "`ByteFallback` must be there once, before Fuse"},
		{"bytes as characters", file(sequence(fallback+byteLevelDecoder), `{"type":"BPE","vocab":{"a":0,"<0x0A>":1}}`, ""), "id 1 is a byte for ByteFallback"},
		{"ByteLevel twice", file(`{"type":"Sequence","decoders":[{"type":"ByteLevel"},{"type":"ByteLevel"}]}`, abc, ""), "`ByteLevel` cannot follow ByteLevel"},
		{"Strip after ByteLevel", file(sequence(byteLevelDecoder+`,{"type":"Strip","content":" ","start":1}`), abc, ""), "`Strip` cannot follow ByteLevel"},
		{"empty Sequence", file(`{"type":"Sequence"}`, abc, ""), "Sequence is empty"},
		{"WordPiece model", file(byteLevelDecoder, `{"type":"WordPiece","vocab":{"a":0}}`, ""), "model type `WordPiece`"},
		{"empty Unigram", file(byteLevelDecoder, `{"type":"Unigram","vocab":[]}`, ""), "model.vocab is empty"},
		{"Unigram without a score", file(byteLevelDecoder, `{"type":"Unigram","vocab":[["a",0],["b"]]}`, ""), "entry 1 of model.vocab is not a token and its score"},
		{"Unigram twice", file(byteLevelDecoder, `{"type":"Unigram","vocab":[["a",0],["a",-1]]}`, ""), "the token `a` of model.vocab has the ids 0 and 1"},
		{"no model", `{"decoder":{"type":"ByteLevel"}}`, "model type ``"},
		{"no vocab", file(byteLevelDecoder, `{"type":"BPE"}`, ""), "read model.vocab"},
		{"empty vocab", file(byteLevelDecoder, `{"type":"BPE","vocab":{}}`, ""), "model.vocab is empty"},
		{"negative id", file(byteLevelDecoder, `{"type":"BPE","vocab":{"a":-1}}`, ""), "token `a`: id -1"},
		{"huge id", file(byteLevelDecoder, `{"type":"BPE","vocab":{"a":4194304}}`, ""), "token `a`: id 4194304 is not between 0 and 4194303"},
		{"one id twice", file(byteLevelDecoder, `{"type":"BPE","vocab":{"a":0,"b":0}}`, ""), "two tokens of model.vocab have id 0"},
		{"gap", file(byteLevelDecoder, abc, `{"id":4,"content":"<x>"}`), "added token `<x>` has id 4 in the file, but is loaded as 3"},
		{"moved", file(byteLevelDecoder, abc, `{"id":3,"content":"a"}`), "added token `a` has id 3 in the file, but is loaded as 0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := Parse([]byte(test.file))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokenizer.json")
	_, err := Load(path)
	if !errors.Is(err, os.ErrNotExist) || failure.Code(err) != failure.Refused || failure.Hint(err) == "" {
		t.Errorf("no file: %v", err)
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(file("null", abc, ""))
	if _, err := Load(path); failure.Code(err) != failure.Refused || !strings.Contains(err.Error(), path) {
		t.Errorf("unfit file: %v", err)
	}
	write("version https://git-lfs.github.com/spec/v1\noid")
	if _, err := Load(path); failure.Code(err) != failure.Refused || !strings.Contains(failure.Hint(err), "is the download complete?") {
		t.Errorf("a pointer: %v, %s", err, failure.Hint(err))
	}
	write(file(byteLevelDecoder, abc, ""))
	tok, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(tok.JSON()) != file(byteLevelDecoder, abc, "") {
		t.Errorf("the file is not kept: %s", tok.JSON())
	}
	if want := "bc19153189c2f330fa7e68a75a6dd776dc86fd07e5904d21837093e42c589062"; tok.Fingerprint() != want {
		t.Errorf("fingerprint %s", tok.Fingerprint())
	}
	if _, err := Load(t.TempDir()); err == nil || !strings.Contains(err.Error(), "is a folder") {
		t.Errorf("a folder: %v", err)
	}
}

func TestEqualNamesTheFirstDifference(t *testing.T) {
	parse := func(added string) *Tokenizer {
		t.Helper()
		tok, err := Parse([]byte(file(byteLevelDecoder, abc, added)))
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	a, b := parse(`{"id":3,"content":"<a>"}`), parse(`{"id":3,"content":"<b>"}`)
	special := parse(`{"id":3,"content":"<a>","special":true}`)
	none, marked := parse(``), parse(`{"id":0,"content":"a"}`)
	space, level := parse(`{"id":3,"content":" x"}`), parse(`{"id":3,"content":"Ġx"}`)
	tick := parse("{\"id\":3,\"content\":\"\\u0007`\"}")
	for _, test := range []struct {
		small, reference *Tokenizer
		want             string
	}{
		{a, a, ""},
		{a, special, ""},
		{a, b, "id 3 is the added token `<a>` in small, the added token `<b>` in reference"},
		{a, none, "id 3 is the added token `<a>` in small, no token in reference"},
		{none, marked, "id 0 is `a` in small, the added token `a` in reference"},
		{space, level, "id 3 is the added token ` x` in small, the added token `Ġx` in reference"},
		{none, tick, "id 3 is no token in small, the added token \"\\a`\" in reference"},
	} {
		err := Equal(test.small, test.reference)
		switch {
		case err == nil && test.want != "":
			t.Errorf("equal, want %q", test.want)
		case err != nil && (err.Error() != "compare tokenizers: "+test.want || failure.Code(err) != failure.Refused):
			t.Errorf("got %v, want %q", err, test.want)
		}
	}
}

// Whatever is in the file, it is read or refused, and what is read can be used.
func FuzzParse(f *testing.F) {
	f.Add([]byte(file(byteLevelDecoder, abc, `{"id":3,"content":"<think>"}`)))
	f.Add([]byte(file(`{"type":"Sequence","decoders":[{"type":"ByteLevel"},{"type":"Fuse"}]}`, abc, `{"id":2,"content":"c."}`)))
	f.Add([]byte(file(`{"type":"Fuse"}`, `{"type":"WordLevel","vocab":{"é":5,"":1}}`, "")))
	f.Add([]byte(file(byteLevelDecoder, `{"vocab":{"ä½ł":0,"3.":1,"9":2},"merges":["a b"]}`, "null")))
	f.Add([]byte(file(`{"type":"Sequence","decoders":[{"type":"ByteFallback"},{"type":"Metaspace","replacement":"▁"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1}]}`,
		`{"type":"Unigram","vocab":[["▁a",0],["<0xE2>",-1],["<0x0A>",-2]]}`, "")))
	f.Add([]byte(`{"decoder":{"type":1}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		tok, err := Parse(data)
		if err != nil {
			return
		}
		if !bytes.Equal(tok.JSON(), data) || tok.Size() > maxID+1 {
			t.Fatalf("size %d", tok.Size())
		}
		if tok.Size() > 1<<12 {
			return
		}
		for id := int32(-1); id <= int32(tok.Size()); id++ {
			tok.Decode([]int32{id, id + 1})
		}
		for _, spec := range []string{DefaultEnds, R2REnds} {
			ends, err := NewEnds(tok, spec, []int32{0}, true)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := json.Marshal(ends); err != nil {
				t.Fatal(err)
			}
		}
		if err := Equal(tok, tok); err != nil {
			t.Fatal(err)
		}
	})
}
