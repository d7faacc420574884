package fork

import (
	"reflect"
	"testing"

	"tokenfork/internal/job"
)

// ends of the tests: 0 is a point, 1 a full stop of another kind, 2 the end of
// text, 3 and 4 are digits; all else are words.
type ends struct{ decimals bool }

func digit(id int32) bool { return id == 3 || id == 4 }

func (e ends) End(prev, id int32) (bool, bool) {
	if id == 0 {
		return true, e.decimals && digit(prev)
	}
	return id == 1 || id == 2, false
}
func (e ends) ContinuesDecimal(id int32) bool { return digit(id) }
func (e ends) IsEOS(id int32) bool            { return id == 2 }

func TestTail(t *testing.T) {
	for _, c := range []struct {
		name      string
		decimals  bool
		prev      int32
		predicted int32
		limit     int
		then      []int32
		ids       []int32
		finish    string
	}{
		{"a word to a stop", false, None, 9, 5, []int32{8, 1, 7}, []int32{9, 8, 1}, job.FinishStop},
		{"the predicted token ends it", false, None, 1, 5, []int32{8}, []int32{1}, job.FinishPredicted},
		{"a predicted end of text is kept", false, None, 2, 5, nil, []int32{2}, job.FinishPredicted},
		{"a generated end of text is not", false, None, 9, 5, []int32{8, 2}, []int32{9, 8}, job.FinishEOS},
		{"the limit", false, None, 9, 2, []int32{8, 7, 6}, []int32{9, 8, 7}, job.FinishLength},
		{"an end at the limit is a stop", false, None, 9, 2, []int32{8, 1}, []int32{9, 8, 1}, job.FinishStop},
		{"no limit left", false, None, 9, 0, []int32{8}, []int32{9}, job.FinishLength},
		{"a decimal goes on", true, None, 3, 9, []int32{0, 4, 1}, []int32{3, 0, 4, 1}, job.FinishStop},
		{"a decimal does not go on", true, None, 3, 9, []int32{0, 8, 1}, []int32{3, 0}, job.FinishStop},
		{"a point at the limit ends", true, None, 3, 1, []int32{0, 4}, []int32{3, 0}, job.FinishStop},
		{"a predicted point after a digit goes on", true, 4, 0, 9, []int32{3, 1}, []int32{0, 3, 1}, job.FinishStop},
		{"a predicted point after a digit does not go on", true, 4, 0, 9, []int32{8, 1}, []int32{0}, job.FinishPredicted},
		{"a predicted point with no token left", true, 4, 0, 0, []int32{3}, []int32{0}, job.FinishPredicted},
		{"a point before the end of text", true, None, 3, 9, []int32{0, 2}, []int32{3, 0}, job.FinishStop},
	} {
		tail := Start(ends{c.decimals}, c.prev, c.predicted, c.limit)
		for _, id := range c.then {
			tail.Take(id)
		}
		if !reflect.DeepEqual(tail.IDs, c.ids) || tail.Finish != c.finish {
			t.Errorf("%s: got %v %s, want %v %s", c.name, tail.IDs, tail.Finish, c.ids, c.finish)
		}
	}
}

func TestReadOff(t *testing.T) {
	for _, c := range []struct {
		real   []int32
		ids    []int32
		finish string
	}{
		{[]int32{9, 8, 7}, []int32{8, 7}, job.FinishEndOfText},
		{[]int32{9, 8, 1, 7}, []int32{8, 1}, job.FinishStop},
		{[]int32{9, 8, 2, 7}, []int32{8, 2}, job.FinishEOS}, // it stands in the text
		{[]int32{9, 3, 0}, []int32{3, 0}, job.FinishStop},
		{[]int32{9, 8, 7, 6, 5, 5}, []int32{8, 7, 6, 5}, job.FinishLength},
	} {
		tail := ReadOff(ends{true}, c.real, 1, 3)
		if !reflect.DeepEqual(tail.IDs, c.ids) || tail.Finish != c.finish {
			t.Errorf("%v: got %v %s, want %v %s", c.real, tail.IDs, tail.Finish, c.ids, c.finish)
		}
	}
}
