package vllm

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"tokenfork/internal/usertest"
	"tokenfork/internal/vllm/fakevllm"
)

// podman gives the words that run a program of this machine in a container of Podman's
// as the user, up to the program itself. The image holds nothing but the points where
// the machine's folders are mounted: no registry is needed. Whose limits or cgroups keep
// crun from starting are given what runc does with.
func podman(t *testing.T, user *usertest.User, mounts ...string) []string {
	t.Helper()
	root := filepath.Join(user.Home, "root")
	words := []string{"run", "--rm", "--network=host", "--env-host"}
	for _, dir := range append(mounts, "/usr", "/lib", "/lib64", "/bin", "/etc") {
		if _, err := os.Stat(dir); err == nil {
			words = append(words, "--volume="+dir+":"+dir)
		}
	}
	for _, dir := range []string{"tmp", "usr", "lib", "lib64", "bin", "etc", "proc", "sys", "dev", "run", "var", "home"} {
		must(t, user.Command("mkdir", "-p", filepath.Join(root, dir)).Run())
	}
	limits := []string{"--ulimit=nofile=8192:8192", "--ulimit=nproc=16384:16384"}
	var said []byte
	for _, try := range [][]string{words, slices.Concat([]string{"--runtime=runc"}, words, limits), slices.Concat(words, limits), slices.Concat([]string{"--runtime=runc"}, words)} {
		try = append(slices.Clone(try), "--rootfs", root)
		out, err := user.Command("podman", append(slices.Clone(try), "/bin/true")...).CombinedOutput()
		if err == nil {
			return append([]string{"podman"}, try...)
		}
		said = append(said, out...)
	}
	if _, err := exec.LookPath("podman"); err != nil {
		t.Fatal("scripts/setup-podman installs Podman")
	}
	t.Skipf("this machine lets Podman run nothing for a second user, not even /bin/true:\n%s", said)
	return nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// inPodman is a runner, of another user, whose server runs in a container. It gives the
// server's nonce once that answers.
func inPodman(t *testing.T, user *usertest.User, c *Config) (runner *exec.Cmd, said string) {
	t.Helper()
	exe := filepath.Join(user.Home, "vllm.test")
	runner = user.Command(exe, "runner")
	runner.Env = append(runner.Env, configToEnv(t, *c))
	out, err := runner.StdoutPipe()
	must(t, err)
	must(t, runner.Start())
	t.Cleanup(func() { _ = runner.Process.Kill() })
	line := make([]byte, 64<<10)
	n, err := out.Read(line)
	must(t, err)
	return runner, string(line[:n])
}

// A real container, without root, of a second user: the server is reached by its socket,
// and nothing of it is left after a kill -9 of the runner, of Podman's client, or without
// the environment that marks it.
func TestInPodman(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("run the tests as root: they make a second user")
	}
	user := usertest.New(t, "podman")
	t.Cleanup(func() { _ = exec.Command("pkill", "-KILL", "-u", user.Name).Run() }) // Podman's pause process stays
	self, err := os.Executable()
	must(t, err)
	exe := filepath.Join(user.Home, "vllm.test")
	must(t, exec.Command("cp", self, exe).Run())
	must(t, os.Chmod(user.Home, 0o755)) // Podman's mounts pass through it
	run := shortDir(t)
	must(t, os.Chown(run, user.UID, user.GID))
	state := filepath.Join(user.Home, "state")
	must(t, user.Command("mkdir", state).Run())
	c := fakeOf(t, fakevllm.Config{State: state})
	c.RunRoot, c.LogPath = run, filepath.Join(user.Home, "vllm.log")
	c.StartTimeout = 2 * time.Minute
	c.Command = slices.Concat(podman(t, user, "/tmp"), []string{exe, c.Command[1]})
	containers := func() string {
		out, err := user.Command("podman", "ps", "--all", "--quiet").Output()
		must(t, err)
		return strings.TrimSpace(string(out))
	}
	gone := func() {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); containers() != ""; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("containers are left: %s", containers())
			}
		}
	}
	start := func() (*exec.Cmd, string, int) {
		t.Helper()
		runner, said := inPodman(t, user, &c)
		words := strings.Fields(said)
		if len(words) != 4 || words[0] != "ready" {
			log, _ := os.ReadFile(c.LogPath)
			t.Fatalf("runner said %q; log:\n%s", said, log)
		}
		client := 0
		for _, p := range live(t, words[1]) {
			if line, _ := os.ReadFile(procPath(p.pid, "cmdline")); strings.HasPrefix(string(line), "podman\x00") && client == 0 {
				client = p.pid
			}
		}
		if containers() == "" || client == 0 {
			t.Fatalf("no container runs, or no client of it: %q, pid %d", containers(), client)
		}
		return runner, words[1], client
	}

	runner, nonce, _ := start()
	must(t, runner.Process.Signal(syscall.SIGKILL))
	awaitLive(t, nonce, 0)
	gone()

	runner, nonce, client := start()
	must(t, syscall.Kill(client, syscall.SIGKILL))
	awaitLive(t, nonce, 0)
	gone()
	must(t, runner.Process.Signal(syscall.SIGKILL))

	c.Command = slices.DeleteFunc(c.Command, func(word string) bool { return word == "--env-host" })
	must(t, os.WriteFile(filepath.Join(user.Home, "fake.env"), []byte(c.Env[0]+"\n"), 0o644))
	c.Command = slices.Insert(c.Command, slices.Index(c.Command, "--rm"), "--env-file="+filepath.Join(user.Home, "fake.env"))
	_, said := inPodman(t, user, &c)
	if !strings.Contains(said, "runs without the environment that tokenfork gives it") {
		t.Errorf("without the environment: %q", said)
	}
	gone()
}
