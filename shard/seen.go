package shard

import (
	"hash/maphash"
	"slices"
	"strconv"
)

// seen remembers which texts there were, in few bytes each: numbers that
// rise above all before, as they mostly do, in a slice; others and texts by hash.
type seen struct {
	highest []int64 // each above the numbers that came before it
	places  []int64
	others  map[[2]uint64]int64
	seeds   [2]maphash.Seed
	top     int64
	files   []string // what is before the line or row in their places
}

// lineBits of a place are the line, those above the file.
const lineBits = 40

func newSeen() seen {
	return seen{others: map[[2]uint64]int64{}, seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}, top: -1 << 63}
}

// add notes a text and the line of the last file that it begins at; if it was there
// before, it gives the place of that.
func (s *seen) add(id string, line int64) (before string, isNew bool) {
	place := int64(len(s.files)-1)<<lineBits | line
	n, err := strconv.ParseInt(id, 10, 64)
	isNumber := err == nil && strconv.FormatInt(n, 10) == id
	if isNumber && n > s.top {
		s.top = n
		s.highest = append(s.highest, n)
		s.places = append(s.places, place)
		return "", true
	}
	if before, ok := s.find(id); ok {
		return s.spell(before), false
	}
	s.others[s.key(id)] = place
	return "", true
}

// find gives the place that a text begins at.
func (s *seen) find(id string) (place int64, ok bool) {
	if n, err := strconv.ParseInt(id, 10, 64); err == nil && strconv.FormatInt(n, 10) == id {
		if i, ok := slices.BinarySearch(s.highest, n); ok {
			return s.places[i], true
		}
	}
	place, ok = s.others[s.key(id)]
	return place, ok
}

// place is where a text begins that is known to be there.
func (s *seen) place(id string) string {
	place, _ := s.find(id)
	return s.spell(place)
}

func (s *seen) spell(place int64) string {
	return s.files[place>>lineBits] + strconv.FormatInt(place&(1<<lineBits-1), 10)
}

func (s *seen) key(id string) [2]uint64 {
	return [2]uint64{maphash.String(s.seeds[0], id), maphash.String(s.seeds[1], id)}
}
