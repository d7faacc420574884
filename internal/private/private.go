// Package private makes folders and files that no other user of the machine can
// have prepared: in /tmp anyone can take a name first, or put a link there.
package private

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"tokenfork/internal/failure"
)

// Dir makes the folder, and those above it, with mode 0700. One that exists must be
// this user's own, no link, and closed to others.
func Dir(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("make private folder: %w", err)
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make private folder: %w", err)
	}
	info, err := os.Lstat(path)
	if err != nil {
		return fmt.Errorf("make private folder: %w", err)
	}
	var wrong string
	switch {
	case !info.IsDir():
		wrong = "is not a folder"
	case owner(info) != os.Geteuid():
		wrong = fmt.Sprintf("belongs to user %d", owner(info))
	case info.Mode().Perm()&0o077 != 0:
		wrong = fmt.Sprintf("is open to other users (mode %#o)", info.Mode().Perm())
	default:
		return nil
	}
	return failure.New(failure.Refused, "remove it, or set XDG_CACHE_HOME to a folder of yours", "%s %s: what lies there cannot be trusted", path, wrong)
}

// Append opens a file for appending, and makes it if need be. A link, a file of
// another user's, a FIFO or a device is refused: it would be written through.
func Append(path string, mode fs.FileMode) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, mode)
	if errors.Is(err, syscall.ELOOP) {
		return nil, refuse(path, "is a symbolic link")
	}
	if errors.Is(err, syscall.ENXIO) {
		return nil, refuse(path, "is no regular file")
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		err = refuse(path, "is no regular file")
	case owner(info) != os.Geteuid():
		err = refuse(path, fmt.Sprintf("belongs to user %d", owner(info)))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func refuse(path, why string) error {
	return failure.New(failure.Refused, "remove it", "%s %s: not written", path, why)
}

func owner(info fs.FileInfo) int { return int(info.Sys().(*syscall.Stat_t).Uid) }

// Cache is a folder of this user's that outlives the run: NAME under
// $XDG_CACHE_HOME/tokenfork, else ~/.cache/tokenfork. Where a user has no home, it
// is a new folder in $TMPDIR.
func Cache(name string) (string, error) {
	if cache, err := os.UserCacheDir(); err == nil {
		dir := filepath.Join(cache, "tokenfork", name)
		err := Dir(dir)
		if err == nil || failure.Code(err) == failure.Refused {
			return dir, err
		}
	}
	dir, err := os.MkdirTemp("", "tokenfork-"+strings.ReplaceAll(name, "/", "-")+"-") // mode 0700, by a name that cannot be guessed
	if err != nil {
		return "", fmt.Errorf("make private folder: %w", err)
	}
	return dir, nil
}
