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
	lines   []int64
	others  map[[2]uint64]int64
	seeds   [2]maphash.Seed
	top     int64
}

func newSeen() seen {
	return seen{others: map[[2]uint64]int64{}, seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}, top: -1 << 63}
}

// add notes a text and the line it begins at; if it was there before, it
// gives the line of that.
func (s *seen) add(id string, line int64) (before int64, isNew bool) {
	n, err := strconv.ParseInt(id, 10, 64)
	isNumber := err == nil && strconv.FormatInt(n, 10) == id
	if isNumber && n > s.top {
		s.top = n
		s.highest = append(s.highest, n)
		s.lines = append(s.lines, line)
		return 0, true
	}
	if before, ok := s.find(id); ok {
		return before, false
	}
	s.others[s.key(id)] = line
	return 0, true
}

// find gives the line that a text begins at.
func (s *seen) find(id string) (line int64, ok bool) {
	if n, err := strconv.ParseInt(id, 10, 64); err == nil && strconv.FormatInt(n, 10) == id {
		if i, ok := slices.BinarySearch(s.highest, n); ok {
			return s.lines[i], true
		}
	}
	line, ok = s.others[s.key(id)]
	return line, ok
}

// line is where a text begins that is known to be there.
func (s *seen) line(id string) int64 {
	line, _ := s.find(id)
	return line
}

func (s *seen) key(id string) [2]uint64 {
	return [2]uint64{maphash.String(s.seeds[0], id), maphash.String(s.seeds[1], id)}
}
