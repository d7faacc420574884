package columnar

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"

	flatbuffers "github.com/google/flatbuffers/go"

	"tokenfork/internal/failure"
)

// The Arrow library reads a record batch whole, and writers put tables of any
// length into one. It also refuses files for columns that are not needed. So
// input is read here, of the columns asked for only, each buffer as a stream.

// arrowFile is a file or a stored stream of Arrow's IPC format.
type arrowFile struct {
	r      File
	fields []arrowField
	blocks []arrowBlock
	rows   int64
	ended  bool // a stream, by its marker
}

// Types of messages, in Message.fbs.
const (
	schemaMessage = iota + 1
	dictionaryMessage
	batchMessage
)

// arrowBlock is where a record batch or a dictionary is.
type arrowBlock struct {
	at, metadata, body int64
	kind               byte
}

func badArrow(text string, args ...any) error {
	return failure.New(failure.Refused, writeAgain, "its metadata is damaged: %w", fmt.Errorf(text, args...))
}

// IsStream knows an Arrow stream by its first 8 bytes. Before 2019 it began with the length of
// its first message and then the place of the message's root, which lies near its beginning.
func IsStream(begin []byte) bool {
	if len(begin) < 8 {
		return false
	}
	size, root := le.Uint32(begin), le.Uint32(begin[4:])
	return size == 0xffffffff || size%4 == 0 && size < 16<<20 && root > 0 && root < min(size, 256)
}

// OpenArrowStream opens a file that holds an Arrow stream, from its beginning.
func OpenArrowStream(r File) (in *Input, err error) {
	defer recovered(&err)
	end, err := r.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	f := &arrowFile{r: r}
	if err := f.messages(end); err != nil {
		return nil, err
	}
	in = f.input()
	in.Unended = !f.ended
	return in, nil
}

// OpenArrowInput opens a file of Arrow's file format.
func OpenArrowInput(r File) (in *Input, err error) {
	defer recovered(&err)
	end, err := r.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	const magic = "ARROW1"
	tail, err := readAt(r, end-10, 10)
	if err != nil || string(tail[4:]) != magic {
		return nil, failure.New(failure.Refused, writeAgain, "the file is cut off: it does not end with %s", magic)
	}
	size := int64(le.Uint32(tail))
	footer, err := readAt(r, end-10-size, size)
	if err != nil {
		return nil, badArrow("%w", err)
	}
	f := &arrowFile{r: r}
	root := fbRoot(footer)
	schema, _ := root.table(1)
	if f.fields, err = arrowFields(schema); err != nil {
		return nil, err
	}
	f.blocks = append(footerBlocks(root, 2, dictionaryMessage), footerBlocks(root, 3, batchMessage)...)
	if err := f.checkSchema(end - 10 - size); err != nil {
		return nil, err
	}
	if err := f.checkBlocks(end - 10 - size); err != nil {
		return nil, err
	}
	return f.input(), nil
}

// checkSchema compares the footer's schema with the one that the file begins with,
// which ends where the first message that the footer lists begins.
func (f *arrowFile) checkSchema(end int64) error {
	for _, bl := range f.blocks {
		end = min(end, bl.at)
	}
	const begin = 8
	b, err := readAt(f.r, begin, end-begin)
	if err != nil || len(b) < 8 {
		return badArrow("no schema at byte %d", begin)
	}
	if len(f.blocks) == 0 {
		b = bytes.TrimSuffix(b, endOfStream)
	}
	for len(b) > 8 && le.Uint64(b) == 0 {
		b = b[8:] // arrow-rs aligns the schema to 64 bytes
	}
	message := fbRoot(b[messageHead(b):])
	schema, ok := message.table(2)
	if !ok || message.GetByteSlot(slot(1), 0) != schemaMessage {
		return badArrow("no schema at byte %d", begin)
	}
	fields, err := arrowFields(schema)
	if err != nil {
		return err
	}
	if !slices.EqualFunc(f.fields, fields, sameField) {
		return badArrow("the schema in the footer differs from the one at the beginning")
	}
	return nil
}

// messageHead is the length of what is before a message's metadata: nothing where
// polars writes the schema of a file.
func messageHead(b []byte) int64 {
	switch size := int64(le.Uint32(b)); {
	case size == 0xffffffff && int64(le.Uint32(b[4:])) == int64(len(b))-8:
		return 8
	case size == int64(len(b))-4: // as written before 2019
		return 4
	}
	return 0
}

