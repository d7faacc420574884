package model

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// Two checkpoints of one training have the same configs and headers.
func TestContentSum(t *testing.T) {
	sum := func(config string, change int) string {
		t.Helper()
		dir := t.TempDir()
		weights := bytes.Repeat([]byte{1, 2, 3}, 1<<18)
		for i := change; change > 0 && i < len(weights); i += 1 << 10 { // a training moves weights everywhere
			weights[i]++
		}
		for name, b := range map[string][]byte{"config.json": []byte(config), "model.safetensors": weights, "notes.txt": []byte(dir)} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s, err := ContentSum(dir)
		if err != nil || len(s) != 64 {
			t.Fatal(s, err)
		}
		return s
	}
	first := sum("{}", 0)
	if sum("{}", 0) != first {
		t.Error("the same model in another folder has another sum")
	}
	if sum("{}", 7) == first || sum("{ }", 0) == first {
		t.Error("another model has the same sum")
	}
}
