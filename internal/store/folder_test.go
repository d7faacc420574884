package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tokenfork/internal/failure"
)

// childEnv holds the folder that a second process of this test binary works on.
const childEnv = "STORE_TEST_CHILD"

// rerun starts the running test again in a process of its own.
func rerun(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// TestKilledWriter kills writers with -9 at any moment: an object is whole or not there.
func TestKilledWriter(t *testing.T) {
	content := func(key string) string { return strings.Repeat(key+"\n", 60_000) }
	if dir := os.Getenv(childEnv); dir != "" {
		s := open(t, dir, Options{})
		for i := 0; ; i++ {
			key := fmt.Sprintf("%d/%d", os.Getpid(), i)
			must(t, CreateBytes(t.Context(), s, key, []byte(content(key))))
			must(t, ReplaceBytes(t.Context(), s, "latest", []byte(content("latest"))))
		}
	}
	dir := t.TempDir()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	moments := rand.New(rand.NewPCG(seed, 0))
	s := open(t, dir, Options{})
	left := func() (temps []string) {
		for _, pattern := range []string{tempMark + "*", "*/" + tempMark + "*"} {
			found, err := filepath.Glob(filepath.Join(dir, pattern))
			must(t, err)
			temps = append(temps, found...)
		}
		return temps
	}
	for kills := 0; kills < 15 || len(left()) == 0; kills++ {
		cmd := rerun(t, dir)
		must(t, cmd.Start())
		first := filepath.Join(dir, fmt.Sprint(cmd.Process.Pid))
		for _, err := os.Stat(first); err != nil; _, err = os.Stat(first) {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Duration(moments.IntN(20_000)) * time.Microsecond)
		must(t, cmd.Process.Kill())
		_ = cmd.Wait()
	}
	objects := 0
	for o, err := range s.List(t.Context(), "") {
		must(t, err)
		wantContent(t, s, o.Key, content(o.Key))
		objects++
	}
	t.Logf("%d objects, %d temporary files of the dead", objects, len(left()))
	if objects == 0 {
		t.Error("no writer got anything done")
	}
}

// TestKilledBeforeLink stops a writer when its bytes are down but unnamed.
func TestKilledBeforeLink(t *testing.T) {
	if dir := os.Getenv(childEnv); dir != "" {
		d := newFolder(dir, Options{})
		d.exclusive = []func(string, string) error{func(string, string) error {
			fmt.Println("about to link")
			select {}
		}}
		must(t, CreateBytes(t.Context(), d, "commit.json", []byte("dead")))
	}
	dir := t.TempDir()
	cmd := rerun(t, dir)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	var said bytes.Buffer
	for !strings.Contains(said.String(), "about to link") {
		if _, err := io.CopyN(&said, out, 1); err != nil {
			t.Fatalf("%v: %s", err, &said)
		}
	}
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	s := open(t, dir, Options{})
	wantKeys(t, s, "")
	wantMissing(t, s, "commit.json")
	must(t, CreateBytes(t.Context(), s, "commit.json", []byte("alive")))
	wantContent(t, s, "commit.json", "alive")
}

// TestFullDisk writes to a small file system, mounted where only a child process sees it.
func TestFullDisk(t *testing.T) {
	dir := os.Getenv(childEnv)
	if dir == "" {
		cmd := rerun(t, t.TempDir())
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNS
		if os.Getuid() != 0 {
			cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"))
	s := open(t, dir, Options{})
	must(t, CreateBytes(t.Context(), s, "out/results.csv", []byte("earlier")))
	for name, put := range map[string]error{
		"out/results.csv": ReplaceBytes(t.Context(), s, "out/results.csv", make([]byte, 2<<20)),
		"out/new.csv":     CreateBytes(t.Context(), s, "out/new.csv", make([]byte, 2<<20)),
	} {
		if failure.Code(put) != failure.Stopped || !errors.Is(put, unix.ENOSPC) || !strings.Contains(put.Error(), "disk full at "+filepath.Join(dir, name)) ||
			!strings.Contains(put.Error(), "earlier result kept") || !strings.Contains(failure.Hint(put), "MiB") {
			t.Errorf("%s: %v, hint %q", name, put, failure.Hint(put))
		}
	}
	wantKeys(t, s, "", "out/results.csv")
	wantContent(t, s, "out/results.csv", "earlier")
	wantNoTemp(t, s)
	must(t, ReplaceBytes(t.Context(), s, "out/results.csv", make([]byte, 500<<10)))

	u := &s3Store{bucket: "b", o: Options{TempDir: dir}}
	if _, err := u.spool("big", copyOf(make([]byte, 2<<20))); failure.Code(err) != failure.Stopped || !strings.Contains(err.Error(), "disk full at "+dir) {
		t.Errorf("spool for S3: %v", err)
	}
	wantNoTemp(t, s)

	must(t, unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	if err := CreateBytes(t.Context(), s, "out/more", nil); !errors.Is(err, unix.EROFS) || failure.Hint(err) == "" {
		t.Errorf("read-only: %v", err)
	}
}

// TestRefusedLink: file systems without hard links, and without exclusive rename.
func TestRefusedLink(t *testing.T) {
	fakeRefusal := func(string, string) error { return &os.LinkError{Op: "link", Err: unix.EPERM} }
	d := newFolder(t.TempDir(), Options{})
	d.exclusive[0] = fakeRefusal // the real second way follows
	testFirstWins(t, d)
	testManyCreators(t, d)
	must(t, Probe(t.Context(), d))
	wantNoTemp(t, d)

	d = newFolder(t.TempDir(), Options{})
	d.exclusive = []func(string, string) error{fakeRefusal, fakeRefusal}
	if err := CreateBytes(t.Context(), d, "commit.json", nil); !errors.Is(err, ErrNoExclusive) || errors.Is(err, fs.ErrExist) {
		t.Errorf("create: %v, want ErrNoExclusive", err)
	}
	if err := Probe(t.Context(), d); failure.Code(err) != failure.Refused || !strings.Contains(failure.Hint(err), "--single-writer") {
		t.Errorf("probe: %v, hint %q", err, failure.Hint(err))
	}
	wantKeys(t, d, "")
	wantNoTemp(t, d)
}

// TestLostLinkReply: a link that was made but reported as failed is ours.
func TestLostLinkReply(t *testing.T) {
	d := newFolder(t.TempDir(), Options{})
	d.exclusive[0] = func(temp, name string) error { // what NFS does when the first reply is lost
		_ = os.Link(temp, name)
		return os.Link(temp, name)
	}
	must(t, CreateBytes(t.Context(), d, "claim", []byte("ours")))
	wantContent(t, d, "claim", "ours")
	must(t, d.Remove(t.Context(), "claim"))
	testFirstWins(t, d)
	wantNoTemp(t, d)
}

func TestFolderKeepsUmask(t *testing.T) {
	old := unix.Umask(0o027)
	defer unix.Umask(old)
	d := newFolder(t.TempDir(), Options{})
	must(t, CreateBytes(t.Context(), d, "parts/a", nil))
	st, err := os.Stat(d.path("parts/a"))
	must(t, err)
	if st.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, want -rw-r-----", st.Mode())
	}
}
