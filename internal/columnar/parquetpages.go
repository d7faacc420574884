package columnar

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/bits"
	"strings"
	"sync"

	"github.com/parquet-go/parquet-go/encoding/thrift"
	"github.com/parquet-go/parquet-go/format"

	"tokenfork/internal/failure"
)

// Bounds of what a file may take in memory.
const (
	maxPage = 64 << 20  // bytes of a page, unpacked
	maxHeld = 160 << 20 // bytes of the cells of one page of each column

	largePage = 4 << 20 // bytes of a page of which no two are decoded at once
)

const smallerGroups = "write the table with row groups of at most 1,000,000 rows"

// page is where a page of a column is, and its header.
type page struct {
	format.PageHeader
	number int // in the row group; 0 is the dictionary
	at     int64
}

// header gives what all types of pages have.
func (p *page) header() (rows int64, encoding format.Encoding) {
	switch p.Type {
	case format.DataPage:
		return int64(p.DataPageHeader.V.NumValues), p.DataPageHeader.V.Encoding
	case format.DataPageV2:
		return int64(p.DataPageHeaderV2.V.NumValues), p.DataPageHeaderV2.V.Encoding
	}
	return 0, p.DictionaryPageHeader.V.Encoding
}

// parquetColumn reads a column page by page.
type parquetColumn struct {
	*parquetFile
	leaf    *parquetNode
	decoder decoder

	group int                    // the row group at hand, -1 before the first
	chunk *format.ColumnMetaData // of the column in it
	pages []page                 // of it that are not read yet
	nulls int64                  // in it so far

	cells cells // of the page at hand
	at    int   // the next one
	rows  int
	held  [2]int64 // the dictionary's and the page's parts of parquetFile.held

	levels levels // of the page at hand, where the column is not flat
}

func (f *parquetFile) open(column int) (columnReader, error) {
	n := f.columns[column]
	if !n.flat() {
		return f.openNested(n)
	}
	return f.openLeaf(n), nil
}

func (f *parquetFile) openLeaf(n *parquetNode) *parquetColumn {
	return &parquetColumn{parquetFile: f, leaf: n, decoder: newDecoder(n, f.meta.CreatedBy), group: -1}
}

func (c *parquetColumn) read(dst *cells, n int) error {
	for n > 0 {
		if c.at == c.rows {
			if err := c.next(); err != nil {
				return err
			}
			continue
		}
		m := min(n, c.rows-c.at)
		dst.appendRange(&c.cells, c.leaf.Kind, c.at, c.at+m)
		c.at, n = c.at+m, n-m
	}
	return nil
}

// end checks the last row group that was read.
func (c *parquetColumn) end() error {
	if c.chunk == nil {
		return nil
	}
	if want := c.chunk.Statistics.NullCount; c.leaf.flat() && want != 0 && want != c.nulls {
		return c.place(nil, fmt.Errorf("it has %d empty cells, the footer says %d", c.nulls, want))
	}
	return nil
}

// next reads the next page, if need be the next row group's first.
func (c *parquetColumn) next() error {
	for len(c.pages) == 0 {
		if err := c.end(); err != nil {
			return err
		}
		c.group++
		if c.group == len(c.meta.RowGroups) {
			return badFooter("column %s has fewer rows than the file", c.leaf.Name)
		}
		if err := c.begin(); err != nil {
			return c.place(nil, err)
		}
	}
	p := &c.pages[0]
	c.pages = c.pages[1:]
	if err := c.load(p); err != nil {
		return c.place(p, err)
	}
	return nil
}

// place says in which column, row group and page something is wrong.
func (c *parquetColumn) place(p *page, err error) error {
	place := fmt.Sprintf("column %s, row group %d of %d", strings.Join(c.leaf.path, "."), c.group+1, len(c.meta.RowGroups))
	if p != nil {
		_, encoding := p.header()
		name := fmt.Sprint("page ", p.number)
		if p.number == 0 {
			name = "dictionary"
		}
		place += fmt.Sprintf(", %s at byte %d (%s, %s)", name, p.at, encoding, c.chunk.Codec)
	}
	if f := (*failure.Error)(nil); errors.As(err, &f) {
		return fmt.Errorf("%s: %w", place, err)
	}
	return failure.New(failure.Refused, writeAgain, "%s: the data is damaged: %w", place, err)
}

