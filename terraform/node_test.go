// Package terraform_test runs the start-up scripts of a node and, with the build tag "applied", evaluates what
// Terraform makes; terraform/check calls both.
package terraform_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const scripts = "modules/cluster/node"

// fakeAWS answers the two calls of stage.sh out of the folder $FAKE_BUCKET. A download of a file named like
// $FAKE_STUCK hangs half-way.
const fakeAWS = `#!/bin/bash
case "$1 $2" in
"s3 cp")
	key=${4#s3://bucket/}
	echo "$key" >>"$FAKE_LOG"
	[ -e "$FAKE_BUCKET/$key" ] || { echo "fatal error: An error occurred (404): Not Found" >&2; exit 1; }
	if [ "${key##*/}" = "${FAKE_STUCK:-}" ]; then
		echo half >"$5"
		touch "$FAKE_LOG.stuck"
		sleep 600
	fi
	sleep 0.05
	cp "$FAKE_BUCKET/$key" "$5"
	;;
"s3api list-objects-v2")
	(cd "$FAKE_BUCKET" && find models -name SHA256SUMS 2>/dev/null | grep . || echo None)
	;;
*) exit 2 ;;
esac
`

// cluster is one bucket and one shared file system with nodes around them.
type cluster struct {
	t                          *testing.T
	bucket, shared, fakes, log string
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	dir := t.TempDir()
	c := &cluster{t, filepath.Join(dir, "bucket"), filepath.Join(dir, "shared"), filepath.Join(dir, "fakes"), filepath.Join(dir, "log")}
	for name, text := range map[string]string{
		"aws":             fakeAWS,
		"mount":           "#!/bin/bash\n",
		"mountpoint":      "#!/bin/bash\nexit 1\n",
		"apparmor_parser": "#!/bin/bash\necho \"$@\" >>\"$FAKE_LOG.apparmor\"\n",
	} {
		c.write(filepath.Join(c.fakes, name), text, 0o755)
	}
	c.write(c.log, "", 0o644)
	if err := os.MkdirAll(c.shared, 0o755); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *cluster) write(path, text string, mode os.FileMode) {
	c.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		c.t.Fatal(err)
	}
}

// upload puts files into the bucket below prefix, with their SHA256SUMS.
func (c *cluster) upload(prefix string, files map[string]string) {
	c.t.Helper()
	var sums strings.Builder
	for name, text := range files {
		c.write(filepath.Join(c.bucket, prefix, name), text, 0o644)
		sum := sha256.Sum256([]byte(text))
		fmt.Fprintf(&sums, "%s  %s\n", hex.EncodeToString(sum[:]), name)
	}
	c.write(filepath.Join(c.bucket, prefix, "SHA256SUMS"), sums.String(), 0o644)
}

// software makes a folder of what is to be uploaded; its programs say their names.
func (c *cluster) software(dir string) {
	c.t.Helper()
	built := c.t.TempDir()
	c.write(filepath.Join(built, "apptainer/bin/apptainer"), "#!/bin/bash\necho apptainer \"$@\"\n", 0o755)
	c.write(filepath.Join(dir, "tokenfork-linux-amd64"), "#!/bin/bash\necho tokenfork\n", 0o755)
	c.write(filepath.Join(dir, "vllm.sif"), "image", 0o644)
	out, err := exec.Command("tar", "-czf", filepath.Join(dir, "apptainer.tar.gz"), "-C", built, "apptainer").CombinedOutput()
	if err != nil {
		c.t.Fatalf("tar: %v: %s", err, out)
	}
}

func (c *cluster) uploadSoftware() {
	c.t.Helper()
	dir, files := c.t.TempDir(), map[string]string{}
	c.software(dir)
	for _, name := range []string{"tokenfork-linux-amd64", "vllm.sif", "apptainer.tar.gz"} {
		files[name] = c.read(filepath.Join(dir, name))
	}
	c.upload("software", files)
}

// node makes the file tree of a node, as user data leaves it before set-up, and returns its root.
func (c *cluster) node(kind string) string {
	c.t.Helper()
	root := c.t.TempDir()
	c.write(filepath.Join(root, "etc/profile.d/tokenfork.sh"),
		"export TOKENFORK_BUCKET=bucket TOKENFORK_SHARED_TYPE="+kind+" TOKENFORK_SHARED_SOURCE=fs-1:/\n", 0o644)
	c.prepare(root)
	for _, name := range []string{"setup", "stage", "ready"} {
		text, err := os.ReadFile(filepath.Join(scripts, name+".sh"))
		if err != nil {
			c.t.Fatal(err)
		}
		c.write(filepath.Join(root, "usr/local/sbin/tokenfork-"+name), string(text), 0o755)
	}
	return root
}

