package model

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"tokenfork/internal/regular"
)

// Fingerprint identifies a model wherever its folder lies: sha256s in hex. Two are
// compared by ==.
type Fingerprint struct {
	Config    string `json:"config"`            // of config.json
	Weights   string `json:"weights,omitempty"` // of the safetensors index, else of the headers; empty without both
	Tokenizer string `json:"tokenizer"`         // of tokenizer.json
}

// Fingerprint identifies the model. The weights themselves are not read.
func (m *Model) Fingerprint() Fingerprint { return m.sums }

// Diff has a line for each part in which found is not the planned one.
func (f Fingerprint) Diff(found Fingerprint) []string {
	var lines []string
	for _, part := range []struct{ name, planned, found string }{
		{"config.json", f.Config, found.Config},
		{"weights", f.Weights, found.Weights},
		{"tokenizer.json", f.Tokenizer, found.Tokenizer},
	} {
		if part.planned != part.found {
			lines = append(lines, fmt.Sprintf("%s: planned %s, found %s", part.name, short(part.planned), short(part.found)))
		}
	}
	return lines
}

// String shows the beginnings of the sums.
func (f Fingerprint) String() string {
	return fmt.Sprintf("config.json %s, weights %s, tokenizer.json %s", short(f.Config), short(f.Weights), short(f.Tokenizer))
}

func short(sum string) string {
	if sum == "" {
		return "none"
	}
	return sum[:min(12, len(sum))]
}

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

func fileSum(path string) (string, error) {
	data, err := regular.Read(path)
	if err != nil {
		return "", err
	}
	return sum(data), nil
}
