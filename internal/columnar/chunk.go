package columnar

import (
	"encoding/binary"
	"hash/crc32"
	"math/bits"

	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/apache/arrow/go/v15/parquet"
	"github.com/apache/arrow/go/v15/parquet/metadata"
	"github.com/apache/arrow/go/v15/parquet/schema"
	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go/encoding/thrift"
	"github.com/parquet-go/parquet-go/format"
)

const (
	levelsAtOnce = 1024    // after so many the size of a page is checked
	pageSize     = 1 << 20 // at which a page ends
	maxStatistic = 4096    // bytes of a smallest or largest value that is kept
)

// chunk encodes one column of a row group as the Arrow library's writer does, in the
// same bytes and a quarter of the time: the library makes a new compressor for every
// page, and goes through every value several times. Three things differ. Pages have
// checksums. They begin where rows do, as version 2 demands; and statistics count a
// list's values also where a batch has as many null lists as values.
type chunk struct {
	codec
	descr   *schema.Column
	z       *zstd.Encoder
	memo    memo
	indices []uint32 // of the open page's values in memo
	levels  int      // of the open page
	rle     rle
	scratch []byte // what is to be compressed
	page    metadata.TypedStatistics
	all     metadata.TypedStatistics

	// What the chunk is so far.
	dictionary []byte // its page
	pages      []byte
	count      int32 // of pages
	info       metadata.ChunkMetaInfo
	statistics metadata.EncodedStatistics
}

func newChunk(c codec, descr *schema.Column, z *zstd.Encoder) *chunk {
	return &chunk{codec: c, descr: descr, z: z}
}

// encode makes the chunk that of the first rows of v.
func (k *chunk) encode(v *values, rows int) error {
	k.memo.reset()
	k.page, k.all = metadata.NewStatistics(k.descr, memory.DefaultAllocator), metadata.NewStatistics(k.descr, memory.DefaultAllocator)
	k.dictionary, k.pages, k.count, k.info = k.dictionary[:0], k.pages[:0], 0, metadata.ChunkMetaInfo{IndexPageOffset: -1}
	from := 0 // of the open page
	for row := 0; row < rows; {
		to := k.batch(v, row, rows)
		k.put(v, row, to)
		if row = to; k.estimate() >= pageSize {
			if err := k.flush(v, from, row); err != nil {
				return err
			}
			from = row
		}
	}
	if k.levels > 0 {
		if err := k.flush(v, from, rows); err != nil {
			return err
		}
	}
	if k.of != boolKind {
		if err := k.writeDictionary(); err != nil {
			return err
		}
	}
	var err error
	k.statistics, err = k.encoded(k.all)
	return err
}

// batch is the row up to which values are taken before the page's size is checked.
func (k *chunk) batch(v *values, row, rows int) int {
	if !k.list {
		k.levels += min(levelsAtOnce, rows-row)
		return min(row+levelsAtOnce, rows)
	}
	n := 0
	for to := row; to < rows; to++ {
		size := max(1, int(v.offsets[to+1]-v.offsets[to]))
		if n > 0 && n+size > levelsAtOnce {
			k.levels += n
			return to
		}
		n += size
	}
	k.levels += n
	return rows
}

// put numbers the values of rows.
func (k *chunk) put(v *values, from, to int) {
	switch {
	case k.list && k.of == textKind:
		for i := v.offsets[from]; i < v.offsets[to]; i++ {
			k.indices = append(k.indices, k.memo.text(v.data[v.inner[i]:v.inner[i+1]]))
		}
	case k.list:
		k.putNumbers(v, int(v.offsets[from]), int(v.offsets[to]), nil)
	case k.isText():
		for row := from; row < to; row++ {
			if v.isValid(row) {
				k.indices = append(k.indices, k.memo.text(v.data[v.offsets[row]:v.offsets[row+1]]))
			}
		}
	case k.of == boolKind: // has no dictionary
	default:
		k.putNumbers(v, from, to, v.nulls())
	}
}

func (k *chunk) putNumbers(v *values, from, to int, valid []byte) {
	for i := from; i < to; i++ {
		if valid != nil && valid[i] == 0 {
			continue
		}
		var n uint64
		switch {
		case k.of == int32Kind:
			n = uint64(binary.LittleEndian.Uint32(v.data[4*i:]))
		case k.of == float64Kind:
			n = floatBits(cast[float64](v.data)[i])
		default:
			n = binary.LittleEndian.Uint64(v.data[8*i:])
		}
		k.indices = append(k.indices, k.memo.number(n))
	}
}

// width is that of an index at present, in bits.
func (k *chunk) width() int {
	if k.memo.n == 1 {
		return 1
	}
	return bits.Len(uint(max(0, k.memo.n-1)))
}

// estimate is the largest size that the open page's values can have, as the library has it.
func (k *chunk) estimate() int {
	if k.of == boolKind {
		return 0 // a bit each
	}
	width, groups := k.width(), (len(k.indices)+7)/8
	repeated := 1 + (width+7)/8
	return 1 + max(groups*(1+width), groups*repeated) + max(1+width, repeated)
}

