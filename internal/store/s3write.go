package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/sync/errgroup"
)

const (
	partSize    = 16 << 20 // objects above it go up in parts of it
	maxParts    = 10_000   // S3's bound
	partsAtOnce = 4
	attemptKey  = "attempt" // metadata that tells one call's object from another's
)

// upload is an object on its way: whole in a file, so that every retry can read it again.
type upload struct {
	key     string
	f       *os.File
	size    int64
	attempt map[string]string
	guard   *string // "*": only where there is no object yet
}

// spool lets write fill a temporary file that nothing has to clean up.
func (s *s3Store) spool(key string, write func(io.Writer) error) (*upload, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(s.o.TempDir, "tokenfork-")
	if err != nil {
		return nil, explainWrite(err, s.o.TempDir, 0)
	}
	size, err := fill(f, f.Name(), write)
	if err := errors.Join(err, os.Remove(f.Name())); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &upload{key: s.full(key), f: f, size: size, attempt: map[string]string{attemptKey: rand.Text()}}, nil
}

func (s *s3Store) Create(ctx context.Context, key string, write func(io.Writer) error) error {
	u, err := s.spool(key, write)
	if err != nil {
		return err
	}
	defer u.f.Close()
	if !s.o.SingleWriter {
		u.guard = aws.String("*")
		return s.send(ctx, u, key)
	}
	attempt, err := s.attemptAt(ctx, u.key)
	switch {
	case err != nil:
		return s.explain(err, key)
	case attempt != nil:
		return s.taken(key)
	}
	return s.send(ctx, u, key)
}

func (s *s3Store) taken(key string) error {
	return fmt.Errorf("create %s: %w", s.place(key), fs.ErrExist)
}

func (s *s3Store) Replace(ctx context.Context, key string, write func(io.Writer) error) error {
	u, err := s.spool(key, write)
	if err != nil {
		return err
	}
	defer u.f.Close()
	return s.send(ctx, u, key)
}

// send uploads u. Where the answer leaves open who wrote the key, it looks;
// where no one did, it sends again.
func (s *s3Store) send(ctx context.Context, u *upload, key string) error {
	var err error
	for range 3 {
		if err = s.sendOnce(ctx, u); err == nil || !unclear(err) {
			break
		}
		attempt, lookErr := s.attemptAt(ctx, u.key)
		switch {
		case lookErr != nil:
			return s.explain(lookErr, key)
		case attempt != nil && *attempt == u.attempt[attemptKey]:
			return nil
		case attempt != nil && u.guard != nil:
			return s.taken(key)
		}
	}
	return s.explain(err, key)
}

// unclear says that the key may hold this upload or another's: the first try
// of a request can have landed although its answer was lost.
func unclear(err error) bool {
	switch errCode(err) {
	case "PreconditionFailed", "NoSuchUpload", "ConditionalRequestConflict":
		return true
	}
	return false
}

// attemptAt is the attempt that wrote the key, "" for a foreign object, nil for none.
func (s *s3Store) attemptAt(ctx context.Context, full string) (*string, error) {
	out, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.bucket, Key: &full})
	err = s.unhide(ctx, full, err)
	if errCode(err) == "NotFound" {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return aws.String(out.Metadata[attemptKey]), nil
}

func (s *s3Store) sendOnce(ctx context.Context, u *upload) error {
	if u.size > partSize {
		return s.sendParts(ctx, u)
	}
	_, err := s.client.PutObject(ctx, &s3.PutObjectInput{
		Bucket: &s.bucket, Key: &u.key, Body: io.NewSectionReader(u.f, 0, u.size), ContentLength: &u.size,
		IfNoneMatch: u.guard, Metadata: u.attempt,
	})
	return err
}

// sendParts uploads in parts, which stay invisible until all are there, and
// drops them where that fails.
func (s *s3Store) sendParts(ctx context.Context, u *upload) error {
	begun, err := s.client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: &s.bucket, Key: &u.key, Metadata: u.attempt})
	if err != nil {
		return err
	}
	parts, err := s.uploadParts(ctx, u, begun.UploadId)
	if err != nil {
		return errors.Join(err, s.abort(ctx, u.key, begun.UploadId, afterParts...))
	}
	_, err = s.client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
		Bucket: &s.bucket, Key: &u.key, UploadId: begun.UploadId, IfNoneMatch: u.guard,
		MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
	}, func(o *s3.Options) { o.Retryer = noConflictRetry{s.retry} })
	if err != nil {
		return errors.Join(err, s.abort(ctx, u.key, begun.UploadId))
	}
	return nil
}

func (s *s3Store) uploadParts(ctx context.Context, u *upload, id *string) ([]types.CompletedPart, error) {
	size := max(partSize, (u.size+maxParts-1)/maxParts)
	parts := make([]types.CompletedPart, (u.size+size-1)/size)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(partsAtOnce)
	for i := range parts {
		group.Go(func() error {
			from := int64(i) * size
			length := min(size, u.size-from)
			number := aws.Int32(int32(i + 1))
			out, err := s.client.UploadPart(ctx, &s3.UploadPartInput{
				Bucket: &s.bucket, Key: &u.key, UploadId: id, PartNumber: number,
				Body: io.NewSectionReader(u.f, from, length), ContentLength: &length,
			})
			if err == nil {
				parts[i] = types.CompletedPart{ETag: out.ETag, PartNumber: number}
			}
			return err
		})
	}
	return parts, group.Wait()
}

// afterParts are the waits before an upload whose parts were given up is dropped again: one
// that was on its way can still land, so that S3 asks for the request to be repeated.
var afterParts = []time.Duration{300 * time.Millisecond, time.Second}

// abort drops the parts of a failed upload, also when its caller was stopped, and once
// more after each of the waits.
func (s *s3Store) abort(ctx context.Context, key string, id *string, again ...time.Duration) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	for _, wait := range append([]time.Duration{0}, again...) {
		time.Sleep(wait)
		_, err := s.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &s.bucket, Key: &key, UploadId: id})
		if err != nil && errCode(err) != "NoSuchUpload" {
			return fmt.Errorf("drop the parts of a failed upload: %w", err)
		}
	}
	return nil
}
