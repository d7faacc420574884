package private

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tokenfork/internal/failure"
	"tokenfork/internal/usertest"
)

// TestMain makes this binary a program that another user can run.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 {
		var err error
		switch what, path := os.Args[1], os.Args[2]; what {
		case "dir":
			err = Dir(path)
		case "append":
			if f, failed := Append(path, 0o600); failed == nil {
				_, err = f.WriteString("line\n")
			} else {
				err = failed
			}
		case "cache":
			path, err = Cache(path)
			fmt.Println(path)
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(failure.Code(err))
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestAnotherUserGotThereFirst(t *testing.T) {
	victim, other, tmp := usertest.New(t, "vic"), usertest.New(t, "oth"), usertest.Shared(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := usertest.Program(t, self)
	victim.Bash("echo precious > ~/file; mkdir ~/folder")
	other.Bash("cd " + tmp + "; mkdir -m 777 taken; ln -s " + victim.Home + "/file link; ln -s " + victim.Home + "/folder dirlink; mkfifo fifo; touch theirs; chmod 666 theirs fifo")
	for _, c := range []struct{ what, name, says string }{
		{"dir", "taken", "belongs to user"},
		{"dir", "dirlink", "is not a folder"},
		{"dir", "theirs", "is not a folder"},
		{"append", "link", "is a symbolic link"},
		{"append", "fifo", "is no regular file"},
		{"append", "theirs", "belongs to user"},
	} {
		out, err := victim.Command(program, c.what, filepath.Join(tmp, c.name)).Output()
		// The kernel itself refuses some of these in a sticky folder (fs.protected_*).
		if err == nil || !strings.Contains(string(out), c.says) && !strings.Contains(string(out), "permission denied") {
			t.Errorf("%s %s: %v, %s; want %q", c.what, c.name, err, out, c.says)
		}
	}
	if got := victim.Bash("cat ~/file"); got != "precious" {
		t.Errorf("the file behind the link holds %q", got)
	}
	for _, c := range []struct{ what, name string }{{"dir", "new/folder"}, {"dir", "new/folder"}, {"append", "new/folder/log"}, {"append", "new/folder/log"}} {
		if out, err := victim.Command(program, c.what, filepath.Join(tmp, c.name)).CombinedOutput(); err != nil {
			t.Errorf("%s %s: %v: %s", c.what, c.name, err, out)
		}
	}
	if got := victim.Bash("stat -c %a " + tmp + "/new/folder; cat " + tmp + "/new/folder/log"); got != "700\nline\nline" {
		t.Errorf("mode and lines are %q", got)
	}
}

func TestCache(t *testing.T) {
	victim, tmp := usertest.New(t, "vic"), usertest.Shared(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := usertest.Program(t, self)
	if got, want := victim.Bash(program+" cache logs"), victim.Home+"/.cache/tokenfork/logs"; got != want {
		t.Errorf("cache in %s, want %s", got, want)
	}
	got := victim.Bash("unset HOME; "+program+" cache logs/x", "TMPDIR="+tmp)
	if !strings.HasPrefix(got, tmp+"/tokenfork-logs-x-") || victim.Bash("stat -c %a "+got) != "700" {
		t.Errorf("without a home the cache is in %s", got)
	}
	victim.Bash("chmod 755 ~/.cache/tokenfork/logs")
	if out, err := victim.Command(program, "cache", "logs").Output(); err == nil || !strings.Contains(string(out), "is open to other users") {
		t.Errorf("an open folder: %v, %s", err, out)
	}
}
