// Package localcopy keeps verified copies of folders, such as models, on a node's own disk, where all tasks of
// the node find them. A folder is copied once, however many processes ask for it at the same time.
//
// Layout below Options.To, for a folder NAME (which may hold slashes):
//
//	NAME                            link to the current version
//	.staged/NAME/VERSION/BASE/      the files; BASE is the last part of NAME
//	.staged/NAME/VERSION/complete   sizes and times of the files: the copy is used while they are as listed
//	.staged/NAME/lock               held by the process that copies
//	.staged/in-use                  readers hold a shared lock: no old version is removed meanwhile
package localcopy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"tokenfork/internal/failure"
	"tokenfork/internal/store"
)

const (
	staged = ".staged"
	inUse  = "in-use"
	// streams are the files copied at a time: S3 gives each stream less than 100 MB/s.
	streams = 32
)

// Options say where copies go.
type Options struct {
	To        string
	NoWeights bool // leave out the files that a safetensors index names: planning does not read them
	Store     store.Options
	Log       *slog.Logger
}

// Run copies each source to o.To and returns the folders of the copies. A folder is copied under its last name;
// s3://bucket/prefix stands for each folder at or below it that has a SHA256SUMS, copied under its whole key. An error
// of one folder does not keep the others from being copied.
func Run(ctx context.Context, sources []string, o Options) ([]string, error) {
	to, err := filepath.Abs(o.To)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", o.To, err)
	}
	c := &copier{Options: o, to: to, slots: make(chan struct{}, streams)}
	if err := os.MkdirAll(filepath.Join(to, staged), 0o755); err != nil {
		return nil, fmt.Errorf("make the folder of copies: %w", err)
	}
	use, err := os.OpenFile(filepath.Join(to, staged, inUse), os.O_CREATE|os.O_RDONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("make the lock of copies: %w", err)
	}
	defer use.Close()
	var folders []*folder
	for _, source := range sources {
		found, err := find(ctx, source, o)
		if err != nil {
			return nil, err
		}
		folders = append(folders, found...)
	}
	if err := differ(folders); err != nil {
		return nil, err
	}
	return c.all(ctx, folders)
}

// differ refuses two sources that would be copied to one place.
func differ(folders []*folder) error {
	seen := map[string]string{}
	for _, f := range folders {
		if other := seen[f.name]; other != "" {
			return failure.New(failure.Usage, "stage one of them to another --to", "%s and %s would both become %s", other, f.from, f.name)
		}
		seen[f.name] = f.from
	}
	return nil
}

type copier struct {
	Options
	to    string
	slots chan struct{}
}

// all copies the folders side by side; the smallest is first in line, since most tasks wait for it.
func (c *copier) all(ctx context.Context, folders []*folder) ([]string, error) {
	order := slices.Clone(folders)
	slices.SortStableFunc(order, func(a, b *folder) int { return int(min(max(a.size()-b.size(), -1), 1)) })
	errs := make([]error, len(order))
	var g errgroup.Group
	for i, f := range order {
		started := make(chan struct{})
		g.Go(func() error {
			errs[i] = c.folder(ctx, f, started)
			return nil
		})
		<-started
	}
	_ = g.Wait() // errors are in errs
	paths := make([]string, len(folders))
	for i, f := range folders {
		paths[i] = c.content(f)
	}
	return paths, errors.Join(errs...)
}

func (c *copier) root(f *folder) string {
	return filepath.Join(c.to, staged, filepath.FromSlash(f.name))
}

func (c *copier) version(f *folder) string { return filepath.Join(c.root(f), f.version) }

func (c *copier) content(f *folder) string { return filepath.Join(c.version(f), path.Base(f.name)) }

// folder makes the copy, unless it is there. started is closed when its files are in line.
func (c *copier) folder(ctx context.Context, f *folder, started chan struct{}) error {
	inLine := sync.OnceFunc(func() { close(started) })
	defer inLine()
	if err := os.MkdirAll(c.content(f), 0o755); err != nil {
		return fmt.Errorf("stage %s: %w", f.from, err)
	}
	unlock, err := c.lock(ctx, f, inLine)
	if err != nil {
		return err
	}
	defer unlock()
	if !c.complete(f) {
		if err := c.fill(ctx, f, inLine); err != nil {
			return err
		}
	}
	if err := c.link(f); err != nil {
		return fmt.Errorf("stage %s: %w", f.from, err)
	}
	return c.prune(f)
}