func sameField(a, b arrowField) bool {
	return a.Name == b.Name && a.Type == b.Type && a.dictionary == b.dictionary && a.id == b.id && a.arrowLayout == b.arrowLayout
}

// footerBlocks are what a footer lists.
func footerBlocks(footer fbTable, k int, kind byte) (all []arrowBlock) {
	at, n := footer.vector(k)
	for i := range n {
		x := at + flatbuffers.UOffsetT(24*i)
		all = append(all, arrowBlock{footer.GetInt64(x), int64(footer.GetInt32(x + 8)), footer.GetInt64(x + 16), kind})
	}
	return all
}

// checkBlocks compares a footer with the messages that it lists: they must
// follow each other up to the end, or one of them was left out.
func (f *arrowFile) checkBlocks(end int64) error {
	inFile := slices.Clone(f.blocks)
	slices.SortFunc(inFile, func(a, b arrowBlock) int { return cmp.Compare(a.at, b.at) })
	at := int64(-1)
	if begin, err := readAt(f.r, 8, min(8, end-8)); err == nil && len(begin) == 8 && le.Uint32(begin) == 0xffffffff {
		at = 16 + int64(le.Uint32(begin[4:])) // after the schema, where writers begin with it as they should
	}
	for _, bl := range inFile {
		if bl.at != at && at >= 0 || bl.at < 8 || bl.metadata < 8 || bl.body < 0 || bl.body > end {
			return badArrow("the footer lists %d bytes at byte %d, the message before ends at %d", bl.metadata+bl.body, bl.at, at)
		}
		at = bl.at + bl.metadata + bl.body
	}
	if left := end - at; at >= 0 && (left < 0 || left > 8) {
		return badArrow("there are %d bytes after the last message that the footer lists", left)
	}
	seen := map[int64]bool{}
	for _, bl := range f.blocks {
		b, err := readAt(f.r, bl.at, bl.metadata)
		if err != nil {
			return badArrow("%w", err)
		}
		message, err := messageOf(b)
		if err != nil {
			return err
		}
		if message.GetByteSlot(slot(1), 0) != bl.kind || message.GetInt64Slot(slot(3), 0) != bl.body {
			return badArrow("the message at byte %d is not the one that the footer lists", bl.at)
		}
		if err := f.count(message, bl.kind, seen); err != nil {
			return err
		}
	}
	return nil
}

// messageOf reads a message's metadata, which begins with its length.
func messageOf(b []byte) (fbTable, error) {
	if len(b) < 8 {
		return fbTable{}, badArrow("a message of %d bytes", len(b))
	}
	head := 4 // as written before 2019
	if le.Uint32(b) == 0xffffffff {
		head = 8
	}
	if size := int64(le.Uint32(b[head-4:])); size != int64(len(b)-head) || size < 4 {
		return fbTable{}, badArrow("a message of %d bytes, want %d", size, len(b)-head)
	}
	return fbRoot(b[head:]), nil
}

func (f *arrowFile) input() *Input {
	in := &Input{Rows: f.rows, open: f.open}
	for _, field := range f.fields {
		in.Columns = append(in.Columns, field.InputColumn)
	}
	return in
}

// messages finds the schema, the dictionaries and the batches of a stream by
// going from message to message up to the marker of the end, which may be left out.
func (f *arrowFile) messages(end int64) error {
	for at := int64(0); at < end; {
		prefix, err := readAt(f.r, at, min(8, end-at))
		if err != nil || len(prefix) < 4 {
			return badArrow("no message at byte %d", at)
		}
		head, size := int64(4), int64(le.Uint32(prefix))
		if size == 0xffffffff && len(prefix) == 8 {
			head, size = 8, int64(le.Uint32(prefix[4:]))
		}
		if size == 0 {
			f.ended = true
			if left := end - at - head; left > 4 {
				return badArrow("the stream is said to end at byte %d, but %d bytes follow", at, left)
			}
			break
		}
		if size > end-at-head {
			return badArrow("no message at byte %d, or the file is cut off", at)
		}
		b, err := readAt(f.r, at, head+size)
		if err != nil {
			return badArrow("%w", err)
		}
		message, err := messageOf(b)
		if err != nil {
			return err
		}
		bl := arrowBlock{at, head + size, message.GetInt64Slot(slot(3), 0), message.GetByteSlot(slot(1), 0)}
		if bl.body < 0 || bl.body > end-at-bl.metadata {
			return failure.New(failure.Refused, writeAgain, "the file is cut off: the message at byte %d has %d bytes", at, bl.body)
		}
		if err := f.message(message, bl); err != nil {
			return err
		}
		at += bl.metadata + bl.body
	}
	if f.fields == nil {
		return badArrow("there is no schema")
	}
	return nil
}

