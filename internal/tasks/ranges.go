package tasks

import (
	"strconv"
	"strings"
)

// Ranges writes ascending numbers briefly: 17, 88-90.
func Ranges(ns []int) string {
	var all []string
	for i := 0; i < len(ns); {
		j := i
		for j+1 < len(ns) && ns[j+1] == ns[j]+1 {
			j++
		}
		one := strconv.Itoa(ns[i])
		if j > i {
			one += "-" + strconv.Itoa(ns[j])
		}
		all = append(all, one)
		i = j + 1
	}
	return strings.Join(all, ", ")
}
