package predict

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"

	"tokenfork/internal/columnar"
	"tokenfork/internal/failure"
	"tokenfork/internal/vllm/vllmtest"
)

// readAll is a line for each text of the files: its id, prompt and response.
func readAll(files ...string) ([]string, error) {
	var all []string
	for t, err := range Read(files) {
		if err != nil {
			return all, err
		}
		response := "open"
		if t.Response != nil {
			response = *t.Response
		}
		all = append(all, t.ID+"|"+t.Prompt+"|"+response)
	}
	return all, nil
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	zipped := func(content string) string {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		if _, err := z.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	long := strings.Repeat("ü", 100_000) // over the edges of all buffers
	for _, test := range []struct{ name, content, want string }{
		{"a.jsonl", `{"id": 7, "prompt": "Q", "response": "A\n"}` + "\n\n" + `{"id": "x y", "prompt": "Q"}` + "\n" + `{"id": "r", "response": ""}`,
			"7|Q|A\n, x y|Q|open, r||"},
		{"story.txt", "Once.\n", "story||Once.\n"},
		{"story.txt.gz", zipped("Once.\n"), "story||Once.\n"},
		{"story", bom + "Once, text.\n", "story||Once, text.\n"},
		{"brackets.txt", "[Intro] {\\bf Once}", "brackets||[Intro] {\\bf Once}"},
		{"braces.tex", "{\\bf Once}", "braces||{\\bf Once}"},
		{"long", "x" + long, "long||x" + long},
		{"long.jsonl", `{"text": "x` + long + `"}`, "0||x" + long},
		{"text", `{"text": "T"}` + "\r\n" + `{"id": 7.0, "text": "U", "other": 1}`, "0||T, 7||U"},
		{"one.json", "{\n \"text\": \"T\"\n}\n", "0||T"},
		{"null", `{"id": 1, "prompt": "Q", "response": null}`, "1|Q|open"},
		{"pair", `{"text": "\ud83d\ude00 \ufffd"}`, "0||😀 \uFFFD"},
		{"list.json", `[{"prompt": "Q"}, {"prompt": "R", "response": "S"}]`, "0|Q|open, 1|R|S"},
		{"chat", `{"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": [{"type": "text", "text": "Q"}]}, {"role": "assistant", "content": "A"}]}`,
			"0|S\n\nQ\n\n|A"},
		{"prompt chat", `{"prompt": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}
{"prompt": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}, {"role": "user", "content": "R"}], "response": "B"}`,
			"0|Q\n\n|A, 1|Q\n\nA\n\nR\n\n|B"},
		{"open chat", `{"prompt": "ignored", "conversations": [{"from": "human", "value": "Q"}]}`, "0|Q\n\n|open"},
		{"rows.csv", "prompt,response\n\"a\nb\",\"c\"\"d\"\nQ,\n", "0|a\nb|c\"d, 1|Q|open"},
		{"column.csv", "text\nOne\nTwo\n", "0||One, 1||Two"},
		{"the word.csv", "text\ntext\n", "0||text"},
		{"pzstd", "\x50\x2a\x4d\x18\x04\x00\x00\x00size\x28\xb5\x2f\xfd\x20\x05\x29\x00\x00Once\n", "pzstd||Once\n"},
	} {
		got, err := readAll(write(t, dir, test.name, test.content))
		if err != nil || strings.Join(got, ", ") != test.want {
			t.Errorf("%s: read %.200q (%v), want %.200q", test.name, got, err, test.want)
		}
	}
	got, err := readAll(write(t, dir, "1.csv", "text\nOne\n"), write(t, dir, "2.csv", "text\nTwo\n"))
	if err != nil || strings.Join(got, ", ") != "0||One, 1||Two" {
		t.Errorf("two files without ids: %q, %v", got, err)
	}
}

func write(t *testing.T, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// What is not understood is refused by name, and nothing but text is a plain text.
func TestReadRefuses(t *testing.T) {
	dir := t.TempDir()
	wide := func(s string) string {
		var b bytes.Buffer
		if err := binary.Write(&b, binary.LittleEndian, append([]uint16{0xfeff}, utf16.Encode([]rune(s))...)); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	for _, test := range []struct{ name, content, want string }{
		{"a.jsonl", `{"id": "a", "prompt": "Q"}` + "\n" + `{"id": "a", "prompt": "R"}`, `duplicate id "a"`},
		{"a.jsonl", "\n{\"id\": ", "a.jsonl, line 2: "},
		{"a.jsonl", `{"id": 1.5, "prompt": "Q"}`, "line 1: the id is 1.5, not a string or a whole number"},
		{"a.jsonl", `{"id": null, "prompt": "Q"}`, "the id is null"},
		{"a.jsonl", `{"id": "", "prompt": "Q"}`, `the id is ""`},
		{"a.jsonl", `{"id": "a"}`, "there is no " + contents},
		{"a.jsonl", `{"id": "a", "prompt": ["not", "it"]}`, `prompt: it is not a list of messages`},
		{"a.jsonl", `{"id": "a", "prompt": 7}`, `prompt: 7 is not a string`},
		{"a.jsonl", `{"id": "a", "prompt": "Q", "response": [{"role": "assistant", "content": "A"}]}`, `response or text: [{"role": "assistant"`},
		{"a.jsonl", `{"text": "half \ud83d of it"}`, "half of a surrogate pair"},
		{"a.jsonl", `{"text": "a"} {"text": "b"}`, "line 1: "},
		{"a.jsonl", "{\"text\": \"a\"}\n[1]", "line 2: "},
		{"a.jsonl", "{\"text\": \"a\"}\n{\"text\": \"\xff\"}", "a.jsonl: line 2: the byte 0xff is not UTF-8"},
		{"a.jsonl", `{"messages": []}`, "messages: the list is empty"},
		{"a.jsonl", `{"messages": "Hi"}`, "messages: it is not a list of messages"},
		{"a.jsonl", `{"messages": [{"role": "user"}]}`, `message 1: it needs "role" and "content"`},
		{"a.jsonl", `{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}`, `a part is of type "image_url"`},
		{"a.jsonl", `{"messages": [{"role": "assistant", "content": null, "tool_calls": []}]}`, "message 1: content is null"},
		{"a.json", `[{"text": "a"}`, "read "},
		{"a.json", "[]", "a.json holds no texts"},
		{"a.csv", "id,text\n", "a.csv holds no texts"},
		{"a.csv", "id,text\r1,Q\r", "its lines end with carriage returns alone"},
		{"a.csv", "id,text\n1,Q\n" + bom + "id,text\n2,R\n", "a.csv, line 3: the header stands here again"},
		{"a.txt", "version https://git-lfs.github.com/spec/v1\noid", "a.txt is a pointer to a file in Git LFS"},
		{"a.zst", "\x28\xb5\x2f\xfd\x00\xa8\x03\x00\x00", "window size exceeded"},
		{"a.json", `[{"text": "a"}] {}`, "follows the array"},
		{"a.json", `["a"]`, "does not begin as a .json file with texts does"},
		{"a.csv", "id,question\n1,Q\n", "does not begin as a .csv file with texts does"},
		{"a.csv", "id,text\n1,Q,R\n", "a.csv: record on line 2: wrong number of fields"},
		{"a.csv", "id,text\n,Q\n", "a.csv, line 2: the id is empty"},
		{"a.csv", "text,text\n1,Q\n", `two columns "text"`},
		{"a.parquet", "PAR1 and no more", "a.parquet"},
		{"a.arrow", "ARROW1 and no more", "a.arrow"},
		{"a.txt", wide("Once"), "a.txt is UTF-16"},
		{"a.txt", wide("Once")[2:], "the byte 0x00 occurs in no text"},
		{"a.txt", "na\xefve", "a.txt: line 1: the byte 0xef is not UTF-8"},
		{"a.txt", "Once \xe2\x82", "is not UTF-8"},
		{"a.txt", "", "a.txt is empty"},
		{"a", "\xfd7zXZ\x00\x00", "compressed with xz"},
		{"a.zip", "PK\x03\x04", "a zip archive"},
		{"a.gz", "\x1f\x8b\x08\x00\x00", "a.gz"},
		{"a.pkl", "\x80\x04\x95", "the byte 0x80 is not UTF-8"},
	} {
		got, err := readAll(write(t, dir, test.name, test.content))
		if failure.Code(err) != failure.Refused || !strings.Contains(err.Error(), test.want) || failure.Hint(err) == "" {
			t.Errorf("%q gives %q and %v (%s), want %q", test.content, got, err, failure.Hint(err), test.want)
		}
	}
}

func TestReadRefusesBytesInColumns(t *testing.T) {
	var b bytes.Buffer
	w, err := columnar.NewFlatParquetWriter[struct {
		Text string `col:"text"`
	}](&b)
	if err == nil {
		err = errors.Join(w.Write(&struct {
			Text string `col:"text"`
		}{"caf\xe9"}), w.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	if got, err := readAll(write(t, t.TempDir(), "a.parquet", b.String())); failure.Code(err) != failure.Refused || !strings.Contains(err.Error(), `a.parquet, row 1: the column "text" is not UTF-8`) {
		t.Errorf("%q, %v", got, err)
	}
}

// The same texts as pandas, polars, DuckDB and pyarrow write them.
func TestReadWhatOthersWrite(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(filepath.Join(vllmtest.Venv(), "bin/python"), "testdata/write.py", dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("write.py: %v\n%s", err, out)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) < 20 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	prompts := []string{"Say \"a, b\";\nthen\tc.", "Q", "{not json"}
	responses := []string{"a, b\n\nc – ü 👩‍👩‍👧‍👦 \u2028 end", "A.", "[1, 2]"}
	ids := []string{"7", "8", "1099511627776"}
	for _, f := range files {
		var want []string
		kind, _, _ := strings.Cut(strings.TrimSuffix(f.Name(), ".csv"), "-")
		kind, _, _ = strings.Cut(kind, ".")
		for i := range prompts {
			id, prompt := map[string]string{"full": ids[i], "named": "t " + ids[i]}[kind], prompts[i]
			if id == "" {
				id = fmt.Sprint(i)
			}
			if kind == "chat" {
				prompt += "\n\n"
			}
			want = append(want, id+"|"+prompt+"|"+responses[i])
		}
		got, err := readAll(filepath.Join(dir, f.Name()))
		if err != nil || strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("%s: %q, %v; want %q", f.Name(), got, err, want)
		}
	}
}