// message takes note of one message of a stream.
func (f *arrowFile) message(message fbTable, bl arrowBlock) (err error) {
	if first := f.fields == nil; first != (bl.kind == schemaMessage) {
		return badArrow("a message of type %d at byte %d", bl.kind, bl.at)
	}
	if bl.kind == schemaMessage {
		header, _ := message.table(2)
		f.fields, err = arrowFields(header)
		return err
	}
	f.blocks = append(f.blocks, bl)
	return f.count(message, bl.kind, nil)
}

// count adds a batch's rows. In files, where seen is not nil, dictionaries are
// not replaced: it would not be known which batch is for which.
func (f *arrowFile) count(message fbTable, kind byte, seen map[int64]bool) error {
	header, ok := message.table(2)
	if !ok {
		return badArrow("a message without a header")
	}
	switch kind {
	case batchMessage:
		rows := header.GetInt64Slot(slot(0), 0)
		if rows < 0 || f.rows+rows < f.rows {
			return badArrow("a batch of %d rows", rows)
		}
		f.rows += rows
	case dictionaryMessage:
		id, delta := header.GetInt64Slot(slot(0), 0), header.GetBoolSlot(slot(2), false)
		if seen[id] && !delta {
			return notRead("Arrow files with several dictionaries for one column; write it as a stream, or without dictionaries")
		}
		if seen != nil {
			seen[id] = true
		}
	default:
		return notRead("Arrow messages of type %d", kind)
	}
	return nil
}

// arrowBatch is what a batch's metadata says.
type arrowBatch struct {
	rows    int64
	nodes   [][2]int64 // rows and nulls of each
	buffers [][2]int64 // from and to, in the file
	views   []int64    // further buffers of each column of views
	codec   int8       // -1 without compression
}

// batch reads the metadata of a batch, or of the batch of a dictionary.
func (f *arrowFile) batch(bl arrowBlock) (batch arrowBatch, dictionary fbTable, err error) {
	b, err := readAt(f.r, bl.at, bl.metadata)
	if err != nil {
		return batch, dictionary, err
	}
	message, err := messageOf(b)
	if err != nil {
		return batch, dictionary, err
	}
	header, _ := message.table(2)
	if bl.kind == dictionaryMessage {
		dictionary = header
		header, _ = header.table(1)
	}
	batch = arrowBatch{rows: header.GetInt64Slot(slot(0), 0), codec: -1}
	if c, ok := header.table(3); ok {
		batch.codec = c.GetInt8Slot(slot(0), 0)
	}
	at, n := header.vector(1)
	for i := range n {
		x := at + flatbuffers.UOffsetT(16*i)
		batch.nodes = append(batch.nodes, [2]int64{header.GetInt64(x), header.GetInt64(x + 8)})
	}
	at, n = header.vector(2)
	last := int64(0)
	for i := range n {
		x := at + flatbuffers.UOffsetT(16*i)
		from, size := header.GetInt64(x), header.GetInt64(x+8)
		if size < 0 || size > 0 && from < last || from > bl.body-size {
			return batch, dictionary, badArrow("buffer %d is at %d, %d bytes, of %d", i, from, size, bl.body)
		}
		if size > 0 {
			last = from + size
		}
		begin := bl.at + bl.metadata
		batch.buffers = append(batch.buffers, [2]int64{begin + from, begin + from + size})
	}
	at, n = header.vector(4)
	for i := range n {
		batch.views = append(batch.views, header.GetInt64(at+flatbuffers.UOffsetT(8*i)))
	}
	return batch, dictionary, nil
}

// open reads a column from its beginning.
func (f *arrowFile) open(column int) (columnReader, error) {
	buffers, views := 0, 0
	for _, other := range f.fields[:column] {
		if other.unknown {
			return nil, notRead("files in which a column before %s, %s, has %s", f.fields[column].Name, other.Name, other.Type)
		}
		buffers, views = buffers+other.buffers, views+other.viewColumns
	}
	field := &f.fields[column]
	c := &arrowColumn{file: f, field: field, part: &arrowPart{arrowType: field.arrowType, node: field.node, buffer: buffers, before: views}}
	if field.Kind == Nested {
		tree, err := treeOf(field.schema, &arrowLayout{field.node, buffers, views, false})
		if err != nil {
			return nil, err
		}
		tree.inner, c.part = false, tree
	}
	return c, nil
}

