package columnar

import (
	"bytes"
	"fmt"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/ipc"
	"github.com/klauspost/compress/zstd"
)

// Pieces makes streams that ReadStream reads out of pieces, each compressed on
// its own, so that rows can be encoded before it is known which stream they are
// for. Row belongs to one goroutine, Ends to any.
type Pieces[T any] struct {
	rows  Writer[T]
	plain bytes.Buffer
	z     *zstd.Encoder
}

// NewPieces prepares to encode.
func NewPieces[T any]() (*Pieces[T], error) {
	p := &Pieces[T]{}
	var err error
	if p.z, err = zstd.NewWriter(nil, streamOptions...); err != nil {
		return nil, fmt.Errorf("start columnar stream: %w", err)
	}
	if p.rows, err = newBatchWriter[T]([]Option{BatchRows(1)}, func(s *arrow.Schema) (batchSink, error) {
		return ipc.NewWriter(&p.plain, ipc.WithSchema(s)), nil
	}); err != nil {
		return nil, err
	}
	return p, p.rows.(*batchWriter[T]).flush() // the schema comes before the first batch: it is in the head
}

// Row appends the piece of one row to dst.
func (p *Pieces[T]) Row(dst []byte, row *T) ([]byte, error) {
	p.plain.Reset()
	if err := p.rows.Write(row); err != nil {
		return nil, err
	}
	return p.z.EncodeAll(p.plain.Bytes(), dst), nil
}

// Ends are the pieces that a stream begins and ends with.
func (p *Pieces[T]) Ends(opts ...Option) (head, tail []byte, err error) {
	var b bytes.Buffer
	o := newOptions(opts)
	if err := ipc.NewWriter(&b, ipc.WithSchema(o.schema(o.apply(columnsOf[T]())))).Close(); err != nil {
		return nil, nil, fmt.Errorf("start columnar stream: %w", err)
	}
	schema := b.Bytes()[:b.Len()-len(endOfStream)]
	return p.z.EncodeAll(schema, nil), p.z.EncodeAll(endOfStream, nil), nil
}
