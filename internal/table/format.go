package table

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"tokenfork/internal/columnar"
	"tokenfork/internal/failure"
)

// opened is a file as its first bytes say it is: text or columns.
type opened struct {
	text    io.Reader
	columns *columnar.Input
	close   func()
}

// openFormat tells the format by the first bytes: names may be missing (pipes)
// or wrong.
func openFormat(name string, in io.Reader, tmp string) (*opened, error) {
	b := bufio.NewReaderSize(in, 64<<10)
	magic, err := b.Peek(8)
	if err != nil && err != io.EOF {
		return nil, readError(name, err)
	}
	err = nil // a short file is no error here
	o := &opened{close: func() {}}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, readError(name, err)
		}
		o.text = z
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(b)
		if err != nil {
			return nil, readError(name, err)
		}
		o.text, o.close = z, z.Close
	case bytes.HasPrefix(magic, []byte("PAR1")):
		err = o.seekable(name, in, b, tmp, func(f *os.File) (*columnar.Input, error) { return columnar.OpenParquetInput(f) })
	case bytes.HasPrefix(magic, []byte("ARROW1")):
		err = o.seekable(name, in, b, tmp, func(f *os.File) (*columnar.Input, error) { return columnar.OpenArrowInput(f) })
	case bytes.HasPrefix(magic, []byte{0xff, 0xff, 0xff, 0xff}):
		err = o.seekable(name, in, b, tmp, func(f *os.File) (*columnar.Input, error) { return columnar.OpenArrowStream(f) })
	default:
		o.text = &plain{b, in}
	}
	return o, err
}

// notWhole is the complaint about a file that does not hold what it begins as.
func notWhole(name string, err error) error {
	return failure.New(failure.Refused, "was it written to the end? Fetch or write it again", "read %s: %w", name, err)
}

// seekable opens a format of which only the columns needed are read. What is no
// local file is stored under tmp first.
func (o *opened) seekable(name string, in io.Reader, peeked io.Reader, tmp string, open func(*os.File) (*columnar.Input, error)) error {
	f, ok := in.(*os.File)
	if ok {
		_, err := f.Seek(0, io.SeekStart)
		ok = err == nil
	}
	if !ok {
		var err error
		if f, err = os.CreateTemp(tmp, "tokenfork-input-*"); err != nil {
			return fmt.Errorf("store %s for reading: %w", name, err)
		}
		o.close = func() {
			f.Close()
			os.Remove(f.Name())
		}
		if _, err := io.Copy(f, peeked); err != nil {
			o.close()
			return fmt.Errorf("store %s for reading: %w", name, err)
		}
	}
	var err error
	if o.columns, err = open(f); err != nil {
		o.close()
		return notWhole(name, err)
	}
	return nil
}

// plain reads what was peeked at, then without a further copy.
type plain struct {
	peeked *bufio.Reader
	in     io.Reader
}

func (p *plain) Read(b []byte) (int, error) {
	if p.peeked.Buffered() > 0 {
		return p.peeked.Read(b[:min(len(b), p.peeked.Buffered())])
	}
	return p.in.Read(b)
}
