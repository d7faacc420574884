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
	"syscall"
	"testing"

	"tokenfork/internal/store/storetest"
)

const scripts = "modules/cluster/node"

// program is the real tokenfork, built once.
var program string

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "tokenfork-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "tokenfork")
	cmd := exec.Command("go", "build", "-o", program, "../cmd/tokenfork")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build tokenfork: %v: %s", err, out)
		return 1
	}
	return m.Run()
}

// fakes stand for what a node has and this machine does not: mounts, disks, systemd, and AWS's program for the one copy
// that brings tokenfork itself, out of the folder of the real S3 server.
var fakes = map[string]string{
	"aws":             `[ "$1 $2" = "s3 cp" ] && cp "$FAKE_BUCKET/${4#s3://bucket/}" "$5"`,
	"mount":           `echo "mount $*" >>"$FAKE_LOG"`,
	"mountpoint":      `[ "${2##*/root}" = "$FAKE_MOUNTED" ]`,
	"lsblk":           `echo "{\"blockdevices\": [$FAKE_DISKS]}"`,
	"mdadm":           `echo "mdadm $*" >>"$FAKE_LOG"`,
	"mkfs.ext4":       `echo "mkfs.ext4 $*" >>"$FAKE_LOG"`,
	"systemctl":       `echo "systemctl $*" >>"$FAKE_LOG"`,
	"apparmor_parser": `echo "apparmor_parser $*" >>"$FAKE_LOG"`,
	"sudo":            `[ "$1" = -n ] && shift; exec "$@"`,
}

// cluster is one bucket and one shared file system with nodes around them.
type cluster struct {
	t                  *testing.T
	s3                 *storetest.Proxy
	shared, fakes, log string
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := newNodes(t)
	c.s3 = storetest.StartS3(t)
	return c
}

// newNodes is a cluster without a bucket: none of it is reached.
func newNodes(t *testing.T) *cluster {
	t.Helper()
	dir := t.TempDir()
	c := &cluster{t, &storetest.Proxy{}, filepath.Join(dir, "shared"), filepath.Join(dir, "fakes"), filepath.Join(dir, "log")}
	for name, line := range fakes {
		c.write(filepath.Join(c.fakes, name), "#!/bin/bash\n"+line+"\n", 0o755)
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
		c.write(filepath.Join(c.s3.Folder, prefix, name), text, 0o644)
		sum := sha256.Sum256([]byte(text))
		fmt.Fprintf(&sums, "%s  %s\n", hex.EncodeToString(sum[:]), name)
	}
	c.write(filepath.Join(c.s3.Folder, prefix, "SHA256SUMS"), sums.String(), 0o644)
}

// software makes the folders of what is to be uploaded: the real program, a runtime that prints its arguments, an image.
func (c *cluster) software(dir string) {
	c.t.Helper()
	built := c.t.TempDir()
	c.write(filepath.Join(built, "apptainer/bin/apptainer"), "#!/bin/bash\necho apptainer \"$@\"\n", 0o755)
	c.write(filepath.Join(dir, "software/tokenfork-linux-amd64"), c.read(program), 0o755)
	c.write(filepath.Join(dir, "images/vllm/vllm.sif"), "image", 0o644)
	out, err := exec.Command("tar", "-czf", filepath.Join(dir, "software/apptainer.tar.gz"), "-C", built, "apptainer").CombinedOutput()
	if err != nil {
		c.t.Fatalf("tar: %v: %s", err, out)
	}
}

func (c *cluster) uploadSoftware() {
	c.t.Helper()
	dir := c.t.TempDir()
	c.software(dir)
	c.upload("software", map[string]string{
		"tokenfork-linux-amd64": c.read(filepath.Join(dir, "software/tokenfork-linux-amd64")),
		"apptainer.tar.gz":      c.read(filepath.Join(dir, "software/apptainer.tar.gz")),
	})
	c.upload("images/vllm", map[string]string{"vllm.sif": "image"})
}

