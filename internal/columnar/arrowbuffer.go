package columnar

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// arrowForm is what a node has beside its validity: cells, and perhaps offsets;
// offsets into the node below; or nothing, its fields being nodes below.
type arrowForm int

const (
	cellForm arrowForm = iota
	listForm
	structForm
)

// arrowPart reads the cells of one column, or of a dictionary's entries, from
// the buffers of a batch.
type arrowPart struct {
	arrowType
	node, buffer int // the first of its own in a batch
	before       int // columns of views before it
	form         arrowForm
	inner        bool // it is of a nested column: its rows are not the batch's

	open               bool
	left               int64        // of an inner one, not read yet
	validity           *arrowBuffer // nil: there are no nulls
	offsets, values    *arrowBuffer
	last               int64 // offset, of text
	bits               byte  // of the validity, the next one lowest
	bit                int   // how many of them are left
	nulls, nullsWanted int64
	blobs              []string // what views point into
	raw                []byte
	defined            []byte
}

// begin opens the buffers of a batch.
func (p *arrowPart) begin(r io.ReaderAt, batch *arrowBatch) (err error) {
	if p.node >= len(batch.nodes) || p.before > len(batch.views) {
		return badArrow("%d nodes and %d columns of views", len(batch.nodes), len(batch.views))
	}
	rows := batch.nodes[p.node][0]
	if rows != batch.rows && !p.inner || rows < 0 {
		return badArrow("the batch has %d rows, the column %d", batch.rows, rows)
	}
	p.left = rows
	at := p.buffer
	for _, n := range batch.views[:p.before] {
		if n < 0 || n > int64(len(batch.buffers)) {
			return badArrow("%d buffers of a column of views", n)
		}
		at += int(n)
	}
	stream := func(k int) *arrowBuffer {
		if err != nil {
			return nil
		}
		if k >= len(batch.buffers) {
			err = badArrow("%d buffers, want %d", len(batch.buffers), k+1)
			return nil
		}
		var b *arrowBuffer
		b, err = openBuffer(r, batch.buffers[k], batch.codec)
		return b
	}
	p.validity, p.offsets, p.nulls, p.bit, p.last = nil, nil, 0, 0, 0
	p.nullsWanted, p.open = batch.nodes[p.node][1], true
	if p.nullsWanted < 0 || p.nullsWanted > rows {
		return badArrow("%d nulls in %d rows", p.nullsWanted, rows)
	}
	if v := stream(at); err == nil && v.left > 0 {
		p.validity = v
	}
	p.values = nil
	switch {
	case p.form == structForm:
		return err
	case p.views:
		p.values = stream(at + 1)
		return p.beginViews(batch, at+2, stream, err)
	case p.convert == nil:
		if p.offsets = stream(at + 1); p.form != listForm {
			p.values = stream(at + 2)
		}
		if err != nil || rows == 0 {
			return err
		}
		if err := p.firstOffset(); err != nil || p.values == nil {
			return err
		}
		return p.values.skip(p.last)
	}
	p.values = stream(at + 1)
	return err
}

// beginViews reads the buffers that views point into.
func (p *arrowPart) beginViews(batch *arrowBatch, at int, stream func(int) *arrowBuffer, err error) error {
	if err != nil {
		return err
	}
	if p.before >= len(batch.views) {
		return badArrow("no number of buffers for a column of views")
	}
	p.blobs = nil
	room := int64(maxPage)
	for k := range batch.views[p.before] {
		b := stream(at + int(k))
		if b == nil {
			return badArrow("no buffer %d for a column of views", k)
		}
		if room -= b.left; room < 0 {
			return notRead("batches with more than %d MiB of text in a column of views; write smaller ones", maxPage>>20)
		}
		blob := make([]byte, b.left)
		if err := b.read(blob); err != nil {
			return err
		}
		if err := b.end(); err != nil {
			return err
		}
		p.blobs = append(p.blobs, string(blob))
	}
	return nil
}