// begin finds the column's pages in a row group by going from header to header,
// and compares their rows with the row group's.
func (c *parquetColumn) begin() (err error) {
	var at, end int64
	if c.chunk, at, end, err = c.parquetFile.chunk(c.leaf, c.group); err != nil {
		return err
	}
	c.pages, c.nulls = c.pages[:0], 0
	if err := c.decoder.begin(c.chunk); err != nil {
		return err
	}
	want, rows := c.chunk.NumValues, int64(0) // as many as rows where the column is flat
	for number := 0; rows < want; {
		p, size, err := c.pageHeader(at)
		if err != nil {
			return fmt.Errorf("no page at byte %d, after %d of %d rows: %w", at, rows, want, err)
		}
		p.at = at + size
		switch p.Type {
		case format.DataPage, format.DataPageV2:
			number++
			p.number = number
		case format.DictionaryPage:
			if number > 0 || len(c.pages) > 0 {
				return fmt.Errorf("there is a second dictionary at byte %d", at)
			}
		default:
			return fmt.Errorf("an unknown type of page, %s, at byte %d", p.Type, at)
		}
		n, _ := p.header()
		rows += n
		at = p.at + int64(p.CompressedPageSize)
		if err := p.check(c.leaf.flat(), c.maxPage); err != nil {
			return err
		}
		c.pages = append(c.pages, *p)
	}
	if rows != want || at != end && want > 0 {
		return fmt.Errorf("its pages have %d values and end at byte %d; the footer says %d values and byte %d", rows, at, want, end)
	}
	return nil
}

// pageHeader reads the header of the page that begins at.
func (c *parquetColumn) pageHeader(at int64) (p *page, size int64, err error) {
	for room := int64(512); ; room *= 16 {
		b, err := readAt(c.r, at, min(room, c.size-at))
		if err != nil {
			return nil, 0, err
		}
		n, err := thriftSize(b)
		if err == io.ErrUnexpectedEOF && room < maxMetadata/16 && int64(len(b)) == room {
			continue // the header holds long statistics
		}
		if err != nil {
			return nil, 0, err
		}
		p = new(page)
		var protocol thrift.CompactProtocol
		if err := thrift.NewDecoder(protocol.NewReaderFromBytes(b[:n])).Decode(&p.PageHeader); err != nil {
			return nil, 0, err
		}
		return p, int64(n), nil
	}
}

// check refuses headers that cannot be, and pages that are too large.
func (p *page) check(flat bool, most int64) error {
	rows, _ := p.header()
	valid := p.DataPageHeader.Valid && p.Type == format.DataPage || p.DataPageHeaderV2.Valid && p.Type == format.DataPageV2 || p.DictionaryPageHeader.Valid && p.Type == format.DictionaryPage
	if v := p.DataPageHeaderV2.V; p.Type == format.DataPageV2 {
		levels := int64(v.RepetitionLevelsByteLength) + int64(v.DefinitionLevelsByteLength)
		valid = valid && min(v.RepetitionLevelsByteLength, v.DefinitionLevelsByteLength, v.NumNulls) >= 0 && levels <= int64(min(p.CompressedPageSize, p.UncompressedPageSize)) && (!flat || v.NumRows == v.NumValues) && v.NumNulls <= v.NumValues
	}
	if !valid || rows < 0 || p.CompressedPageSize < 0 || p.UncompressedPageSize < 0 || p.DictionaryPageHeader.V.NumValues < 0 {
		return fmt.Errorf("the header of the page at byte %d makes no sense", p.at)
	}
	if size := max(p.UncompressedPageSize, p.CompressedPageSize); int64(size) > most {
		return failure.New(failure.Refused, smallerGroups+"; if it has, fetch it again: it is damaged", "the page at byte %d has %d MiB, more than %d", p.at, size>>20, most>>20)
	}
	return nil
}

// hold counts the memory that a page's cells take, or a dictionary's, of all columns together.
func (c *parquetColumn) hold(held *int64, rows int64, p *page) error {
	size := rows * 8
	if c.leaf.Kind == Text {
		size = rows*16 + int64(p.UncompressedPageSize)
	}
	before := *held
	*held = size
	if c.parquetFile.held.Add(size-before) > maxHeld {
		return failure.New(failure.Refused, smallerGroups+" (DuckDB: ROW_GROUP_SIZE, pandas with fastparquet: row_group_offsets, pyarrow and polars: row_group_size)",
			"the page has %d rows; the pages of all columns would take more than %d MiB", rows, maxHeld>>20)
	}
	return nil
}

