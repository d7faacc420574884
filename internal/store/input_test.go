package store

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"tokenfork/internal/failure"
	"tokenfork/internal/store/storetest"
)

func TestGlobAndOpenInput(t *testing.T) {
	proxy := storetest.StartS3(t)
	local := t.TempDir()
	names := []string{"tables/b.csv", "tables/a.csv", "tables/a[1].csv", "tables/deep/c.csv", "tables/a.parquet", "tables/.b.csv",
		"delta/k=1/a.parquet", "delta/_delta_log/0.json", "iceberg/data/a.parquet", "iceberg/metadata/v1.metadata.json"}
	for _, name := range names {
		for _, root := range []string{local, proxy.Folder} {
			must(t, os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755))
			must(t, os.WriteFile(filepath.Join(root, name), []byte(name), 0o644))
		}
	}
	for _, root := range []string{local, "s3://" + proxy.Bucket} {
		for pattern, want := range map[string][]string{
			"tables/*.csv":    {"tables/a.csv", "tables/a[1].csv", "tables/b.csv"},
			"tables/?.*":      {"tables/a.csv", "tables/a.parquet", "tables/b.csv"},
			"tables/[b-z]*":   {"tables/b.csv", "tables/deep"},
			"tables/*/c.csv":  {"tables/deep/c.csv"},
			"tables/a[1].csv": {"tables/a[1].csv"},
			"tables/a.csv":    {"tables/a.csv"},
			"tables/.*.csv":   {"tables/.b.csv"},
		} {
			if root != local {
				want = slices.DeleteFunc(slices.Clone(want), func(name string) bool { return name == "tables/deep" }) // S3 has no folders
			}
			got, err := Glob(t.Context(), root+"/"+pattern, s3Options(proxy))
			must(t, err)
			for i := range got {
				got[i] = strings.TrimPrefix(got[i], root+"/")
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s/%s: %q, want %q", root, pattern, got, want)
			}
		}
		for _, pattern := range []string{"tables/*.arrow", "none", "none/*"} {
			_, err := Glob(t.Context(), root+"/"+pattern, s3Options(proxy))
			if failure.Code(err) != failure.Usage || !strings.Contains(err.Error(), root+"/"+pattern) {
				t.Errorf("%s/%s: %v, want an error that names it", root, pattern, err)
			}
		}
		for pattern, want := range map[string]string{"delta/*/*.parquet": "delta/k=1/a.parquet is a file of a Delta table", "iceberg/data/a.parquet": "is a file of an Iceberg table"} {
			if _, err := Glob(t.Context(), root+"/"+pattern, s3Options(proxy)); failure.Code(err) != failure.Refused || !strings.Contains(err.Error(), want) {
				t.Errorf("%s/%s: %v, want %s", root, pattern, err, want)
			}
		}
		if _, err := Glob(t.Context(), root+"/[", s3Options(proxy)); err == nil {
			t.Error("a broken pattern is taken")
		}
		r, err := OpenInput(t.Context(), root+"/tables/a[1].csv", s3Options(proxy))
		must(t, err)
		if b, err := io.ReadAll(r); err != nil || string(b) != "tables/a[1].csv" {
			t.Errorf("read %q, %v", b, err)
		}
		must(t, r.Close())
		if _, err := OpenInput(t.Context(), root+"/none", s3Options(proxy)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("missing input: %v", err)
		}
	}
}

func TestUnknownLocations(t *testing.T) {
	if _, err := Open(t.Context(), "s3://bucket/job", Options{S3Endpoint: "host:9000"}); failure.Code(err) != failure.Usage || !strings.Contains(failure.Hint(err), "https://host:9000") {
		t.Errorf("an endpoint without a scheme: %v", err)
	}
	for _, location := range []string{"", "gs://bucket/job", "s3://", "s3:///job", "https://host/table.csv"} {
		if _, err := Open(t.Context(), location, Options{}); failure.Code(err) != failure.Usage {
			t.Errorf("open %q: %v", location, err)
		}
		if _, err := OpenInput(t.Context(), location, Options{}); failure.Code(err) != failure.Usage {
			t.Errorf("open input %q: %v", location, err)
		}
	}
}

func TestNames(t *testing.T) {
	proxy := storetest.StartS3(t)
	for location, want := range map[string]string{
		"./dir": "./dir", "s3://bucket": "s3://bucket", "s3://bucket/": "s3://bucket", "s3://bucket/a/b/": "s3://bucket/a/b",
	} {
		if got := open(t, location, s3Options(proxy)).String(); got != want {
			t.Errorf("%s is called %s", location, got)
		}
	}
}

func TestInputsThatAreNoFiles(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(shortTemp(t), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, want := range map[string]string{dir: "is a folder", "/dev/zero": "is a device or socket", "/dev/null": "is a device or socket", socket: "is a device or socket"} {
		if _, err := OpenInput(t.Context(), name, Options{}); failure.Code(err) != failure.Usage || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	in, err := OpenInput(t.Context(), fifo, Options{})
	if err != nil {
		t.Fatal(err)
	}
	go os.WriteFile(fifo, []byte("through a FIFO"), 0o600)
	if b, err := io.ReadAll(in); err != nil || string(b) != "through a FIFO" {
		t.Errorf("read %q, %v", b, err)
	}
	if in, err = OpenInput(t.Context(), fifo, Options{}); err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() { _, err := in.Read(make([]byte, 1)); read <- err }()
	in.Close() // nobody writes: the read must end all the same
	if err := <-read; err == nil {
		t.Error("a read of a closed FIFO succeeds")
	}
}

func shortTemp(t *testing.T) string {
	dir, err := os.MkdirTemp("/tmp", "tf")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
