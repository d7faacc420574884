package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
)

// damaged does to each file of the finished job what disks and hands do, one
// after the other, and demands that check names it.
func (m *mainJob) damaged(t *testing.T, first string) {
	dir := filepath.Join(t.TempDir(), "job")
	if err := os.CopyFS(dir, os.DirFS(first)); err != nil {
		t.Fatal(err)
	}
	if out := must(t, []int{0}, "check", "--job", dir); !strings.Contains(out, "all there and right") {
		t.Errorf("a sound job:\n%s", out)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	files := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		key, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		files++
		return damageOne(t, r, dir, filepath.ToSlash(key))
	})
	if err != nil || files < 20 {
		t.Errorf("%d files: %v", files, err)
	}
}

// damageOne cuts a file, turns a bit of it and removes it.
func damageOne(t *testing.T, r *rand.Rand, dir, key string) error {
	path := filepath.Join(dir, key)
	whole, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	turned := bytes.Clone(whole)
	at := r.IntN(len(turned))
	turned[at] ^= 1 << r.IntN(8)
	bads := map[string][]byte{"cut": whole[:len(whole)/2], fmt.Sprintf("bit of byte %d", at): turned, "removed": nil}
	switch {
	case strings.HasSuffix(key, "/attempt.json"): // for status alone: only its form is checked
		bads = map[string][]byte{"cut": bads["cut"]}
	case strings.HasSuffix(key, ".answers"), key == job.InferFlagsKey, superseded(t, dir, key): // a missing one is not noticed
		delete(bads, "removed")
	}
	for what, bad := range bads {
		if err := os.Remove(path); err != nil {
			return err
		}
		if bad != nil {
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				return err
			}
		}
		named := key
		if bad == nil && strings.HasSuffix(key, "/commit.json") {
			named = "is not finished for shards 0"
		}
		var said bytes.Buffer
		code := run(t.Context(), []string{"check", "--job", dir}, &said, &said)
		if out := said.String(); code != failure.Refused || !strings.Contains(out, named) || !strings.Contains(out, "fix: ") && key != "job.json" {
			t.Errorf("%s %s: exit code %d, the checker is broken:\n%s", key, what, code, out)
		}
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// superseded says whether the results may do without the object: its task was
// opened again, and a later commit counts or does not list it.
func superseded(t *testing.T, dir, key string) bool {
	t.Helper()
	at := strings.Split(key, "/")
	if len(at) < 5 || at[0] != "parts" {
		return false
	}
	commits, err := filepath.Glob(filepath.Join(dir, strings.Join(at[:4], "/"), "commit.json*"))
	if err != nil || len(commits) == 0 {
		t.Fatalf("no commit of %s: %v", key, err)
	}
	if strings.HasPrefix(at[4], "commit.json") {
		return len(commits) > 1
	}
	last, err := os.ReadFile(slices.Max(commits))
	if err != nil {
		t.Fatal(err)
	}
	return strings.HasSuffix(key, ".arrow") && !bytes.Contains(last, []byte(key))
}