// prepare gives a root what every system has, and the shared file system.
func (c *cluster) prepare(root string) {
	c.t.Helper()
	c.write(filepath.Join(root, "etc/fstab"), "", 0o644)
	for _, dir := range []string{"var/log", "usr/local/bin", "opt"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			c.t.Fatal(err)
		}
	}
	if err := os.Symlink(c.shared, filepath.Join(root, "shared")); err != nil {
		c.t.Fatal(err)
	}
}

// command runs a program in root, with the fakes, as a process group of its own.
func (c *cluster) command(root, program string, env ...string) (*exec.Cmd, *bytes.Buffer) {
	cmd := exec.Command(program)
	cmd.Env = append([]string{
		"PATH=" + c.fakes + ":" + os.Getenv("PATH"), "HOSTNAME=" + filepath.Base(root), "TOKENFORK_ROOT=" + root,
		"TOKENFORK_RETRY_SECONDS=0", "FAKE_BUCKET=" + c.bucket, "FAKE_LOG=" + c.log,
	}, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = out, out
	return cmd, out
}

func (c *cluster) setUp(root string) (string, error) {
	cmd, out := c.command(root, filepath.Join(root, "usr/local/sbin/tokenfork-setup"))
	err := cmd.Run()
	return out.String(), err
}

func (c *cluster) mustSetUp(root string) {
	c.t.Helper()
	if out, err := c.setUp(root); err != nil {
		c.t.Fatalf("set-up: %v\n%s", err, out)
	}
}

// downloads counts how often a key was fetched.
func (c *cluster) downloads(key string) int {
	c.t.Helper()
	return strings.Count("\n"+c.read(c.log), "\n"+key+"\n")
}

func (c *cluster) read(path string) string {
	c.t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		c.t.Fatal(err)
	}
	return string(text)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func isReady(root string) bool { return exists(filepath.Join(root, "var/lib/tokenfork/ready")) }

func TestSetUp(t *testing.T) {
	for kind, options := range map[string]string{"efs": "efs _netdev,noresvport,tls,iam", "lustre": "lustre _netdev,relatime,flock"} {
		t.Run(kind, func(t *testing.T) {
			c := newCluster(t)
			c.uploadSoftware()
			c.upload("models/org/small", map[string]string{"config.json": "{}", "model.safetensors": "weights"})
			c.write(filepath.Join(c.bucket, "models/half-uploaded/config.json"), "{}", 0o644)
			root := c.node(kind)
			c.mustSetUp(root)
			c.mustSetUp(root)

			if got, want := c.read(filepath.Join(root, "etc/fstab")), "fs-1:/ "+root+"/shared "+options+" 0 0\n"; got != want {
				t.Errorf("fstab holds %q, want %q", got, want)
			}
			if got := c.read(filepath.Join(root, "shared/models/org/small/model.safetensors")); got != "weights" {
				t.Errorf("the model's weights are %q", got)
			}
			if exists(filepath.Join(root, "shared/models/half-uploaded")) {
				t.Error("a model without SHA256SUMS was staged")
			}
			for name, want := range map[string]string{"tokenfork": "tokenfork\n", "apptainer": "apptainer\n"} {
				out, err := exec.Command(filepath.Join(root, "usr/local/bin", name)).CombinedOutput()
				if err != nil || string(out) != want {
					t.Errorf("%s says %q, %v", name, out, err)
				}
			}
			if want := "--replace " + root + "/etc/apparmor.d/tokenfork-apptainer\n"; !strings.HasPrefix(c.read(c.log+".apparmor"), want) {
				t.Error("the container runtime's AppArmor profile was not loaded")
			}
			if n := c.downloads("models/org/small/model.safetensors"); n != 1 {
				t.Errorf("two starts fetched the weights %d times", n)
			}
			if !isReady(root) {
				t.Error("the node is not ready")
			}
		})
	}
}

func TestNodesThatStartTogetherCopyOnce(t *testing.T) {
	c := newCluster(t)
	c.uploadSoftware()
	c.upload("models/big", map[string]string{"a": "1", "b": "2", "c": "3", "d": "4", "e": "5"})
	var wg sync.WaitGroup
	roots := []string{c.node("efs"), c.node("efs"), c.node("efs"), c.node("efs")}
	for _, root := range roots {
		wg.Go(func() {
			if out, err := c.setUp(root); err != nil {
				t.Errorf("set-up: %v\n%s", err, out)
			}
		})
	}
	wg.Wait()
	for _, key := range []string{"software/vllm.sif", "models/big/a", "models/big/e"} {
		if n := c.downloads(key); n != 1 {
			t.Errorf("%s was fetched %d times", key, n)
		}
	}
	for _, root := range roots {
		if got := c.read(filepath.Join(root, "shared/models/big/e")); got != "5" || !isReady(root) {
			t.Errorf("a node has %q, ready %v", got, isReady(root))
		}
	}
}

func TestInterruptedCopyGoesOnElsewhere(t *testing.T) {
	c := newCluster(t)
	c.uploadSoftware()
	c.upload("models/big", map[string]string{"first": "1", "second": "2"})
	lost, other := c.node("efs"), c.node("efs")

	cmd, out := c.command(lost, filepath.Join(lost, "usr/local/sbin/tokenfork-setup"), "FAKE_STUCK=second")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	finished := func() bool {
		found, _ := filepath.Glob(filepath.Join(c.shared, ".store/models_big-*/first"))
		return len(found) == 1 && exists(c.log+".stuck")
	}
	for limit := time.Now().Add(time.Minute); !finished(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("the first node got nowhere:\n%s", out)
		}
	}
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("the killed set-up succeeded")
	}
	if isReady(lost) || exists(filepath.Join(c.shared, "models/big")) {
		t.Error("half a model was given out")
	}

	c.mustSetUp(other)
	if got := c.read(filepath.Join(other, "shared/models/big/second")); got != "2" {
		t.Errorf("the model is %q", got)
	}
	if n := c.downloads("models/big/first"); n != 1 {
		t.Errorf("what was finished was fetched %d times", n)
	}
}

