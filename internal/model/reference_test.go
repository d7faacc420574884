package model

import (
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// The tests of this file compare with what transformers and the hub's client see in
// folders that testdata/reference.py makes.

type seen struct {
	VocabSize    int `json:"vocab_size"`
	MaxPositions int `json:"max_positions"`
	Dtype        string
	EOS          []int32
	Layers       int
	Hidden       int
	Intermediate int
	Heads        int
	KVHeads      int         `json:"kv_heads"`
	HeadDim      int         `json:"head_dim"`
	Sums         Fingerprint `json:"sums"`
	Parameters   int64
	Bytes        int64
}

type reference struct {
	dir    string
	Models map[string]seen
	Shapes map[string]int64
	Hub    []struct{ Name, Dir string }
	Caches []struct {
		Env   map[string]string
		Cache string
	}
}

var made reference

func TestMain(m *testing.M) {
	os.Exit(func() int {
		defer func() { os.RemoveAll(made.dir) }()
		return m.Run()
	}())
}

// ask runs the script once for all tests.
func ask(t *testing.T) reference {
	t.Helper()
	if made.Models != nil {
		return made
	}
	venv := os.Getenv("TOKENFORK_VENV")
	if venv == "" {
		venv = "../../.venv"
	}
	python := filepath.Join(venv, "bin", "python")
	if _, err := os.Stat(python); err != nil {
		t.Fatalf("no Python environment: make it with scripts/setup-vllm, or name one by TOKENFORK_VENV: %v", err)
	}
	dir, err := os.MkdirTemp("", "model-")
	if err != nil {
		t.Fatal(err)
	}
	made.dir = dir
	if text, err := exec.Command(python, "testdata/reference.py", dir).CombinedOutput(); err != nil {
		t.Fatalf("reference.py: %v\n%s", err, text)
	}
	data, err := os.ReadFile(filepath.Join(dir, "reference.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &made); err != nil {
		t.Fatal(err)
	}
	return made
}

func TestModelsAsTransformersSeesThem(t *testing.T) {
	want := ask(t)
	if len(want.Models) != 5 {
		t.Fatalf("%d models", len(want.Models))
	}
	for name, w := range want.Models {
		dir := filepath.Join(want.dir, name)
		m, err := Load(dir)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := seen{m.VocabSize, m.MaxPositions, m.Dtype, m.EOS, m.Layers, m.Hidden, m.Intermediate,
			m.Heads, m.KVHeads, m.HeadDim, m.Fingerprint(), m.Weights.Parameters, m.Weights.Bytes}
		source := FromHeaders
		if name == "nested" { // made without weights: their size is an estimate
			source, w.Sums.Weights = NoWeights, ""
			got.Parameters, got.Bytes = 0, 0
		}
		if !slices.Equal(got.EOS, w.EOS) {
			t.Errorf("%s: eos %v, want %v", name, got.EOS, w.EOS)
		}
		got.EOS, w.EOS = nil, nil
		a, _ := json.Marshal(got)
		b, _ := json.Marshal(w)
		if string(a) != string(b) {
			t.Errorf("%s:\n%s, want\n%s", name, a, b)
		}
		if m.Weights.Source != source || m.Dir != dir || m.TokenizerPath != filepath.Join(dir, "tokenizer.json") {
			t.Errorf("%s: %+v", name, m)
		}
	}
}

func TestParametersByShape(t *testing.T) {
	want := ask(t)
	if len(want.Shapes) != 3 {
		t.Fatalf("%d shapes", len(want.Shapes))
	}
	for name, parameters := range want.Shapes {
		m, err := Load(filepath.Join(want.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		w := m.Weights
		if off := math.Abs(float64(w.Parameters)/float64(parameters) - 1); off > 0.001 || w.Bytes != 2*w.Parameters {
			t.Errorf("%s: %+v, want %d parameters", name, w, parameters)
		}
		if w.Source != NoWeights || m.Fingerprint().Weights != "" {
			t.Errorf("%s: %+v without weights", name, w)
		}
	}
}

func TestResolveAsTheHubClientDoes(t *testing.T) {
	want := ask(t)
	env := func(name string) string {
		return map[string]string{"HF_HUB_CACHE": filepath.Join(want.dir, "cache")}[name]
	}
	if len(want.Hub) != 5 {
		t.Fatalf("%d names", len(want.Hub))
	}
	for _, w := range want.Hub {
		if got, err := Resolve(w.Name, env); err != nil || got != w.Dir {
			t.Errorf("%s is %s (%v), want %s", w.Name, got, err, w.Dir)
		}
	}
	for _, w := range want.Caches {
		if got := cacheFolder(func(name string) string { return w.Env[name] }); got != w.Cache {
			t.Errorf("%v: cache %s, want %s", w.Env, got, w.Cache)
		}
	}
}
