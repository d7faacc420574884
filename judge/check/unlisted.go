package check

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/ordered"
	"tokenfork/internal/store"
)

// unlisted checks what no result rests on but a restart or status may read:
// unlisted parts, earlier commits, remembered answers, records of attempts and
// submissions. A missing one is not noticed.
func (c *checker) unlisted(ctx context.Context) error {
	keys := func(yield func(string, error) bool) {
		for _, key := range slices.Sorted(maps.Keys(c.there)) {
			top, _, _ := strings.Cut(key, "/")
			if !c.used[key] && (top == "parts" || top == "attempts" || top == "submissions" || key == job.InferFlagsKey) && !yield(key, nil) {
				return
			}
		}
	}
	return ordered.Map(ctx, readers, keys, func(key string) error { return c.unlistedObject(ctx, key) }, c.tolerate)
}

// unlistedObject checks an object by its own seal, or by its form where it has none.
func (c *checker) unlistedObject(ctx context.Context, key string) error {
	b, err := store.ReadAll(ctx, c.Store, key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed since it was listed
	}
	if err != nil {
		return err
	}
	hint := "remove it: it is only for status and advice"
	name := path.Base(key)
	_, commit := job.CommitRound(name)
	switch {
	case strings.HasSuffix(name, ".arrow"):
		hint = "remove it: no commit lists it"
		err = job.CheckSeal(b)
	case commit:
		hint = "remove it: a later one counts"
		err = job.CheckJSON(b)
	case strings.HasSuffix(name, ".answers"):
		hint = "remove it: its questions are asked again if they are needed"
		if !strings.Contains(name, job.Sum(b)) {
			err = fmt.Errorf("its sha256 is %s", job.Sum(b))
		}
	case key == job.InferFlagsKey:
		hint = "remove it: the next infer writes it"
		err = job.CheckJSON(b)
	case strings.HasSuffix(name, ".json") && !json.Valid(b):
		err = errors.New("it is no JSON")
	}
	if err != nil {
		return failure.New(failure.Refused, hint, "%s is damaged: %w", key, err)
	}
	return nil
}
