package shard

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/klauspost/compress/zstd"

	"tokenfork/internal/job"
)

// spool keeps sentences in a temporary file until they can be balanced over shards.
type spool struct {
	file *os.File
	w    *bufio.Writer
	size int64
}

func newSpool(tmp string) (*spool, error) {
	f, err := os.CreateTemp(tmp, "tokenfork-spool-*")
	if err != nil {
		return nil, fmt.Errorf("create the spool: %w", err)
	}
	return &spool{file: f, w: bufio.NewWriterSize(f, 1<<20)}, nil
}

// rowBytes is about what a row takes in the spool.
const rowBytes = 10

// announce says how large the spool will be; rows may be 0, if nobody knows.
func (sp *spool) announce(log *slog.Logger, rows int64) {
	dir := filepath.Dir(sp.file.Name())
	free := "unknown"
	var st syscall.Statfs_t
	if syscall.Statfs(dir, &st) == nil {
		free = mebibytes(int64(st.Bavail) * int64(st.Bsize))
	}
	if rows == 0 {
		log.Info("tokens wait in a temporary file", "folder", dir, "bytes per row, about", rowBytes, "free", free)
		return
	}
	log.Info("tokens wait in a temporary file", "folder", dir, "about", mebibytes(rows*rowBytes), "free", free)
}

func mebibytes(n int64) string { return fmt.Sprintf("%d MiB", n>>20) }

// add appends a sentence and says where it is.
func (sp *spool) add(packed []byte) (at int64, err error) {
	at = sp.size
	sp.size += int64(len(packed))
	if _, err := sp.w.Write(packed); err != nil {
		return 0, fmt.Errorf("write the spool %s: %w", sp.file.Name(), err)
	}
	return at, nil
}

func (sp *spool) flush() error {
	if err := sp.w.Flush(); err != nil {
		return fmt.Errorf("write the spool %s: %w", sp.file.Name(), err)
	}
	return nil
}

// read gives a sentence back. It may be called from many goroutines.
func (sp *spool) read(at int64, size int) (*job.Sentence, error) {
	packed := make([]byte, size)
	if _, err := sp.file.ReadAt(packed, at); err != nil {
		return nil, fmt.Errorf("read the spool %s: %w", sp.file.Name(), err)
	}
	plain, err := unpacker.DecodeAll(packed, nil)
	if err != nil {
		return nil, fmt.Errorf("read the spool %s: %w", sp.file.Name(), err)
	}
	s, err := decode(plain)
	if err != nil {
		return nil, fmt.Errorf("read the spool %s: %w", sp.file.Name(), err)
	}
	return s, nil
}

func (sp *spool) remove() {
	sp.file.Close()
	os.Remove(sp.file.Name())
}

var packers = sync.Pool{New: func() any {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	if err != nil {
		panic(err) // the options are wrong
	}
	return e
}}

var unpacker, _ = zstd.NewReader(nil) // only options can fail

// pack compresses a sentence for the spool.
func pack(plain, dst []byte) []byte {
	e := packers.Get().(*zstd.Encoder)
	defer packers.Put(e)
	return e.EncodeAll(plain, dst[:0])
}

// encode writes a sentence in a form that depends on its content alone: it is
// what the fingerprint of the input is over. Predictions are kept as their
// difference from the real token, which is mostly 0.
func encode(dst []byte, s *job.Sentence) []byte {
	dst = binary.AppendVarint(dst, s.Ordinal)
	dst = binary.AppendUvarint(dst, uint64(len(s.ID)))
	dst = append(dst, s.ID...)
	n := len(s.Real)
	dst = binary.AppendUvarint(dst, uint64(n))
	dst = appendRowIDs(dst, s.RowIDs)
	dst = appendIDs(dst, s.Real)
	dst = appendDifferences(dst, s.SmallPredictions, s.Real)
	dst = appendDifferences(dst, s.ReferencePredictions, s.Real)
	dst = binary.AppendUvarint(dst, uint64(len(s.TokenType)))
	dst = appendRuns(dst, s.TokenType)
	dst = binary.AppendUvarint(dst, uint64(len(s.Mismatches)))
	last := int32(0)
	for _, p := range s.Mismatches {
		dst = binary.AppendUvarint(dst, uint64(p-last))
		last = p
	}
	for _, m := range measuresOf(s) {
		for _, v := range *m {
			dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(v))
		}
	}
	return dst
}

