package report

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"io"
	"maps"
	"slices"
	"strings"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/progress"
	"tokenfork/internal/stats"
	"tokenfork/internal/store"
	"tokenfork/judge/merge"
)

// CompareOptions say what is compared.
type CompareOptions struct {
	Stores    [2]store.Store // of merged jobs
	TempDir   string
	Seed      uint64
	Resamples int
	Console   io.Writer
}

// Comparison says how far two jobs' results over the same mismatches agree.
type Comparison struct {
	Places     [2]string `json:"jobs"`
	Mismatches int64     `json:"mismatches"` // in both
	Texts      int       `json:"sentences"`  // with such mismatches
	Only       [2]int64  `json:"only_in_one"`
	Differ     []string  `json:"differ"` // settings, models, engines and judges
	Flips      []Flips   `json:"flips"`
	Verdicts   []Figure  `json:"verdicts"`
	Seed       uint64    `json:"seed"`
	Resamples  int       `json:"resamples"`
	NearTie    float64   `json:"near_tie"`
	margins    bool      // some rows have margins
}

// Flips is the share of one thing that is not the same in both jobs.
type Flips struct {
	Of       string          `json:"of"`   // continuation_small, continuation_reference or meaning_match
	Rows     string          `json:"rows"` // which
	N        int64           `json:"n"`
	Missing  int64           `json:"missing"` // that one of the jobs lacks
	Flipped  int64           `json:"flipped"`
	Texts    int             `json:"sentences"`
	Share    *float64        `json:"share"`    // nil of none
	Interval *stats.Interval `json:"interval"` // over texts; nil where there are too few
	estimate stats.Estimate
}

// Figure is a number with its interval.
type Figure struct {
	Name     string          `json:"name"`
	Value    *float64        `json:"value"`    // nil where it is undefined
	Interval *stats.Interval `json:"interval"` // over texts; nil where there are too few
	estimate stats.Estimate
}

// What is compared of a mismatch: both sides' continuations, in the order of job.Sides, and the verdict.
const verdict = 2

var comparedNames = [3]string{"continuation_small", "continuation_reference", "meaning_match"}

// Choices of rows.
const (
	allRows = iota
	nearTies
	noNearTies
	sameForks  // both continuations are the same in both jobs
	otherForks // one is not
	rowChoices
)

var rowNames = [rowChoices]string{"all", "near ties", "no near ties", "same continuations", "other continuations"}

// compared is a row as far as it is compared.
type compared struct {
	SentenceID      string   `col:"sentence_id"`
	Position        int64    `col:"mismatch_position"`
	Small           int32    `col:"pred_small_id"`
	Reference       int32    `col:"pred_reference_id"`
	SmallIDs        []int32  `col:"continuation_small_ids"`
	ReferenceIDs    []int32  `col:"continuation_reference_ids"`
	MeaningMatch    *bool    `col:"meaning_match"`
	JudgeModel      *string  `col:"judge_model"`
	PromptVersion   *string  `col:"prompt_version"`
	MarginSmall     *float64 `col:"margin_small,optional"`
	MarginReference *float64 `col:"margin_reference,optional"`
	Job             *string  `col:"job,optional"`
}

// answers are what is kept of a row: 48 bytes.
type answers struct {
	position int64
	tokens   [2]int32
	hash     [2]uint64 // of the continuations
	there    [3]bool   // continuations and verdict
	tie      [2]bool
	same     bool
}

// text tells the texts of a merge apart.
func (r *compared) text() string {
	if r.Job == nil {
		return r.SentenceID
	}
	return *r.Job + "\x00" + r.SentenceID
}

