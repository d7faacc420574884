package shard

import (
	"bufio"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
)

// spool keeps texts, as manifests will have them, in a temporary file until
// they can be balanced over shards.
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

// announce says how large the spool will be; rows may be 0 if the number is not known.
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
		return 0, sp.unwritten(err)
	}
	return at, nil
}

func (sp *spool) flush() error {
	if err := sp.w.Flush(); err != nil {
		return sp.unwritten(err)
	}
	return nil
}

func (sp *spool) unwritten(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return failure.New(failure.Stopped, fmt.Sprintf("give a folder with more room by --tmp (about %d bytes a row), then plan again", rowBytes),
			"disk full at %s after %d MiB; nothing is planned: %w", sp.file.Name(), sp.size>>20, err)
	}
	return fmt.Errorf("write the spool %s: %w", sp.file.Name(), err)
}

// read gives a text back. It may be called from many goroutines.
func (sp *spool) read(at int64, size int) ([]byte, error) {
	packed := make([]byte, size)
	if _, err := sp.file.ReadAt(packed, at); err != nil {
		return nil, fmt.Errorf("read the spool %s: %w", sp.file.Name(), err)
	}
	return packed, nil
}

func (sp *spool) remove() {
	sp.file.Close()
	os.Remove(sp.file.Name())
}

// measuresOf are the text's measures in the order of job.Measures.
func measuresOf(s *job.Text) [6]*[]float64 {
	return [6]*[]float64{&s.SmallEntropy, &s.SmallAU, &s.SmallEU, &s.ReferenceEntropy, &s.ReferenceAU, &s.ReferenceEU}
}
