package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"tokenfork/internal/failure"
)

// OpenInput streams a local file or an object named s3://bucket/key.
func OpenInput(ctx context.Context, url string, o Options) (io.ReadCloser, error) {
	bucket, key, isS3, err := parseS3(url)
	if err != nil {
		return nil, err
	}
	if !isS3 {
		return openLocal(url)
	}
	s, err := openS3(ctx, bucket, "", o)
	if err != nil {
		return nil, err
	}
	return s.open(ctx, key)
}

// openLocal opens a file, or a FIFO as a pipe.
func openLocal(name string) (io.ReadCloser, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	switch mode := info.Mode(); {
	case mode.IsRegular():
		return os.Open(name)
	case mode&fs.ModeNamedPipe != 0:
		return Piped(func() (io.ReadCloser, error) { return os.Open(name) }), nil
	case mode.IsDir():
		return nil, failure.New(failure.Usage, "name its files, or a pattern such as 'DIR/*.parquet'", "%s is a folder", name)
	}
	return nil, failure.New(failure.Usage, "name a file, a FIFO or s3://bucket/key, or - for standard input", "%s is a device or socket, not a file", name)
}

// Piped reads what open opens. Its Close ends a read, or an open of a FIFO, that waits
// for whoever writes.
func Piped(open func() (io.ReadCloser, error)) io.ReadCloser {
	r, w := io.Pipe()
	go func() {
		in, err := open()
		if err == nil {
			_, err = io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{in}, make([]byte, 1<<20))
			err = errors.Join(err, in.Close())
		}
		w.CloseWithError(err) // nil is the end
	}()
	return r
}

// Glob returns, sorted, the local files or s3:// objects that the pattern
// matches as path.Match does; a name without wildcards matches itself. No
// match is an error.
func Glob(ctx context.Context, pattern string, o Options) ([]string, error) {
	names, err := match(ctx, pattern, o)
	if err != nil {
		return nil, fmt.Errorf("look for %s: %w", pattern, err)
	}
	if !strings.HasPrefix(path.Base(pattern), ".") { // as shells do: Spark leaves .crc files
		names = slices.DeleteFunc(names, func(name string) bool { return strings.HasPrefix(path.Base(name), ".") })
	}
	if len(names) == 0 {
		return nil, failure.New(failure.Usage, "check the path; quote a pattern so that the shell leaves it alone", "no file matches %s: %w", pattern, fs.ErrNotExist)
	}
	slices.Sort(names)
	return names, checkLogs(ctx, names, o)
}

func match(ctx context.Context, pattern string, o Options) ([]string, error) {
	bucket, key, isS3, err := parseS3(pattern)
	switch {
	case err != nil:
		return nil, err
	case isS3:
		return globS3(ctx, bucket, key, o)
	}
	return globLocal(pattern)
}

// tableLogs are what says of a folder's Parquet files which of them, and which of their rows, count.
var tableLogs = []struct{ data, log, is, hint string }{
	{"", "_delta_log/*.json", "a Delta table", "write its present rows as one file: pyarrow.parquet.write_table(deltalake.DeltaTable('%s').to_pyarrow_table(), 'table.parquet')"},
	{"data/", "metadata/*.metadata.json", "an Iceberg table", "write its present rows as one file, for example by pyiceberg: %s"},
}

// checkLogs refuses Parquet files of such tables: rows that were removed would count.
func checkLogs(ctx context.Context, names []string, o Options) error {
	checked := map[string]bool{}
	for _, name := range names {
		root := name[:strings.LastIndex(name, "/")+1]
		for strings.Contains(path.Base(root), "=") { // a partition
			root = root[:strings.LastIndex(root[:len(root)-1], "/")+1]
		}
		if path.Ext(name) != ".parquet" || checked[root] {
			continue
		}
		checked[root] = true
		for _, l := range tableLogs {
			table, ok := strings.CutSuffix(root, l.data)
			if found, err := match(ctx, table+l.log, o); ok && err == nil && len(found) > 0 {
				return failure.New(failure.Refused, fmt.Sprintf(l.hint, cmp.Or(table, ".")), "%s is a file of %s: its log says which files and rows count", name, l.is)
			}
		}
	}
	return nil
}

func globLocal(pattern string) ([]string, error) {
	if _, err := os.Stat(pattern); err == nil {
		return []string{pattern}, nil // also a name that holds a bracket
	}
	return filepath.Glob(pattern)
}

func globS3(ctx context.Context, bucket, pattern string, o Options) ([]string, error) {
	if _, err := path.Match(pattern, ""); err != nil {
		return nil, err
	}
	s, err := openS3(ctx, bucket, "", o)
	if err != nil {
		return nil, err
	}
	prefix := pattern
	if i := strings.IndexAny(pattern, `*?[\`); i >= 0 {
		prefix = pattern[:i]
	}
	var names []string
	for object, err := range s.List(ctx, prefix) {
		if err != nil {
			return nil, err
		}
		if ok, _ := path.Match(pattern, object.Key); ok || object.Key == pattern {
			names = append(names, "s3://"+bucket+"/"+object.Key)
		}
	}
	return names, nil
}