func (c *comparer) answers(r *compared) answers {
	a := answers{position: r.Position, tokens: [2]int32{r.Small, r.Reference}}
	for side, ids := range [2][]int32{r.SmallIDs, r.ReferenceIDs} {
		a.there[side] = ids != nil
		c.buf = c.buf[:0]
		for _, id := range ids {
			c.buf = binary.LittleEndian.AppendUint32(c.buf, uint32(id))
		}
		a.hash[side] = maphash.Bytes(c.hash, c.buf)
	}
	for side, gap := range [2]*float64{r.MarginSmall, r.MarginReference} {
		a.tie[side] = gap != nil && stats.NearTie(*gap)
		c.said.margins = c.said.margins || gap != nil
	}
	if a.there[verdict] = r.MeaningMatch != nil; a.there[verdict] {
		a.same = *r.MeaningMatch
	}
	return a
}

// comparer compares the second job's rows, one after the other, with the first's.
type comparer struct {
	CompareOptions
	said     Comparison
	hash     maphash.Seed
	buf      []byte
	first    map[string][]answers
	judges   [2]map[string]bool
	flips    *stats.Grouping
	missing  [3 * rowChoices]int64
	verdicts *stats.Grouping // by what both say: see agreed
	text     string          // that is open
	open     bool            // it has mismatches of both jobs
}

// Compare reads both jobs' results. It keeps 48 bytes of each of the first's mismatches.
func Compare(ctx context.Context, o CompareOptions) (*Comparison, error) {
	if o.Resamples < 1 {
		return nil, failure.New(failure.Usage, "the usual is 1000", "%d resamples", o.Resamples)
	}
	c := &comparer{CompareOptions: o, hash: maphash.MakeSeed(), first: map[string][]answers{},
		judges: [2]map[string]bool{{}, {}}, flips: stats.NewGrouping(), verdicts: stats.NewGrouping()}
	c.said = Comparison{Places: [2]string{o.Stores[0].String(), o.Stores[1].String()}, Seed: o.Seed, Resamples: o.Resamples, NearTie: stats.NearTieGap}
	var jobs [2]*builder
	for i, s := range o.Stores {
		jobs[i] = &builder{}
		if _, err := jobs[i].plan(ctx, s, &About{}); err != nil {
			return nil, err
		}
	}
	if err := c.sameTable(jobs); err != nil {
		return nil, err
	}
	held := int64(0)
	if err := c.read(ctx, 0, jobs[0], func(r *compared) error {
		held++
		c.first[r.text()] = append(c.first[r.text()], c.answers(r))
		return nil
	}); err != nil {
		return nil, err
	}
	if err := c.read(ctx, 1, jobs[1], c.row); err != nil {
		return nil, err
	}
	c.next()
	if c.said.Only[0] = held - c.said.Mismatches; c.said.Mismatches == 0 {
		return nil, failure.New(failure.Refused, "compare jobs over the same table", "%s (%d mismatches) and %s (%d) have no mismatch in common", o.Stores[0], held, o.Stores[1], c.said.Only[1])
	}
	c.count()
	return &c.said, c.differ(ctx, jobs)
}

// sameTable refuses jobs that were planned from different tables.
func (c *comparer) sameTable(jobs [2]*builder) error {
	if jobs[0].summary == nil || jobs[1].summary == nil {
		return nil
	}
	for _, m := range jobs[0].summary.Jobs {
		if slices.ContainsFunc(jobs[1].summary.Jobs, func(other merge.Merged) bool { return other.Input.Fingerprint == m.Input.Fingerprint }) {
			return nil
		}
	}
	said := func(b *builder) string {
		in := b.summary.Jobs[0].Input
		return fmt.Sprintf("%s of %d rows and %d texts (sha256 %.12s…)", strings.Join(in.Sources, ", "), in.Rows, in.Texts, in.Fingerprint)
	}
	return failure.New(failure.Refused, "plan both jobs from the same table", "%s and %s were planned from different tables: %s, and %s", c.said.Places[0], c.said.Places[1], said(jobs[0]), said(jobs[1]))
}