// batchReader reads what a column is in a batch.
type batchReader interface {
	begin(r io.ReaderAt, batch *arrowBatch) error
	read(dst *cells, n int) error
	end() error
}

// arrowColumn reads a column batch by batch.
type arrowColumn struct {
	file    *arrowFile
	field   *arrowField
	part    batchReader
	next    int   // block
	batches int   // begun
	left    int64 // rows of the batch at hand

	entries cells // of the dictionary
	known   bool  // there is one
	indexes cells
}

func (c *arrowColumn) read(dst *cells, n int) error {
	for n > 0 {
		if c.left == 0 {
			if err := c.block(); err != nil {
				return c.place(err)
			}
			continue
		}
		m := min(int64(n), c.left)
		if err := c.rows(dst, int(m)); err != nil {
			return c.place(err)
		}
		c.left, n = c.left-m, n-int(m)
	}
	return nil
}

// end also goes through batches that are said to hold no rows.
func (c *arrowColumn) end() error {
	for c.next < len(c.file.blocks) {
		if err := c.block(); err != nil {
			return c.place(err)
		}
		if c.left > 0 {
			return c.place(badArrow("the batch has %d rows more than the file", c.left))
		}
	}
	if err := c.part.end(); err != nil {
		return c.place(err)
	}
	return nil
}

// place says in which column and batch something is wrong.
func (c *arrowColumn) place(err error) error {
	place := fmt.Sprintf("column %s (%s), record batch %d", c.field.Name, c.field.Type, c.batches)
	if f := (*failure.Error)(nil); errors.As(err, &f) {
		return fmt.Errorf("%s: %w", place, err)
	}
	return failure.New(failure.Refused, writeAgain, "%s: the data is damaged: %w", place, err)
}

// block goes to the next block: a dictionary of the column's, or a batch.
func (c *arrowColumn) block() error {
	if err := c.part.end(); err != nil {
		return err
	}
	if c.next == len(c.file.blocks) {
		return io.ErrUnexpectedEOF
	}
	bl := c.file.blocks[c.next]
	c.next++
	if bl.kind == dictionaryMessage && !c.field.dictionary {
		return nil
	}
	batch, dictionary, err := c.file.batch(bl)
	if err != nil {
		return err
	}
	if bl.kind == dictionaryMessage {
		return c.dictionary(&batch, dictionary)
	}
	c.batches++
	c.left = batch.rows
	return c.part.begin(c.file.r, &batch)
}

// dictionary reads the entries of the column's dictionary, or adds to them.
func (c *arrowColumn) dictionary(batch *arrowBatch, header fbTable) error {
	if header.GetInt64Slot(slot(0), 0) != c.field.id {
		return nil
	}
	const isDelta = 2
	if !header.GetBoolSlot(slot(isDelta), false) {
		c.entries.reset()
	}
	c.known = true
	if batch.rows < 0 || batch.rows > maxPage/8 {
		return notRead("dictionaries of %d entries", batch.rows)
	}
	part := arrowPart{arrowType: c.field.entry}
	if err := part.begin(c.file.r, batch); err != nil {
		return err
	}
	if err := part.read(&c.entries, int(batch.rows)); err != nil {
		return err
	}
	return part.end()
}

// rows reads rows of the batch at hand.
func (c *arrowColumn) rows(dst *cells, n int) error {
	if !c.field.dictionary {
		return c.part.read(dst, n)
	}
	c.indexes.reset()
	if err := c.part.read(&c.indexes, n); err != nil {
		return err
	}
	for _, i := range c.indexes.whole {
		if i == Null {
			dst.appendNulls(c.field.Kind, 1)
			continue
		}
		size := max(len(c.entries.whole), len(c.entries.float), len(c.entries.text))
		if !c.known || i < 0 || i >= int64(size) {
			return fmt.Errorf("the index %d is beyond the dictionary's %d entries", i, size)
		}
		dst.appendRange(&c.entries, c.field.Kind, int(i), int(i)+1)
	}
	return nil
}
