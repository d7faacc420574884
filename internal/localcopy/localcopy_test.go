package localcopy_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tokenfork/internal/failure"
	"tokenfork/internal/localcopy"
	"tokenfork/internal/store"
	"tokenfork/internal/store/storetest"
)

// node is a disk beside a real S3 server.
type node struct {
	*testing.T
	s3   *storetest.Proxy
	to   string
	said *bytes.Buffer
}

func newNode(t *testing.T) *node {
	return &node{T: t, s3: storetest.StartS3(t), to: t.TempDir(), said: &bytes.Buffer{}}
}

func (n *node) write(name, text string) {
	n.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		n.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		n.Fatal(err)
	}
}

// upload puts files and their sums into the bucket.
func (n *node) upload(prefix string, files map[string]string) {
	n.Helper()
	var sums strings.Builder
	for name, text := range files {
		n.write(filepath.Join(n.s3.Folder, prefix, name), text)
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256([]byte(text)), name)
	}
	n.write(filepath.Join(n.s3.Folder, prefix, "SHA256SUMS"), sums.String())
}

func (n *node) options() localcopy.Options {
	return localcopy.Options{To: n.to, Store: store.Options{S3Endpoint: n.s3.URL, S3PathStyle: true}, Log: slog.New(slog.NewTextHandler(n.said, nil))}
}

func (n *node) run(sources ...string) ([]string, error) {
	for i, s := range sources {
		sources[i] = strings.Replace(s, "s3://", "s3://"+n.s3.Bucket+"/", 1)
	}
	return localcopy.Run(n.Context(), sources, n.options())
}

func (n *node) must(sources ...string) []string {
	n.Helper()
	copies, err := n.run(sources...)
	if err != nil {
		n.Fatalf("%v (%s)\n%s", err, failure.Hint(err), n.said)
	}
	return copies
}

func (n *node) read(name string) string {
	n.Helper()
	text, err := os.ReadFile(filepath.Join(n.to, name))
	if err != nil {
		n.Fatal(err)
	}
	return string(text)
}

// reads counts how often an object was opened.
func (n *node) reads(key string) (count int) {
	for _, op := range n.s3.Operations() {
		if op.Action == "s3:GetObject" && op.Key == key {
			count++
		}
	}
	return count
}

var model = map[string]string{"config.json": "{}", "a.safetensors": "first", "b.safetensors": "second",
	"model.safetensors.index.json": `{"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}`}

// A prefix stands for the folders below it that have their sums.
func TestFromABucket(t *testing.T) {
	n := newNode(t)
	n.upload("models/org/big", model)
	n.upload("models/small", map[string]string{"model.safetensors": "weights"})
	n.write(filepath.Join(n.s3.Folder, "models/half-uploaded/config.json"), "{}")
	n.upload("software", map[string]string{"program": "elf"})
	copies := n.must("s3://software", "s3://models/")
	if len(copies) != 3 || filepath.Base(copies[0]) != "software" {
		t.Fatalf("copies: %q", copies)
	}
	for name, want := range map[string]string{"software/program": "elf", "models/org/big/b.safetensors": "second", "models/small/model.safetensors": "weights"} {
		if got := n.read(name); got != want {
			t.Errorf("%s holds %q", name, got)
		}
	}
	if _, err := os.Stat(filepath.Join(n.to, "models/half-uploaded")); err == nil {
		t.Error("a folder without sums was copied")
	}
	again := n.must("s3://software", "s3://models/")
	if fmt.Sprint(again) != fmt.Sprint(copies) || n.reads("models/org/big/a.safetensors") != 1 {
		t.Errorf("the second run: %q, %d reads of the weights", again, n.reads("models/org/big/a.safetensors"))
	}
	if one := n.must("s3://models/org/big"); filepath.Base(one[0]) != "big" {
		t.Errorf("one folder: %q", one)
	}
}

// To plan, the small files are enough, if an index tells the size; else the weights come too.
func TestNoWeights(t *testing.T) {
	n := newNode(t)
	n.upload("models/big", model)
	n.upload("models/small", map[string]string{"model.safetensors": "weights", "config.json": "{}"})
	o := n.options()
	o.NoWeights = true
	copies, err := localcopy.Run(t.Context(), []string{"s3://" + n.s3.Bucket + "/models"}, o)
	if err != nil {
		t.Fatal(err)
	}
	if n.reads("models/big/a.safetensors") != 0 || n.read("models/small/model.safetensors") != "weights" || n.read("models/big/config.json") != "{}" {
		t.Error("not all but the indexed weights were copied")
	}
	if whole := n.must("s3://models/big"); whole[0] == copies[0] || n.read("models/big/a.safetensors") != "first" {
		t.Errorf("with weights it is the same copy %s", whole[0])
	}
}

