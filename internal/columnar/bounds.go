package columnar

import (
	"fmt"
	"io"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/memory"
)

// MaxBuffer is the longest buffer, in bytes, that is read of a file of results, a
// manifest or a part. The libraries believe every length that a file states.
const MaxBuffer = 1 << 30

// bounded refuses longer buffers, by a panic that sound makes an error.
type bounded struct{ memory.Allocator }

func (b bounded) Allocate(size int) []byte {
	checkSize(size)
	return b.Allocator.Allocate(size)
}

func (b bounded) Reallocate(size int, old []byte) []byte {
	checkSize(size)
	return b.Allocator.Reallocate(size, old)
}

func checkSize(size int) {
	if size < 0 || size > MaxBuffer {
		panic(fmt.Sprintf("it asks for a buffer of %d bytes, more than %d", size, MaxBuffer))
	}
}

var allocator = bounded{memory.DefaultAllocator}

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
