package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"tokenfork/internal/failure"
)

// body streams one version of an object and goes on where a broken connection left it.
type body struct {
	ctx       context.Context
	s         *s3Store
	key       string
	etag      *string
	size, off int64
	rc        io.ReadCloser // nil: to be opened again at off
	op        *operation    // nil while bytes come
}

func (s *s3Store) open(ctx context.Context, key string) (io.ReadCloser, error) {
	full := s.full(key)
	out, err := s.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &s.bucket, Key: &full})
	if err != nil {
		return nil, s.explain(s.unhide(ctx, full, err), key)
	}
	if out.ContentLength == nil {
		return nil, errors.Join(failure.New(failure.Refused, "a proxy before the server may drop Content-Length: go round it, or use another place for the job",
			"read %s: the server names no length", s.place(key)), out.Body.Close())
	}
	return &body{ctx: ctx, s: s, key: key, etag: out.ETag, size: *out.ContentLength, rc: out.Body}, nil
}

func (b *body) Read(p []byte) (int, error) {
	for len(p) > 0 {
		if b.rc == nil {
			if err := b.reopen(); err != nil {
				return 0, err
			}
			continue // unless the rest broke off at once
		}
		n, err := b.rc.Read(p)
		b.off += int64(n)
		switch {
		case n > 0:
			b.op = nil
			return n, nil // err comes again
		case b.off >= b.size && err == io.EOF:
			return 0, err
		case b.off >= b.size && err != nil:
			return 0, fmt.Errorf("read %s: %w", b.s.place(b.key), err) // a checksum that does not fit
		case err != nil:
			if err := b.cut(err); err != nil {
				return 0, err
			}
		}
	}
	return 0, nil
}

// cut waits before the body is opened again, or gives up.
func (b *body) cut(cause error) error {
	_ = b.rc.Close() // broken anyway
	b.rc = nil
	if b.op == nil {
		b.op = &operation{start: time.Now()}
	}
	if err := b.s.retry.again(b.op, cause); err != nil {
		return failure.New(failure.Stopped, startAgain, "read %s, %d of %d bytes came: %w: %w", b.s.place(b.key), b.off, b.size, err, cause)
	}
	return b.s.retry.pause(b.ctx, b.op, cause)
}

// reopen asks for the rest of the same version.
func (b *body) reopen() error {
	out, err := b.s.client.GetObject(b.ctx, &s3.GetObjectInput{
		Bucket: &b.s.bucket, Key: aws.String(b.s.full(b.key)), IfMatch: b.etag, Range: aws.String(fmt.Sprintf("bytes=%d-", b.off)),
	})
	if errCode(err) == "PreconditionFailed" {
		return fmt.Errorf("read %s: it was replaced while it was being read: %w", b.s.place(b.key), err)
	}
	if err != nil {
		return b.s.explain(err, b.key)
	}
	b.rc = out.Body
	if out.ContentRange == nil && (out.ContentLength == nil || *out.ContentLength == b.size) { // a server without ranges sends all again
		if _, err := io.CopyN(io.Discard, b.rc, b.off); err != nil {
			return b.cut(err)
		}
		return nil
	}
	if aws.ToInt64(out.ContentLength) != b.size-b.off {
		return fmt.Errorf("read %s: the server sent %d bytes for the last %d of %d", b.s.place(b.key), aws.ToInt64(out.ContentLength), b.size-b.off, b.size)
	}
	return nil
}

func (b *body) Close() error {
	if b.rc == nil {
		return nil
	}
	return b.rc.Close()
}
