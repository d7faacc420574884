package model

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"slices"

	"tokenfork/internal/regular"
)

const (
	contentWindows = 64      // of each file of weights that ContentSum reads, evenly spread
	contentWindow  = 4 << 10 // bytes
)

// ContentSum tells apart also models whose files differ in nothing but the
// values of their weights, as two checkpoints of one training do: it is a
// sha256, in hex, over the configs, the tokenizer, and samples of every file of
// weights. Checkpoints that differ in few weights only may have the same one.
func ContentSum(dir string) (string, error) {
	h := sha256.New()
	for _, name := range []string{"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} {
		b, err := regular.Read(filepath.Join(dir, name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("identify model: %w", err)
		}
		fmt.Fprintf(h, "%s %d\n", name, len(b))
		h.Write(b)
	}
	var files []string
	for _, pattern := range []string{"*.safetensors", "*.bin", "*.gguf"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return "", fmt.Errorf("identify model %s: %w", dir, err)
		}
		files = append(files, found...)
	}
	slices.Sort(files)
	for _, path := range files {
		if err := sample(h, path); err != nil {
			return "", fmt.Errorf("identify model: %w", err)
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// sample hashes a file's name, its size and windows of its content.
func sample(h hash.Hash, path string) error {
	f, err := regular.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	about, err := f.Stat()
	if err != nil {
		return err
	}
	size := about.Size()
	fmt.Fprintf(h, "%s %d\n", filepath.Base(path), size)
	for i := range int64(contentWindows) {
		at := max(0, size-contentWindow) * i / (contentWindows - 1)
		if _, err := io.Copy(h, io.NewSectionReader(f, at, contentWindow)); err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
	}
	return nil
}
