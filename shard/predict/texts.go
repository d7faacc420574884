package predict

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"tokenfork/internal/columnar"
	"tokenfork/internal/failure"
	"tokenfork/internal/regular"
	"tokenfork/internal/table"
	"tokenfork/internal/vllm"
)

// Text is one text to read.
type Text struct {
	ID       string
	Prompt   string
	Messages []vllm.Message // of the prompt, if it is a chat; Prompt has their contents
	Response *string        // nil: the reference writes it
}

// Read yields the texts of the files, in their order. The format of a file is told
// by its content: JSON Lines, JSON, CSV, Parquet or Arrow with a text a row, else
// plain text; gzip and zstd are read through. A text without an id gets the number
// of texts before it. An error ends it.
func Read(files []string) iter.Seq2[Text, error] {
	return func(yield func(Text, error) bool) {
		seen := map[string]bool{}
		once := func(t Text, err error) bool {
			if err == nil && t.ID == "" {
				t.ID = strconv.Itoa(len(seen))
			}
			if err == nil && seen[t.ID] {
				err = failure.New(failure.Refused, "give each text an id of its own", "duplicate id %q", t.ID)
			}
			seen[t.ID] = true
			return yield(t, err) && err == nil
		}
		for _, name := range files {
			before := len(seen)
			if !readFile(name, once) {
				return
			}
			if len(seen) == before {
				yield(Text{}, failure.New(failure.Refused, "check that the file is complete, or leave it out", "%s holds no texts", name))
				return
			}
		}
	}
}

func readFile(name string, yield func(Text, error) bool) bool {
	f, err := regular.Open(name)
	if err != nil {
		return yield(Text{}, err)
	}
	defer f.Close()
	in := bufio.NewReaderSize(f, 64<<10)
	if begin := peek(in, 8); bytes.HasPrefix(begin, []byte("PAR1")) || bytes.HasPrefix(begin, []byte("ARROW1")) || columnar.IsStream(begin) {
		return readColumns(name, f, yield)
	}
	unpacked, err := decompress(in)
	if err != nil {
		return yield(Text{}, cannotRead(name, err))
	}
	defer unpacked.Close()
	in = bufio.NewReaderSize(unpacked, 64<<10)
	if what := unreadable(peek(in, 32)); what != "" {
		return yield(Text{}, failure.New(failure.Refused, "give the texts as UTF-8, JSON Lines, JSON, CSV, Parquet or Arrow, as they are or in gzip or zstd",
			"%s is %s, not text", name, what))
	}
	if bytes.HasPrefix(peek(in, 3), []byte(bom)) {
		_, _ = in.Discard(len(bom)) // it is buffered
	}
	return readText(name, bufio.NewReaderSize(&utf8Reader{in: in, line: 1}, 64<<10), yield)
}

const bom = "\uFEFF"

// peek looks at the first bytes; an error comes again when they are read.
func peek(r *bufio.Reader, n int) []byte {
	b, _ := r.Peek(n)
	return b
}

