package store

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"tokenfork/internal/failure"
)

// countingWriter counts what reached w and keeps w's first error, so that a
// full disk is told from a failure of whoever writes.
type countingWriter struct {
	w   io.Writer
	n   int64
	err error
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	if c.err == nil {
		c.err = err
	}
	return n, err
}

// fill lets write fill f and returns f's size; name is what errors call it.
func fill(f *os.File, name string, write func(io.Writer) error) (int64, error) {
	c := &countingWriter{w: f}
	w := bufio.NewWriterSize(c, 256<<10)
	err := write(w)
	if err == nil {
		err = w.Flush()
	}
	if c.err != nil {
		return c.n, explainWrite(c.err, name, c.n)
	}
	if err != nil {
		return c.n, err
	}
	st, err := f.Stat()
	if err == nil && st.Size() != c.n {
		err = fmt.Errorf("write %s: %d of %d bytes arrived", name, st.Size(), c.n)
	}
	return c.n, err
}

// explainWrite names the file of a failed write, what it got so far and what it needs.
func explainWrite(err error, name string, size int64) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG) {
		return failure.New(failure.Stopped, fmt.Sprintf("make room for more than %.1f MiB there, then start again", float64(size)/(1<<20)),
			"disk full at %s after %d bytes; earlier result kept: %w", name, size, err)
	}
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS) {
		return failure.New(failure.Other, "give yourself the right to write there, or choose another folder", "write %s: %w", name, err)
	}
	return err
}
