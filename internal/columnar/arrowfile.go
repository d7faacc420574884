package columnar

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/ipc"
	"github.com/apache/arrow/go/v15/arrow/memory"
	flatbuffers "github.com/google/flatbuffers/go"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// The Arrow library reads a record batch whole, twice over, and writers put
// tables of any length into one. So the columns asked for are read here, a few
// rows at a time, each buffer as a stream of its own. Dictionaries and types
// whose buffers are laid out in other ways are left to the library.

// OpenArrowInput opens a file of Arrow's file format.
func OpenArrowInput(r File) (*Input, error) {
	fr, err := ipc.NewFileReader(r)
	if err != nil {
		return nil, fmt.Errorf("read Arrow file: %w", err)
	}
	blocks, err := footer(r)
	if err != nil {
		return nil, fmt.Errorf("read Arrow file: %w", err)
	}
	return arrowInput(r, fr.Schema(), blocks, fr.Read), nil
}

// OpenArrowStream opens a file that holds an Arrow stream, from its beginning.
func OpenArrowStream(r File) (*Input, error) {
	blocks, err := messages(r) // first: the library believes any length it reads
	if err != nil {
		return nil, fmt.Errorf("read Arrow stream: %w", err)
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	sr, err := ipc.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("read Arrow stream: %w", err)
	}
	return arrowInput(r, sr.Schema(), blocks, sr.Read), nil
}

// arrowInput reads the batches that are at blocks, by the library's read where only that can.
func arrowInput(r File, s *arrow.Schema, blocks []block, read func() (arrow.Record, error)) *Input {
	in := &Input{Columns: inputColumns(s)}
	in.open = func(columns []int) (func() (arrow.Record, error), error) {
		f, ok := newArrowFile(r, s, blocks, columns)
		if !ok {
			return picked(read)(columns)
		}
		return f.read, nil
	}
	return in
}

// arrowFile reads some columns of an Arrow file or stream.
type arrowFile struct {
	r       File
	schema  *arrow.Schema
	columns []*arrowColumn
	blocks  []block
	left    int64 // rows of the batch at hand
}

// block is where a record batch is.
type block struct{ at, metadata, body int64 }

// arrowColumn is a column, and where its next rows come from.
type arrowColumn struct {
	arrow.Field
	node, buffer int // the first of its own in a batch

	validity io.Reader // nil: there are no nulls
	offsets  io.Reader // of text
	values   io.Reader
	last     int64 // offset, of text
}

// newArrowFile finds the columns' buffers; false if only the library can.
func newArrowFile(r File, s *arrow.Schema, blocks []block, columns []int) (*arrowFile, bool) {
	if !s.IsNativeEndian() {
		return nil, false
	}
	f := &arrowFile{r: r, blocks: blocks}
	wanted, fields := map[int]bool{}, []arrow.Field(nil)
	for _, c := range columns {
		wanted[c] = true
	}
	nodes, buffers := 0, 0
	for i, field := range s.Fields() {
		if wanted[i] {
			if k := kindOf(field.Type); k == Unread || field.Type.ID() == arrow.DICTIONARY {
				return nil, false
			}
			f.columns = append(f.columns, &arrowColumn{Field: field, node: nodes, buffer: buffers})
			if kindOf(field.Type) == Text {
				field.Type = arrow.BinaryTypes.LargeString // as read makes it
			}
			fields = append(fields, field)
		}
		n, b, ok := layoutOf(field.Type)
		if !ok {
			return nil, false
		}
		nodes, buffers = nodes+n, buffers+b
	}
	f.schema = arrow.NewSchema(fields, nil)
	return f, true
}

// layoutOf is how many nodes and buffers a type takes in a batch.
func layoutOf(t arrow.DataType) (nodes, buffers int, ok bool) {
	switch t := t.(type) {
	case arrow.ExtensionType:
		return layoutOf(t.StorageType())
	case *arrow.NullType:
		return 1, 0, true
	case arrow.UnionType, *arrow.RunEndEncodedType:
		return 0, 0, false
	}
	switch t.ID() {
	case arrow.BINARY_VIEW, arrow.STRING_VIEW, arrow.LIST_VIEW, arrow.LARGE_LIST_VIEW:
		return 0, 0, false
	}
	nodes, buffers = 1, len(t.Layout().Buffers)
	if nested, isNested := t.(arrow.NestedType); isNested {
		for _, child := range nested.Fields() {
			n, b, ok := layoutOf(child.Type)
			if !ok {
				return 0, 0, false
			}
			nodes, buffers = nodes+n, buffers+b
		}
	}
	return nodes, buffers, true
}