// read appends the next n cells.
func (p *arrowPart) read(dst *cells, n int) error {
	if err := p.readValidity(n); err != nil {
		return err
	}
	var err error
	begin := [3]int{len(dst.whole), len(dst.float), len(dst.text)}
	switch {
	case p.views:
		err = p.readViews(dst, n)
	case p.convert == nil:
		err = p.readTexts(dst, n)
	default:
		err = p.readFixed(dst, n)
	}
	if err != nil {
		return err
	}
	for i, d := range p.defined {
		switch {
		case d == 1:
		case p.kind == Text:
			dst.text[begin[2]+i] = ""
		case p.kind == Whole:
			dst.whole[begin[0]+i] = Null
		default:
			dst.float[begin[1]+i] = math.NaN()
		}
	}
	return nil
}

// readValidity sets defined: 1 where cells are not null; none without nulls.
func (p *arrowPart) readValidity(n int) error {
	p.defined = p.defined[:0]
	if p.validity == nil {
		return nil
	}
	for range n {
		if p.bit == 0 {
			var b [1]byte
			if err := p.validity.read(b[:]); err != nil {
				return err
			}
			p.bits, p.bit = b[0], 8
		}
		p.defined = append(p.defined, p.bits&1)
		p.nulls += int64(1 - p.bits&1)
		p.bits, p.bit = p.bits>>1, p.bit-1
	}
	return nil
}

// blank clears what is stored where cells are null, which may be anything.
func (p *arrowPart) blank(width int) {
	for i, d := range p.defined {
		if d == 0 {
			clear(p.raw[i*width : (i+1)*width])
		}
	}
}

func (p *arrowPart) readFixed(dst *cells, n int) error {
	p.raw = sized(p.raw, n*p.width)
	if err := p.values.read(p.raw); err != nil {
		return err
	}
	p.blank(p.width)
	return p.convert(dst, p.raw)
}

// readOffsets reads offsets of either width.
func (p *arrowPart) readOffsets(n int) ([]int64, error) {
	p.raw = sized(p.raw, n*p.width)
	if err := p.offsets.read(p.raw); err != nil {
		return nil, err
	}
	offsets := make([]int64, n)
	for i := range offsets {
		if p.width == 8 {
			offsets[i] = int64(le.Uint64(p.raw[8*i:]))
		} else {
			offsets[i] = int64(int32(le.Uint32(p.raw[4*i:])))
		}
	}
	return offsets, nil
}

// firstOffset is where the first row begins.
func (p *arrowPart) firstOffset() error {
	first, err := p.readOffsets(1)
	if err == nil {
		p.last = first[0]
	}
	if p.last < 0 {
		return fmt.Errorf("the offset %d", p.last)
	}
	return err
}

// nextOffsets are where the next n rows end.
func (p *arrowPart) nextOffsets(n int) ([]int64, error) {
	first := p.last
	offsets, err := p.readOffsets(n)
	if err != nil {
		return nil, err
	}
	for _, o := range offsets {
		if o < p.last || o-first > maxPage {
			return nil, fmt.Errorf("the offset %d comes after %d", o, p.last)
		}
		p.last = o
	}
	return offsets, nil
}

func (p *arrowPart) readTexts(dst *cells, n int) error {
	first := p.last
	offsets, err := p.nextOffsets(n)
	if err != nil {
		return err
	}
	b := make([]byte, p.last-first)
	if err := p.values.read(b); err != nil {
		return err
	}
	all := string(b)
	from := first
	for _, o := range offsets {
		dst.text = append(dst.text, all[from-first:o-first])
		from = o
	}
	return nil
}

