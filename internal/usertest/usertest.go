// Package usertest makes real Unix users for tests of what one user of a shared
// machine can do to another. It needs root and useradd.
package usertest

import (
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// User is a Unix user who exists until the test ends.
type User struct {
	Name     string
	UID, GID int
	Home     string // of mode 0700, as homes are
	t        testing.TB
}

// New adds a user. who must be a word, and is part of the name.
func New(t testing.TB, who string) *User {
	t.Helper()
	name := "tft-" + who + strconv.Itoa(os.Getpid()%100000)
	home := filepath.Join(Open(t), name)
	if out, err := exec.Command("useradd", "--create-home", "--home-dir", home, "--shell", "/bin/bash", name).CombinedOutput(); err != nil {
		t.Fatalf("useradd %s: %v: %s", name, err, out)
	}
	t.Cleanup(func() { // by force: a killed process of the user's may not be gone yet
		if out, err := exec.Command("userdel", "--force", name).CombinedOutput(); err != nil {
			t.Errorf("userdel %s: %v: %s", name, err, out)
		}
	})
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	if err := os.Chmod(home, 0o700); err != nil {
		t.Fatal(err)
	}
	return &User{Name: name, UID: uid, GID: gid, Home: home, t: t}
}

// Open is a folder that every user can enter; tests' own ones are root's alone.
func Open(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "usertest-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Shared is a folder like /tmp: everyone may put something there, and remove only
// what is theirs.
func Shared(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(Open(t), "tmp")
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Command prepares a command of the user's, in their home, with nothing of the
// test's environment but PATH.
func (u *User) Command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = u.Home
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + u.Home, "USER=" + u.Name, "LOGNAME=" + u.Name}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(u.UID), Gid: uint32(u.GID)}}
	return cmd
}

// Bash runs a script as the user and gives its output, without the last newline.
func (u *User) Bash(script string, env ...string) string {
	u.t.Helper()
	cmd := u.Command("bash", "-c", script)
	cmd.Env = append(cmd.Env, env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		u.t.Fatalf("%s: %v: %s", u.Name, err, out)
	}
	return strings.TrimSuffix(string(out), "\n")
}

// Program copies a program to where every user can run it.
func Program(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(Open(t), filepath.Base(path))
	if err := os.WriteFile(to, b, 0o755); err != nil {
		t.Fatal(err)
	}
	return to
}