// footer finds the record batches of a file.
func footer(r File) (batches []block, err error) {
	defer damaged(&err)
	end, err := r.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	tail, err := readAt(r, end-10, 4) // the footer's length and ARROW1
	if err != nil {
		return nil, err
	}
	size := int64(binary.LittleEndian.Uint32(tail))
	b, err := readAt(r, end-10-size, size)
	if err != nil {
		return nil, err
	}
	root := flatbuffers.Table{Bytes: b, Pos: flatbuffers.GetUOffsetT(b)}
	at, n := vector(&root, 3)
	for i := range n {
		x := at + flatbuffers.UOffsetT(24*i)
		batches = append(batches, block{root.GetInt64(x), int64(root.GetInt32(x + 8)), root.GetInt64(x + 16)})
	}
	return batches, nil
}

// messages finds the record batches of a stream by going from message to message.
func messages(r io.ReaderAt) (batches []block, err error) {
	defer damaged(&err)
	const isBatch = 3 // MessageHeader of Arrow's Message.fbs
	for at := int64(0); ; {
		head, err := readAt(r, at, 8)
		if err == io.EOF {
			return batches, nil // the marker of the end may be left out
		}
		if err != nil {
			return nil, err
		}
		if binary.LittleEndian.Uint32(head) != 0xffffffff {
			return nil, fmt.Errorf("its metadata is damaged: no message begins at %d", at)
		}
		size := int64(binary.LittleEndian.Uint32(head[4:]))
		if size == 0 {
			return batches, nil
		}
		b, err := readAt(r, at+8, size)
		if err != nil {
			return nil, err
		}
		message := flatbuffers.Table{Bytes: b, Pos: flatbuffers.GetUOffsetT(b)}
		bl := block{at, 8 + size, message.GetInt64Slot(10, 0)}
		if bl.body < 0 {
			return nil, fmt.Errorf("its metadata is damaged: a body of %d bytes at %d", bl.body, at)
		}
		if message.GetByteSlot(6, 0) == isBatch {
			batches = append(batches, bl)
		}
		if at += bl.metadata + bl.body; bl.body > 0 {
			if _, err := readAt(r, at-1, 1); err != nil {
				return nil, io.ErrUnexpectedEOF
			}
		}
	}
}

// vector is where the k-th field of a table, a vector, begins, and its length.
func vector(t *flatbuffers.Table, k flatbuffers.VOffsetT) (flatbuffers.UOffsetT, int) {
	o := flatbuffers.UOffsetT(t.Offset(4 + 2*k))
	if o == 0 {
		return 0, 0
	}
	return t.Vector(o), t.VectorLen(o)
}

// damaged turns a panic over metadata that is cut or garbled into an error.
func damaged(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("its metadata is damaged: %v", r)
	}
}

func readAt(r io.ReaderAt, at, n int64) ([]byte, error) {
	if at < 0 || n < 0 || n > maxMetadata {
		return nil, fmt.Errorf("its metadata is damaged: %d bytes at %d", n, at)
	}
	b := make([]byte, n)
	_, err := io.ReadFull(io.NewSectionReader(r, at, n), b)
	return b, err // io.EOF if the file ends at
}

const maxMetadata = 64 << 20

// read gives the next rows.
func (f *arrowFile) read() (arrow.Record, error) {
	for f.left == 0 {
		if len(f.blocks) == 0 {
			return nil, io.EOF
		}
		if err := f.begin(f.blocks[0]); err != nil {
			return nil, err
		}
		f.blocks = f.blocks[1:]
	}
	n := min(f.left, batchRows)
	f.left -= n
	arrays := make([]arrow.Array, len(f.columns))
	for i, c := range f.columns {
		data, err := c.read(int(n))
		if err != nil {
			return nil, fmt.Errorf("column %s: %w", c.Name, err)
		}
		arrays[i] = array.MakeFromData(data)
	}
	return array.NewRecord(f.schema, arrays, n), nil
}

