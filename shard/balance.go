package shard

import (
	"cmp"
	"container/heap"
	"slices"
)

// planned is what is kept in memory of a text with mismatches.
type planned struct {
	ordinal    int64
	at         int64 // in the spool
	size       int32
	mismatches int32
	cost       float64
	rank       uint64       // see job.SampleRank
	sides      *[2]sideWork // nil if all texts are planned: the tally has the sum
}

// load is the sum of a shard's costs.
type load struct {
	shard int
	cost  float64
}

// loads is a heap, the least loaded shard first.
type loads []load

func (l loads) Len() int { return len(l) }
func (l loads) Less(i, j int) bool {
	return l[i].cost < l[j].cost || l[i].cost == l[j].cost && l[i].shard < l[j].shard
}
func (l loads) Swap(i, j int) { l[i], l[j] = l[j], l[i] }
func (l *loads) Push(any)     {}
func (l *loads) Pop() any     { return nil }

// balance splits the texts into n shards: the costliest first, each to the
// shard with the least cost so far. Within a shard they are in the table's order.
func balance(all []planned, n int) [][]planned {
	byCost := slices.Clone(all)
	slices.SortFunc(byCost, func(a, b planned) int {
		return cmp.Or(cmp.Compare(b.cost, a.cost), cmp.Compare(a.ordinal, b.ordinal))
	})
	least := make(loads, n)
	for i := range least {
		least[i].shard = i
	}
	shards := make([][]planned, n)
	for _, p := range byCost {
		k := least[0].shard
		shards[k] = append(shards[k], p)
		least[0].cost += p.cost
		heap.Fix(&least, 0)
	}
	for _, s := range shards {
		slices.SortFunc(s, func(a, b planned) int { return cmp.Compare(a.ordinal, b.ordinal) })
	}
	return shards
}

func costOf(s []planned) float64 {
	sum := 0.0
	for _, x := range s {
		sum += x.cost
	}
	return sum
}
