package agreement

import (
	"errors"
	"fmt"

	"tokenfork/internal/failure"
	"tokenfork/internal/regular"
)

// Labelled is a labelled pair of continuations that brings its own texts.
type Labelled struct {
	Place
	Context          string // what both continue
	Small, Reference string
	Same             bool
	Kind             string // what sort of pair it is, "" if the file does not say
}

// ReadPairs reads labelled pairs from CSV with the columns sentence_id,
// mismatch_position, context, continuation_small, continuation_reference and
// label, as the results have them, and perhaps kind.
func ReadPairs(path string) ([]Labelled, error) {
	f, err := regular.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read gold pairs: %w", err)
	}
	defer f.Close()
	var all []Labelled
	err = eachRow(f, []string{"context", "continuation_small", "continuation_reference", "label"}, func(at Place, cells map[string]string) error {
		same, err := saysSame(cells["label"])
		all = append(all, Labelled{at, cells["context"], cells["continuation_small"], cells["continuation_reference"], same, cells["kind"]})
		return err
	})
	if err == nil && len(all) == 0 {
		err = errors.New("no rows")
	}
	if err != nil {
		return nil, failure.New(failure.Refused, "without --job it is a CSV file with the columns sentence_id, mismatch_position, context, continuation_small, continuation_reference and label (true or false)",
			"gold pairs %s: %w", path, err)
	}
	return all, nil
}