// begin opens the columns' buffers of a batch.
func (f *arrowFile) begin(bl block) (err error) {
	defer damaged(&err)
	b, err := readAt(f.r, bl.at, bl.metadata)
	if err != nil {
		return err
	}
	prefix := 4
	if binary.LittleEndian.Uint32(b) == 0xffffffff {
		prefix = 8
	}
	b = b[prefix:]
	message := flatbuffers.Table{Bytes: b, Pos: flatbuffers.GetUOffsetT(b)}
	var batch flatbuffers.Table
	message.Union(&batch, flatbuffers.UOffsetT(message.Offset(8)))
	switch f.left = batch.GetInt64Slot(4, 0); {
	case f.left == 0:
		return nil
	case f.left < 0:
		return fmt.Errorf("its metadata is damaged: a batch of %d rows", f.left)
	}
	codec := int8(-1)
	if o := flatbuffers.UOffsetT(batch.Offset(10)); o != 0 {
		compression := flatbuffers.Table{Bytes: b, Pos: batch.Indirect(o + batch.Pos)}
		codec = compression.GetInt8Slot(4, 0)
	}
	nodes, _ := vector(&batch, 1)
	buffers, count := vector(&batch, 2)
	for _, c := range f.columns {
		stream := func(k int) (io.Reader, error) {
			if c.buffer+k >= count {
				return nil, fmt.Errorf("its metadata is damaged: %d buffers", count)
			}
			x := buffers + flatbuffers.UOffsetT(16*(c.buffer+k))
			return openBuffer(io.NewSectionReader(f.r, bl.at+bl.metadata+batch.GetInt64(x), batch.GetInt64(x+8)), codec)
		}
		nulls := batch.GetInt64(nodes + flatbuffers.UOffsetT(16*c.node) + 8)
		if err := c.begin(nulls, stream); err != nil {
			return fmt.Errorf("column %s: %w", c.Name, err)
		}
	}
	return nil
}

// openBuffer reads a buffer, compressed or not.
func openBuffer(r *io.SectionReader, codec int8) (io.Reader, error) {
	if codec < 0 || r.Size() == 0 {
		return bufio.NewReaderSize(r, 64<<10), nil
	}
	var size int64 // without compression
	if err := binary.Read(r, binary.LittleEndian, &size); err != nil {
		return nil, err
	}
	in := bufio.NewReaderSize(r, 64<<10)
	switch {
	case size == -1: // it was not worth it
		return in, nil
	case codec == 0:
		return lz4.NewReader(in), nil
	case codec == 1:
		return zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	}
	return nil, fmt.Errorf("compression %d is not known", codec)
}

// begin opens the column's buffers.
func (c *arrowColumn) begin(nulls int64, stream func(k int) (io.Reader, error)) (err error) {
	c.validity, c.offsets, c.last = nil, nil, 0
	if nulls != 0 {
		if c.validity, err = stream(0); err != nil {
			return err
		}
	}
	values := 1
	if kindOf(c.Type) == Text {
		if c.offsets, err = stream(1); err != nil {
			return err
		}
		values = 2
	}
	if c.values, err = stream(values); err != nil || c.offsets == nil {
		return err
	}
	first, err := c.readOffsets(1)
	if err != nil {
		return err
	}
	c.last = first[0]
	_, err = io.CopyN(io.Discard, c.values, c.last)
	return err
}

// readOffsets reads offsets of either width.
func (c *arrowColumn) readOffsets(n int) ([]int64, error) {
	width := 4
	if c.Type.ID() == arrow.LARGE_STRING {
		width = 8
	}
	b := make([]byte, n*width)
	if _, err := io.ReadFull(c.offsets, b); err != nil {
		return nil, err
	}
	offsets := make([]int64, n)
	for i := range offsets {
		if width == 8 {
			offsets[i] = int64(binary.LittleEndian.Uint64(b[8*i:]))
		} else {
			offsets[i] = int64(binary.LittleEndian.Uint32(b[4*i:]))
		}
	}
	return offsets, nil
}

// read gives the next n rows. All reads of a batch but the last are of
// batchRows, so that bits begin at bytes.
func (c *arrowColumn) read(n int) (*array.Data, error) {
	next := func(r io.Reader, size int) (*memory.Buffer, error) {
		b := make([]byte, size)
		_, err := io.ReadFull(r, b)
		return memory.NewBufferBytes(b), err
	}
	var buffers [3]*memory.Buffer
	var err error
	nulls := 0
	if c.validity != nil {
		nulls = array.UnknownNullCount
		if buffers[0], err = next(c.validity, (n+7)/8); err != nil {
			return nil, err
		}
	}
	if c.offsets == nil {
		width := c.Type.(arrow.FixedWidthDataType).BitWidth() / 8
		buffers[1], err = next(c.values, n*width)
		return array.NewData(c.Type, n, buffers[:2], nil, nulls, 0), err
	}
	offsets, err := c.readOffsets(n)
	if err != nil {
		return nil, err
	}
	from := make([]int64, 1, n+1)
	for _, o := range offsets {
		if o < c.last+from[len(from)-1] || o-c.last > maxMetadata {
			return nil, fmt.Errorf("its offsets are damaged: %d", o)
		}
		from = append(from, o-c.last)
	}
	c.last += from[n]
	buffers[1] = memory.NewBufferBytes(arrow.Int64Traits.CastToBytes(from))
	buffers[2], err = next(c.values, int(from[n]))
	return array.NewData(arrow.BinaryTypes.LargeString, n, buffers[:], nil, nulls, 0), err
}
