// Package doctor checks a node before a job is sent to it: GPUs, vLLM, models,
// the job's store, Slurm, and the room for sockets and temporary files.
package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"tokenfork/internal/failure"
	"tokenfork/internal/gpu"
	"tokenfork/internal/job"
	"tokenfork/internal/model"
	"tokenfork/internal/store"
	"tokenfork/slurm"
)

// Levels of a finding.
const (
	OK   = "ok"
	Warn = "warn"
	Fail = "fail"
)

// Finding is one line of the doctor's.
type Finding struct {
	Level string
	Check string // what was examined
	Said  string
	Hint  string
}

// Options say what to check. What is empty is left out.
type Options struct {
	VLLM    []string    // command
	Models  [2]string   // by job.Side: folders or cached hub names
	Store   store.Store // nil: no job
	Tmp     string      // folder for temporary files
	Sockets string      // folder for vLLM's sockets
	Cluster slurm.Cluster
	Grace   time.Duration
	Env     func(string) string
}

// Check looks at everything and tells each finding as it comes. The error,
// of failure.Other, counts those that failed.
func Check(ctx context.Context, o Options, tell func(Finding) error) error {
	failed := 0
	for _, check := range []func(context.Context, *Options) []Finding{gpus, vllm, models, layout, place, cluster, folders} {
		for _, f := range check(ctx, &o) {
			if f.Level == Fail {
				failed++
			}
			if err := tell(f); err != nil {
				return err
			}
		}
	}
	if failed > 0 {
		return failure.New(failure.Other, "each line above says what to do", "%d checks failed", failed)
	}
	return nil
}

func found(level, check, hint, format string, args ...any) []Finding {
	return []Finding{{level, check, fmt.Sprintf(format, args...), hint}}
}

// failed tells an error, with the way out that it names itself.
func failed(check string, err error, hint string) []Finding {
	if own := failure.Hint(err); own != "" {
		hint = own
	}
	return []Finding{{Fail, check, err.Error(), hint}}
}

func gpus(ctx context.Context, o *Options) []Finding {
	tool := slices.IndexFunc([]string{"nvidia-smi", "amd-smi", "rocm-smi"}, func(name string) bool {
		_, err := exec.LookPath(name)
		return err == nil
	})
	if tool < 0 {
		return found(Warn, "gpus", "right for a login node; on a GPU node ask for the driver", "no nvidia-smi, amd-smi or rocm-smi")
	}
	devices, err := gpu.Visible(ctx)
	if err != nil {
		return failed("gpus", err, "a GPU that does not answer needs the administrators")
	}
	var all []Finding
	for _, d := range devices {
		all = append(all, found(OK, "gpus", "", "%s: %s, %d MiB", d.Entry, d.Name, d.MiB)...)
	}
	if len(all) == 0 {
		return found(Warn, "gpus", "in a Slurm task: does it ask for GPUs?", "none are visible (%s)", visibility(o.Env))
	}
	return all
}

// visibility lists the variables that leave GPUs to a process.
func visibility(env func(string) string) string {
	var all []string
	for _, name := range []string{"CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"} {
		if entries := env(name); entries != "" {
			all = append(all, fmt.Sprintf("%s is %q", name, entries))
		}
	}
	return cmp.Or(strings.Join(all, ", "), "CUDA_VISIBLE_DEVICES and the like are empty")
}

// usualLongest stands for the longest text where no job tells.
const usualLongest = 8192

// layout shows where infer would run its servers on this node.
func layout(ctx context.Context, o *Options) []Finding {
	devices, err := gpu.Visible(ctx)
	if err != nil || len(devices) == 0 {
		return nil // gpus has told
	}
	longest, cost, sides := usualLongest, [2]float64{1, 1}, job.Sides[:]
	if planned := o.job(ctx); planned != nil {
		longest, cost, sides = planned.Longest, planned.Cost, planned.Settings.Servers()
	}
	var needs [2]*gpu.Need
	for _, side := range sides {
		dir, err := model.Resolve(o.Models[side], o.Env)
		if o.Models[side] == "" || err != nil {
			continue // models has told
		}
		if m, err := model.Load(dir); err == nil {
			needs[side] = &gpu.Need{Name: side.String(), Model: m, Longest: longest, Cost: cost[side]}
		}
	}
	l, err := gpu.Arrange(devices, needs)
	if err != nil {
		return failed("layout", err, "")
	}
	var all []Finding
	for _, line := range l.Lines(needs) {
		all = append(all, found(OK, "layout", "", "%s", line)...)
	}
	return all
}

// job is the planned one, nil if there is none: the store's own check tells.
func (o *Options) job(ctx context.Context) *job.Job {
	if o.Store == nil {
		return nil
	}
	planned, _ := job.Load(ctx, o.Store)
	return planned
}

// versionTimeout is long: importing torch from a shared file system is slow.
const versionTimeout = 5 * time.Minute

func vllm(ctx context.Context, o *Options) []Finding {
	if len(o.VLLM) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	start := time.Now()
	cmd := exec.CommandContext(ctx, o.VLLM[0], append(o.VLLM[1:len(o.VLLM):len(o.VLLM)], "--version")...)
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		said := err.Error()
		if errors.As(err, &exit) {
			said += ": " + lastLine(exit.Stderr)
		}
		return found(Fail, "vllm", "give the command with --vllm, and bring up modules or conda before", "%s --version: %s", strings.Join(o.VLLM, " "), said)
	}
	return found(OK, "vllm", "", "%s, after %s", lastLine(out), time.Since(start).Round(100*time.Millisecond))
}

