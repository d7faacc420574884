package agreement

import (
	"bufio"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"tokenfork/internal/columnar"
	"tokenfork/internal/failure"
	"tokenfork/internal/regular"
)

// Place is a mismatch in a job.
type Place struct {
	SentenceID string
	Position   int64 // the table's numbering
}

// Labels say by human word whether both continuations of a mismatch mean the same.
type Labels map[Place]bool

// ReadLabels reads labels from CSV or Parquet with the columns sentence_id,
// mismatch_position and label: true or false, 1 or 0, same or different.
func ReadLabels(path string) (Labels, error) {
	f, err := regular.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read gold labels: %w", err)
	}
	defer f.Close()
	var labels Labels
	begin := make([]byte, 4)
	if n, _ := f.ReadAt(begin, 0); string(begin[:n]) == "PAR1" {
		labels, err = fromParquet(f)
	} else {
		labels, err = fromCSV(f)
	}
	if err == nil && len(labels) == 0 {
		err = errors.New("no rows")
	}
	if err != nil {
		return nil, failure.New(failure.Refused, "it needs the columns sentence_id, mismatch_position and label (true or false), and one word on each mismatch",
			"gold labels %s: %w", path, err)
	}
	return labels, nil
}

// saysSame reads a label.
func saysSame(label string) (bool, error) {
	switch strings.ToLower(label) {
	case "true", "1", "1.0", "same":
		return true, nil
	case "false", "0", "0.0", "different":
		return false, nil
	}
	return false, fmt.Errorf("label %q is not true or false", label)
}

func (l Labels) add(at Place, label string) error {
	if at.SentenceID == "" {
		return errors.New("the sentence_id is blank")
	}
	same, err := saysSame(label)
	if err != nil {
		return err
	}
	if before, twice := l[at]; twice && before != same {
		return fmt.Errorf("labels disagree on position %d of text %s", at.Position, at.SentenceID)
	}
	l[at] = same
	return nil
}

func fromCSV(r io.Reader) (Labels, error) {
	labels := Labels{}
	err := eachRow(r, []string{"label"}, func(at Place, cells map[string]string) error { return labels.add(at, cells["label"]) })
	return labels, err
}

const bom = "\ufeff"

// eachRow calls f for each row of a CSV file with the columns sentence_id,
// mismatch_position and needed, with the cells by column.
func eachRow(r io.Reader, needed []string, f func(at Place, cells map[string]string) error) error {
	in := bufio.NewReader(r)
	if begin, _ := in.Peek(len(bom)); string(begin) == bom {
		_, _ = in.Discard(len(bom)) // it is buffered
	}
	c := csv.NewReader(in)
	header, err := c.Read()
	if err != nil {
		return err
	}
	for _, name := range append([]string{"sentence_id", "mismatch_position"}, needed...) {
		at := slices.Index(header, name)
		if at < 0 {
			return fmt.Errorf("no column %s; there are %.300q", name, strings.Join(header, ", "))
		}
		if slices.Contains(header[at+1:], name) {
			return fmt.Errorf("two columns %s", name)
		}
	}
	for {
		row, err := c.Read()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		cells := map[string]string{}
		for i, name := range header {
			cells[name] = row[i]
		}
		line, _ := c.FieldPos(0)
		position, err := strconv.ParseInt(strings.TrimSuffix(cells["mismatch_position"], ".0"), 10, 64)
		if err != nil {
			return fmt.Errorf("line %d: position %q is no number", line, cells["mismatch_position"])
		}
		if err := f(Place{cells["sentence_id"], position}, cells); err != nil {
			return fmt.Errorf("line %d: %w", line, err)
		}
	}
}

// fromParquet takes labels as booleans, numbers or text, and ids and positions of any type of numbers.
func fromParquet(f columnar.File) (Labels, error) {
	in, err := columnar.OpenParquetInput(f)
	if err != nil {
		return nil, err
	}
	var cells [3][]string
	for k, name := range []string{"sentence_id", "mismatch_position", "label"} {
		if cells[k], err = cellsOf(f, in, name); err != nil {
			return nil, err
		}
	}
	labels := Labels{}
	for i := range cells[0] {
		position, err := strconv.ParseInt(cells[1][i], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("row %d: position %q is no number", i+1, cells[1][i])
		}
		if err := labels.add(Place{cells[0][i], position}, cells[2][i]); err != nil {
			return nil, fmt.Errorf("row %d: %w", i+1, err)
		}
	}
	return labels, nil
}

// cellsOf are a column's cells as CSV has them, whole numbers without a point.
func cellsOf(f columnar.File, in *columnar.Input, name string) ([]string, error) {
	at := slices.IndexFunc(in.Columns, func(c columnar.InputColumn) bool { return c.Name == name })
	if at < 0 || slices.ContainsFunc(in.Columns[at+1:], func(c columnar.InputColumn) bool { return c.Name == name }) {
		return nil, fmt.Errorf("want one column %s", name)
	}
	c := in.Columns[at]
	switch {
	case c.Kind == columnar.Unread && c.Type == "bool" && name == "label":
		return truths(f, in.Rows)
	case c.Kind == columnar.Unread, c.Kind == columnar.Nested:
		return nil, fmt.Errorf("column %s is %s", name, c.Type)
	}
	var all []string
	for b, err := range in.Batches([]int{at}, columnar.InputRows) {
		if err != nil {
			return nil, err
		}
		for i := range b.Rows {
			cell := ""
			switch c.Kind {
			case columnar.Text:
				cell = strings.Clone(b.Text(0)[i])
			case columnar.Whole:
				if n := b.Whole(0)[i]; n != columnar.Null {
					cell = strconv.FormatInt(n, 10)
				}
			default:
				if n := b.Floats(0)[i]; n == n {
					cell = strconv.FormatFloat(n, 'f', -1, 64)
				}
			}
			all = append(all, cell)
		}
		b.Release()
	}
	return all, nil
}

type labelRow struct {
	Label bool `col:"label"`
}

// truths reads the labels that are booleans, with the library, which skips pages that it does not know.
func truths(f columnar.File, rows int64) ([]string, error) {
	r, err := columnar.ReadParquet[labelRow](f)
	if err != nil {
		return nil, fmt.Errorf("column label as booleans: %w; write labels as 1 and 0", err)
	}
	var all []string
	for row, err := range r.Rows() {
		if err != nil {
			return nil, fmt.Errorf("column label as booleans: %w; write labels as 1 and 0", err)
		}
		all = append(all, strconv.FormatBool(row.Label))
	}
	if int64(len(all)) != rows {
		return nil, fmt.Errorf("column label: %d of %d rows can be read; write labels as 1 and 0", len(all), rows)
	}
	return all, nil
}
