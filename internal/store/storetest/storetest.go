// Package storetest gives tests a real S3 server with a proxy in front of it
// that breaks requests in the ways networks and S3 servers do.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	module    = "github.com/versity/versitygw/cmd/versitygw"
	version   = "v1.8.0"
	accessKey = "storetest"
	secretKey = "storetest-secret"
	region    = "us-east-1"
)

// StartS3 runs a versitygw with one empty bucket until the test ends and
// points the AWS variables of this process and its children at it. The first
// use on a machine builds the server, which takes a minute or two.
func StartS3(t testing.TB) *Proxy {
	t.Helper()
	if err := setVariables(); err != nil {
		t.Fatal(err)
	}
	root, socket := t.TempDir(), filepath.Join(shortDir(t), "s3")
	p := &Proxy{Bucket: "bucket", Folder: filepath.Join(root, "bucket")}
	if err := os.Mkdir(p.Folder, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(install(t), "--quiet", "--keep-alive", "--port", socket, "--region", region, "posix", root)
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+accessKey, "ROOT_SECRET_KEY="+secretKey)
	var said bytes.Buffer
	cmd.Stderr = &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("versitygw said: %s", &said)
		}
	})
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	waitFor(t, dial)
	p.backend = &http.Transport{DialContext: dial}
	p.start(t, p.backend)
	return p
}

// setVariables sets them for good: the same for all tests of a process, which may
// run side by side.
var setVariables = sync.OnceValue(func() (err error) {
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": accessKey, "AWS_SECRET_ACCESS_KEY": secretKey, "AWS_SESSION_TOKEN": "", "AWS_REGION": region,
		"AWS_PROFILE": "", "AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull, "AWS_EC2_METADATA_DISABLED": "true",
	} {
		err = errors.Join(err, os.Setenv(name, value))
	}
	return err
})

// Again is another way to the same server, with faults of its own.
func (p *Proxy) Again(t testing.TB) *Proxy {
	q := &Proxy{Bucket: p.Bucket, Folder: p.Folder, backend: p.backend}
	q.start(t, q.backend)
	return q
}

// shortDir is a folder whose path leaves room for a socket's name.
func shortDir(t testing.TB) string {
	dir, err := os.MkdirTemp("", "s3")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func waitFor(t testing.TB, dial func(context.Context, string, string) (net.Conn, error)) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		c, err := dial(t.Context(), "", "")
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("versitygw did not start: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// install returns the server's binary, which it builds once per machine and user.
func install(t testing.TB) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "tokenfork", "versitygw-"+version)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	lock, err := os.Create(filepath.Join(dir, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil { // packages are tested at the same time
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "versitygw")
	if _, err := os.Stat(binary); err == nil {
		return binary
	}
	build := exec.Command("go", "install", module+"@"+version)
	build.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build versitygw: %v\n%s", err, out)
	}
	return binary
}
