package columnar

import (
	"encoding/binary"
	"errors"
	"io"
)

// Parquet's metadata is Thrift, in which a list begins with its length. The
// library makes place for a list before it reads it, so that a damaged length
// would take any memory. So what is read is walked through before.

var errThrift = errors.New("its metadata is no valid Thrift")

// thriftSize is the length of the struct that b begins with, in Thrift's compact
// protocol. It is io.ErrUnexpectedEOF if b ends before the struct does.
func thriftSize(b []byte) (int, error) {
	w := &thriftWalker{b: b}
	err := w.structure(0)
	return w.at, err
}

type thriftWalker struct {
	b  []byte
	at int
}

func (w *thriftWalker) byte() (byte, error) {
	if w.at >= len(w.b) {
		return 0, io.ErrUnexpectedEOF
	}
	w.at++
	return w.b[w.at-1], nil
}

func (w *thriftWalker) varint() (uint64, error) {
	n, size := binary.Uvarint(w.b[w.at:])
	if size == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	if size < 0 {
		return 0, errThrift
	}
	w.at += size
	return n, nil
}

func (w *thriftWalker) skip(n uint64) error {
	if n > uint64(len(w.b)-w.at) {
		w.at = len(w.b)
		return io.ErrUnexpectedEOF
	}
	w.at += int(n)
	return nil
}

// structure walks over a struct: fields up to a 0.
func (w *thriftWalker) structure(depth int) error {
	if depth > 32 {
		return errThrift
	}
	for {
		h, err := w.byte()
		if err != nil || h == 0 {
			return err
		}
		if h>>4 == 0 { // the field's number follows
			if _, err := w.varint(); err != nil {
				return err
			}
		}
		if kind := h & 15; kind > 2 { // a bool is in its type
			if err := w.value(kind, depth); err != nil {
				return err
			}
		}
	}
}

// value walks over a value of a type of the compact protocol.
func (w *thriftWalker) value(kind byte, depth int) error {
	switch kind {
	case 1, 2, 3: // bools in a list, bytes
		return w.skip(1)
	case 4, 5, 6: // integers
		_, err := w.varint()
		return err
	case 7: // double
		return w.skip(8)
	case 8: // binary
		n, err := w.varint()
		if err != nil {
			return err
		}
		return w.skip(n)
	case 9, 10: // list, set
		return w.list(depth)
	case 12:
		return w.structure(depth + 1)
	}
	return errThrift // Parquet has no maps
}

func (w *thriftWalker) list(depth int) error {
	h, err := w.byte()
	if err != nil {
		return err
	}
	n := uint64(h >> 4)
	if n == 15 {
		if n, err = w.varint(); err != nil {
			return err
		}
	}
	for range n {
		if err := w.value(h&15, depth); err != nil {
			return err
		}
	}
	return nil
}
