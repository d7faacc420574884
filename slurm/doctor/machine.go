package doctor

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

func tag() string { return strings.ToLower(rand.Text()[:10]) }

const (
	// socketTail is what vLLM and its folder add to the sockets' folder: /tokenfork-<10>/z/<36>.
	socketTail = 1 + 10 + 10 + 3 + 36
	maxSocket  = 107
	leastFree  = 10 << 30 // vLLM's temporary files and S3 uploads
	leastCache = 2 << 30  // compiled code of a few models
)

// sockets makes one where vLLM's will be.
func sockets(_ context.Context, o *Options) []Finding {
	const check = "sockets"
	if n := len(o.Sockets) + socketTail; n > maxSocket {
		return found(Fail, check, "link a folder of a short path, such as /tmp, there", "paths under %s have %d bytes, the kernel takes %d", o.Sockets, n, maxSocket)
	}
	dir, err := os.MkdirTemp(o.Sockets, "tokenfork-")
	if err != nil {
		return failed(check, err, "make "+o.Sockets+" a local folder that you can write to (mode 1777), with some room")
	}
	defer os.RemoveAll(dir)
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		return failed(check, err, o.Sockets+" must be on a file system with sockets: a local disk or tmpfs")
	}
	if err := l.Close(); err != nil {
		return failed(check, err, o.Sockets+" must be on a file system with sockets: a local disk or tmpfs")
	}
	return found(OK, check, "", "paths under %s have %d bytes of %d", o.Sockets, len(o.Sockets)+socketTail, maxSocket)
}

func folders(_ context.Context, o *Options) []Finding {
	const hint = "set TMPDIR to a folder on this node's own disk with more room"
	f, err := os.CreateTemp(o.Tmp, "tokenfork-doctor-")
	if err == nil {
		err = errors.Join(f.Close(), os.Remove(f.Name()))
	}
	var all []Finding
	if err != nil {
		all = failed("temporary files", err, hint)
	} else {
		all = room("temporary files", o.Tmp, leastFree, hint)
	}
	if o.Cache != "" {
		all = append(all, room("compile cache", o.Cache, leastCache, "set XDG_CACHE_HOME to a folder with more room; quotas are not seen here")...)
	}
	return all
}

var limitLine = regexp.MustCompile(`(?m)^Max ([a-z ]+?)\s{2,}(\d+|unlimited)\s+(\d+|unlimited)`)

// limits are those that a program started from here gets. A Go program raises its own soft
// limit of open files, so another one is asked.
func limits(ctx context.Context, _ *Options) []Finding {
	out, err := exec.CommandContext(ctx, "/bin/cat", "/proc/self/limits").Output()
	if err != nil {
		return failed("limits", fmt.Errorf("read /proc/self/limits: %w", err), "ulimit -a shows them")
	}
	is := map[string][2]uint64{}
	for _, m := range limitLine.FindAllStringSubmatch(string(out), -1) {
		is[m[1]] = [2]uint64{number(m[2]), number(m[3])}
	}
	all := openFiles(is["open files"])
	if n := is["processes"]; n[0] < leastProcesses {
		all = append(all, found(Warn, "processes", raise("-u", n[1], leastProcesses, "nproc"), "%d processes and threads are allowed, a server with its workers takes hundreds", n[0])...)
	}
	for _, l := range []struct{ name, flag string }{{"address space", "-v"}, {"file size", "-f"}} {
		if n := is[l.name]; n[0] != unlimited {
			all = append(all, found(Fail, l.name, fmt.Sprintf("ulimit %s unlimited before the command; on Slurm also #SBATCH --propagate=NONE (submit --sbatch --propagate=NONE)", l.flag),
				"limited to %d bytes: vLLM maps far more than it uses, and tables are large", n[0])...)
		}
	}
	return append(all, sharedMemory()...)
}

const unlimited = ^uint64(0)

func number(s string) uint64 {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return unlimited // or too large a number, which comes to the same
	}
	return n
}

const (
	wantedFiles    = 65_535 // which vLLM raises the soft limit to
	enoughFiles    = 8192
	fewestFiles    = 2048
	leastProcesses = 4096
)