// flush writes the page of rows.
func (k *chunk) flush(v *values, from, to int) error {
	nulls := k.see(v, from, to)
	body := k.scratch[:0]
	if k.of == boolKind {
		body = appendBits(body, v, from, to)
	} else {
		k.rle.begin(append(body, byte(k.width())), k.width())
		k.rle.putAll(k.indices)
		body = k.rle.end()
	}
	k.scratch = body
	var page []byte
	repetition, definition := 0, 0
	if k.list {
		page = k.appendRepetition(page, v, from, to)
		repetition = len(page)
	}
	if k.nullable() {
		page = k.appendDefinition(page, v, from, to)
		definition = len(page) - repetition
	}
	page = k.z.EncodeAll(body, page)
	said, err := k.encoded(k.page)
	if err != nil {
		return err
	}
	k.all.Merge(k.page)
	k.page.Reset()
	before, size := len(k.pages), repetition+definition+len(body)
	k.pages, err = appendPage(k.pages, page, format.PageHeader{Type: format.DataPageV2, UncompressedPageSize: int32(size), DataPageHeaderV2: thrift.New(format.DataPageHeaderV2{
		NumValues: int32(k.levels), NumNulls: int32(nulls), NumRows: int32(to - from), Encoding: format.Encoding(k.encoding()),
		DefinitionLevelsByteLength: int32(definition), RepetitionLevelsByteLength: int32(repetition), Statistics: pageStatistics(said)})}) // compressed, by default
	written := len(k.pages) - before
	k.count++
	k.info.NumValues += int64(k.levels)
	k.info.CompressedSize += int64(written)
	k.info.UncompressedSize += int64(size + written - len(page))
	k.indices, k.levels = k.indices[:0], 0
	return err
}

// appendPage appends a page with its header, to which it adds size and checksum.
func appendPage(dst, page []byte, head format.PageHeader) ([]byte, error) {
	head.CompressedPageSize, head.CRC = int32(len(page)), int32(crc32.ChecksumIEEE(page))
	b, err := thrift.Marshal(new(thrift.CompactProtocol), head)
	return append(append(dst, b...), page...), err
}

// pageStatistics are statistics as a page's header has them.
func pageStatistics(said metadata.EncodedStatistics) (s format.Statistics) {
	s.NullCount, s.DistinctCount = said.NullCount, said.DistinctCount
	if said.HasMin {
		s.MinValue = append([]byte{}, said.Min...) // an empty text is a value
	}
	if said.HasMax {
		s.MaxValue = append([]byte{}, said.Max...)
	}
	if said.Signed {
		s.Min, s.Max = s.MinValue, s.MaxValue
	}
	return s
}

func (k *chunk) encoding() parquet.Encoding {
	if k.of == boolKind {
		return parquet.Encodings.Plain
	}
	return parquet.Encodings.RLEDict
}

// encoded are statistics as they are written.
func (k *chunk) encoded(s metadata.TypedStatistics) (metadata.EncodedStatistics, error) {
	said, err := s.Encode()
	said.ApplyStatSizeLimits(maxStatistic)
	said.Signed = k.descr.SortOrder() == schema.SortSIGNED
	return said, err
}

// appendRepetition appends the levels that say where lists begin.
func (k *chunk) appendRepetition(dst []byte, v *values, from, to int) []byte {
	k.rle.begin(dst, 1)
	for row := from; row < to; row++ {
		k.rle.put(0)
		k.rle.repeat(1, int(v.offsets[row+1]-v.offsets[row])-1)
	}
	return k.rle.end()
}

// appendDefinition appends the levels that tell null, empty and elements apart. An
// element may be null, too, in the files that the library writes: that takes a level.
func (k *chunk) appendDefinition(dst []byte, v *values, from, to int) []byte {
	if !k.list {
		k.rle.begin(dst, 1)
		if valid := v.nulls(); valid != nil {
			for _, x := range valid[from:to] {
				k.rle.put(uint32(x))
			}
		} else {
			k.rle.repeat(1, to-from)
		}
		return k.rle.end()
	}
	k.rle.begin(dst, 2)
	for row := from; row < to; row++ {
		switch n := int(v.offsets[row+1] - v.offsets[row]); {
		case n > 0:
			k.rle.repeat(3, n)
		case v.isValid(row):
			k.rle.put(1)
		default:
			k.rle.put(0)
		}
	}
	return k.rle.end()
}

func appendBits(dst []byte, v *values, from, to int) []byte {
	n := 0
	for row := from; row < to; row++ {
		if !v.isValid(row) {
			continue
		}
		if n%8 == 0 {
			dst = append(dst, 0)
		}
		dst[len(dst)-1] |= v.data[row] << (n % 8)
		n++
	}
	return dst
}

// writeDictionary makes the page of the chunk's distinct values.
func (k *chunk) writeDictionary() (err error) {
	k.scratch = k.memo.appendPlain(k.scratch[:0], k.of)
	body := k.z.EncodeAll(k.scratch, nil)
	k.dictionary, err = appendPage(k.dictionary, body, format.PageHeader{Type: format.DictionaryPage, UncompressedPageSize: int32(len(k.scratch)),
		DictionaryPageHeader: thrift.New(format.DictionaryPageHeader{NumValues: int32(k.memo.n), Encoding: format.Plain})})
	k.info.CompressedSize += int64(len(k.dictionary))
	k.info.UncompressedSize += int64(len(k.dictionary) - len(body) + len(k.scratch))
	return err
}

// finish says in the file's metadata where the chunk is, if it begins at a place in the file.
func (k *chunk) finish(m *metadata.ColumnChunkMetaDataBuilder, at int64) error {
	info, said := k.info, metadata.EncodingStats{DictEncodingStats: map[parquet.Encoding]int32{}, DataEncodingStats: map[parquet.Encoding]int32{}}
	if len(k.dictionary) > 0 {
		info.DictPageOffset = at
		said.DictEncodingStats[parquet.Encodings.Plain] = 1
	}
	if k.count > 0 {
		info.DataPageOffset = at + int64(len(k.dictionary))
		said.DataEncodingStats[k.encoding()] = k.count
		if k.statistics.IsSet() {
			m.SetStats(k.statistics)
		}
	}
	return m.Finish(info, len(k.dictionary) > 0, false, said, nil)
}