// Processes that start together copy once.
func TestTogether(t *testing.T) {
	n := newNode(t)
	n.upload("models/big", model)
	var g sync.WaitGroup
	for range 4 {
		g.Go(func() {
			o := n.options()
			o.Log = slog.New(slog.DiscardHandler)
			if _, err := localcopy.Run(t.Context(), []string{"s3://" + n.s3.Bucket + "/models"}, o); err != nil {
				t.Error(err)
			}
		})
	}
	g.Wait()
	if got := n.reads("models/big/a.safetensors"); got != 1 {
		t.Errorf("the weights were read %d times", got)
	}
}

// A copy that was cut, changed or added to is made good from the bucket.
func TestDamagedCopy(t *testing.T) {
	n := newNode(t)
	n.upload("models/big", model)
	at := n.must("s3://models/big")[0]
	for what, damage := range map[string]func() error{
		"cut":     func() error { return os.Truncate(at+"/a.safetensors", 2) },
		"changed": func() error { return os.WriteFile(at+"/a.safetensors", []byte("fIrst"), 0o644) },
		"removed": func() error { return os.Remove(at + "/a.safetensors") },
		"added":   func() error { return os.WriteFile(at+"/modeling.py", []byte("evil"), 0o644) },
		"linked": func() error {
			return cmpOr(os.Remove(at+"/a.safetensors"), os.Symlink("/etc/passwd", at+"/a.safetensors"))
		},
		"unfinished": func() error {
			return cmpOr(os.Remove(filepath.Dir(at)+"/complete"), os.WriteFile(at+"/b.safetensors", []byte("sec"), 0o644))
		},
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		n.must("s3://models/big")
		if n.read("models/big/a.safetensors") != "first" || n.read("models/big/b.safetensors") != "second" {
			t.Errorf("%s: the copy is wrong", what)
		}
		if _, err := os.Lstat(at + "/modeling.py"); err == nil {
			t.Errorf("%s: a foreign file stays", what)
		}
	}
}

func cmpOr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// What cannot be trusted is refused by name, gives no link, and does not hold up other folders.
func TestRefused(t *testing.T) {
	sum := strings.Repeat("0", 64)
	for what, c := range map[string]struct{ sums, want string }{
		"empty":         {"", "is empty"},
		"leaves":        {sum + "  ../../etc/passwd\n", "leaves the folder"},
		"absolute":      {sum + "  /etc/passwd\n", "leaves the folder"},
		"no sum":        {"weights\n", "is not what sha256sum prints"},
		"escaped":       {"\\" + sum + "  a\\nb\n", "is not what sha256sum prints"},
		"twice":         {sum + "  weights\n" + sum + "  weights\n", "names weights twice"},
		"not there":     {sum + "  other\n", "names other, which is not there"},
		"wrong content": {sum + "  weights\n", "models/m/weights differs from its SHA256SUMS"},
	} {
		t.Run(what, func(t *testing.T) {
			n := newNode(t)
			n.write(filepath.Join(n.s3.Folder, "models/m/weights"), "weights")
			n.write(filepath.Join(n.s3.Folder, "models/m/SHA256SUMS"), c.sums)
			_, err := n.run("s3://models")
			if failure.Code(err) != failure.Refused || failure.Hint(err) == "" || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, hint %q", err, failure.Hint(err))
			}
			if _, err := os.Lstat(filepath.Join(n.to, "models/m")); err == nil {
				t.Error("it is there all the same")
			}
		})
	}
}

func TestOneBadFolderAmongGoodOnes(t *testing.T) {
	n := newNode(t)
	n.upload("models/bad", map[string]string{"weights": "good"})
	n.write(filepath.Join(n.s3.Folder, "models/bad/weights"), "bad!")
	n.upload("models/good", model)
	if _, err := n.run("s3://models"); err == nil || !strings.Contains(err.Error(), "models/bad/weights differs") {
		t.Errorf("got %v", err)
	}
	if n.read("models/good/a.safetensors") != "first" {
		t.Error("the good one was not copied")
	}
	n.upload("models/bad", map[string]string{"weights": "good"})
	n.must("s3://models")
}

func TestNothingThere(t *testing.T) {
	n := newNode(t)
	for _, source := range []string{"s3://models", filepath.Join(t.TempDir(), "none")} {
		if _, err := n.run(source); failure.Code(err) != failure.Refused {
			t.Errorf("%s: %v", source, err)
		}
	}
	for _, dir := range []string{"x", "y"} {
		n.write(filepath.Join(n.s3.Folder, dir, "m/config.json"), "{}")
	}
	if _, err := n.run(n.s3.Folder+"/x/m", n.s3.Folder+"/y/m"); failure.Code(err) != failure.Usage {
		t.Errorf("two folders of one name: %v", err)
	}
}

