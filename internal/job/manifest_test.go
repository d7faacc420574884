package job

import (
	"slices"
	"testing"
)

func TestRowIDs(t *testing.T) {
	for _, ids := range [][]int64{nil, {7}, {0, 1, 2}, {3, 5, 6, 7, 9}, {1, 3, 5}} {
		var s Text
		s.SetRowIDs([]int64{99}) // of a text before
		s.SetRowIDs(ids)
		var got []int64
		for k := range ids {
			id, ok := s.RowID(int64(k))
			if !ok {
				t.Errorf("%v has no row %d", ids, k)
			}
			got = append(got, id)
		}
		if !slices.Equal(got, ids) {
			t.Errorf("%v became %v", ids, got)
		}
		for _, k := range []int64{-1, int64(len(ids))} {
			if id, ok := s.RowID(k); ok {
				t.Errorf("%v has row %d: %d", ids, k, id)
			}
		}
	}
}
