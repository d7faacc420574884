package job

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"

	"tokenfork/internal/failure"
	"tokenfork/internal/store"
)

// InferFlagsKey keeps the flags by which infer last found its models and servers,
// for the commands that messages, failures.csv and status advise.
const InferFlagsKey = "infer-flags.json"

type inferFlags struct {
	Flags []string `json:"flags"`
}

// KeepInferFlags keeps the flags of the infer that works on the job now.
func KeepInferFlags(ctx context.Context, s store.Store, flags []string) error {
	b, err := SealJSON(inferFlags{flags})
	if err != nil {
		return fmt.Errorf("encode %s: %w", InferFlagsKey, err)
	}
	old, err := store.ReadAll(ctx, s, InferFlagsKey)
	switch {
	case err == nil && bytes.Equal(old, b):
		return nil
	case err == nil || errors.Is(err, fs.ErrNotExist):
		err = store.ReplaceBytes(ctx, s, InferFlagsKey, b)
	}
	if err != nil {
		return fmt.Errorf("keep the flags of infer in %s: %w", s, err)
	}
	return nil
}

// InferFlags gives the flags that infer was last run with, nil if none are kept.
func InferFlags(ctx context.Context, s store.Store) ([]string, error) {
	b, err := store.ReadAll(ctx, s, InferFlagsKey)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s of %s: %w", InferFlagsKey, s, err)
	}
	var f inferFlags
	if err := OpenJSON(b, &f); err != nil {
		return nil, failure.New(failure.Refused, "remove it: the next infer writes it", "%s of %s is damaged: %w", InferFlagsKey, s, err)
	}
	return f.Flags, nil
}
