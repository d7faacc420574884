// Package agreement measures how far a judge agrees with human labels.
package agreement

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"tokenfork/internal/stats"
)

// The bootstrap of a report.
const (
	Rounds = 2000
	Seed   = 1
)

// Pair is one mismatch that both have labelled: true for the same meaning.
type Pair struct {
	Cluster string // the text: labels of one text are not independent
	Human   bool
	Judge   bool
	Kind    string // what sort of pair it is, "" if it is not said
}

// Report is the agreement over some pairs. Kappa and its interval are nil where
// they are undefined: one of the two always says the same.
type Report struct {
	Pairs      int             `json:"pairs"`
	Clusters   int             `json:"clusters"`
	Missing    int             `json:"missing"` // labelled by a human, without a verdict
	Confusion  Confusion       `json:"confusion"`
	Accuracy   float64         `json:"accuracy"`
	Wilson     stats.Interval  `json:"accuracy_wilson"`    // as if all pairs were independent
	Bootstrap  stats.Interval  `json:"accuracy_bootstrap"` // over clusters
	Kappa      *float64        `json:"kappa"`
	KappaRange *stats.Interval `json:"kappa_bootstrap"` // over clusters
	Rounds     int             `json:"bootstrap_rounds"`
	Seed       uint64          `json:"bootstrap_seed"`
	Kinds      []Kind          `json:"kinds,omitempty"` // by name
}

// Kind is the agreement over the pairs of one kind.
type Kind struct {
	Name      string    `json:"name"`
	Confusion Confusion `json:"confusion"`
}

func kinds(pairs []Pair) []Kind {
	by := map[string]*Kind{}
	for _, p := range pairs {
		if p.Kind == "" {
			continue
		}
		if by[p.Kind] == nil {
			by[p.Kind] = &Kind{Name: p.Kind}
		}
		by[p.Kind].Confusion.add(p)
	}
	var all []Kind
	for _, name := range slices.Sorted(maps.Keys(by)) {
		all = append(all, *by[name])
	}
	return all
}

// Confusion counts pairs by what the human and then the judge says.
type Confusion struct {
	SameSame           int `json:"same_same"`
	SameDifferent      int `json:"same_different"`
	DifferentSame      int `json:"different_same"`
	DifferentDifferent int `json:"different_different"`
}

func (c *Confusion) add(p Pair) {
	switch {
	case p.Human && p.Judge:
		c.SameSame++
	case p.Human:
		c.SameDifferent++
	case p.Judge:
		c.DifferentSame++
	default:
		c.DifferentDifferent++
	}
}

// plus adds d, times as often.
func (c *Confusion) plus(d *Confusion, times int) {
	c.SameSame += times * d.SameSame
	c.SameDifferent += times * d.SameDifferent
	c.DifferentSame += times * d.DifferentSame
	c.DifferentDifferent += times * d.DifferentDifferent
}

// N is the number of pairs.
func (c *Confusion) N() int {
	return c.SameSame + c.SameDifferent + c.DifferentSame + c.DifferentDifferent
}

// Accuracy is the share of pairs that agree; NaN of none.
func (c *Confusion) Accuracy() float64 {
	return float64(c.SameSame+c.DifferentDifferent) / float64(c.N())
}

// Kappa is Cohen's: agreement beyond what the two would have by chance, 1 at
// best. It is NaN where chance alone agrees always.
func (c *Confusion) Kappa() float64 {
	n := float64(c.N())
	human, judge := float64(c.SameSame+c.SameDifferent)/n, float64(c.SameSame+c.DifferentSame)/n
	chance := human*judge + (1-human)*(1-judge)
	if chance == 1 {
		return math.NaN()
	}
	return (c.Accuracy() - chance) / (1 - chance)
}

// Measure compares the pairs; missing labels had no verdict. The bootstrap
// draws clusters, rounds times, from the seed.
func Measure(pairs []Pair, missing, rounds int, seed uint64) Report {
	var all Confusion
	by := map[string]*Confusion{}
	var clusters []*Confusion // in the order of the pairs, so that the seed decides
	for _, p := range pairs {
		all.add(p)
		c := by[p.Cluster]
		if c == nil {
			c = &Confusion{}
			by[p.Cluster] = c
			clusters = append(clusters, c)
		}
		c.add(p)
	}
	r := Report{Pairs: len(pairs), Clusters: len(clusters), Missing: missing, Confusion: all, Rounds: rounds, Seed: seed, Kinds: kinds(pairs),
		Wilson: stats.Wilson(int64(all.SameSame+all.DifferentDifferent), int64(len(pairs)))}
	if len(pairs) == 0 {
		r.Bootstrap = stats.Interval{Low: 0, High: 1}
		return r
	}
	r.Accuracy = all.Accuracy()
	if k := all.Kappa(); !math.IsNaN(k) {
		r.Kappa = &k
	}
	accuracy, kappa := make([]float64, rounds), make([]float64, rounds)
	stats.Bootstrap{Seed: seed, Times: rounds}.Each(len(clusters), func(round int, weight []uint16) {
		var c Confusion
		for i, w := range weight {
			c.plus(clusters[i], int(w))
		}
		accuracy[round], kappa[round] = c.Accuracy(), c.Kappa()
	})
	r.Bootstrap = stats.Percentiles(accuracy)
	if in := stats.Percentiles(kappa); r.Kappa != nil && !math.IsNaN(in.Low) {
		r.KappaRange = &in
	}
	return r
}

// String is the report for people.
func (r Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d labels from %d texts", r.Pairs, r.Clusters)
	if r.Missing > 0 {
		fmt.Fprintf(&b, " (and %d without a verdict)", r.Missing)
	}
	fmt.Fprintf(&b, "\naccuracy %.3f, 95%% %.3f to %.3f (Wilson), %.3f to %.3f (bootstrap over texts)\n",
		r.Accuracy, r.Wilson.Low, r.Wilson.High, r.Bootstrap.Low, r.Bootstrap.High)
	if r.Kappa == nil {
		b.WriteString("Cohen's kappa is undefined: the human or the judge always says the same\n")
	} else {
		fmt.Fprintf(&b, "Cohen's kappa %.3f", *r.Kappa)
		if r.KappaRange != nil {
			fmt.Fprintf(&b, ", 95%% %.3f to %.3f (bootstrap over texts)", r.KappaRange.Low, r.KappaRange.High)
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "%-16s %12s %12s\n", "human \\ judge", "same", "different")
	fmt.Fprintf(&b, "%-16s %12d %12d\n", "same", r.Confusion.SameSame, r.Confusion.SameDifferent)
	fmt.Fprintf(&b, "%-16s %12d %12d\n", "different", r.Confusion.DifferentSame, r.Confusion.DifferentDifferent)
	for _, k := range r.Kinds {
		right := k.Confusion.SameSame + k.Confusion.DifferentDifferent
		fmt.Fprintf(&b, "%-16s %12d of %d right (%.3f)\n", k.Name, right, k.Confusion.N(), k.Confusion.Accuracy())
	}
	return b.String()
}
