package job

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
)

// A sealed object is an Arrow stream followed by "\nsha256:" and the hash of
// the stream in 64 hex digits. Readers of streams stop before the seal. It is
// checked before anything is decoded: Arrow decoders trust what they read.
const sealMark = "\nsha256:"

// sealer writes an object that ends in its seal.
type sealer struct {
	w io.Writer
	h hash.Hash
}

func newSealer(w io.Writer) *sealer { return &sealer{w, sha256.New()} }

func (s *sealer) Write(p []byte) (int, error) {
	s.h.Write(p)
	return s.w.Write(p)
}

// seal ends the object and gives its hash.
func (s *sealer) seal() (sum string, err error) {
	sum = hex.EncodeToString(s.h.Sum(nil))
	_, err = io.WriteString(s.w, sealMark+sum)
	return sum, err
}

// unseal checks a sealed object and gives what is in it, with its hash.
func unseal(b []byte) (body []byte, sum string, err error) {
	at := len(b) - len(sealMark) - 2*sha256.Size
	if at < 0 || !bytes.HasPrefix(b[at:], []byte(sealMark)) {
		return nil, "", fmt.Errorf("truncated: %d bytes without a sha256 at the end", len(b))
	}
	sum = Sum(b[:at])
	if said := string(b[at+len(sealMark):]); said != sum {
		return nil, "", fmt.Errorf("sha256 is %s, it says %s", sum, said)
	}
	return b[:at], sum, nil
}