// measuresOf are the sentence's measures in the order of job.Measures.
func measuresOf(s *job.Sentence) [6]*[]float64 {
	return [6]*[]float64{&s.SmallEntropy, &s.SmallAU, &s.SmallEU, &s.ReferenceEntropy, &s.ReferenceAU, &s.ReferenceEU}
}

// appendRowIDs writes runs of consecutive ids: mostly one.
func appendRowIDs(dst []byte, ids []int64) []byte {
	for i := 0; i < len(ids); {
		first := i
		for i++; i < len(ids) && ids[i] == ids[i-1]+1; i++ {
		}
		dst = binary.AppendUvarint(dst, uint64(i-first))
		dst = binary.AppendUvarint(dst, uint64(ids[first]))
	}
	return dst
}

func appendIDs(dst []byte, ids []int32) []byte {
	for _, v := range ids {
		dst = binary.LittleEndian.AppendUint32(dst, uint32(v))
	}
	return dst
}

func appendDifferences(dst []byte, predictions, real []int32) []byte {
	for q, v := range predictions[:len(real)] {
		dst = binary.LittleEndian.AppendUint32(dst, uint32(v-real[q]))
	}
	return binary.LittleEndian.AppendUint32(dst, uint32(predictions[len(real)]))
}

func appendRuns(dst []byte, values []int32) []byte {
	for i := 0; i < len(values); {
		first := i
		for i++; i < len(values) && values[i] == values[i-1]; i++ {
		}
		dst = binary.AppendUvarint(dst, uint64(i-first))
		dst = binary.AppendVarint(dst, int64(values[first]))
	}
	return dst
}

// decoder takes an encoded sentence apart; a short one ends in err.
type decoder struct {
	b   []byte
	err error
}

func decode(b []byte) (*job.Sentence, error) {
	d := &decoder{b: b}
	s := &job.Sentence{Ordinal: d.varint()}
	s.ID = string(d.bytes(int(d.uvarint())))
	n := int(d.uvarint())
	s.RowIDs = d.rowIDs(n)
	s.Real = d.ids(n)
	s.SmallPredictions = d.differences(s.Real)
	s.ReferencePredictions = d.differences(s.Real)
	s.TokenType = d.runs(int(d.uvarint()))
	s.Mismatches = make([]int32, d.uvarint())
	last := int32(0)
	for i := range s.Mismatches {
		last += int32(d.uvarint())
		s.Mismatches[i] = last
	}
	for _, m := range measuresOf(s) {
		*m = make([]float64, len(s.Mismatches))
		for i := range *m {
			(*m)[i] = math.Float64frombits(binary.LittleEndian.Uint64(d.bytes(8)))
		}
	}
	return s, d.err
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.err = io.ErrUnexpectedEOF
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.err = io.ErrUnexpectedEOF
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) bytes(n int) []byte {
	if n > len(d.b) {
		d.err = io.ErrUnexpectedEOF
		return make([]byte, n)
	}
	b := d.b[:n]
	d.b = d.b[n:]
	return b
}

func (d *decoder) rowIDs(n int) []int64 {
	ids := make([]int64, 0, n)
	for len(ids) < n && d.err == nil {
		run, first := int(d.uvarint()), int64(d.uvarint())
		for i := range run {
			ids = append(ids, first+int64(i))
		}
	}
	return ids
}

func (d *decoder) ids(n int) []int32 {
	ids, b := make([]int32, n), d.bytes(4*n)
	for i := range ids {
		ids[i] = int32(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return ids
}

func (d *decoder) differences(real []int32) []int32 {
	ids := d.ids(len(real) + 1)
	for q, v := range real {
		ids[q] += v
	}
	return ids
}

func (d *decoder) runs(n int) []int32 {
	if n == 0 {
		return nil
	}
	values := make([]int32, 0, n)
	for len(values) < n && d.err == nil {
		run, v := int(d.uvarint()), int32(d.varint())
		for range run {
			values = append(values, v)
		}
	}
	return values
}
