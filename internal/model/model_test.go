package model

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tokenfork/internal/failure"
)

// folder writes files of a model; config.json and tokenizer.json are there anyway.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	all := map[string]string{"config.json": `{"vocab_size":10,"dtype":"bfloat16"}`, "tokenizer.json": "{}"}
	for name, text := range files {
		all[name] = text
	}
	for name, text := range all {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// tensors is a safetensors file without its data.
func tensors(header string) string {
	return string(binary.LittleEndian.AppendUint64(nil, uint64(len(header)))) + header
}

func TestLoadRefuses(t *testing.T) {
	index := `{"metadata":{"total_size":8},"weight_map":{"a":"1.safetensors","b":"2.safetensors"}}`
	for _, test := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"cut config", map[string]string{"config.json": `{"vocab_size":`}, "config.json: unexpected end"},
		{"no vocabulary", map[string]string{"config.json": `{}`}, "no vocab_size"},
		{"negative", map[string]string{"config.json": `{"vocab_size":1,"head_dim":-1}`}, "a size of -1"},
		{"text_config", map[string]string{"config.json": `{"vocab_size":1,"text_config":3}`}, "text_config: "},
		{"eos", map[string]string{"generation_config.json": `{"eos_token_id":"x"}`}, "neither an id nor a list"},
		{"cut index", map[string]string{indexFile: `{`}, indexFile + ": unexpected end"},
		{"empty index", map[string]string{indexFile: `{}`}, "it names no file"},
		{"half a download", map[string]string{indexFile: index, "1.safetensors": tensors(`{}`)}, "1 of its 2 files are missing: 2.safetensors"},
		{"cut header", map[string]string{singleFile: tensors(`{"a":{}}`)[:10]}, singleFile + ": unexpected EOF"},
		{"no header", map[string]string{singleFile: "abc"}, singleFile + ": unexpected EOF"},
		{"huge header", map[string]string{singleFile: strings.Repeat("\xff", 9)}, "more than safetensors allows"},
		{"no JSON", map[string]string{singleFile: tensors(`{"a"`)}, singleFile + ": unexpected end"},
		{"bad tensor", map[string]string{singleFile: tensors(`{"a":{"shape":[-1],"data_offsets":[0,2]}}`)}, "tensor a has shape [-1]"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := Load(folder(t, test.files))
			if err == nil || !strings.Contains(err.Error(), test.want) || failure.Code(err) != failure.Refused || failure.Hint(err) == "" {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
	for _, name := range []string{"config.json", "tokenizer.json"} {
		dir := folder(t, nil)
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(dir); failure.Code(err) != failure.Refused || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
	}
}

func TestEOSOfGenerationConfigFirst(t *testing.T) {
	for _, test := range []struct {
		config, generation string
		want               []int32
	}{
		{`1`, `{"eos_token_id":2}`, []int32{2}},
		{`1`, `{"eos_token_id":[9,2,9]}`, []int32{2, 9}},
		{`1`, `{"eos_token_id":null}`, []int32{1}},
		{`1`, `{}`, []int32{1}},
		{`[4,3]`, `{"eos_token_id":[]}`, []int32{3, 4}},
		{`null`, `{}`, nil},
	} {
		dir := folder(t, map[string]string{
			"config.json":            `{"vocab_size":10,"eos_token_id":` + test.config + `}`,
			"generation_config.json": test.generation,
		})
		m, err := Load(dir)
		if err != nil || !slices.Equal(m.EOS, test.want) {
			t.Errorf("%+v: %v", test, err)
		}
	}
}

// What is known without the weights themselves, and that it identifies them.
func TestWeightsBySource(t *testing.T) {
	index := `{"metadata":{"total_size":8},"weight_map":{"a":"m-1.safetensors"}}`
	header := `{"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[3,2],"data_offsets":[0,12]},"b":{"dtype":"F32","shape":[],"data_offsets":[12,16]}}`
	for _, test := range []struct {
		name  string
		files map[string]string
		want  Weights
	}{
		{"index alone", map[string]string{indexFile: index}, Weights{FromIndex, 8, 4}},
		{"size as a float", map[string]string{indexFile: strings.Replace(index, ":8", ":8.0", 1)}, Weights{FromIndex, 8, 4}},
		{"no size", map[string]string{indexFile: strings.Replace(index, "total_size", "x", 1)}, Weights{FromIndex, 0, 0}},
		{"index and file", map[string]string{indexFile: index, "m-1.safetensors": tensors(header)}, Weights{FromHeaders, 16, 7}},
		{"one file", map[string]string{singleFile: tensors(header), "consolidated.safetensors": "x"}, Weights{FromHeaders, 16, 7}},
		{"other names", map[string]string{"a.safetensors": tensors(header), "b.safetensors": tensors(header)}, Weights{FromHeaders, 32, 14}},
		{"none", nil, Weights{Source: NoWeights}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := folder(t, test.files)
			m, err := Load(dir)
			if err != nil {
				t.Fatal(err)
			}
			if m.Weights != test.want {
				t.Errorf("%+v, want %+v", m.Weights, test.want)
			}
			if again, err := Load(folder(t, test.files)); err != nil || again.Fingerprint() != m.Fingerprint() {
				t.Errorf("the fingerprint depends on the path: %v", err)
			}
			for name := range test.files {
				if strings.HasPrefix(name, "consolidated") || strings.HasPrefix(name, "m-1") {
					continue
				}
				if f := fingerprintAfter(t, dir, name); f == m.Fingerprint() {
					t.Errorf("%s can change unseen", name)
				}
			}
		})
	}
}

// fingerprintAfter is the fingerprint once a number in the file has changed.
func fingerprintAfter(t *testing.T, dir, name string) Fingerprint {
	t.Helper()
	path := filepath.Join(dir, name)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.NewReplacer("[3,2]", "[2,3]", `"a":"`, `"A":"`).Replace(string(data))
	if err := os.WriteFile(path, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return m.Fingerprint()
}

func TestFingerprintDiff(t *testing.T) {
	planned := Fingerprint{Config: strings.Repeat("a", 64), Weights: strings.Repeat("b", 64), Tokenizer: "c"}
	if diff := planned.Diff(planned); diff != nil {
		t.Errorf("equal ones differ: %v", diff)
	}
	diff := planned.Diff(Fingerprint{Config: strings.Repeat("d", 64), Tokenizer: "e"})
	want := []string{
		"config.json: planned aaaaaaaaaaaa, found dddddddddddd",
		"weights: planned bbbbbbbbbbbb, found none",
		"tokenizer.json: planned c, found e",
	}
	if !slices.Equal(diff, want) {
		t.Errorf("%q", diff)
	}
	if got := planned.String(); got != "config.json aaaaaaaaaaaa, weights bbbbbbbbbbbb, tokenizer.json c" {
		t.Error(got)
	}
	data, err := json.Marshal(planned)
	var back Fingerprint
	if err != nil || json.Unmarshal(data, &back) != nil || back != planned {
		t.Errorf("%s is read back as %v", data, back)
	}
}

func TestResolveFolder(t *testing.T) {
	none := func(string) string { return t.TempDir() }
	dir := folder(t, nil)
	t.Chdir(filepath.Dir(dir))
	for _, path := range []string{dir, filepath.Base(dir), "./" + filepath.Base(dir) + "/"} {
		if got, err := Resolve(path, none); err != nil || got != dir {
			t.Errorf("%s is %s (%v), want %s", path, got, err, dir)
		}
	}
}

func TestResolveSaysWhatToDo(t *testing.T) {
	cache := t.TempDir()
	env := func(name string) string { return map[string]string{"HF_HUB_CACHE": cache}[name] }
	snapshot := filepath.Join(cache, "models--org--cut", "snapshots", "abc")
	other := filepath.Join(cache, "models--org--old", "snapshots", "def")
	for _, dir := range []string{snapshot, other} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(other, "config.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := t.TempDir()
	for _, test := range []struct{ name, want, hint string }{
		{"org/name", "find model: org/name, revision main, is not complete in the cache (" + cache + "/models--org--name)", "hf download org/name"},
		{"org/name@v2", "revision v2", "hf download org/name --revision v2"},
		{"org/cut@abc", "revision abc", "hf download org/cut --revision abc"},
		{"org/old", "revision main", "hf download org/old, or use org/old@def which is there"},
		{"/no/such/folder", "no folder /no/such/folder", "give a model folder"},
		{"./none", "no folder ./none", "give a model folder"},
		{"a/b/c", "no folder a/b/c", "give a model folder"},
		{"org/name@../../x", "no folder", "give a model folder"},
		{"..", "has no config.json", "give the folder that holds config.json"},
		{"", "no folder", "give a model folder"},
		{empty, "folder " + empty + " has no config.json", "give the folder that holds config.json"},
	} {
		_, err := Resolve(test.name, env)
		if err == nil || !strings.Contains(err.Error(), test.want) ||
			!strings.HasPrefix(failure.Hint(err), test.hint) || failure.Code(err) != failure.Refused {
			t.Errorf("%q: %v (hint %q), want %q (%q)", test.name, err, failure.Hint(err), test.want, test.hint)
		}
	}
}