func decompress(in *bufio.Reader) (io.ReadCloser, error) {
	switch magic := peek(in, 8); {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return gzip.NewReader(in)
	case table.IsZstd(magic):
		z, err := zstd.NewReader(in)
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return io.NopCloser(in), nil
}

// unreadable names what a file is by its first bytes, where it is no text.
func unreadable(magic []byte) string {
	for _, known := range []struct{ magic, what string }{
		{"\xfd7zXZ\x00", "compressed with xz"}, {"BZh", "compressed with bzip2"}, {"PK\x03\x04", "a zip archive"},
		{"7z\xbc\xaf", "a 7z archive"}, {"\x1f\x8b", "compressed twice"}, {"\x28\xb5\x2f\xfd", "compressed twice"},
		{"PAR1", "a compressed Parquet file"}, {"ARROW1", "a compressed Arrow file"},
		{"\xff\xfe", "UTF-16"}, {"\xfe\xff", "UTF-16"}, {"%PDF", "a PDF"}, {"SQLite f", "an SQLite database"}, {"GGUF", "a GGUF model"},
		{"\x04\x22\x4d\x18", "compressed with lz4"}, {"version https://git-lfs", "a pointer to a file in Git LFS"},
	} {
		if strings.HasPrefix(string(magic), known.magic) {
			return known.what
		}
	}
	return ""
}

func cannotRead(name string, err error) error {
	if errors.Is(err, zstd.ErrWindowSizeExceeded) {
		err = failure.New(failure.Refused, "compress it again without --long", "%w", err)
	}
	return failure.New(failure.Refused, hintOf(err, "check that the file is complete; fetch or write it again"), "read %s: %w", name, err)
}

// hintOf is the way out that the reader below knows, or else another.
func hintOf(err error, other string) string {
	if hint := failure.Hint(err); hint != "" {
		return hint
	}
	return other
}

// readText tells rows from a plain text by how it begins.
func readText(name string, in *bufio.Reader, yield func(Text, error) bool) bool {
	if _, err := in.Peek(1); err == io.EOF {
		return yield(Text{}, failure.New(failure.Refused, "give files with texts", "%s is empty", name))
	} else if err != nil {
		return yield(Text{}, cannotRead(name, err))
	}
	begin := bytes.TrimLeft(peek(in, 4096), " \t\r\n")
	rest := func(n int) []byte { return bytes.TrimLeft(begin[min(n, len(begin)):], " \t\r\n") }
	switch {
	case bytes.HasPrefix(begin, []byte("{")) && (bytes.HasPrefix(rest(1), []byte(`"`)) || bytes.HasPrefix(rest(1), []byte("}"))):
		return readLines(name, in, yield)
	case bytes.HasPrefix(begin, []byte("[")) && (bytes.HasPrefix(rest(1), []byte("{")) || bytes.HasPrefix(rest(1), []byte("]"))):
		return readArray(name, in, yield)
	}
	if delimiter := delimiterOf(begin); delimiter != 0 {
		return readCSV(name, in, delimiter, yield)
	}
	base := filepath.Base(name)
	for _, packed := range []string{".gz", ".zst"} {
		base = strings.TrimSuffix(base, packed)
	}
	ending := filepath.Ext(base)
	if slices.Contains([]string{".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".feather"}, strings.ToLower(ending)) {
		return yield(Text{}, failure.New(failure.Refused, "name a column "+contents+"; a plain text gets another ending",
			"%s does not begin as a %s file with texts does", name, ending))
	}
	b, err := io.ReadAll(in)
	if err != nil {
		return yield(Text{}, cannotRead(name, err))
	}
	response := string(b)
	return yield(Text{ID: strings.TrimSuffix(base, ending), Response: &response}, nil)
}

// readLines reads JSON Lines, or one object over several lines.
func readLines(name string, in *bufio.Reader, yield func(Text, error) bool) bool {
	first := true
	for n := 1; ; n++ {
		line, err := in.ReadBytes('\n')
		if err == nil && first && len(bytes.TrimSpace(line)) > 0 {
			first = false
			if !json.Valid(line) {
				line, err = goesOn(line, in)
			}
		}
		if err != nil && err != io.EOF {
			return yield(Text{}, cannotRead(name, err))
		}
		if len(bytes.TrimSpace(line)) > 0 {
			t, perr := parseObject(line)
			if perr != nil {
				perr = badRow(name, fmt.Sprintf("line %d", n), perr)
			}
			if !yield(t, perr) {
				return false
			}
		}
		if err == io.EOF {
			return true
		}
	}
}

// goesOn is the whole file if that is one value, else its first line.
func goesOn(line []byte, in io.Reader) ([]byte, error) {
	more, err := io.ReadAll(in)
	if err != nil {
		return nil, err
	}
	if whole := slices.Concat(line, more); json.Valid(whole) {
		line = whole
	}
	return line, io.EOF
}

// readArray reads a JSON array of objects.
func readArray(name string, in *bufio.Reader, yield func(Text, error) bool) bool {
	d := json.NewDecoder(in)
	if _, err := d.Token(); err != nil {
		return yield(Text{}, cannotRead(name, err))
	}
	for n := 1; d.More(); n++ {
		var object json.RawMessage
		err := d.Decode(&object)
		var t Text
		if err == nil {
			t, err = parseObject(object)
		}
		if err != nil {
			err = badRow(name, fmt.Sprintf("element %d", n), err)
		}
		if !yield(t, err) {
			return false
		}
	}
	if _, err := d.Token(); err != nil {
		return yield(Text{}, cannotRead(name, err))
	}
	if after, err := d.Token(); err != io.EOF {
		return yield(Text{}, cannotRead(name, fmt.Errorf("%v follows the array", after)))
	}
	return true
}

func badRow(name, place string, err error) error {
	return failure.New(failure.Refused, hintOf(err, `a row has "prompt" and "response", "text", "messages" or "conversations", and perhaps an "id"`), "%s, %s: %w", name, place, err)
}

// utf8Reader stops at what is no text: bytes that are not UTF-8, and control
// characters that only binary files have.
type utf8Reader struct {
	in    io.Reader
	line  int
	buf   [64 << 10]byte
	ready []byte // checked, of buf
	begun []byte // the first bytes of a character
	err   error
}

// Read implements io.Reader.
func (r *utf8Reader) Read(dst []byte) (int, error) {
	for len(r.ready) == 0 && r.err == nil {
		r.fill()
	}
	if len(r.ready) == 0 {
		return 0, r.err
	}
	n := copy(dst, r.ready)
	r.ready = r.ready[n:]
	return n, nil
}

func (r *utf8Reader) fill() {
	n := copy(r.buf[:], r.begun)
	more, err := r.in.Read(r.buf[n:])
	b := r.buf[:n+more]
	r.begun, r.err = nil, err
	for at := 0; at < len(b); {
		c, size := utf8.DecodeRune(b[at:])
		switch {
		case c == utf8.RuneError && size == 1 && err == nil && !utf8.FullRune(b[at:]):
			r.ready, r.begun = b[:at], slices.Clone(b[at:])
			return
		case c == utf8.RuneError && size == 1:
			r.err = failure.New(failure.Refused, "convert the file: iconv -f LATIN1 -t UTF-8, for example", "line %d: the byte %#02x is not UTF-8", r.line, b[at])
			return
		case c < ' ' && !strings.ContainsRune("\t\n\v\f\r\x1b\b", c):
			r.err = failure.New(failure.Refused, "give files of text", "line %d: the byte %#02x occurs in no text: is it a binary file?", r.line, b[at])
			return
		case c == '\n':
			r.line++
		}
		at += size
	}
	r.ready = b
}
