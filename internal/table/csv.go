package table

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"sync"

	"tokenfork/internal/failure"
)

// chunkSize is how much of a CSV file a goroutine parses at once: small enough
// for the cache, large enough that handing it over costs nothing.
const chunkSize = 512 << 10

// maxRecord bounds a record, so that a file with an unclosed quote cannot fill the memory.
const maxRecord = 64 << 20

// chunk is whole records of a CSV file.
type chunk struct {
	data   []byte
	line   int64 // of the first record
	lines  int
	quoted bool // a quote is somewhere in it
	buffer *[]byte
}

var buffers = sync.Pool{New: func() any { return new([]byte) }}

// csvFile cuts a file into chunks.
type csvFile struct {
	name      string
	r         io.Reader
	schema    *Schema
	chunk     int // bytes
	delimiter byte
	line      int64
	rest      []byte // read, but not yet part of a chunk
	eof       bool
	unended   bool // the last line has no newline
}

var bom = []byte("\xef\xbb\xbf")

// openCSV reads the header.
func openCSV(name string, r io.Reader, delimiter byte, req Request, chunk int) (*csvFile, error) {
	f := &csvFile{name: name, r: r, delimiter: delimiter, chunk: chunk, line: 1}
	c, err := f.next()
	if err == io.EOF {
		return nil, isEmpty(name)
	}
	if err != nil {
		return nil, err
	}
	data := bytes.TrimPrefix(c.data, bom)
	if err := isText(name, data); err != nil {
		return nil, err
	}
	cr := csv.NewReader(bytes.NewReader(data))
	cr.Comma = rune(delimiter)
	header, err := cr.Read()
	if err == io.EOF {
		return nil, isEmpty(name)
	}
	if err != nil {
		line, _, _ := bytes.Cut(data, newline)
		if other := otherDelimiter(string(line)); other != nil {
			return nil, fmt.Errorf("%s: %w", name, other)
		}
		return nil, failure.New(failure.Refused, "is it a CSV file?", "read the header of %s: %w", name, err)
	}
	if err := checkPartitions(name, header); err != nil {
		return nil, err
	}
	if f.schema, err = resolve(header, req); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	at := cr.InputOffset()
	f.line = 1 + int64(bytes.Count(data[:at], []byte("\n")))
	f.rest = append(bytes.Clone(data[at:]), f.rest...)
	buffers.Put(c.buffer)
	return f, nil
}

func isEmpty(name string) error {
	return failure.New(failure.Refused, "check that this is the right file and that it is complete", "%s is empty", name)
}

// chunks yields the file's records after the header.
func (f *csvFile) chunks() iter.Seq2[*chunk, error] {
	return func(yield func(*chunk, error) bool) {
		for {
			c, err := f.next()
			if err == io.EOF {
				return
			}
			if !yield(c, err) || err != nil {
				return
			}
		}
	}
}

// next reads the next chunk: as much as fits, up to the last record's end.
func (f *csvFile) next() (*chunk, error) {
	buffer := buffers.Get().(*[]byte)
	*buffer = grow(*buffer, max(f.chunk, len(f.rest)+f.chunk/2)+slack)
	n := copy(*buffer, f.rest)
	f.rest = f.rest[:0]
	for {
		b := (*buffer)[:len(*buffer)-slack] // the scanner wants to look further
		if err := f.fill(b, &n); err != nil {
			return nil, err
		}
		if n == 0 {
			return nil, io.EOF
		}
		if end, quoted := lastRecord(b[:n], f.eof); end > 0 {
			f.rest = append(f.rest, b[end:n]...)
			c := &chunk{data: b[:end], line: f.line, lines: bytes.Count(b[:end], newline), quoted: quoted, buffer: buffer}
			if b[end-1] != '\n' {
				c.lines++
				f.unended = true
			}
			f.line += int64(c.lines)
			return c, nil
		}
		if n > maxRecord {
			return nil, failure.New(failure.Refused, "look for a quote that is not closed", "%s:%d: a record of more than %d MiB", f.name, f.line, maxRecord>>20)
		}
		*buffer = append(*buffer, make([]byte, len(*buffer))...)
	}
}

var newline = []byte("\n")

// fill reads until the buffer is full or the file ends.
func (f *csvFile) fill(b []byte, n *int) error {
	for *n < len(b) && !f.eof {
		m, err := f.r.Read(b[*n:])
		*n += m
		if err == io.EOF {
			f.eof = true
		} else if err != nil {
			return readError(f.name, err)
		}
	}
	return nil
}

func readError(name string, err error) error {
	if failure.Hint(err) != "" && strings.Contains(err.Error(), name) {
		return err
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return failure.New(failure.Refused, "fetch or write the file again", "read %s: the file is truncated: %w", name, err)
	}
	return fmt.Errorf("read %s: %w", name, err)
}

// lastRecord finds where the last whole record of b ends, 0 if there is none,
// and whether there are quotes. At the end of the file what is left is a record.
func lastRecord(b []byte, eof bool) (end int, quoted bool) {
	quoted = bytes.IndexByte(b, '"') >= 0
	if eof {
		return len(b), quoted
	}
	if !quoted {
		return bytes.LastIndexByte(b, '\n') + 1, false
	}
	inside := false
	for i, c := range b {
		switch {
		case c == '"':
			inside = !inside
		case c == '\n' && !inside:
			end = i + 1
		}
	}
	return end, true
}

// firstRecord are the cells of the first record, and its line.
func (f *csvFile) firstRecord(c *chunk) (cells []string, line int64, err error) {
	cr := csv.NewReader(bytes.NewReader(c.data))
	cr.FieldsPerRecord = -1
	cr.Comma = rune(f.delimiter)
	if cells, err = cr.Read(); err != nil {
		return nil, 0, err
	}
	at, _ := cr.FieldPos(0)
	return cells, c.line + int64(at) - 1, nil
}