// node makes the file tree of a node with so many GPUs, as user data leaves it, and returns its root.
func (c *cluster) node(kind string, gpus int) string {
	c.t.Helper()
	root := filepath.Join(c.t.TempDir(), "root")
	c.write(filepath.Join(root, "etc/profile.d/tokenfork.sh"), fmt.Sprintf(
		"export TOKENFORK_BUCKET=bucket TOKENFORK_GPUS=%d TOKENFORK_SHARED_TYPE=%s TOKENFORK_SHARED_SOURCE=fs-1:/\n", gpus, kind), 0o644)
	c.prepare(root)
	for to, name := range map[string]string{"sbin/tokenfork-mount": "mount.sh", "sbin/tokenfork-stage": "stage.sh", "sbin/tokenfork-ready": "ready.sh",
		"bin/tokenfork-models": "models.sh", "bin/vllm": "vllm.sh"} {
		c.write(filepath.Join(root, "usr/local", to), c.read(filepath.Join(scripts, name)), 0o755)
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
	cmd := exec.Command("bash", "-c", program)
	cmd.Env = append([]string{
		"PATH=" + c.fakes + ":" + filepath.Join(root, "usr/local/bin") + ":" + os.Getenv("PATH"), "HOME=" + root, "TOKENFORK_ROOT=" + root,
		"TOKENFORK_RETRY_SECONDS=0", "FAKE_BUCKET=" + c.s3.Folder, "FAKE_LOG=" + c.log,
		"TOKENFORK_S3_ENDPOINT=" + c.s3.URL, "TOKENFORK_S3_PATH_STYLE=1", "AWS_REGION=us-east-1", "AWS_EC2_METADATA_DISABLED=true",
		"AWS_ACCESS_KEY_ID=" + os.Getenv("AWS_ACCESS_KEY_ID"), "AWS_SECRET_ACCESS_KEY=" + os.Getenv("AWS_SECRET_ACCESS_KEY"),
	}, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = out, out
	return cmd, out
}

// run runs a script on a node and returns what it prints.
func (c *cluster) run(root, script string, env ...string) (string, error) {
	cmd, out := c.command(root, script, env...)
	err := cmd.Run()
	return out.String(), err
}

func (c *cluster) must(root, script string, env ...string) string {
	c.t.Helper()
	out, err := c.run(root, script, env...)
	if err != nil {
		c.t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return out
}

// mount and stage are what user data and the unit run.
const (
	mount = "$TOKENFORK_ROOT/usr/local/sbin/tokenfork-mount"
	stage = "$TOKENFORK_ROOT/usr/local/sbin/tokenfork-stage"
)

// start starts a node as user data and the unit do.
func (c *cluster) start(gpus int) string {
	c.t.Helper()
	root := c.node("efs", gpus)
	c.must(root, mount)
	c.must(root, stage)
	return root
}

// downloads counts how often an object was read.
func (c *cluster) downloads(key string) (n int) {
	for _, op := range c.s3.Operations() {
		if op.Action == "s3:GetObject" && op.Key == key {
			n++
		}
	}
	return n
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

// User data mounts, starts the unit and is done.
func TestMount(t *testing.T) {
	for kind, options := range map[string]string{"efs": "efs _netdev,noresvport,tls,iam", "lustre": "lustre _netdev,relatime,flock"} {
		c := newNodes(t)
		root := c.node(kind, 1)
		c.must(root, mount)
		c.must(root, mount)
		if got, want := c.read(filepath.Join(root, "etc/fstab")), "fs-1:/ "+root+"/shared "+options+" 0 0\n"; got != want {
			t.Errorf("fstab holds %q, want %q", got, want)
		}
		if log := c.read(c.log); !strings.Contains(log, "systemctl start --no-block tokenfork-stage.service\n") || len(c.s3.Operations()) != 0 {
			t.Errorf("user data does more or less than to mount and to start the unit:\n%s%v", log, c.s3.Operations())
		}
		if logs, _ := filepath.Glob(filepath.Join(c.shared, "work/nodes/*-mount.log")); len(logs) != 1 {
			t.Errorf("logs on the shared file system: %q", logs)
		}
	}
}

// The node's disks become one; disks that somebody uses are left alone.
func TestScratch(t *testing.T) {
	disk := func(path, more string) string {
		return `{"path": "` + path + `", "model": "Amazon EC2 NVMe Instance Storage", ` + more + `}`
	}
	const empty = `"fstype": null, "mountpoint": null`
	for what, x := range map[string]struct{ disks, mounted, want string }{
		"none":   {`{"path": "/dev/nvme0n1", "model": "Amazon Elastic Block Store", ` + empty + `}`, "", ""},
		"one":    {disk("/dev/nvme1n1", empty), "", "mkfs.ext4 -q /dev/nvme1n1\nmount /dev/nvme1n1 ROOT/scratch\n"},
		"two":    {disk("/dev/nvme1n1", empty) + "," + disk("/dev/nvme2n1", empty), "", "mdadm --create /dev/md/tokenfork --run --level=0 --raid-devices=2 /dev/nvme1n1 /dev/nvme2n1\nmkfs.ext4 -q /dev/md/tokenfork\nmount /dev/md/tokenfork ROOT/scratch\n"},
		"in use": {disk("/dev/nvme1n1", `"fstype": "LVM2_member", "mountpoint": null, "children": [{"path": "/dev/mapper/a"}]`), "", ""},
		"DLAMI":  {disk("/dev/nvme1n1", `"fstype": "LVM2_member", "mountpoint": null`), "/opt/dlami/nvme", "mount --bind ROOT/opt/dlami/nvme/tokenfork ROOT/scratch\n"},
		"again":  {disk("/dev/nvme1n1", empty), "/scratch", ""},
	} {
		c := newNodes(t)
		root := c.node("efs", 1)
		c.must(root, mount, "FAKE_DISKS="+x.disks, "FAKE_MOUNTED="+x.mounted)
		want := strings.ReplaceAll("mount ROOT/shared\n"+x.want+"systemctl daemon-reload\nsystemctl start --no-block tokenfork-stage.service\n", "ROOT", root)
		if got := c.read(c.log); got != want {
			t.Errorf("%s: the node ran\n%swant\n%s", what, got, want)
		}
	}
}

// A node whose file system cannot be mounted takes no job, and says why.
func TestMountFails(t *testing.T) {
	c := newNodes(t)
	root := c.node("efs", 1)
	prolog := "$TOKENFORK_ROOT/usr/local/sbin/tokenfork-ready"
	c.write(filepath.Join(c.fakes, "mount"), "#!/bin/bash\necho no route >&2; exit 32\n", 0o755)
	if out, err := c.run(root, mount); err == nil || !strings.Contains(out, "no route") {
		t.Errorf("mount: %v\n%s", err, out)
	}
	if out, err := c.run(root, prolog); err == nil || !strings.Contains(out, "/var/log/tokenfork-mount.log") {
		t.Errorf("a job may start: %v\n%s", err, out)
	}
	c.write(filepath.Join(c.fakes, "mount"), "#!/bin/bash\n", 0o755)
	c.must(root, mount)
	c.must(root, prolog)
}

var model = map[string]string{"config.json": "{}", "a.safetensors": "weights", "model.safetensors.index.json": `{"weight_map": {"x": "a.safetensors"}}`}

// The unit brings everything to a GPU node; a node without GPUs gets what planning needs.
func TestStage(t *testing.T) {
	c := newCluster(t)
	c.uploadSoftware()
	c.upload("models/org/big", model)
	c.write(filepath.Join(c.s3.Folder, "models/half-uploaded/config.json"), "{}", 0o644)
	gpu, login := c.start(8), c.start(0)
	c.must(gpu, stage)
	for root, weights := range map[string]bool{gpu: true, login: false} {
		if exists(filepath.Join(root, "scratch/models/org/big/a.safetensors")) != weights || exists(filepath.Join(root, "scratch/images/vllm/vllm.sif")) != weights {
			t.Errorf("weights and image are there: want %v", weights)
		}
		if c.read(filepath.Join(root, "scratch/models/org/big/config.json")) != "{}" || exists(filepath.Join(root, "scratch/models/half-uploaded")) {
			t.Error("not the models that have sums")
		}
		if out := c.must(root, "tokenfork --version"); !strings.HasPrefix(out, "tokenfork ") {
			t.Errorf("the program says %q", out)
		}
	}
	image, err := filepath.EvalSymlinks(filepath.Join(gpu, "scratch/images/vllm/vllm.sif"))
	if err != nil {
		t.Fatal(err)
	}
	if out, want := c.must(gpu, "vllm serve m"), fmt.Sprintf("apptainer exec --nv --bind %s/scratch --bind %s/shared %s vllm serve m\n", gpu, gpu, image); out != want {
		t.Errorf("vllm runs %s want %s", out, want)
	}
	if out, err := c.run(login, "vllm serve m"); err == nil || !strings.Contains(out, "tokenfork-stage") {
		t.Errorf("vllm without an image: %v, %s", err, out)
	}
	if n := c.downloads("models/org/big/a.safetensors"); n != 1 {
		t.Errorf("the weights were read %d times", n)
	}
	if log := c.read(c.log); !strings.Contains(log, "apparmor_parser --replace "+gpu+"/etc/apparmor.d/tokenfork-apptainer\n") {
		t.Error("the container runtime's AppArmor profile was not loaded")
	}
	if logs, _ := filepath.Glob(filepath.Join(c.shared, "work/nodes/*-stage.log")); len(logs) != 1 || !strings.Contains(c.read(logs[0]), "copied and verified") {
		t.Errorf("logs on the shared file system: %q", logs)
	}
}

// task is what tokenfork's scripts do before they work: the real prologue, in their own shell.
const task = `source ../slurm/scripts/runner.bash; PROLOGUE='. tokenfork-models'
SMALL_MODEL=$TOKENFORK_ROOT/scratch/models/small JUDGE_MODEL=$TOKENFORK_ROOT/scratch/models/judge REFERENCE_MODEL=/elsewhere
set_up
echo "$SMALL_MODEL $JUDGE_MODEL $REFERENCE_MODEL"; cat "$SMALL_MODEL/a.safetensors"`

// A task waits for its own models, and for no others: a bad upload of one does not hold up the rest.
func TestTaskWaitsForItsModels(t *testing.T) {
	c := newCluster(t)
	c.uploadSoftware()
	c.upload("models/small", model)
	c.upload("models/judge", model)
	c.upload("models/bad", model)
	c.write(filepath.Join(c.s3.Folder, "models/bad/a.safetensors"), "wEights", 0o644)
	root := c.node("efs", 1)
	c.must(root, mount)
	unit, said := c.command(root, stage)
	if err := unit.Start(); err != nil {
		t.Fatal(err)
	}
	out := c.must(root, task)
	if !strings.Contains(out, "/small "+root+"/scratch/.staged/models/judge/sha256-") || !strings.HasSuffix(out, " /elsewhere\nweights") {
		t.Errorf("the task finds %s", out)
	}
	if err := unit.Wait(); err == nil || !strings.Contains(said.String(), "models/bad/a.safetensors differs from its SHA256SUMS") {
		t.Errorf("the unit: %v\n%s", err, said)
	}
	if n := c.downloads("models/small/a.safetensors"); n != 1 {
		t.Errorf("the unit and the task read the weights %d times", n)
	}
	if out, err := c.run(root, "tokenfork-models models/bad -- echo task-ran"); err == nil || strings.Contains(out, "task-ran") || !strings.Contains(out, "models/bad could not be copied") {
		t.Errorf("a task with a bad model: %v, %s", err, out)
	}
	if out := c.must(root, "tokenfork-models models/small -- echo task-ran"); !strings.HasSuffix(out, "task-ran\n") {
		t.Errorf("before a command: %s", out)
	}
}

// A new upload reaches nodes that run with their next task; a task that runs keeps its copy, and old ones go.
func TestNewUpload(t *testing.T) {
	c := newCluster(t)
	c.uploadSoftware()
	c.upload("models/small", map[string]string{"a.safetensors": "old"})
	c.upload("models/judge", map[string]string{"a.safetensors": "judge"})
	root := c.start(1)
	fifo := filepath.Join(t.TempDir(), "go-on")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	running, said := c.command(root, task+"; echo; read <"+fifo+"; cat \"$SMALL_MODEL/a.safetensors\"")
	if err := running.Start(); err != nil {
		t.Fatal(err)
	}
	goOn, err := os.OpenFile(fifo, os.O_WRONLY, 0) // waits for the task
	if err != nil {
		t.Fatal(err)
	}
	c.upload("models/small", map[string]string{"a.safetensors": "new"})
	c.upload("images/vllm", map[string]string{"vllm.sif": "new image"})
	if out := c.must(root, task); !strings.HasSuffix(out, "new") || !strings.Contains(out, "old versions stay while tasks run here") {
		t.Errorf("the next task: %s", out)
	}
	fmt.Fprintln(goOn)
	if err := running.Wait(); err != nil || strings.Count(said.String(), "old") != 2 {
		t.Errorf("the task that ran: %v\n%s", err, said)
	}
	c.must(root, stage)
	if old, _ := filepath.Glob(filepath.Join(root, "scratch/.staged/*/*/sha256-*")); len(old) != 3 {
		t.Errorf("versions: %q", old)
	}
	if c.read(filepath.Join(root, "scratch/images/vllm/vllm.sif")) != "new image" {
		t.Error("the old image")
	}
}

// Root runs it for any user of the node: it takes names of models and nothing else.
func TestStageTakesNamesOnly(t *testing.T) {
	c := newNodes(t)
	root := c.node("efs", 1)
	for _, name := range []string{"models/../jobs", "/etc", "s3://other/models", "--to=/etc", "models/", "models/x y", "jobs/first"} {
		if out, err := c.run(root, stage+" '"+name+"'"); err == nil || !strings.Contains(out, "neither software nor models/NAME") {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

// The program that brings all the rest is verified too.
func TestDamagedProgram(t *testing.T) {
	c := newCluster(t)
	c.uploadSoftware()
	c.write(filepath.Join(c.s3.Folder, "software/tokenfork-linux-amd64"), "#!/bin/bash\ntouch $TOKENFORK_ROOT/evil\n", 0o755)
	root := c.node("efs", 1)
	if out, err := c.run(root, stage); err == nil || !strings.Contains(out, "tokenfork-linux-amd64 differs from its SHA256SUMS") || exists(filepath.Join(root, "evil")) {
		t.Errorf("stage: %v\n%s", err, out)
	}
}

// systemd takes the unit, and sudo its rule.
func TestUnitAndSudoers(t *testing.T) {
	dir := t.TempDir()
	unit, err := os.ReadFile(scripts + "/stage.service")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "tokenfork-stage.service")
	text := strings.Replace(string(unit), "/usr/local/sbin/tokenfork-stage", "/bin/true", 1)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("systemd-analyze", "verify", "--man=no", path).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze: %v\n%s", err, out)
	}
	sudoers, err := os.ReadFile(scripts + "/sudoers")
	if err != nil || !strings.HasSuffix(string(sudoers), "\nALL ALL=(root) NOPASSWD: /usr/local/sbin/tokenfork-stage\n") {
		t.Errorf("sudoers: %v\n%s", err, sudoers)
	}
}

// TestSkyExample runs the commands of the example for SkyPilot as far as they go without models: the program takes every flag.
func TestSkyExample(t *testing.T) {
	text, err := os.ReadFile("examples/sky.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, script, ok := strings.Cut(string(text), "\nrun: |\n")
	if !ok {
		t.Fatal("no run block")
	}
	script = strings.NewReplacer("~/tokenfork", program, "set -e\n", "", "~/vllm/bin/vllm", "false", "chmod +x", "true").Replace(script)
	cmd := exec.Command("bash", "-c", script)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "JOB="+t.TempDir(), "TABLE=none.csv", "SMALL=org/small", "REFERENCE=org/reference", "REFERENCE_GPUS=4", "JUDGE_FLAGS=--judge none")
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), "see tokenfork --help") || !strings.Contains(string(out), "none.csv") {
		t.Errorf("%v\n%s", err, out)
	}
}
