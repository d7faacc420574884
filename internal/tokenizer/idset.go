package tokenizer

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// idSet is a set of token ids. In JSON it is a string of ids and ranges,
// "13,15-24,198", which keeps manifests small and readable.
type idSet struct {
	sorted []int32
	bits   []uint64
}

// newIDSet makes a set of ids, which are not negative.
func newIDSet(ids []int32) idSet {
	sorted := slices.Compact(slices.Sorted(slices.Values(ids)))
	if len(sorted) == 0 {
		return idSet{}
	}
	bits := make([]uint64, sorted[len(sorted)-1]/64+1)
	for _, id := range sorted {
		bits[id/64] |= 1 << (id % 64)
	}
	return idSet{sorted, bits}
}

func (s idSet) has(id int32) bool {
	return id >= 0 && int(id/64) < len(s.bits) && s.bits[id/64]>>(id%64)&1 == 1
}

// MarshalJSON writes the ids and ranges in rising order.
func (s idSet) MarshalJSON() ([]byte, error) {
	var text strings.Builder
	for i := 0; i < len(s.sorted); {
		first := i
		for i++; i < len(s.sorted) && s.sorted[i] == s.sorted[i-1]+1; i++ {
		}
		if first > 0 {
			text.WriteByte(',')
		}
		fmt.Fprint(&text, s.sorted[first])
		if i-first > 1 {
			fmt.Fprintf(&text, "-%d", s.sorted[i-1])
		}
	}
	return json.Marshal(text.String())
}

// UnmarshalJSON reads what MarshalJSON writes.
func (s *idSet) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return fmt.Errorf("read token ids: %w", err)
	}
	var ids []int32
	for part := range strings.SplitSeq(text, ",") {
		if text == "" {
			break
		}
		first, last, err := parseRange(part)
		if err != nil {
			return err
		}
		for id := first; id <= last; id++ {
			ids = append(ids, id)
		}
	}
	*s = newIDSet(ids)
	return nil
}

// parseRange reads "13" or "15-24", up to maxID.
func parseRange(part string) (first, last int32, err error) {
	from, to, isRange := strings.Cut(part, "-")
	if !isRange {
		to = from
	}
	a, errA := strconv.ParseUint(from, 10, 22)
	b, errB := strconv.ParseUint(to, 10, 22)
	if errA != nil || errB != nil || a > b {
		return 0, 0, fmt.Errorf("read token ids: %q is neither an id nor a range of ids", part)
	}
	return int32(a), int32(b), nil
}
