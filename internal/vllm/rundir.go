package vllm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// runDir is one server's short-lived folder: its sockets, its marks, and two
// locks by which others see whether its runner and its guard live. The kernel
// frees a lock however its holder ends, and no pid can be mistaken.
type runDir string

const (
	runDirPrefix = "tokenfork-"
	// maxSocketPath is what the kernel takes, without the final zero.
	maxSocketPath = 107
	// zmqName is the length of the names that vLLM gives its own sockets.
	zmqName = 36
)

func (d runDir) socket() string     { return filepath.Join(string(d), "s") }
func (d runDir) rpc() string        { return filepath.Join(string(d), "z") }
func (d runDir) cache() string      { return filepath.Join(string(d), "cache") }
func (d runDir) runnerLock() string { return filepath.Join(string(d), "runner.lock") }
func (d runDir) guardLock() string  { return filepath.Join(string(d), "guard.lock") }
func (d runDir) nonceFile() string  { return filepath.Join(string(d), "nonce") }

// newRunDir makes a folder under root and locks it for this process. The file
// returned holds the lock until it is closed.
func newRunDir(root, nonce string) (runDir, *os.File, error) {
	path, err := os.MkdirTemp(root, runDirPrefix) // mode 0700
	if err != nil {
		return "", nil, fmt.Errorf("make the server's folder: %w", err)
	}
	d := runDir(path)
	lock, err := d.fill(nonce)
	if err != nil {
		return "", nil, errors.Join(fmt.Errorf("make the server's folder: %w", err), os.RemoveAll(path))
	}
	return d, lock, nil
}

func (d runDir) fill(nonce string) (*os.File, error) {
	if longest := len(d.rpc()) + 1 + zmqName; longest > maxSocketPath {
		return nil, fmt.Errorf("socket paths under %s would have %d bytes, at most %d work; choose a shorter folder",
			d, longest, maxSocketPath)
	}
	lock, err := lockFile(d.runnerLock(), true)
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(d.rpc(), 0o700); err != nil {
		return nil, err
	}
	// Last, and after the lock: a folder with a nonce and no lock is a dead runner's.
	return lock, os.WriteFile(d.nonceFile(), []byte(nonce), 0o600)
}

// lockFile opens, or makes, a file and locks it. Without wait it returns
// syscall.EWOULDBLOCK where another process holds it.
func lockFile(path string, wait bool) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	how := syscall.LOCK_EX
	if !wait {
		how |= syscall.LOCK_NB
	}
	for {
		err = syscall.Flock(int(f.Fd()), how)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// takeCache returns the first of root's numbered subfolders that is free, and
// its lock, for the server to inherit.
func takeCache(root string) (string, *os.File, error) {
	for n := 0; ; n++ {
		dir := filepath.Join(root, strconv.Itoa(n))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return "", nil, fmt.Errorf("take a compile cache: %w", err)
		}
		lock, err := lockFile(dir+".lock", false)
		if err == nil {
			return dir, lock, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return "", nil, fmt.Errorf("take a compile cache: %w", err)
		}
	}
}

func newNonce() string { return strings.ToLower(rand.Text()) }

// sweep ends servers that dead runners left under root: those whose guard was
// killed too. A guard that lives is given time to do its work.
func sweep(ctx context.Context, root string, guardTime time.Duration, log *slog.Logger) error {
	paths, err := filepath.Glob(filepath.Join(root, runDirPrefix+"*"))
	if err != nil {
		return fmt.Errorf("look for servers left under %s: %w", root, err)
	}
	for _, path := range paths {
		info, err := os.Lstat(path)
		if err != nil || !info.IsDir() || int(info.Sys().(*syscall.Stat_t).Uid) != os.Getuid() {
			continue // gone, or not ours
		}
		if err := runDir(path).sweep(ctx, guardTime, log); err != nil {
			return fmt.Errorf("end the server that a dead runner left in %s: %w", path, err)
		}
	}
	return nil
}

func (d runDir) sweep(ctx context.Context, guardTime time.Duration, log *slog.Logger) error {
	nonce, err := os.ReadFile(d.nonceFile())
	if err != nil || len(nonce) == 0 {
		return nil // just being made, or just being removed
	}
	lock, err := lockFile(d.runnerLock(), false)
	if err != nil {
		return nil // its runner lives, or the folder is just being removed
	}
	defer lock.Close()
	log.Warn("ending a server that a dead runner left", "folder", string(d))
	if err := d.awaitGuard(ctx, guardTime); err != nil {
		return err
	}
	pids, err := family{nonce: string(nonce)}.end(0, 5*time.Second)
	if err != nil {
		return err
	}
	return settle(d, pids)
}

// awaitGuard waits until no guard holds its lock, at most for guardTime.
func (d runDir) awaitGuard(ctx context.Context, guardTime time.Duration) error {
	deadline := time.Now().Add(guardTime)
	for {
		lock, err := lockFile(d.guardLock(), false)
		if err == nil {
			return lock.Close()
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(deadline) {
			return nil // the folder is gone, or the guard hangs and is ended with the rest
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// socketWait is how long the threads of a process that counts as gone may
// hold its socket: its first thread ends before the others.
const socketWait = 5 * time.Second

// socketDead fails if something still answers on the socket.
func socketDead(path string) error {
	for deadline := time.Now().Add(socketWait); ; time.Sleep(50 * time.Millisecond) {
		conn, err := net.DialTimeout("unix", path, time.Second)
		if err != nil {
			return nil
		}
		conn.Close()
		if time.Now().After(deadline) {
			return fmt.Errorf("socket %s still answers, by a process that is not visible here", path)
		}
	}
}
