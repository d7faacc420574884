package job

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// Sample says which of the table's texts with mismatches a job holds: those of the lowest
// SampleRank, so that each is in with the probability Texts/OfTexts, and a larger sample has
// all texts of a smaller one.
type Sample struct {
	Texts        int64        `json:"texts"`         // in the shards
	OfTexts      int64        `json:"of_texts"`      // of the table, with mismatches
	OfMismatches int64        `json:"of_mismatches"` // of the table
	HighestRank  string       `json:"highest_rank"`  // of a text that is in; 16 hex digits
	Steps        []SampleStep `json:"steps"`         // how it came about
}

// SampleStep is a planning, or a growth: texts and shards that there were after it.
type SampleStep struct {
	Texts  int64 `json:"texts"`
	Shards int   `json:"shards"`
}

// SampleRank places a text in the order in which samples take texts: the first 8 bytes of
// the sha256 of "sample " and its sentence_id. Nothing else of the table plays a part.
func SampleRank(id string) uint64 {
	h := sha256.Sum256([]byte("sample " + id))
	return binary.BigEndian.Uint64(h[:])
}

// Partial says whether texts with mismatches are left out; a nil Sample leaves out none.
func (s *Sample) Partial() bool { return s != nil && s.Texts < s.OfTexts }

// String is "a sample of 40 of 400 texts (10.0 %)".
func (s *Sample) String() string {
	return fmt.Sprintf("a sample of %d of %d texts (%.3g %%)", s.Texts, s.OfTexts, 100*float64(s.Texts)/float64(s.OfTexts))
}
