package localcopy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"tokenfork/internal/failure"
	"tokenfork/internal/store"
)

const (
	sumsFile  = "SHA256SUMS"
	indexFile = "model.safetensors.index.json"
)

// folder is one folder to copy.
type folder struct {
	from    string // as a user names it
	name    string // below Options.To
	version string // of its content
	files   []file
	open    func(ctx context.Context, name string) (io.ReadCloser, error)
}

type file struct {
	name string
	sum  string // sha256 in hex; "" if only the source's bytes tell
	size int64
}

func (f *folder) size() int64 {
	var n int64
	for _, file := range f.files {
		n += file.size
	}
	return n
}

// find returns the folders of a source.
func find(ctx context.Context, source string, o Options) ([]*folder, error) {
	if strings.Contains(source, "://") {
		return findInStore(ctx, strings.TrimRight(source, "/"), o)
	}
	f, err := local(source, o)
	return []*folder{f}, err
}

// findInStore takes every folder with sums at or below the source.
func findInStore(ctx context.Context, source string, o Options) ([]*folder, error) {
	s, err := store.Open(ctx, source, o.Store)
	if err != nil {
		return nil, err
	}
	_, key, _ := strings.Cut(strings.TrimPrefix(source, "s3://"), "/")
	size := map[string]int64{}
	var with []string
	for object, err := range s.List(ctx, "") {
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", source, err)
		}
		size[object.Key] = object.Size
		if path.Base(object.Key) == sumsFile {
			with = append(with, path.Dir(object.Key))
		}
	}
	if len(with) == 0 {
		return nil, failure.New(failure.Refused, "upload the folder's "+sumsFile+" last: (cd FOLDER && find . -type f ! -name "+sumsFile+" -printf '%P\\n' | xargs sha256sum >"+sumsFile+")",
			"stage %s: no %s there", source, sumsFile)
	}
	var all []*folder
	for _, dir := range with {
		f := &folder{from: strings.TrimSuffix(source+"/"+dir, "/."), name: path.Join(key, dir)}
		f.open = func(ctx context.Context, name string) (io.ReadCloser, error) {
			return s.Open(ctx, path.Join(dir, name))
		}
		if f.files, err = listed(ctx, f, func(name string) (int64, bool) { n, ok := size[path.Join(dir, name)]; return n, ok }); err != nil {
			return nil, err
		}
		if err := f.finish(ctx, o); err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	return all, nil
}

// sumLine is a line that sha256sum prints; names that it escapes are refused.
var sumLine = regexp.MustCompile(`^([0-9a-f]{64}) [ *](.+)$`)

// maxSums is more than any model needs, in bytes.
const maxSums = 16 << 20

// listed are the files that the folder's SHA256SUMS names.
func listed(ctx context.Context, f *folder, size func(string) (int64, bool)) ([]file, error) {
	bad := func(format string, args ...any) error {
		return failure.New(failure.Refused, "write it anew with sha256sum FILE... and upload it", "stage %s: %s %s", f.from, sumsFile, fmt.Sprintf(format, args...))
	}
	text, err := read(ctx, f, sumsFile, maxSums)
	if err != nil {
		return nil, err
	}
	var files []file
	seen := map[string]bool{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		m := sumLine.FindStringSubmatch(lines.Text())
		switch {
		case m == nil || !fs.ValidPath(m[2]) || m[2] == "." || strings.ContainsAny(m[2], "\\\x00"):
			return nil, bad("is not what sha256sum prints, or leaves the folder: %.80q", lines.Text())
		case seen[m[2]]:
			return nil, bad("names %s twice", m[2])
		case m[2] == sumsFile:
			return nil, bad("names itself")
		}
		n, ok := size(m[2])
		if !ok {
			return nil, failure.New(failure.Refused, "upload it, or write "+sumsFile+" anew", "stage %s: %s names %s, which is not there", f.from, sumsFile, m[2])
		}
		seen[m[2]] = true
		files = append(files, file{name: m[2], sum: m[1], size: n})
	}
	if err := lines.Err(); err != nil {
		return nil, bad("cannot be read: %v", err)
	}
	if len(files) == 0 {
		return nil, bad("is empty")
	}
	return files, nil
}

func read(ctx context.Context, f *folder, name string, limit int64) ([]byte, error) {
	r, err := f.open(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("stage %s: %w", f.from, err)
	}
	defer r.Close()
	text, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = failure.New(failure.Refused, "is it the right file?", "%s has more than %d bytes", name, limit)
	}
	if err != nil {
		return nil, fmt.Errorf("stage %s: %w", f.from, err)
	}
	return text, nil
}

// local is a folder of this machine's file systems. Links are followed, as a hub cache has them.
func local(source string, o Options) (*folder, error) {
	source, err := filepath.Abs(source)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", source, err)
	}
	f := &folder{from: source, name: filepath.Base(source)}
	f.open = func(_ context.Context, name string) (io.ReadCloser, error) {
		return os.Open(filepath.Join(source, name))
	}
	h := sha256.New()
	var walk func(dir string) error
	walk = func(dir string) error {
		entries, err := os.ReadDir(filepath.Join(source, dir))
		if err != nil {
			return err
		}
		for _, e := range entries {
			name := path.Join(dir, e.Name())
			info, err := os.Stat(filepath.Join(source, name))
			switch {
			case err != nil:
				return err
			case info.IsDir():
				if err := walk(name); err != nil {
					return err
				}
			case info.Mode().IsRegular():
				f.files = append(f.files, file{name: name, size: info.Size()})
				fmt.Fprintf(h, "%q %d %d\n", name, info.Size(), info.ModTime().UnixNano())
			}
		}
		return nil
	}
	if err := walk(""); err != nil {
		return nil, failure.New(failure.Refused, "give a folder that this node can read", "stage %s: %w", source, err)
	}
	f.version = hex.EncodeToString(h.Sum(nil))
	return f, f.finish(context.Background(), o)
}

// finish leaves out weights if they are not wanted, and names the version.
func (f *folder) finish(ctx context.Context, o Options) error {
	if o.NoWeights {
		if err := f.dropWeights(ctx); err != nil {
			return err
		}
	}
	slices.SortFunc(f.files, func(a, b file) int { return strings.Compare(a.name, b.name) })
	h := sha256.New()
	fmt.Fprintln(h, f.version)
	for _, file := range f.files {
		fmt.Fprintf(h, "%s %q\n", file.sum, file.name)
	}
	f.version = versionPrefix + hex.EncodeToString(h.Sum(nil))[:16]
	return nil
}

func (f *folder) dropWeights(ctx context.Context) error {
	if !slices.ContainsFunc(f.files, func(x file) bool { return x.name == indexFile }) {
		return nil // a single file, whose header tells the model's size
	}
	text, err := read(ctx, f, indexFile, maxSums)
	if err != nil {
		return err
	}
	var index struct {
		WeightMap map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(text, &index); err != nil {
		return failure.New(failure.Refused, "upload it again", "stage %s: read %s: %w", f.from, indexFile, err)
	}
	weights := map[string]bool{}
	for _, name := range index.WeightMap {
		weights[name] = true
	}
	f.files = slices.DeleteFunc(f.files, func(x file) bool { return weights[x.name] })
	return nil
}
