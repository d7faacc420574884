package table

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"unicode/utf8"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

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
	source := &noted{r: in}
	b := bufio.NewReaderSize(source, 64<<10)
	magic, err := b.Peek(8)
	if err != nil && err != io.EOF {
		return nil, readError(name, err)
	}
	err = nil // a short file is no error here
	o := &opened{close: func() {}}
	switch {
	case bytes.HasPrefix(magic, []byte("PAR1")):
		err = o.seekable(name, in, b, tmp, func(f *os.File) (*columnar.Input, error) { return columnar.OpenParquetInput(f) })
	case bytes.HasPrefix(magic, []byte("ARROW1")):
		err = o.seekable(name, in, b, tmp, func(f *os.File) (*columnar.Input, error) { return columnar.OpenArrowInput(f) })
	case columnar.IsStream(magic):
		err = o.seekable(name, in, b, tmp, func(f *os.File) (*columnar.Input, error) { return columnar.OpenArrowStream(f) })
	default:
		unpacked, done, err := unpack(magic, b)
		if err != nil {
			return nil, damagedText(name, source, err)
		}
		if o.text = (&plain{b, in}); unpacked != nil {
			o.text, o.close = &packed{name, unpacked, source}, done
		}
		return o, o.translate(name)
	}
	return o, err
}

// unpack opens a compression that the first bytes name; nil if there is none.
func unpack(magic []byte, b *bufio.Reader) (r io.Reader, done func(), err error) {
	done = func() {}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		r, err = gzip.NewReader(b)
	case IsZstd(magic):
		var z *zstd.Decoder
		if z, err = zstd.NewReader(b, zstd.WithDecoderMaxWindow(maxWindow)); err == nil {
			r, done = z, z.Close
		}
	case bytes.HasPrefix(magic, []byte("\xfd7zXZ\x00")):
		if err = checkDictionary(b); err == nil {
			r, err = xz.NewReader(b)
		}
	case bytes.HasPrefix(magic, []byte("BZh")):
		r = bzip2.NewReader(b)
	}
	return r, done, err
}

// IsZstd knows a zstd file by its first 8 bytes, also by the frame without content that pzstd and seekable files have.
func IsZstd(magic []byte) bool {
	var h zstd.Header
	return bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}) || h.Decode(magic) == nil && h.Skippable
}

// maxWindow is the largest part of a zstd or xz file that must be kept to read on.
const maxWindow = 128 << 20

// checkDictionary refuses an xz file that wants a larger dictionary, which its
// first block names: https://tukaani.org/xz/xz-file-format.txt, 3.1 and 5.3.1.
func checkDictionary(b *bufio.Reader) error {
	const streamHeader, lzma2 = 12, 0x21
	head, err := b.Peek(streamHeader + 24)
	if err != nil {
		return nil // too short: the reader says so
	}
	flags, rest := head[streamHeader+1], head[streamHeader+2:]
	if head[streamHeader] != 0 && flags&3 != 0 {
		return failure.New(failure.Refused, "compress it again with xz -6", "it has a filter before LZMA2, which is not read")
	}
	for range flags>>6&1 + flags>>7 { // the block's sizes, if they are there
		_, n := binary.Uvarint(rest)
		rest = rest[max(n, 0):]
	}
	if len(rest) < 3 || rest[0] != lzma2 || rest[2] > 40 {
		return nil // an index, or what the reader refuses
	}
	bits := rest[2]
	if size := uint64(2|bits&1) << (bits/2 + 11); size > maxWindow {
		return failure.New(failure.Refused, "compress it again with xz -6", "it needs a dictionary of %d MiB, more than %d", size>>20, maxWindow>>20)
	}
	return nil
}

// noted keeps the error of the file itself apart from what a decompressor says of its content.
type noted struct {
	r   io.Reader
	err error
}

func (n *noted) Read(b []byte) (int, error) {
	m, err := n.r.Read(b)
	if err != nil && err != io.EOF {
		n.err = err
	}
	return m, err
}

// packed reads a compressed text.
type packed struct {
	name   string
	r      io.Reader
	source *noted
}

func (p *packed) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	if err != nil && err != io.EOF {
		err = damagedText(p.name, p.source, err)
	}
	return n, err
}

