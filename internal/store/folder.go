package store

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"tokenfork/internal/failure"
	"tokenfork/internal/regular"
)

// folder keeps each object as a file of the same relative path.
type folder struct {
	root         string
	singleWriter bool
	// exclusive are the ways to give a file its name unless the name is taken, best first.
	exclusive []func(temp, name string) error
}

var _ Store = (*folder)(nil)

func newFolder(root string, o Options) *folder {
	return &folder{root: root, singleWriter: o.SingleWriter, exclusive: []func(temp, name string) error{os.Link, renameNoReplace}}
}

func renameNoReplace(temp, name string) error {
	return unix.Renameat2(unix.AT_FDCWD, temp, unix.AT_FDCWD, name, unix.RENAME_NOREPLACE)
}

func (d *folder) String() string { return d.root }

func (d *folder) path(key string) string { return filepath.Join(d.root, filepath.FromSlash(key)) }

func (d *folder) Open(ctx context.Context, key string) (io.ReadCloser, error) {
	if err := errors.Join(checkKey(key), ctx.Err()); err != nil {
		return nil, err
	}
	if st, err := os.Stat(d.path(key)); err == nil && st.IsDir() {
		return nil, fmt.Errorf("open %s: it is a folder: %w", d.path(key), fs.ErrNotExist)
	}
	f, err := regular.Open(d.path(key))
	if missing(err) {
		return nil, &fs.PathError{Op: "open", Path: d.path(key), Err: fs.ErrNotExist}
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (d *folder) Create(ctx context.Context, key string, write func(io.Writer) error) error {
	return d.put(ctx, key, write, d.nameOnce)
}

func (d *folder) Replace(ctx context.Context, key string, write func(io.Writer) error) error {
	return d.put(ctx, key, write, os.Rename)
}

// put writes a temporary file beside the object's place, makes it durable and
// hands it to commit, which gives it the object's name.
func (d *folder) put(ctx context.Context, key string, write func(io.Writer) error, commit func(temp, name string) error) error {
	if err := checkKey(key); err != nil {
		return err
	}
	name := d.path(key)
	dir := filepath.Dir(name)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return explainWrite(err, name, 0)
	}
	temp := filepath.Join(dir, tempMark+rand.Text())
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o666)
	if err != nil {
		return explainWrite(err, name, 0)
	}
	defer os.Remove(temp) // after a rename there is none
	size, err := fill(f, name, write)
	if err == nil {
		err = explainWrite(f.Sync(), name, size)
	}
	if err := errors.Join(err, explainWrite(f.Close(), name, size), ctx.Err()); err != nil {
		return err
	}
	if err := commit(temp, name); err != nil {
		return explainWrite(err, name, size)
	}
	return syncDir(dir)
}

// nameOnce gives temp its final name unless that is taken.
func (d *folder) nameOnce(temp, name string) error {
	for _, try := range d.exclusive {
		err := try(temp, name)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, fs.ErrExist):
			return ifOthers(temp, name, err)
		case !refused(err):
			return err
		}
	}
	if !d.singleWriter {
		return failure.New(failure.Refused, singleWriterHint, "create %s: the file system refuses link and exclusive rename: %w", name, ErrNoExclusive)
	}
	if _, err := os.Lstat(name); err == nil {
		return &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
	}
	return os.Rename(temp, name)
}

// ifOthers returns err unless name is temp itself: over NFS the reply to a
// link that was made can be lost, and the second try finds the first.
func ifOthers(temp, name string, err error) error {
	a, errA := os.Lstat(temp)
	b, errB := os.Lstat(name)
	if errA == nil && errB == nil && os.SameFile(a, b) {
		return nil
	}
	return err
}

// refused says that the file system has no such operation at all.
func refused(err error) bool {
	none := []error{unix.EPERM, unix.ENOSYS, unix.EOPNOTSUPP, unix.EINVAL, unix.EMLINK}
	return slices.ContainsFunc(none, func(e error) bool { return errors.Is(err, e) })
}

// syncDir makes a new name durable, where the file system has that for folders.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	if err = f.Sync(); errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		err = nil
	}
	return errors.Join(err, f.Close())
}

func (d *folder) List(ctx context.Context, prefix string) iter.Seq2[Object, error] {
	return sequence(func() ([]Object, error) {
		objects, err := d.walk(ctx, prefix)
		if err != nil {
			err = fmt.Errorf("list %s: %w", d.root, err)
		}
		return objects, err
	})
}

// walk returns the objects in order of key, which is not the order of a walk:
// "a.b" comes before "a/b".
func (d *folder) walk(ctx context.Context, prefix string) ([]Object, error) {
	var objects []Object
	start := path.Dir(prefix + "x") // the innermost folder that holds every such key
	err := fs.WalkDir(os.DirFS(d.root), start, func(key string, e fs.DirEntry, err error) error {
		if missing(err) {
			return nil // not there yet, or removed while we walk
		}
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		if e.IsDir() {
			if key != start && !strings.HasPrefix(key+"/", prefix) {
				return fs.SkipDir
			}
			return nil
		}
		if !e.Type().IsRegular() || !strings.HasPrefix(key, prefix) || checkKey(key) != nil {
			return nil
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		objects = append(objects, Object{Key: key, Size: info.Size(), Modified: info.ModTime()})
		return nil
	})
	slices.SortFunc(objects, func(a, b Object) int { return cmp.Compare(a.Key, b.Key) })
	return objects, err
}

func (d *folder) Remove(ctx context.Context, key string) error {
	if err := errors.Join(checkKey(key), ctx.Err()); err != nil {
		return err
	}
	if err := os.Remove(d.path(key)); !missing(err) {
		return err
	}
	return nil
}

// missing says that there is no such file, also where a part of its path is one.
func missing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR)
}
