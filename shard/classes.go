package shard

import "tokenfork/internal/job"

const (
	classCount = len(job.TokenClasses)

	padding = uint8(classCount) // ids without a token; counted as other
	other   = job.ClassOther
)

// classes sorts the vocabulary by what its tokens look like.
func classes(t Tokenizer, size int) []uint8 {
	all := make([]uint8, size)
	for id := range all {
		if b := t.Bytes(int32(id)); b == nil {
			all[id] = padding
		} else {
			all[id] = job.TokenClass(b)
		}
	}
	return all
}
