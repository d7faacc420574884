package agreement

import (
	"encoding/csv"
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
	if strings.HasSuffix(path, ".parquet") {
		labels, err = fromParquet(f)
	} else {
		labels, err = fromCSV(f)
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

// eachRow calls f for each row of a CSV file with the columns sentence_id,
// mismatch_position and needed, with the cells by column.
func eachRow(r io.Reader, needed []string, f func(at Place, cells map[string]string) error) error {
	c := csv.NewReader(r)
	header, err := c.Read()
	if err != nil {
		return err
	}
	header[0] = strings.TrimPrefix(header[0], "\ufeff")
	for _, name := range append([]string{"sentence_id", "mismatch_position"}, needed...) {
		if !slices.Contains(header, name) {
			return fmt.Errorf("no column %s", name)
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

type labelRow[T any] struct {
	SentenceID string `col:"sentence_id"`
	Position   int64  `col:"mismatch_position"`
	Label      T      `col:"label"`
}

// fromParquet takes labels as booleans, numbers or text.
func fromParquet(f columnar.File) (Labels, error) {
	labels, err := fromRows[bool](f)
	if err == nil {
		return labels, nil
	}
	if labels, err := fromRows[int64](f); err == nil {
		return labels, nil
	}
	if labels, err := fromRows[string](f); err == nil {
		return labels, nil
	}
	return nil, err
}

func fromRows[T any](f columnar.File) (Labels, error) {
	r, err := columnar.ReadParquet[labelRow[T]](f)
	if err != nil {
		return nil, err
	}
	labels := Labels{}
	for row, err := range r.Rows() {
		if err == nil {
			err = labels.add(Place{row.SentenceID, row.Position}, fmt.Sprint(row.Label))
		}
		if err != nil {
			return nil, err
		}
	}
	return labels, nil
}
