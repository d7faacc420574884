package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"

	"tokenfork/internal/job"
	"tokenfork/internal/store"
)

// perMismatch is what a mismatch takes of a job's place at most: manifest, parts and
// results in three formats.
const perMismatch = 16 << 10

// largeObject is more than S3 takes in one request of tokenfork's.
const largeObject = 16<<20 + 1

func place(ctx context.Context, o *Options) []Finding {
	if o.Store == nil {
		return nil
	}
	var all []Finding
	j, err := job.Load(ctx, o.Store)
	corpus, noCorpus := job.LoadCorpus(ctx, o.Store)
	switch {
	case err == nil:
		all = found(OK, "job", "", "%s at %s, %d shards", j.ID, o.Store, len(j.Shards))
	case errors.Is(err, fs.ErrNotExist) && noCorpus == nil:
		all = found(OK, "job", "", "%d texts at %s, not planned yet", corpus.Texts, o.Store)
	default:
		all = failed("job", err, "is --job right?")
	}
	if err := store.Probe(ctx, o.Store); err != nil {
		return append(all, failed("store", err, "can this node write there? Try touch, or aws s3 cp, from here")...)
	}
	all = append(all, found(OK, "store", "", "%s: written, read and guarded", o.Store)...)
	if strings.HasPrefix(o.Store.String(), "s3://") {
		return append(all, o.rights(ctx)...)
	}
	return append(all, room("job's disk", o.Store.String(), perMismatch*mismatches(j), "move the job to a larger disk, or free some space there")...)
}

func mismatches(j *job.Job) int64 {
	if j == nil {
		return 0
	}
	return j.Mismatches
}

// rights tries what a job asks of S3 besides single objects: listings, and uploads in parts.
func (o *Options) rights(ctx context.Context) []Finding {
	const check = "s3 rights"
	for _, err := range o.Store.List(ctx, "probe-") {
		if err != nil {
			return failed(check, err, "allow s3:ListBucket on the bucket")
		}
	}
	key := "probe-" + tag()
	err := o.Store.Create(ctx, key, func(w io.Writer) error {
		_, err := io.CopyN(w, zeros{}, largeObject)
		return err
	})
	if err != nil {
		return failed(check, err, "allow s3:PutObject and s3:AbortMultipartUpload there; a server other than AWS must take If-None-Match when it completes an upload in parts")
	}
	if err := o.Store.Remove(ctx, key); err != nil {
		return failed(check, err, fmt.Sprintf("allow s3:DeleteObject, and remove %s", key))
	}
	return found(OK, check, "", "listed, 16 MiB uploaded in parts, removed")
}

type zeros struct{}

// Read implements io.Reader.
func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// room says whether the folder's disk has so many bytes free.
func room(check, dir string, wants int64, hint string) []Finding {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return failed(check, fmt.Errorf("ask for the room at %s: %w", dir, err), hint)
	}
	free := int64(s.Bavail) * s.Bsize
	switch {
	case free < wants:
		return found(Warn, check, hint, "%s has %.1f GiB free, %.1f may be needed", dir, gib(free), gib(wants))
	case s.Files > 0 && s.Ffree < leastFiles:
		return found(Warn, check, hint, "%s has room for %d more files", dir, s.Ffree)
	}
	return found(OK, check, "", "%s has %.0f GiB free", dir, gib(free))
}

const leastFiles = 10_000

func gib(bytes int64) float64 { return float64(bytes) / (1 << 30) }