func (c *comparer) read(ctx context.Context, i int, b *builder, f func(*compared) error) error {
	s := c.Stores[i]
	expected := int64(-1)
	if b.summary != nil {
		expected = b.summary.Mismatches
	}
	meter := progress.New(c.Console, "compare", "mismatches", expected)
	defer meter.Close()
	keys, err := b.resultKeys(ctx, s)
	if err != nil {
		return err
	}
	for _, key := range keys {
		_, err := each(ctx, s, key, c.TempDir, b.sums[key], func(r *compared) error {
			meter.Add(1)
			if r.MeaningMatch != nil && r.JudgeModel != nil && r.PromptVersion != nil {
				c.judges[i][judgeName(*r.JudgeModel, *r.PromptVersion)] = true
			}
			return f(r)
		})
		if err != nil {
			return unmerged(s, key, err)
		}
	}
	return nil
}

// row compares a row of the second job with the first's.
func (c *comparer) row(r *compared) error {
	if text := r.text(); text != c.text {
		c.next()
		c.text = text
	}
	texts := c.first[c.text]
	at, found := slices.BinarySearchFunc(texts, r.Position, func(a answers, p int64) int { return cmp.Compare(a.position, p) })
	if !found {
		c.said.Only[1]++
		return nil
	}
	a, b := &texts[at], c.answers(r)
	if a.tokens != b.tokens {
		return failure.New(failure.Refused, "compare jobs that were planned alike from the same table",
			"text %s, position %d: the predictions are %d and %d in %s, %d and %d in %s", r.SentenceID, r.Position, a.tokens[0], a.tokens[1], c.said.Places[0], b.tokens[0], b.tokens[1], c.said.Places[1])
	}
	c.said.Mismatches++
	c.open = true
	var tie [3]bool
	other, known := false, true
	for side := range job.Sides {
		tie[side] = a.tie[side] || b.tie[side]
		tie[verdict] = tie[verdict] || tie[side]
		flipped := a.hash[side] != b.hash[side]
		other = other || flipped
		known = known && a.there[side] && b.there[side]
		c.add(side, tie[side], a.there[side] && b.there[side], flipped, allRows)
	}
	forks := allRows
	if known && other {
		forks = otherForks
	} else if known {
		forks = sameForks
	}
	both := a.there[verdict] && b.there[verdict]
	c.add(verdict, tie[verdict], both, a.same != b.same, forks)
	if both {
		c.verdicts.Add(agreed(a.same, b.same), 1, 0)
	}
	return nil
}

// next closes the text that is open.
func (c *comparer) next() {
	if c.open {
		c.flips.Next()
		c.verdicts.Next()
		c.said.Texts++
		c.open = false
	}
}

// add counts one thing that is compared, in all choices of rows that it is in.
func (c *comparer) add(what int, tie, there, flipped bool, forks int) {
	ties := noNearTies
	if tie {
		ties = nearTies
	}
	for i, choice := range [3]int{allRows, ties, forks} {
		if i > 0 && choice == allRows {
			continue
		}
		group := what*rowChoices + choice
		if !there {
			c.missing[group]++
			continue
		}
		c.flips.Add(int32(group), 1, oneIf(flipped))
	}
}

// differ lists what is not the same in both jobs beside their results.
func (c *comparer) differ(ctx context.Context, jobs [2]*builder) error {
	if jobs[0].summary != nil && jobs[1].summary != nil {
		c.said.Differ = merge.Differences("", jobs[0].summary.Settings, jobs[1].summary.Settings)
	}
	for _, side := range job.Sides {
		var engines [2]map[string]any
		for i, s := range c.Stores {
			var err error
			if engines[i], err = engineRecord(ctx, s, side); err != nil {
				return err
			}
		}
		if engines[0] != nil && engines[1] != nil {
			c.said.Differ = append(c.said.Differ, merge.Differences(side.String()+" engine's ", engines[0], engines[1])...)
		}
	}
	judges := [2]string{strings.Join(sortedKeys(c.judges[0]), " and "), strings.Join(sortedKeys(c.judges[1]), " and ")}
	if !maps.Equal(c.judges[0], c.judges[1]) {
		c.said.Differ = append(c.said.Differ, fmt.Sprintf("judge: %s; %s", cmp.Or(judges[0], "none"), cmp.Or(judges[1], "none")))
	}
	return nil
}
