package regular

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"tokenfork/internal/failure"
)

func TestOnlyRegularFiles(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(at("file"), []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(at("fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", at("socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for link, to := range map[string]string{"link": "file", "link to a FIFO": "fifo"} {
		if err := os.Symlink(to, at(link)); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{at("file"): "", at("link"): "", at("fifo"): "a FIFO", at("link to a FIFO"): "a FIFO", at("socket"): "a socket",
		dir: "a folder", "/dev/zero": "a device"} {
		f, err := Open(path)
		if want != "" {
			if failure.Code(err) != failure.Refused || !strings.Contains(err.Error(), path+" is "+want+", not a regular file") {
				t.Errorf("%s: %v", path, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if b, err := io.ReadAll(f); err != nil || string(b) != "text" {
			t.Errorf("%s: %q, %v", path, b, err)
		}
		f.Close()
	}
	if _, err := Open(at("none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if b, err := Read(at("file")); err != nil || string(b) != "text" {
		t.Errorf("%q, %v", b, err)
	}
	if err := os.Truncate(at("file"), most+1); err != nil { // sparse
		t.Fatal(err)
	}
	if _, err := Read(at("file")); failure.Code(err) != failure.Refused {
		t.Errorf("a file that is too long: %v", err)
	}
}