// lock waits for other processes that copy the folder.
func (c *copier) lock(ctx context.Context, f *folder, waiting func()) (func(), error) {
	file, err := os.OpenFile(filepath.Join(c.root(f), "lock"), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return nil, fmt.Errorf("stage %s: %w", f.from, err)
	}
	for said := false; ; said = true {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { file.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", file.Name(), err), file.Close())
		}
		if !said {
			c.Log.Info("waiting for another process that copies it", "folder", f.name)
			waiting()
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return nil, errors.Join(stopped(ctx, f), file.Close())
		}
	}
}

func stopped(ctx context.Context, f *folder) error {
	return failure.New(failure.Stopped, "run the same command again: finished files are kept", "stage %s: %w", f.from, context.Cause(ctx))
}

// fill copies what is missing, and records the copy as complete.
func (c *copier) fill(ctx context.Context, f *folder, inLine func()) error {
	begun := time.Now()
	if err := c.clean(f); err != nil {
		return err
	}
	if err := c.room(f); err != nil {
		return err
	}
	c.Log.Info("copying", "from", f.from, "files", len(f.files), "GB", gigabytes(f.size()))
	g, ctx := errgroup.WithContext(ctx)
	for i, file := range f.files {
		select {
		case c.slots <- struct{}{}:
		case <-ctx.Done():
			return errors.Join(g.Wait(), stopped(ctx, f))
		}
		g.Go(func() error {
			defer func() { <-c.slots }()
			return c.file(ctx, f, i, file)
		})
	}
	inLine()
	if err := g.Wait(); err != nil {
		if ctx.Err() != nil && errors.Is(err, context.Canceled) {
			return stopped(ctx, f)
		}
		return err
	}
	if err := c.record(f); err != nil {
		return fmt.Errorf("stage %s: %w", f.from, err)
	}
	took := time.Since(begun)
	c.Log.Info("copied and verified", "folder", f.name, "GB", gigabytes(f.size()), "seconds", int(took.Seconds()), "MB/s", int(float64(f.size())/1e6/took.Seconds()))
	return nil
}

func gigabytes(n int64) string { return fmt.Sprintf("%.2f", float64(n)/1e9) }

// room says early that the disk is too small.
func (c *copier) room(f *folder) error {
	var disk unix.Statfs_t
	if err := unix.Statfs(c.to, &disk); err != nil {
		return fmt.Errorf("stage %s: free space of %s: %w", f.from, c.to, err)
	}
	have := sizes(c.content(f))
	need := f.size()
	for _, size := range have {
		need -= size
	}
	if free := int64(disk.Bavail) * disk.Bsize; need > free {
		return failure.New(failure.Refused, "remove what is not needed there, or give the node a larger disk",
			"stage %s: %s GB do not fit into the %s GB that are free in %s", f.from, gigabytes(need), gigabytes(free), c.to)
	}
	return nil
}

// link makes the name point at this version.
func (c *copier) link(f *folder) error {
	name := filepath.Join(c.to, filepath.FromSlash(f.name))
	if now, err := os.Readlink(name); err == nil && now == c.content(f) {
		return nil
	}
	if info, err := os.Lstat(name); err == nil && info.Mode()&fs.ModeSymlink == 0 {
		return failure.New(failure.Refused, "move it away", "%s is there already and is no link to a copy", name)
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	next := filepath.Join(c.root(f), "next")
	if err := errors.Join(remove(next), os.Symlink(c.content(f), next)); err != nil {
		return err
	}
	return os.Rename(next, name)
}

// prune removes other versions, unless a reader holds the lock: it may be about to open their files.
func (c *copier) prune(f *folder) error {
	entries, err := os.ReadDir(c.root(f))
	if err != nil {
		return fmt.Errorf("look for old versions: %w", err)
	}
	old := slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return !e.IsDir() || e.Name() == f.version || !isVersion(e.Name()) })
	if len(old) == 0 {
		return nil
	}
	use, err := os.OpenFile(filepath.Join(c.to, staged, inUse), os.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("look for old versions: %w", err)
	}
	defer use.Close()
	if err := unix.Flock(int(use.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		c.Log.Info("old versions stay while tasks run here", "folder", f.name, "old", len(old))
		return nil
	}
	for _, e := range old {
		if err := os.RemoveAll(filepath.Join(c.root(f), e.Name())); err != nil {
			return fmt.Errorf("remove an old version: %w", err)
		}
		c.Log.Info("removed an old version", "folder", f.name, "version", e.Name())
	}
	return nil
}

const versionPrefix = "sha256-"

// isVersion tells versions from folders whose name goes on: a/b beside a.
func isVersion(name string) bool { return strings.HasPrefix(name, versionPrefix) }

func remove(name string) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
