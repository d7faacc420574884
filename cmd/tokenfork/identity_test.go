package main

import (
	"os"
	"path/filepath"
	"testing"

	"tokenfork/internal/fleet"
	"tokenfork/internal/model"
)

// Two checkpoints in folders of one name are two judges; one in two places is one.
func TestLocalIdentity(t *testing.T) {
	of := func(weights string, args ...string) string {
		t.Helper()
		dir := filepath.Join(t.TempDir(), "final")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"config.json": "{}", "model.safetensors": weights} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		id, err := localIdentity(&fleet.Model{Model: &model.Model{Dir: dir}, Args: args})
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	first := of("step 1000")
	if of("step 1000") != first {
		t.Error("the same checkpoint elsewhere is another judge")
	}
	if of("step 2000") == first || of("step 1000", "--dtype", "float32") == first {
		t.Error("another checkpoint, or another engine, is the same judge")
	}
}