func models(ctx context.Context, o *Options) []Finding {
	planned := o.job(ctx)
	var all []Finding
	for _, side := range job.Sides {
		if o.Models[side] != "" {
			all = append(all, checkModel(side, o, planned)...)
		}
	}
	return all
}

func checkModel(side job.Side, o *Options, planned *job.Job) []Finding {
	check := side.String() + " model"
	dir, err := model.Resolve(o.Models[side], o.Env)
	if err != nil {
		return failed(check, err, "")
	}
	m, err := model.Load(dir)
	if err != nil {
		return failed(check, err, "")
	}
	if planned != nil {
		if diff := planned.Models[side].Fingerprint.Diff(m.Fingerprint()); len(diff) > 0 {
			return found(Fail, check, "give the model that the job was planned for", "%s is not the job's model: %s", dir, strings.Join(diff, "; "))
		}
	}
	return found(OK, check, "", "%s, %d layers, %d positions", dir, m.Layers, m.MaxPositions)
}

func place(ctx context.Context, o *Options) []Finding {
	if o.Store == nil {
		return nil
	}
	var all []Finding
	j, err := job.Load(ctx, o.Store)
	if err != nil {
		all = failed("job", err, "")
	} else {
		all = found(OK, "job", "", "%s at %s, %d shards", j.ID, o.Store, len(j.Shards))
	}
	if err := store.Probe(ctx, o.Store); err != nil {
		return append(all, failed("store", err, "can this node write there?")...)
	}
	return append(all, found(OK, "store", "", "%s: written, read and guarded", o.Store)...)
}

func cluster(ctx context.Context, o *Options) []Finding {
	c, err := o.Cluster.Config(ctx, "")
	if errors.Is(err, slurm.ErrNoSlurm) {
		return found(Warn, "slurm", "right outside a cluster; submit needs a host with sbatch", "no scontrol")
	}
	if err != nil {
		return failed("slurm", err, "does the controller run?")
	}
	all := found(OK, "slurm", "", "%s, arrays of up to %d tasks, preemption %s", c.Version, c.MaxArraySize, c.PreemptMode)
	if c.MaxArraySize < 2 {
		all = found(Fail, "slurm", "ask the administrators to raise MaxArraySize", "takes no job arrays (MaxArraySize %d)", c.MaxArraySize)
	}
	if !c.JobRequeue {
		all = append(all, found(Warn, "slurm", "the scripts ask for --requeue; is it allowed?", "JobRequeue is 0")...)
	}
	if least := o.Grace + 10*time.Second; c.KillWait < least {
		all = append(all, found(Warn, "slurm", fmt.Sprintf("--grace %s, or what is in flight at scancel is done again", max(c.KillWait-10*time.Second, 0)),
			"KillWait is %s, less than --grace and 10s for the commit", c.KillWait)...)
	}
	return all
}

const (
	// socketTail is what vLLM and its folder add to the sockets' folder: /tokenfork-<10>/z/<36>.
	socketTail = 1 + 10 + 10 + 3 + 36
	maxSocket  = 107
	leastFree  = 10 << 30 // vLLM's compile cache and S3 uploads
)

func folders(_ context.Context, o *Options) []Finding {
	var all []Finding
	if n := len(o.Sockets) + socketTail; n > maxSocket {
		all = found(Fail, "sockets", "a shorter folder", "paths under %s have %d bytes, the kernel takes %d", o.Sockets, n, maxSocket)
	} else {
		all = found(OK, "sockets", "", "paths under %s have %d bytes of %d", o.Sockets, n, maxSocket)
	}
	f, err := os.CreateTemp(o.Tmp, "tokenfork-doctor-")
	if err != nil {
		return append(all, failed("temporary files", err, "set TMPDIR to a node-local folder")...)
	}
	err = errors.Join(f.Close(), os.Remove(f.Name()))
	var fs unix.Statfs_t
	if err = errors.Join(err, unix.Statfs(o.Tmp, &fs)); err != nil {
		return append(all, failed("temporary files", err, "set TMPDIR to a node-local folder")...)
	}
	free := int64(fs.Bavail) * fs.Bsize
	if free < leastFree {
		return append(all, found(Warn, "temporary files", "set TMPDIR to a folder with more room", "%s has %.1f GiB free", o.Tmp, float64(free)/(1<<30))...)
	}
	return append(all, found(OK, "temporary files", "", "%s has %.0f GiB free", o.Tmp, float64(free)/(1<<30))...)
}

func lastLine(b []byte) string {
	text := strings.TrimSpace(string(b))
	return text[strings.LastIndex(text, "\n")+1:]
}

// Write tells a finding as a line, its hint below.
func (f Finding) Write(w io.Writer) error {
	line := fmt.Sprintf("%-4s  %s: %s\n", f.Level, f.Check, f.Said)
	if f.Hint != "" && f.Level != OK {
		line += "      hint: " + f.Hint + "\n"
	}
	_, err := io.WriteString(w, line)
	return err
}
