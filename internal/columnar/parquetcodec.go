package columnar

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go/format"
	"github.com/pierrec/lz4/v4"
)

// codecs are decompressors that are used again.
type codecs struct {
	zstd   *zstd.Decoder
	gzip   *gzip.Reader
	brotli *brotli.Reader
}

var errUnpacked = errors.New("its unpacked size is not what its header says")

// unpack decompresses a page into s.plain. No codec can take more memory than
// the size that the header says, whatever the data.
func (s *scratch) unpack(codec format.CompressionCodec, packed []byte, size int) ([]byte, error) {
	if codec == format.Uncompressed {
		if len(packed) != size {
			return nil, errUnpacked
		}
		return packed, nil
	}
	if size == 0 && len(packed) == 0 {
		return nil, nil
	}
	s.plain = sized(s.plain, size)
	var n int
	var err error
	switch codec {
	case format.Snappy:
		if n, err = snappy.DecodedLen(packed); err == nil && n == size {
			_, err = snappy.Decode(s.plain, packed)
		}
	case format.Lz4Raw:
		n, err = lz4.UncompressBlock(packed, s.plain)
	case format.Zstd:
		n, err = s.codecs.unpackZstd(s.plain, packed)
	case format.Gzip:
		n, err = s.codecs.unpackGzip(s.plain, packed)
	case format.Brotli:
		if s.codecs.brotli == nil {
			s.codecs.brotli = new(brotli.Reader)
		}
		if err = s.codecs.brotli.Reset(bytes.NewReader(packed)); err == nil {
			n, err = readWhole(s.codecs.brotli, s.plain)
		}
	default:
		return nil, notRead("the compression %s", codec)
	}
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	if n != size {
		return nil, errUnpacked
	}
	return s.plain, nil
}

func (c *codecs) unpackZstd(dst, packed []byte) (int, error) {
	if c.zstd == nil {
		var err error
		if c.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderMaxMemory(maxPage)); err != nil {
			return 0, err
		}
	}
	out, err := c.zstd.DecodeAll(packed, dst[:0:len(dst)])
	return len(out), err
}

func (c *codecs) unpackGzip(dst, packed []byte) (n int, err error) {
	if c.gzip == nil {
		c.gzip = new(gzip.Reader)
	}
	if err := c.gzip.Reset(bytes.NewReader(packed)); err != nil {
		return 0, err
	}
	return readWhole(c.gzip, dst)
}

// readWhole reads up to the end, where checksums are compared.
func readWhole(r io.Reader, dst []byte) (int, error) {
	if n, err := io.ReadFull(r, dst); err != nil {
		return n, err
	}
	var more [1]byte
	switch n, err := io.ReadFull(r, more[:]); {
	case n > 0:
		return 0, errUnpacked
	case err != io.EOF:
		return 0, err
	}
	return len(dst), nil
}
