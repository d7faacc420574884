package columnar

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/ipc"
	"github.com/apache/arrow/go/v15/arrow/memory"
)

// The Arrow library believes every length that a file of results, a manifest or
// a part states. What it reads is checked before, so that damage takes no more
// memory than the file holds, or than maxBuffer.

// maxBuffer is the longest buffer that is read, in bytes.
const maxBuffer = 256 << 20

// bounded refuses longer buffers, by a panic that sound makes an error.
type bounded struct {
	memory.Allocator
	most int
}

func (b *bounded) Allocate(size int) []byte {
	b.check(size)
	return b.Allocator.Allocate(size)
}

func (b *bounded) Reallocate(size int, old []byte) []byte {
	b.check(size)
	return b.Allocator.Reallocate(size, old)
}

func (b *bounded) check(size int) {
	if size < 0 || size > b.most {
		panic(fmt.Sprintf("it asks for a buffer of %d bytes, more than %d", size, b.most))
	}
}

func newBounded() *bounded { return &bounded{memory.DefaultAllocator, maxBuffer} }

// messages reads the messages of a stream for the library.
type messages struct {
	r         io.Reader
	allocator *bounded
	begun     bool
	last      *ipc.Message
}

// Retain and Release implement ipc.MessageReader: there is but one user.
func (m *messages) Retain() {}

// Release lets go of the last message.
func (m *messages) Release() {
	if m.last != nil {
		m.last.Release()
		m.last = nil
	}
}

// Message implements ipc.MessageReader: the next message, or io.EOF.
func (m *messages) Message() (*ipc.Message, error) {
	var prefix [8]byte
	if _, err := io.ReadFull(m.r, prefix[:]); err != nil {
		return nil, fmt.Errorf("the end marker is missing: %w", noEOF(err))
	}
	size := int64(le.Uint32(prefix[4:]))
	if le.Uint32(prefix[:]) != 0xffffffff || size > maxMetadata {
		return nil, errors.New("no message where one should begin")
	}
	if size == 0 {
		return nil, io.EOF
	}
	meta, err := readUpTo(m.r, size)
	if err != nil {
		return nil, err
	}
	root := fbRoot(meta)
	n := root.GetInt64Slot(slot(3), 0)
	if n < 0 || n > maxBuffer {
		return nil, fmt.Errorf("a message of %d bytes", n)
	}
	if !m.begun {
		schema, _ := root.table(2)
		checkVectors(schema, 0)
		m.begun = true
	}
	body, err := readUpTo(m.r, n)
	if err != nil {
		return nil, err
	}
	m.allocator.most = len(body)
	m.Release()
	m.last = ipc.NewMessage(memory.NewBufferBytes(meta), memory.NewBufferBytes(body))
	return m.last, nil
}

// readUpTo reads n bytes, and takes memory for those that are there.
func readUpTo(r io.Reader, n int64) ([]byte, error) {
	var b []byte
	for have := 0; int64(have) < n; have = len(b) {
		more := make([]byte, min(n, max(1<<20, 4*int64(have))))
		copy(more, b)
		b = more
		if _, err := io.ReadFull(r, b[have:]); err != nil {
			return nil, noEOF(err)
		}
	}
	return b, nil
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// checkVectors panics where a vector of a schema, or of a field, goes beyond the data.
func checkVectors(t fbTable, depth int) {
	const schemaFields, fieldChildren, schemaMetadata, fieldMetadata = 1, 5, 2, 6
	fields, metadata := fieldChildren, fieldMetadata
	if depth == 0 {
		fields, metadata = schemaFields, schemaMetadata
	}
	t.tables(metadata)
	if depth > 100 {
		panic("fields within fields")
	}
	for _, field := range t.tables(fields) {
		checkVectors(field, depth+1)
	}
}

// checkParquet goes through a Parquet file of ours from page to page.
func checkParquet(r File) error {
	f := &parquetFile{r: r, maxPage: maxBuffer}
	if err := f.footer(); err != nil {
		return err
	}
	if err := f.schema(); err != nil {
		return err
	}
	if err := f.checkRowGroups(); err != nil {
		return err
	}
	for _, kv := range f.meta.KeyValueMetadata {
		if kv.Key != "ARROW:schema" {
			continue
		}
		b, err := base64.StdEncoding.DecodeString(kv.Value)
		if err != nil || len(b) < 12 {
			return badFooter("no schema of Arrow's: %w", err)
		}
		const head = 8 // Arrow's mark and the message's length
		schema, _ := fbRoot(b[head:]).table(2)
		checkVectors(schema, 0)
	}
	for _, l := range f.leaves {
		c := f.openLeaf(l)
		for c.group = range f.meta.RowGroups {
			if err := c.begin(); err != nil {
				return c.place(nil, err)
			}
		}
	}
	return nil
}

// sound calls f; a panic of the library over what it reads is an error.
func sound[V any](f func() (V, error)) (v V, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("it is damaged: %v", r)
		}
	}()
	return f()
}

// soundRecords reads records by next and turns its panics into errors. After an
// error there is no next record.
func soundRecords(next func() (arrow.Record, error)) func() (arrow.Record, error) {
	var failed error
	return func() (arrow.Record, error) {
		if failed != nil {
			return nil, failed
		}
		rec, err := sound(next)
		if err != nil && err != io.EOF {
			failed = err
		}
		return rec, err
	}
}
