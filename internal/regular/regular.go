// Package regular opens regular files and refuses everything else by name: a FIFO
// would be waited for, a device has no end, a folder has no content.
package regular

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"tokenfork/internal/failure"
)

// Open opens a regular file, also through links, for reading.
func Open(path string) (*os.File, error) {
	info, err := os.Stat(path)
	if err == nil {
		err = check(path, info)
	}
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // what took its place since is not waited for
	if err != nil {
		return nil, err
	}
	if info, err = f.Stat(); err == nil {
		err = check(path, info)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// most bounds what Read reads in bytes; the longest tokenizer.json has 35 MB.
const most = 256 << 20

// Read gives the content of a regular file of configuration, of at most 256 MiB.
func Read(path string) ([]byte, error) {
	f, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > most {
		return nil, failure.New(failure.Refused, "check that it is the right file", "%s has %d MiB, more than the %d MiB that are read", path, info.Size()>>20, most>>20)
	}
	b, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return b, nil
}

func check(path string, info fs.FileInfo) error {
	if info.Mode().IsRegular() {
		return nil
	}
	return failure.New(failure.Refused, "put a regular file there", "%s is %s, not a regular file", path, Kind(info.Mode()))
}

// Kind says in words what a mode is of.
func Kind(mode fs.FileMode) string {
	switch {
	case mode.IsRegular():
		return "a regular file"
	case mode.IsDir():
		return "a folder"
	case mode&fs.ModeNamedPipe != 0:
		return "a FIFO"
	case mode&fs.ModeSocket != 0:
		return "a socket"
	}
	return "a device"
}