// of matches requests for the content of an object.
func of(key string) func(*http.Request) bool {
	return func(r *http.Request) bool {
		return r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/"+key)
	}
}

// A connection that breaks is resumed; what came is verified all the same.
func TestBrokenConnection(t *testing.T) {
	n := newNode(t)
	n.upload("models/big", map[string]string{"weights": strings.Repeat("weights ", 1<<17)})
	hits := n.s3.Inject(storetest.Fault{Match: of("models/big/weights"), CutReplyAt: 300_000, Times: 2})
	n.must("s3://models/big")
	if hits() != 2 || len(n.read("models/big/weights")) != 1<<20 {
		t.Errorf("%d faults, %d bytes", hits(), len(n.read("models/big/weights")))
	}
}

// An interrupted copy gives out nothing, keeps finished files, and goes on.
func TestInterrupted(t *testing.T) {
	n := newNode(t)
	n.upload("models/big", map[string]string{"first": "1", "second": "2"})
	ctx, cancel := context.WithCancel(t.Context())
	n.s3.Inject(storetest.Fault{Match: of("models/big/second"), Hang: true})
	done := make(chan error)
	go func() {
		_, err := localcopy.Run(ctx, []string{"s3://" + n.s3.Bucket + "/models"}, n.options())
		done <- err
	}()
	for len(n.found("first")) == 0 {
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	if err := <-done; failure.Code(err) != failure.Stopped {
		t.Errorf("interrupted: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(n.to, "models/big")); err == nil {
		t.Error("half a model was given out")
	}
	n.s3.Heal()
	n.must("s3://models")
	if n.read("models/big/second") != "2" || n.reads("models/big/first") != 1 {
		t.Errorf("what was finished was read %d times", n.reads("models/big/first"))
	}
}

func (n *node) found(name string) (all []string) {
	_ = filepath.WalkDir(n.to, func(path string, e fs.DirEntry, _ error) error {
		if e != nil && e.Name() == name {
			all = append(all, path)
		}
		return nil
	})
	return all
}

// A new upload becomes a version beside the old one, which goes when no task is left.
func TestNewVersion(t *testing.T) {
	n := newNode(t)
	n.upload("images/vllm", map[string]string{"vllm.sif": "one"})
	old := n.must("s3://images")[0]
	use, err := os.Open(filepath.Join(n.to, ".staged/in-use"))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(use.Fd()), unix.LOCK_SH); err != nil {
		t.Fatal(err)
	}
	n.upload("images/vllm", map[string]string{"vllm.sif": "two"})
	n.must("s3://images")
	if text, err := os.ReadFile(old + "/vllm.sif"); n.read("images/vllm/vllm.sif") != "two" || string(text) != "one" {
		t.Errorf("a task that runs finds %q, %v; the next one %q", text, err, n.read("images/vllm/vllm.sif"))
	}
	use.Close()
	n.must("s3://images")
	if _, err := os.Stat(old); err == nil {
		t.Error("the old version stays")
	}
}

func TestDiskTooSmall(t *testing.T) {
	n := newNode(t)
	n.upload("models/huge", map[string]string{"weights": "x"})
	if err := os.Truncate(filepath.Join(n.s3.Folder, "models/huge/weights"), 15<<40); err != nil {
		t.Fatal(err)
	}
	if _, err := n.run("s3://models"); failure.Code(err) != failure.Refused || !strings.Contains(err.Error(), "GB that are free") {
		t.Errorf("got %v", err)
	}
}

// A folder of a file system needs no sums; a hub cache's links are followed.
func TestFromAFolder(t *testing.T) {
	n := newNode(t)
	from := filepath.Join(t.TempDir(), "my model")
	n.write(from+"/config.json", "{}")
	n.write(from+"/sub/w.safetensors", "weights")
	if err := os.Symlink("sub/w.safetensors", from+"/link.safetensors"); err != nil {
		t.Fatal(err)
	}
	at := n.must(from)[0]
	if filepath.Base(at) != "my model" || n.read("my model/link.safetensors") != "weights" {
		t.Errorf("copied to %s", at)
	}
	n.write(from+"/sub/w.safetensors", "other")
	if next := n.must(from)[0]; next == at || n.read("my model/sub/w.safetensors") != "other" {
		t.Errorf("the changed folder: %s", next)
	}
}