// damagedText is an error of a compressed text: of the file, or of what it holds.
func damagedText(name string, source *noted, err error) error {
	if source.err != nil {
		return source.err
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if errors.Is(err, zstd.ErrWindowSizeExceeded) {
		err = failure.New(failure.Refused, "zstd -dc --long=31 FILE | tokenfork plan -", "it needs a window of more than %d MiB", maxWindow>>20)
	}
	if failure.Hint(err) != "" {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return failure.New(failure.Refused, "fetch or write the file again", "read %s: the compressed data is damaged or cut off: %w", name, err)
}

// translate reads lines that end with carriage returns alone, as old Macs and
// some spreadsheets write them.
func (o *opened) translate(name string) error {
	b := bufio.NewReaderSize(o.text, 64<<10)
	head, err := b.Peek(64 << 10)
	if err != nil && err != io.EOF {
		return err
	}
	if bytes.IndexByte(head, '\r') < 0 || bytes.IndexByte(head, '\n') >= 0 {
		if p, ok := o.text.(*plain); ok {
			o.text = &plain{b, p.in}
		} else {
			o.text = b
		}
		return nil
	}
	o.text = &returns{b}
	return nil
}

type returns struct{ r io.Reader }

func (r *returns) Read(b []byte) (int, error) {
	n, err := r.r.Read(b)
	for i, c := range b[:n] {
		if c == '\r' {
			b[i] = '\n'
		}
	}
	return n, err
}

// others are formats that are not read, by how their files begin.
var others = []struct{ begin, is, hint string }{
	{"PK\x03\x04", "a zip archive (or an Excel file)", "unzip -p FILE | tokenfork plan -"},
	{"PK\x05\x06", "an empty zip archive", "fetch or write the file again"},
	{"\x1f\x8b", "compressed twice", "gzip -dc FILE | tokenfork plan -"},
	{"\x1f\x9d", "compressed with compress", "gzip -dc FILE | tokenfork plan -"},
	{"\x5d\x00\x00", "compressed with lzma", "xz -dc --format=lzma FILE | tokenfork plan -"},
	{"LZIP\x01", "compressed with lzip", "lzip -dc FILE | tokenfork plan -"},
	{"\x02\x21\x4c\x18", "compressed with lz4", "lz4 -dc FILE | tokenfork plan -"},
	{"\x04\x22\x4d\x18", "compressed with lz4", "lz4 -dc FILE | tokenfork plan -"},
	{"7z\xbc\xaf\x27\x1c", "a 7z archive", "7z x -so FILE | tokenfork plan -"},
	{"Rar!", "a rar archive", "unpack it"},
	{"PAR1", "a compressed Parquet file", "decompress it: Parquet is compressed inside"},
	{"ARROW1", "a compressed Arrow file", "decompress it"},
	{"PARE", "an encrypted Parquet file", "write it without encryption"},
	{"\xff\xff\xff\xff", "a compressed Arrow stream", "decompress it"},
	{"FEA1", "a Feather file of version 1", "write it as Arrow or Parquet"},
	{"ORC", "an ORC file", "write it as Parquet"},
	{"Obj\x01", "an Avro file", "write it as Parquet"},
	{"\x89HDF", "an HDF5 file", "write it as Parquet"},
	{"SQLite format 3", "an SQLite file", "write it as Parquet"},
	{"\xd0\xcf\x11\xe0", "an Excel file", "write the table as CSV in UTF-8"},
	{"RDX3\n", "an RData file", "write it with R's write.csv"},
	{"X\n", "an RDS file", "write it with R's write.csv"},
	{"\x93NUMPY", "a NumPy file", "write the table as CSV or Parquet"},
	{"{", "JSON", "write the table as Parquet: pandas.read_json(FILE, lines=True).to_parquet(…)"},
	{"[", "JSON", "write the table as Parquet: pandas.read_json(FILE).to_parquet(…)"},
	{"<", "HTML or XML", "fetch the file again, or write the table as CSV or Parquet"},
	{"version https://git-lfs", "a pointer to a file in Git LFS", "git lfs pull"},
	{"\xff\xfe\x00\x00", "text in UTF-32", "write the table as CSV in UTF-8"},
	{"\xff\xfe", "text in UTF-16", "write the table as CSV in UTF-8"},
	{"\xfe\xff", "text in UTF-16", "write the table as CSV in UTF-8"},
}

// isText refuses what is no text, by what it is.
func isText(name string, head []byte) error {
	for _, o := range others {
		if bytes.HasPrefix(head, []byte(o.begin)) {
			return failure.New(failure.Refused, o.hint, "%s is %s, which is not read", name, o.is)
		}
	}
	if len(head) > 262 && string(head[257:262]) == "ustar" {
		return failure.New(failure.Refused, "tar -xOf FILE | tokenfork plan -", "%s is a tar archive, which is not read", name)
	}
	line, _, _ := bytes.Cut(head, newline)
	if bytes.IndexByte(line, 0) >= 0 {
		return failure.New(failure.Refused, "write the table as CSV in UTF-8, or as Parquet", "%s: the header holds zero bytes: UTF-16 without its mark, or no text at all", name)
	}
	if !utf8.Valid(line) && !bytes.Contains(line, []byte("_predictions")) {
		return failure.New(failure.Refused, "write the table as CSV in UTF-8, or as Parquet", "%s: the header is no text in UTF-8", name)
	}
	return nil
}

// notWhole is the complaint about a file that does not hold what it begins as.
func notWhole(name string, err error) error {
	if failure.Hint(err) != "" {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return failure.New(failure.Refused, "check that the file is complete; fetch or write it again", "read %s: %w", name, err)
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
