package job

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
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

// CheckSeal says what is wrong with a manifest or part, by its seal alone.
func CheckSeal(b []byte) error {
	_, _, err := unseal(b)
	return err
}

// A sealed JSON object ends in a field with the hash of the text before it.
const sumField = ",\n \"sha256\": \""

// SealJSON encodes v, an object with at least one field, with its seal.
func SealJSON(v any) ([]byte, error) {
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return nil, err
	}
	return withSum(bytes.TrimSuffix(b, []byte("\n}"))), nil
}

func withSum(body []byte) []byte { return fmt.Appendf(nil, "%s%s%s\"\n}\n", body, sumField, Sum(body)) }

// OpenJSON checks an object that SealJSON wrote and decodes it into v.
func OpenJSON(b []byte, v any) error {
	if err := CheckJSON(b); err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

// CheckJSON says what is wrong with an object that SealJSON wrote.
func CheckJSON(b []byte) error {
	at := bytes.LastIndex(b, []byte(sumField))
	if at < 0 {
		return fmt.Errorf("truncated: %d bytes without a sha256 at the end", len(b))
	}
	if sealed := withSum(b[:at]); !bytes.Equal(b, sealed) {
		return fmt.Errorf("sha256 is %s, it says otherwise", Sum(b[:at]))
	}
	return nil
}
