// Package store keeps a job's objects in a folder or under an s3:// prefix.
// Both pass one test suite; what a job may rely on is in Store's comments.
package store

import (
	"context"
	"io"
	"iter"
	"time"
)

// Store holds objects under slash-separated keys. An object is visible whole
// or not at all, and a reader sees every write that returned before it opened.
// All methods may be called from many goroutines.
type Store interface {
	// String names the store as a user would: "./dir" or "s3://bucket/prefix".
	String() string

	// Open streams the object. The error is fs.ErrNotExist (errors.Is) if there is none.
	// A body cut short by the network is resumed or reported, never taken for the end.
	Open(ctx context.Context, key string) (io.ReadCloser, error)

	// Create writes a new object; write is called once and may fail, which leaves nothing behind.
	// The first writer wins: the error is fs.ErrExist (errors.Is) if the key is taken, by
	// whatever content. A key that this very call wrote, unknown to it because the reply
	// was lost, is not taken.
	Create(ctx context.Context, key string, write func(io.Writer) error) error

	// Replace writes an object over whatever was there, atomically.
	Replace(ctx context.Context, key string, write func(io.Writer) error) error

	// List yields the objects whose keys start with prefix, in ascending order of key.
	// An error ends the sequence.
	List(ctx context.Context, prefix string) iter.Seq2[Object, error]

	// Remove deletes an object; one that is not there is no error.
	Remove(ctx context.Context, key string) error
}

// Object is what a listing says of an object.
type Object struct {
	Key      string
	Size     int64
	Modified time.Time // the store's clock; for people only, nothing is decided by it
}