// openFiles: vLLM raises the soft limit to 65,535, and where the hard one is below that,
// it warns and stays at the soft one.
func openFiles(n [2]uint64) []Finding {
	const check = "open files"
	soft, hard := n[0], n[1]
	switch {
	case hard >= wantedFiles:
		return found(OK, check, "", "%d of %s", soft, limitText(hard))
	case soft >= enoughFiles:
		return found(OK, check, "", "%d: enough, although vLLM warns below %d", soft, wantedFiles)
	case soft >= fewestFiles:
		return found(Warn, check, raise("-n", hard, enoughFiles, "nofile"), "%d: vLLM cannot raise it to %d and stays there; many requests in flight may fail", soft, wantedFiles)
	}
	return found(Fail, check, raise("-n", hard, enoughFiles, "nofile"), "%d: vLLM cannot raise it to %d, and will run out of them", soft, wantedFiles)
}

func limitText(n uint64) string {
	if n == unlimited {
		return "unlimited"
	}
	return strconv.FormatUint(n, 10)
}

// raise says how a soft limit is raised: up to the hard one by anybody.
func raise(flag string, hard, wanted uint64, name string) string {
	if hard >= wanted {
		return fmt.Sprintf("ulimit %s %s before the command (submit --prologue 'ulimit %s %s')", flag, limitText(hard), flag, limitText(hard))
	}
	return fmt.Sprintf("ask the administrators to raise %s to %d in limits.conf and for slurmd, or give the container --ulimit %s=%d:%d", name, wantedFiles, name, wantedFiles, wantedFiles)
}

const leastShared = 1 << 30

// sharedMemory is what servers over several GPUs talk through.
func sharedMemory() []Finding {
	var s unix.Statfs_t
	if err := unix.Statfs("/dev/shm", &s); err != nil {
		return failed("shared memory", fmt.Errorf("look at /dev/shm: %w", err), "mount a tmpfs there; in a container --ipc=host or --shm-size=8g")
	}
	if size := int64(s.Blocks) * s.Bsize; size < leastShared {
		return found(Warn, "shared memory", "in a container --ipc=host or --shm-size=8g", "/dev/shm has %d MiB; a server over several GPUs wants more", size>>20)
	}
	return found(OK, "shared memory", "", "/dev/shm has %.0f GiB", gib(int64(s.Blocks)*s.Bsize))
}

// offline looks at variables that have programs ask the internet, or look for models elsewhere.
func offline(_ context.Context, o *Options) []Finding {
	const check = "offline"
	var all []Finding
	if is := strings.ToLower(o.Env("VLLM_USE_MODELSCOPE")); is != "" && is != "0" && is != "false" {
		all = found(Fail, check, "unset VLLM_USE_MODELSCOPE", "VLLM_USE_MODELSCOPE is %q: vLLM would look for the model at ModelScope", is)
	}
	for _, name := range []string{"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"} {
		if is := o.Env(name); is != "" && !truth(is) {
			all = append(all, found(Warn, check, "export "+name+"=1", "%s is %q: servers that you start yourself ask the hub, and wait where there is no network; tokenfork sets HF_HUB_OFFLINE=1 for its own", name, is)...)
		}
	}
	for _, name := range []string{"HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "TRITON_CACHE_DIR"} {
		dir := o.Env(name)
		if dir == "" {
			continue
		}
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			all = append(all, found(Warn, check, fmt.Sprintf("mkdir -p %s, or unset %s", dir, name), "%s is %s, which is no folder on this node", name, dir)...)
		}
	}
	if len(all) == 0 {
		return found(OK, check, "", "servers get HF_HUB_OFFLINE=1; hub names are looked up in %s", cmp.Or(o.Env("HF_HUB_CACHE"), join(o.Env("HF_HOME"), "hub"), "~/.cache/huggingface/hub"))
	}
	return all
}

func join(dir, name string) string {
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, name)
}

// truth reads a flag as huggingface_hub does.
func truth(s string) bool {
	switch strings.ToUpper(s) {
	case "1", "ON", "YES", "TRUE":
		return true
	}
	return false
}
