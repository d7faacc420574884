package shard

import (
	"encoding/binary"
	"math"

	"tokenfork/internal/job"
)

// content appends what the fingerprint of the input is over: all that a manifest
// says of the text but its cost, in a form that depends on nothing else.
func content(dst []byte, s *job.Text) []byte {
	for _, n := range [...]int64{s.Ordinal, int64(len(s.ID)), int64(len(s.Real)), int64(len(s.TokenType)), int64(len(s.Mismatches)), int64(len(s.RowRuns))} {
		dst = binary.LittleEndian.AppendUint64(dst, uint64(n))
	}
	dst = append(dst, s.ID...)
	for _, v := range s.RowRuns {
		dst = binary.LittleEndian.AppendUint64(dst, uint64(v))
	}
	for _, ids := range [...][]int32{s.Real, s.SmallPredictions, s.ReferencePredictions, s.TokenType, s.Mismatches} {
		for _, v := range ids {
			dst = binary.LittleEndian.AppendUint32(dst, uint32(v))
		}
	}
	for _, m := range measuresOf(s) {
		for _, v := range *m {
			dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(v))
		}
	}
	return dst
}