// readViews reads cells that hold up to 12 bytes of text themselves, and longer ones by place.
func (p *arrowPart) readViews(dst *cells, n int) error {
	const width, inline = 16, 12
	p.raw = sized(p.raw, n*width)
	if err := p.values.read(p.raw); err != nil {
		return err
	}
	p.blank(width)
	all := string(p.raw)
	for i := range n {
		v := p.raw[i*width : (i+1)*width]
		size, blob, from := uint64(le.Uint32(v)), uint64(le.Uint32(v[8:])), uint64(le.Uint32(v[12:]))
		if size <= inline {
			dst.text = append(dst.text, all[i*width+4:i*width+4+int(size)])
			continue
		}
		if blob >= uint64(len(p.blobs)) || from+size > uint64(len(p.blobs[blob])) {
			return fmt.Errorf("text of %d bytes at %d of buffer %d, which is not there", size, from, blob)
		}
		text := p.blobs[blob][from : from+size]
		if text[:4] != string(v[4:8]) {
			return fmt.Errorf("the text %.20q does not begin with %q, as its view says", text, v[4:8])
		}
		dst.text = append(dst.text, text)
	}
	return nil
}

// end checks what only the end of a batch shows.
func (p *arrowPart) end() error {
	if !p.open {
		return nil
	}
	p.open = false
	if p.nulls != p.nullsWanted {
		return fmt.Errorf("it has %d empty cells, the metadata says %d", p.nulls, p.nullsWanted)
	}
	for i, b := range []*arrowBuffer{p.validity, p.offsets, p.values} {
		if b == nil {
			continue
		}
		isText := i == 2 && p.convert == nil && !p.views // of which a slice may be
		if b.left >= padding && !isText {
			return fmt.Errorf("%d bytes are left of a buffer after the last row", b.left)
		}
		if err := b.end(); err != nil {
			return err
		}
	}
	return nil
}

// padding is what writers round the length of a buffer up to.
const padding = 64

// arrowBuffer is a buffer of a batch, read once from its beginning.
type arrowBuffer struct {
	r    *bufio.Reader
	left int64 // bytes, unpacked
	done func()
}

const bufferSize = 32 << 10

// arrowWindow is how far back zstd may look: each column has a window of its own.
const arrowWindow = 8 << 20

// openBuffer reads the buffer at, compressed or not.
func openBuffer(file io.ReaderAt, at [2]int64, codec int8) (*arrowBuffer, error) {
	in := io.NewSectionReader(file, at[0], at[1]-at[0])
	plain := &arrowBuffer{r: bufio.NewReaderSize(in, bufferSize), left: in.Size()}
	if codec < 0 || in.Size() == 0 {
		return plain, nil
	}
	var size int64 // without compression
	if err := binary.Read(plain.r, le, &size); err != nil {
		return nil, io.ErrUnexpectedEOF
	}
	if size == -1 { // it was not worth it
		plain.left -= 8
		return plain, nil
	}
	if size < 0 {
		return nil, fmt.Errorf("a buffer of %d bytes", size)
	}
	switch codec {
	case 0:
		return &arrowBuffer{r: bufio.NewReaderSize(lz4.NewReader(plain.r), bufferSize), left: size}, nil
	case 1:
		z, err := zstd.NewReader(plain.r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(arrowWindow))
		if err != nil {
			return nil, err
		}
		return &arrowBuffer{r: bufio.NewReaderSize(z, bufferSize), left: size, done: z.Close}, nil
	}
	return nil, notRead("the compression %d", codec)
}

func (b *arrowBuffer) read(dst []byte) error {
	if int64(len(dst)) > b.left {
		return io.ErrUnexpectedEOF
	}
	b.left -= int64(len(dst))
	if _, err := io.ReadFull(b.r, dst); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	return nil
}

func (b *arrowBuffer) skip(n int64) error {
	if n < 0 || n > b.left {
		return io.ErrUnexpectedEOF
	}
	b.left -= n
	_, err := io.CopyN(io.Discard, b.r, n)
	return err
}

// end reads what is left, padding, and the checksum that a compressed buffer may end with.
func (b *arrowBuffer) end() error {
	if b.done != nil {
		defer b.done()
	}
	if err := b.skip(b.left); err != nil {
		return err
	}
	if _, err := b.r.ReadByte(); err != io.EOF {
		if err == nil {
			err = errUnpacked
		}
		return err
	}
	return nil
}
