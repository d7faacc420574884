package localcopy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"tokenfork/internal/failure"
)

// file copies one file and compares the copy, read again, with the sum.
func (c *copier) file(ctx context.Context, f *folder, i int, x file) error {
	name := filepath.Join(c.content(f), filepath.FromSlash(x.name))
	if x.sum != "" {
		if got, err := sumOf(name); err == nil && got == x.sum {
			return nil // an earlier run finished it
		}
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("stage %s: %w", f.from, err)
	}
	part := filepath.Join(c.version(f), fmt.Sprintf("part-%d", i))
	sum, err := c.fetch(ctx, f, x, part)
	if err != nil {
		return errors.Join(err, remove(part))
	}
	if x.sum != "" && sum != x.sum {
		return errors.Join(failure.New(failure.Refused, "upload the file, or the sums, again",
			"%s/%s differs from its %s", f.from, x.name, sumsFile), remove(part))
	}
	written, err := sumOf(part)
	if err == nil && written != sum {
		err = failure.New(failure.Other, "check the disk and run the command again", "%s differs from %s/%s after copying", part, f.from, x.name)
	}
	if err != nil {
		return errors.Join(err, remove(part))
	}
	if err := os.Rename(part, name); err != nil {
		return fmt.Errorf("stage %s: %w", f.from, err)
	}
	return nil
}

// fetch writes a file of the source to part and returns the sha256 of what was read.
func (c *copier) fetch(ctx context.Context, f *folder, x file, part string) (string, error) {
	in, err := f.open(ctx, x.name)
	if err != nil {
		return "", fmt.Errorf("stage %s/%s: %w", f.from, x.name, err)
	}
	defer in.Close()
	out, err := os.OpenFile(part, os.O_CREATE|os.O_WRONLY|os.O_TRUNC|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return "", fmt.Errorf("stage %s/%s: %w", f.from, x.name, err)
	}
	h := sha256.New()
	_, err = io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(out, h)}, struct{ io.Reader }{in}, make([]byte, 1<<20))
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		err = failure.New(failure.Stopped, "make room, then run the command again: finished files are kept", "the disk of %s is full: %w", c.to, err)
	}
	if err := errors.Join(err, out.Close()); err != nil {
		return "", fmt.Errorf("stage %s/%s: %w", f.from, x.name, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// sumOf is the sha256 of a regular file.
func sumOf(name string) (string, error) {
	in, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", err
	}
	defer in.Close()
	h := sha256.New()
	if _, err := io.CopyBuffer(h, struct{ io.Reader }{in}, make([]byte, 1<<20)); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// clean removes from an unfinished or changed copy whatever the folder does not name.
func (c *copier) clean(f *folder) error {
	if err := remove(c.done(f)); err != nil {
		return fmt.Errorf("stage %s: %w", f.from, err)
	}
	wanted := map[string]bool{}
	for _, x := range f.files {
		wanted[x.name] = true
	}
	for name := range sizes(c.content(f)) {
		if !wanted[name] {
			if err := os.RemoveAll(filepath.Join(c.content(f), name)); err != nil {
				return fmt.Errorf("stage %s: %w", f.from, err)
			}
		}
	}
	parts, err := filepath.Glob(filepath.Join(c.version(f), "part-*"))
	for _, part := range parts {
		err = errors.Join(err, remove(part))
	}
	return err
}

func (c *copier) done(f *folder) string { return filepath.Join(c.version(f), "complete") }

// record lists the finished copy.
func (c *copier) record(f *folder) error {
	next := filepath.Join(c.version(f), "part-complete")
	if err := errors.Join(remove(next), os.WriteFile(next, []byte(listing(c.content(f))), 0o644)); err != nil {
		return err
	}
	return os.Rename(next, c.done(f))
}

// complete says whether the copy is as it was recorded.
func (c *copier) complete(f *folder) bool {
	recorded, err := os.ReadFile(c.done(f))
	return err == nil && len(recorded) > 0 && string(recorded) == listing(c.content(f))
}

// listing has a line for each file of a copy: name, size and time of change.
func listing(dir string) string {
	var text strings.Builder
	entries := entries(dir)
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		info := entries[name]
		fmt.Fprintf(&text, "%q %d %d %v\n", name, info.Size(), info.ModTime().UnixNano(), info.Mode())
	}
	return text.String()
}

// sizes are those of the files of a copy, by their names.
func sizes(dir string) map[string]int64 {
	all := map[string]int64{}
	for name, info := range entries(dir) {
		all[name] = info.Size()
	}
	return all
}

// entries are all but folders below dir. What cannot be read is left out: a copy without it is not complete.
func entries(dir string) map[string]fs.FileInfo {
	all := map[string]fs.FileInfo{}
	_ = filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return nil
		}
		if info, err := e.Info(); err == nil {
			if rel, err := filepath.Rel(dir, name); err == nil {
				all[filepath.ToSlash(rel)] = info
			}
		}
		return nil
	})
	return all
}