func TestDamagedUpload(t *testing.T) {
	c := newCluster(t)
	c.uploadSoftware()
	c.upload("models/m", map[string]string{"weights": "good"})
	c.write(filepath.Join(c.bucket, "models/m/weights"), "bad", 0o644)
	root := c.node("efs")
	out, err := c.setUp(root)
	if err == nil || isReady(root) || exists(filepath.Join(c.shared, "models/m")) {
		t.Fatalf("a damaged model was accepted: %v", err)
	}
	for _, want := range []string{"s3://bucket/models/m/weights differs from its SHA256SUMS", "sudo tokenfork-setup"} {
		if !strings.Contains(out, want) {
			t.Errorf("the message lacks %q:\n%s", want, out)
		}
	}
	c.write(filepath.Join(c.bucket, "models/m/weights"), "good", 0o644)
	c.mustSetUp(root)
}

func TestStrangeSums(t *testing.T) {
	sum := strings.Repeat("0", 64)
	for name, text := range map[string]string{
		"empty": "", "path that leaves": sum + "  ../../etc/passwd\n", "absolute path": sum + "  /etc/passwd\n",
		"no sum": "weights\n", "command": sum + "  $(touch x)\n",
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			c.uploadSoftware()
			c.write(filepath.Join(c.bucket, "models/m/SHA256SUMS"), text, 0o644)
			out, err := c.setUp(c.node("efs"))
			if err == nil || !strings.Contains(out, "SHA256SUMS is not what 'sha256sum FILE...' prints") {
				t.Errorf("set-up: %v\n%s", err, out)
			}
		})
	}
}

func TestNothingUploaded(t *testing.T) {
	c := newCluster(t)
	root := c.node("efs")
	out, err := c.setUp(root)
	if err == nil || isReady(root) || !strings.Contains(out, "docs/cloud.md says what to upload") {
		t.Errorf("set-up: %v\n%s", err, out)
	}
}

func TestNewVersionReplacesTheLink(t *testing.T) {
	c := newCluster(t)
	c.uploadSoftware()
	c.upload("models/m", map[string]string{"weights": "one"})
	root := c.node("efs")
	c.mustSetUp(root)
	before, err := filepath.EvalSymlinks(filepath.Join(root, "shared/models/m"))
	if err != nil {
		t.Fatal(err)
	}
	c.upload("models/m", map[string]string{"weights": "two"})
	c.mustSetUp(root)
	if got := c.read(filepath.Join(root, "shared/models/m/weights")); got != "two" {
		t.Errorf("the model is %q", got)
	}
	if got := c.read(filepath.Join(before, "weights")); got != "one" {
		t.Errorf("a server that still reads the former version finds %q", got)
	}
}

func TestPrologRefusesANodeThatIsNotSetUp(t *testing.T) {
	c := newCluster(t)
	c.uploadSoftware()
	root := c.node("efs")
	prolog := func() error {
		cmd, _ := c.command(root, filepath.Join(root, "usr/local/sbin/tokenfork-ready"))
		return cmd.Run()
	}
	if err := prolog(); err == nil {
		t.Error("a job may start before the set-up")
	}
	c.mustSetUp(root)
	if err := prolog(); err != nil {
		t.Errorf("no job may start after the set-up: %v", err)
	}
}