// scratch is what a page needs while it is decoded.
type scratch struct {
	packed, plain []byte
	rep, def      []byte
	levels        levels // of the page at hand, in rep and def
	indexes       []uint32
	codecs        codecs
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// load reads a page: a dictionary, or the cells of rows.
func (c *parquetColumn) load(p *page) error {
	s := scratches.Get().(*scratch)
	if rows, _ := p.header(); max(rows*4, int64(p.CompressedPageSize), int64(p.UncompressedPageSize)) > largePage {
		c.large.Lock() // one at a time, whatever the number of processors
		defer c.large.Unlock()
	} else {
		defer scratches.Put(s)
	}
	s.packed = sized(s.packed, int(p.CompressedPageSize))
	if n, err := c.r.ReadAt(s.packed, p.at); n < len(s.packed) {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	if p.CRC == 0 {
		c.bare.Store(true)
	} else if sum := crc32.ChecksumIEEE(s.packed); uint32(p.CRC) != sum {
		return fmt.Errorf("its checksum is %08x, the header says %08x", sum, uint32(p.CRC))
	}
	if p.Type == format.DictionaryPage {
		if err := c.hold(&c.held[0], int64(p.DictionaryPageHeader.V.NumValues), p); err != nil {
			return err
		}
		data, err := s.unpack(c.chunk.Codec, s.packed, int(p.UncompressedPageSize))
		if err != nil {
			return err
		}
		return c.decoder.dictionary(data, int(p.DictionaryPageHeader.V.NumValues))
	}
	rows, encoding := p.header()
	if err := c.hold(&c.held[1], rows, p); err != nil {
		return err
	}
	data, err := c.split(s, p)
	if err != nil {
		return err
	}
	present := int(rows)
	if s.levels.def != nil {
		present = s.levels.present(c.leaf.def)
	}
	c.cells.reset()
	c.at, c.rows = 0, 0
	if err := c.decoder.decode(&c.cells, s, encoding, data, present); err != nil {
		return err
	}
	switch {
	case !c.leaf.flat():
		c.levels.def, c.levels.rep = append(c.levels.def[:0], s.levels.def...), append(c.levels.rep[:0], s.levels.rep...)
	case present < int(rows):
		c.cells.spread(c.leaf.Kind, s.levels.def)
	}
	c.nulls += rows - int64(present)
	c.rows = int(rows)
	return nil
}

// levels say of each value how much of its path is there, and of which list it
// goes on; nil where all is there, and where there are no lists.
type levels struct{ def, rep []byte }

func (l *levels) present(def int) (n int) {
	for _, d := range l.def {
		if int(d) == def {
			n++
		}
	}
	return n
}

// split unpacks a data page, reads its levels into s.levels, and gives its values.
func (c *parquetColumn) split(s *scratch, p *page) (data []byte, err error) {
	n, _ := p.header()
	defer func() {
		if s.levels.def != nil && s.levels.present(c.leaf.def) == int(n) {
			s.levels.def = nil
		}
	}()
	if p.Type == format.DataPage {
		if data, err = s.unpack(c.chunk.Codec, s.packed, int(p.UncompressedPageSize)); err != nil {
			return nil, err
		}
		if s.levels.rep, data, err = s.prefixed(&s.rep, data, int(n), c.leaf.rep, p.DataPageHeader.V.RepetitionLevelEncoding); err != nil {
			return nil, err
		}
		s.levels.def, data, err = s.prefixed(&s.def, data, int(n), c.leaf.def, p.DataPageHeader.V.DefinitionLevelEncoding)
		return data, err
	}
	h := p.DataPageHeaderV2.V
	from := h.RepetitionLevelsByteLength
	to := from + h.DefinitionLevelsByteLength
	if s.levels.rep, err = s.runs(&s.rep, s.packed[:from], int(n), c.leaf.rep); err != nil {
		return nil, err
	}
	if s.levels.def, err = s.runs(&s.def, s.packed[from:to], int(n), c.leaf.def); err != nil {
		return nil, err
	}
	nulls := int64(0)
	if s.levels.def != nil {
		nulls = n - int64(s.levels.present(c.leaf.def))
	}
	if c.leaf.flat() && nulls != int64(h.NumNulls) {
		return nil, fmt.Errorf("%d empty cells, the header says %d", nulls, h.NumNulls)
	}
	codec := c.chunk.Codec
	if h.IsCompressed.Valid && !h.IsCompressed.V {
		codec = format.Uncompressed
	}
	return s.unpack(codec, s.packed[to:], int(p.UncompressedPageSize-to))
}

// prefixed reads levels that follow their length, as pages of version 1 have them.
func (s *scratch) prefixed(dst *[]byte, data []byte, n, most int, encoding format.Encoding) (all, rest []byte, err error) {
	if most == 0 {
		return nil, data, nil
	}
	if encoding != format.RLE {
		return nil, nil, notRead("levels of the encoding %s", encoding)
	}
	if len(data) < 4 {
		return nil, nil, io.ErrUnexpectedEOF
	}
	size := uint64(le.Uint32(data))
	if size > uint64(len(data)-4) {
		return nil, nil, io.ErrUnexpectedEOF
	}
	all, err = s.runs(dst, data[4:4+size], n, most)
	return all, data[4+size:], err
}

// runs decodes n levels from 0 to most into dst; nil if there can be but one.
func (s *scratch) runs(dst *[]byte, b []byte, n, most int) ([]byte, error) {
	if most == 0 {
		return nil, nil
	}
	s.indexes = sized(s.indexes, n)
	if err := hybrid(s.indexes, b, uint(bits.Len(uint(most)))); err != nil {
		return nil, fmt.Errorf("levels: %w", err)
	}
	*dst = sized(*dst, n)
	for i, v := range s.indexes {
		if v > uint32(most) {
			return nil, fmt.Errorf("a level of %d, want at most %d", v, most)
		}
		(*dst)[i] = byte(v)
	}
	return *dst, nil
}

// sized gives a slice of n elements, reusing s.
func sized[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}

func notRead(text string, args ...any) error {
	return failure.New(failure.Refused, "write the table again, for example by pandas: to_parquet(compression='zstd')", "tokenfork does not read "+text, args...)
}
