package shard

import (
	"cmp"
	"slices"

	"tokenfork/internal/failure"
)

// rowIDs finds row_ids that are in two texts. Within a text they rise, so the first
// and the last of each are enough where the texts' ranges do not overlap, which is
// how tables are mostly written; it is all that is kept.
type rowIDs []rowRange

type rowRange struct {
	first, last int64
	text        string
}

func (r *rowIDs) add(t *text) {
	*r = append(*r, rowRange{t.rowID[0], t.rowID[len(t.rowID)-1], t.id})
}

// check refuses a row_id that the ends of the ranges show to be in two texts.
// Overlapping are two texts whose row_ids are mixed, of which that is not known.
func (r rowIDs) check(began *seen) (overlapping []string, err error) {
	byFirst := func(a, b rowRange) int { return cmp.Compare(a.first, b.first) }
	if !slices.IsSortedFunc(r, byFirst) {
		slices.SortStableFunc(r, byFirst)
	}
	var widest rowRange // of those so far the one that ends last
	for i, next := range r {
		if i == 0 || next.first > widest.last {
			widest = next
			continue
		}
		for _, before := range []rowRange{widest, r[i-1]} {
			for _, id := range []int64{next.first, next.last} {
				if (id == before.first || id == before.last) && err == nil {
					err = failure.New(failure.Refused, "give each row of the table a row_id of its own",
						"the row_id %d is in two texts, %s (from %s) and %s (from %s)", id, before.text, began.place(before.text), next.text, began.place(next.text))
				}
			}
		}
		overlapping = []string{widest.text, next.text}
		if next.last > widest.last {
			widest = next
		}
	}
	return overlapping, err
}
