package table

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"runtime"

	"tokenfork/internal/columnar"
	"tokenfork/internal/failure"
	"tokenfork/internal/ordered"
)

// Source is a file of the table.
type Source struct {
	Name string // for messages
	Size int64  // bytes; 0 if not known
	// Delimiter of the cells in CSV; 0 is a comma.
	Delimiter byte
	Open      func(context.Context) (io.ReadCloser, error)
}

// Reader reads a table of one or more files, in their order, as one.
type Reader struct {
	sources []Source
	req     Request
	tmp     string
	chunk   int
	schema  *Schema
	perRow  float64 // bytes of a row in the first file, 0 if not known
	doubts  [doubts][]string
}

// What leaves room for damage that cannot be seen.
const (
	unsummed = iota // Parquet without checksums of its pages
	unmarked        // an Arrow stream without the marker of its end
	unended         // CSV whose last line has no newline
	doubts
)

// Doubts says, once all rows were read, of which files damage may have stayed
// unseen, and why.
func (r *Reader) Doubts() (all []string) {
	for k, text := range [doubts]string{
		unsummed: "no page checksums: changed values within a page cannot be seen (pyarrow stores checksums with write_page_checksum=True)",
		unmarked: "no end marker in the Arrow stream: if it was cut off between two batches, rows are missing",
		unended:  "no newline after the last row: if the file was cut off there, the row or those after it are not whole",
	} {
		if files := r.doubts[k]; len(files) > 1 {
			all = append(all, fmt.Sprintf("%s and %d more files: %s", files[0], len(files)-1, text))
		} else if len(files) > 0 {
			all = append(all, files[0]+": "+text)
		}
	}
	return all
}

func (r *Reader) doubt(kind int, is bool, name string) {
	if is {
		r.doubts[kind] = append(r.doubts[kind], name)
	}
}

// NewReader prepares to read; tmp is the folder for files that have to be
// stored to be read, such as Parquet from a pipe.
func NewReader(sources []Source, req Request, tmp string) *Reader {
	return &Reader{sources: sources, req: req, tmp: tmp, chunk: chunkSize}
}

// Schema is known once the first batch was given.
func (r *Reader) Schema() *Schema { return r.schema }

// Request is the request with what the table settled.
func (r *Reader) Request() Request { return r.req }

// RowsExpected is about how many rows there are, 0 if that cannot be told. It
// is known with the first batch.
func (r *Reader) RowsExpected() int64 {
	size := int64(0)
	for _, s := range r.sources {
		if s.Size == 0 || r.perRow == 0 {
			return 0
		}
		size += s.Size
	}
	return int64(float64(size) / r.perRow)
}

// Batches yields the table's rows. The receiver releases each batch.
func (r *Reader) Batches(ctx context.Context) iter.Seq2[*Batch, error] {
	return func(yield func(*Batch, error) bool) {
		for _, s := range r.sources {
			err := r.file(ctx, s, yield)
			if errors.Is(err, errStopped) {
				return
			}
			if err != nil {
				yield(nil, err)
				return
			}
		}
	}
}

var errStopped = errors.New("the receiver stopped")

func (r *Reader) file(ctx context.Context, s Source, yield func(*Batch, error) bool) error {
	in, err := s.Open(ctx)
	if err != nil {
		return fmt.Errorf("open %s: %w", s.Name, err)
	}
	defer in.Close()
	stop := context.AfterFunc(ctx, func() { in.Close() }) // ends a read that waits for a pipe
	defer stop()
	out := func(b *Batch) error {
		if !yield(b, nil) {
			return errStopped
		}
		return nil
	}
	o, err := openFormat(s.Name, in, r.tmp)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	defer o.close()
	if o.columns != nil {
		err = r.columns(ctx, s.Name, o.columns, out)
	} else {
		err = r.csv(ctx, s, o.text, out)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (r *Reader) columns(ctx context.Context, name string, in *columnar.Input, out func(*Batch) error) error {
	f, err := openColumns(name, in, r.req)
	if err != nil {
		return err
	}
	if err := r.agree(name, f.schema); err != nil {
		return err
	}
	if r.req.SentenceIDType == "" {
		r.req.SentenceIDType = f.idType()
	}
	if in.Rows > 0 && r.perRow == 0 {
		r.perRow = float64(r.sources[0].Size) / float64(in.Rows)
	}
	c := &converter{f, r.req}
	err = ordered.Map(ctx, runtime.GOMAXPROCS(0), f.pieces(), c.convert, out)
	r.doubt(unsummed, in.Unsummed(), name)
	r.doubt(unmarked, in.Unended, name)
	return err
}

func (r *Reader) csv(ctx context.Context, s Source, in io.Reader, out func(*Batch) error) error {
	name, delimiter := s.Name, cmp.Or(s.Delimiter, ',')
	f, err := openCSV(name, in, delimiter, r.req, r.chunk)
	if err != nil {
		return err
	}
	if err := r.agree(name, f.schema); err != nil {
		return err
	}
	first, err := r.settleIDs(f)
	if err != nil || first == nil {
		return err
	}
	if _, plain := in.(*plain); plain && r.perRow == 0 {
		r.perRow = float64(len(first.data)) / float64(first.lines)
	}
	p := newParser(name, f.schema, r.req, delimiter)
	chunks := func(yield func(*chunk, error) bool) {
		if yield(first, nil) {
			f.chunks()(yield)
		}
	}
	err = ordered.Map(ctx, runtime.GOMAXPROCS(0), chunks, p.parse, out)
	r.doubt(unended, f.unended, name)
	return err
}

// agree checks a further file's columns against the first one's.
func (r *Reader) agree(name string, s *Schema) error {
	if r.schema == nil {
		r.schema = s
		return nil
	}
	if d := s.same(r.schema); d != "" {
		return failure.New(failure.Refused, "plan files of one kind together", "%s differs from %s: %s", name, r.sources[0].Name, d)
	}
	return nil
}

// settleIDs reads the first chunk and checks the width of its first row. If
// it is not given, the row tells whether sentence ids are numbers. It gives
// nil for a file without rows.
func (r *Reader) settleIDs(f *csvFile) (*chunk, error) {
	c, err := f.next()
	if err == io.EOF {
		return nil, nil
	}
	if err != nil {
		return c, err
	}
	first, line, err := f.firstRecord(c)
	if err != nil {
		return c, nil // the parser says where and what
	}
	if len(first) != f.schema.width {
		hint := "write all rows with the fields of the header"
		switch {
		case len(first) != f.schema.width+1:
		case first[f.schema.width] == "":
			hint = "the row ends with a delimiter, the header does not: write both alike"
		default:
			hint = "is the first field a row name of R's write.table? Write with row.names=FALSE, or col.names=NA. Does a number hold a comma? Write it with a point"
		}
		return nil, failure.New(failure.Refused, hint, "%s:%d: %d fields, the header has %d", f.name, line, len(first), f.schema.width)
	}
	if r.req.SentenceIDType == "" {
		r.req.SentenceIDType = String
		if isNumber(unpadded([]byte(first[f.schema.fields[smallSentence]]))) {
			r.req.SentenceIDType = Int64
		}
	}
	return c, nil
}

func isNumber(id []byte) bool {
	n, err := parseID(id)
	return err == nil && n != blank
}
