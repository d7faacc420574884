package store

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"path"
	"strings"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/secret"
)

// Options say how a store is reached. The zero value is right for a folder and for AWS.
type Options struct {
	S3Endpoint   string        // URL of an S3 server other than AWS
	S3PathStyle  bool          // bucket in the path, not in the host name, as most other servers want it
	SingleWriter bool          // the user ensures that there is no other writer: Create may look first and then write
	TempDir      string        // where an object waits before it is sent to S3; empty: the system's
	RetryFor     time.Duration // how long a failing S3 request is tried again; 0: 15 minutes
	Logger       *slog.Logger  // one line a minute while S3 makes us wait; nil: none

	stall time.Duration // a connection without a byte moved for so long is dead; 0: 2 minutes
}

// ErrNoExclusive says that the place has no way to create a name that
// another writer may be creating at the same time.
var ErrNoExclusive = errors.New("no way to create without overwriting")

const singleWriterHint = "use another place for the job, or --single-writer if no task is ever run twice at once"

// Open returns the store at location: "s3://bucket/prefix" or the path of a
// folder, which the first write creates.
func Open(ctx context.Context, location string, o Options) (Store, error) {
	bucket, prefix, isS3, err := parseS3(location)
	switch {
	case err != nil:
		return nil, err
	case secret.URL(o.S3Endpoint):
		return nil, failure.New(failure.Usage, "leave them out: keys of S3 come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
			"open %s: the endpoint's URL holds a name and password", location)
	case isS3 && o.S3Endpoint != "" && !strings.Contains(o.S3Endpoint, "://"):
		return nil, failure.New(failure.Usage, "write it as https://"+o.S3Endpoint+" or http://"+o.S3Endpoint, "open %s: the endpoint %s is no URL", location, o.S3Endpoint)
	case isS3:
		return openS3(ctx, bucket, strings.Trim(prefix, "/"), o)
	}
	return newFolder(location, o), nil
}

// Flags are those of a tokenfork command by which the store is reached again.
func Flags(s Store) []string {
	flags := []string{"--job", s.String()}
	if s, ok := s.(*s3Store); ok {
		if s.o.S3Endpoint != "" {
			flags = append(flags, "--s3-endpoint", s.o.S3Endpoint)
		}
		if s.o.S3PathStyle {
			flags = append(flags, "--s3-path-style")
		}
	}
	return flags
}

// parseS3 splits s3://bucket/key; anything else is a path or, with another scheme, an error.
func parseS3(location string) (bucket, key string, isS3 bool, err error) {
	scheme, rest, isURL := strings.Cut(location, "://")
	bucket, key, _ = strings.Cut(rest, "/")
	switch {
	case location == "":
		return "", "", false, failure.New(failure.Usage, "name a path or s3://bucket/prefix", "open store: no location given")
	case !isURL:
		return "", "", false, nil
	case scheme != "s3" || bucket == "":
		return "", "", false, failure.New(failure.Usage, "name a path or s3://bucket/prefix", "open %s: unknown kind of location", location)
	}
	return bucket, key, true, nil
}

// tempMark begins the names of files that are not objects yet.
const tempMark = ".tmp-"

// checkKey refuses keys that a folder could not hold or would hide.
func checkKey(key string) error {
	if !fs.ValidPath(key) || key == "." || strings.HasPrefix(path.Base(key), tempMark) {
		return fmt.Errorf("invalid key %q", key)
	}
	return nil
}

// Probe finds out whether the store keeps its promise that the first writer
// wins: it creates a key twice, reads it back and removes it. The error says
// how the store failed and what can be done.
func Probe(ctx context.Context, s Store) (err error) {
	key := "probe-" + rand.Text()
	defer func() {
		err = errors.Join(err, s.Remove(context.WithoutCancel(ctx), key))
	}()
	if err := guarded(ctx, s, key, CreateBytes(ctx, s, key, []byte("first"))); err != nil {
		return err
	}
	second := CreateBytes(ctx, s, key, []byte("second"))
	if second != nil && !errors.Is(second, fs.ErrExist) {
		return guarded(ctx, s, key, second)
	}
	got, err := ReadAll(ctx, s, key)
	if err != nil {
		return fmt.Errorf("probe %s: %w", s, err)
	}
	if second == nil || string(got) == "second" {
		return failure.New(failure.Refused, singleWriterHint,
			"probe %s: this endpoint overwrote a guarded key: %w", s, ErrNoExclusive)
	}
	if string(got) != "first" {
		return failure.New(failure.Refused, "a proxy before it may compress or cut what it hands on: go round it, or use another place for the job",
			"probe %s: the server gives back other bytes than were written: %.60q", s, got)
	}
	for o, err := range s.List(ctx, key) {
		if err != nil {
			return fmt.Errorf("probe %s: %w", s, err)
		}
		if o.Key == key {
			return nil
		}
	}
	return failure.New(failure.Refused, "use a server whose listings have what was just written, or a folder", "probe %s: the listing lacks a key that is there", s)
}

// guarded explains why a key could not be created: where it can be replaced it is the guard that the
// server does not take.
func guarded(ctx context.Context, s Store, key string, cause error) error {
	if cause == nil {
		return nil
	}
	if _, isS3 := s.(*s3Store); isS3 && !errors.Is(cause, ErrNoExclusive) && failure.Code(cause) == failure.Other && ReplaceBytes(ctx, s, key, []byte("first")) == nil {
		return failure.New(failure.Refused, singleWriterHint, "probe %s: %w: %w", s, ErrNoExclusive, cause)
	}
	return fmt.Errorf("probe %s: %w", s, cause)
}

// sequence yields the objects that list gives, and its error after them.
func sequence(list func() ([]Object, error)) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		objects, err := list()
		for _, o := range objects {
			if !yield(o, nil) {
				return
			}
		}
		if err != nil {
			yield(Object{}, err)
		}
	}
}

// ReadAll returns an object's content.
func ReadAll(ctx context.Context, s Store, key string) ([]byte, error) {
	r, err := s.Open(ctx, key)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// Sum is the sha256 of an object's content in hex.
func Sum(ctx context.Context, s Store, key string) (string, error) {
	r, err := s.Open(ctx, key)
	if err != nil {
		return "", err
	}
	defer r.Close()
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return "", fmt.Errorf("read %s in %s: %w", key, s, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// CreateBytes is Create with the content at hand.
func CreateBytes(ctx context.Context, s Store, key string, content []byte) error {
	return s.Create(ctx, key, copyOf(content))
}

// ReplaceBytes is Replace with the content at hand.
func ReplaceBytes(ctx context.Context, s Store, key string, content []byte) error {
	return s.Replace(ctx, key, copyOf(content))
}

func copyOf(content []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := io.Copy(w, bytes.NewReader(content))
		return err
	}
}
