package table

import (
	"errors"
	"fmt"
	"math"
	"slices"
)

// checker turns a batch's cells into its columns.
type checker struct {
	*Batch
	schema *Schema
	vocab  [2]int // ids a model knows, by side
	text   bool   // sentence ids are text
}

// check compares the two models' copies of a column, finds the runs of
// sentences and whatever is wrong.
func (c *checker) check() {
	n := c.vectors.rows
	c.Rows = n
	c.merge(smallPosition, errors.New("differs between the two models"))
	c.merge(smallReal, errors.New("differs between the two models"))
	c.RowID = grow(c.RowID, n)
	copy(c.RowID, c.vectors.ints[rowID])
	c.Real = c.ids(c.Real, smallReal, min(c.vocab[0], c.vocab[1]), true)
	c.Small = c.ids(c.Small, smallPrediction, c.vocab[0], false)
	c.Reference, c.Type = nil, nil
	if c.schema.HasReference {
		c.Reference = c.ids(c.Reference, referencePrediction, c.vocab[1], false)
	}
	if c.schema.HasTypes {
		c.Type = c.ids(c.Type, tokenType, math.MaxInt32, true)
	}
	c.required(rowID)
	c.runs()
	c.order()
	slices.SortStableFunc(c.Problems, func(a, b Problem) int { return a.Row - b.Row })
}

// merge takes the reference's cell where the small model's is blank, and
// compares them where both are there.
func (c *checker) merge(r role, differs error) {
	small, reference := c.vectors.ints[r], c.vectors.ints[r.ofReference()]
	if c.schema.fields[r.ofReference()] < 0 {
		return
	}
	for i, v := range small {
		w := reference[i]
		if v == w || w == blank {
			continue
		}
		if v == blank {
			small[i] = w
			continue
		}
		c.problem(i, c.schema.names[r.ofReference()], "", fmt.Errorf("%d %w: column %s has %d", w, differs, c.schema.names[r], v))
	}
}

// ids narrows a column of ids to int32, with NoPrediction for blanks.
func (c *checker) ids(dst []int32, r role, limit int, required bool) []int32 {
	dst = grow(dst, c.Rows)
	for i, v := range c.vectors.ints[r] {
		switch {
		case uint64(v) < uint64(limit):
			dst[i] = int32(v)
		case v == blank:
			dst[i] = NoPrediction
			if required {
				c.problem(i, c.schema.names[r], "", errors.New("is blank"))
			}
		default:
			dst[i] = NoPrediction
			c.problem(i, c.schema.names[r], "", fmt.Errorf("%d is outside the vocabulary of %d ids", v, limit))
		}
	}
	return dst
}

func (c *checker) required(r role) {
	for i, v := range c.vectors.ints[r] {
		if v == blank {
			c.problem(i, c.schema.names[r], "", errors.New("is blank"))
		}
	}
}

// runs finds where the sentence id changes.
func (c *checker) runs() {
	if c.text {
		c.runsOfText()
		return
	}
	ids := c.vectors.ints[smallSentence]
	c.mergeSentences(ids)
	for i, v := range ids {
		if i == 0 || v != ids[i-1] {
			c.run(i, formatID(v))
		}
	}
}

func (c *checker) mergeSentences(ids []int64) {
	known := len(c.Problems)
	c.merge(smallSentence, errors.New("differs between the two models"))
	for i := range c.Problems[known:] {
		c.Problems[known+i].Lost = true
	}
	for i, v := range ids {
		if v == blank {
			c.problem(i, c.schema.names[smallSentence], "", errors.New("is blank")).Lost = true
		}
	}
}

func (c *checker) runsOfText() {
	ids, reference := c.vectors.texts[0], c.vectors.texts[1]
	for i, v := range ids {
		if c.schema.fields[referenceSentence] >= 0 && reference[i] != v {
			switch {
			case isBlank([]byte(v)):
				v = reference[i]
				ids[i] = v
			case !isBlank([]byte(reference[i])):
				c.problem(i, c.schema.names[referenceSentence], reference[i], fmt.Errorf("differs between the two models: column %s has %q", c.schema.names[smallSentence], v)).Lost = true
			}
		}
		if isBlank([]byte(v)) {
			c.problem(i, c.schema.names[smallSentence], "", errors.New("is blank")).Lost = true
		}
		if i == 0 || v != ids[i-1] {
			c.run(i, string([]byte(v))) // v may be a view of the file's buffer
		}
	}
}

func (c *checker) run(row int, id string) {
	c.Runs = append(c.Runs, Run{Row: row, ID: id, Line: c.line(row), Position: c.vectors.ints[smallPosition][row]})
}

// order checks that within a sentence positions are consecutive and row ids rise.
func (c *checker) order() {
	positions := c.vectors.ints[smallPosition]
	for k, run := range c.Runs {
		end := c.Rows
		if k+1 < len(c.Runs) {
			end = c.Runs[k+1].Row
		}
		for i := run.Row; i < end; i++ {
			if uint64(positions[i]) >= math.MaxInt32 {
				c.badPosition(i, positions[i])
			}
			if i == run.Row {
				continue
			}
			if positions[i] != positions[i-1]+1 {
				c.problem(i, c.schema.names[smallPosition], "", positionProblem(positions[i-1], positions[i]))
			}
			if c.RowID[i] <= c.RowID[i-1] {
				c.problem(i, c.schema.names[rowID], "", rowProblem(c.RowID[i-1], c.RowID[i]))
			}
		}
	}
	if c.Rows > 0 {
		c.LastPosition = positions[c.Rows-1]
	}
}

func (c *checker) badPosition(row int, v int64) {
	if v == blank {
		c.problem(row, c.schema.names[smallPosition], "", errors.New("is blank"))
		return
	}
	c.problem(row, c.schema.names[smallPosition], "", fmt.Errorf("%d is no position in a text", v))
}

func positionProblem(before, now int64) error {
	switch {
	case now == before:
		return fmt.Errorf("position %d is there twice", now)
	case now < before:
		return fmt.Errorf("position %d comes after %d", now, before)
	}
	return fmt.Errorf("position %d follows %d: %d missing", now, before, now-before-1)
}

func rowProblem(before, now int64) error {
	return fmt.Errorf("row_id %d comes after %d: it must rise within a sentence", now, before)
}

// Follows checks that the batch's first row goes on a sentence whose last row
// had this position and row id.
func (b *Batch) Follows(position, rowID int64) *Problem {
	var reason error
	switch {
	case b.Runs[0].Position != position+1:
		reason = positionProblem(position, b.Runs[0].Position)
	case b.RowID[0] <= rowID:
		reason = rowProblem(rowID, b.RowID[0])
	default:
		return nil
	}
	return &Problem{Place: b.Place(b.Runs[0].Line), Line: b.Runs[0].Line, Reason: reason.Error()}
}
