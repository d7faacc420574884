// Package doctor checks a node before a job is sent to it: GPUs, vLLM, models and
// what they need, the job's store, Slurm, limits, and the room for sockets and files.
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

	"tokenfork/internal/failure"
	"tokenfork/internal/gpu"
	"tokenfork/internal/job"
	"tokenfork/internal/store"
	"tokenfork/internal/version"
	"tokenfork/internal/vllm"
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
	Level string `json:"level"` // ok, warn or fail
	Check string `json:"check"` // what was examined
	Said  string `json:"said"`
	Hint  string `json:"hint,omitempty"` // what to do; not of ok
}

// Format is the version of the report's layout, which docs/doctor.md describes.
const Format = 1

// Report is all that was found, for a program.
type Report struct {
	Format   int       `json:"format"`
	Version  string    `json:"version"` // of tokenfork
	Host     string    `json:"host"`
	At       time.Time `json:"at"`
	OK       bool      `json:"ok"` // nothing failed
	Failed   int       `json:"failed"`
	Warned   int       `json:"warned"`
	Findings []Finding `json:"findings"`
}

// Judge is a model that judges in servers of the task's own.
type Judge struct {
	Model   string   // folder or cached hub name; "": there is none
	Args    []string // for vllm serve
	TP      int      // GPUs of each of its servers; 0 finds the fewest
	Longest int      // tokens of a question with its answer
}

// Options say what to check. What is empty is left out.
type Options struct {
	VLLM      []string    // command
	Models    [2]string   // by job.Side: folders or cached hub names
	Args      [2][]string // for vllm serve, by job.Side
	TP        int         // GPUs of each of the reference's servers; 0 finds the fewest
	Judge     Judge       // a local one
	Store     store.Store // nil: no job
	Tmp       string      // folder for temporary files
	Cache     string      // folder of this user's for compiled code
	Sockets   string      // folder for vLLM's sockets
	Cluster   slurm.Cluster
	Partition string        // of the job's tasks; "": the default one
	Time      time.Duration // their time limit; 0: not told
	Grace     time.Duration
	Env       func(string) string
}

// Check looks at everything and tells each finding as it comes. The error,
// of failure.Other, counts those that failed.
func Check(ctx context.Context, o Options, tell func(Finding) error) (*Report, error) {
	host, _ := os.Hostname() // for people
	r := &Report{Format: Format, Version: version.Current().String(), Host: host, At: time.Now().UTC().Truncate(time.Second)}
	for _, check := range []func(context.Context, *Options) []Finding{gpus, engine, models, tokenizers, layout, place, cluster, sockets, folders, limits, offline} {
		for _, f := range check(ctx, &o) {
			switch f.Level {
			case Fail:
				r.Failed++
			case Warn:
				r.Warned++
			default:
				f.Hint = ""
			}
			r.Findings = append(r.Findings, f)
			if err := tell(f); err != nil {
				return r, err
			}
		}
	}
	r.OK = r.Failed == 0
	if !r.OK {
		return r, failure.New(failure.Other, "each line above says what to do", "%d of %d checks failed", r.Failed, len(r.Findings))
	}
	return r, nil
}

func found(level, check, hint, format string, args ...any) []Finding {
	return []Finding{{level, check, fmt.Sprintf(format, args...), hint}}
}

// failed tells an error, with the way out that it names itself.
func failed(check string, err error, hint string) []Finding {
	return []Finding{{Fail, check, strings.ReplaceAll(err.Error(), "\n", "; "), cmp.Or(failure.Hint(err), hint)}}
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

// versionTimeout is long: importing torch from a shared file system is slow.
const versionTimeout = 5 * time.Minute

func engine(ctx context.Context, o *Options) []Finding {
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
	all := found(OK, "vllm", "", "%s, after %s", lastLine(out), time.Since(start).Round(100*time.Millisecond))
	return append(all, o.abilities(ctx, lastLine(out))...)
}

// abilities holds the version against the table of what versions can do.
func (o *Options) abilities(ctx context.Context, said string) []Finding {
	const check = "vllm abilities"
	v, ok := vllm.ParseVersion(said)
	switch {
	case !ok:
		return found(Warn, check, fmt.Sprintf("install a release, pip install 'vllm==%s', unless you know that this build is as new", vllm.Newest), "%q is no release: what it can do is not known", said)
	case v.Compare(vllm.Oldest) < 0:
		return found(Fail, check, fmt.Sprintf("pip install 'vllm>=%s'", vllm.Oldest), "%s is older than any version that is tried", v)
	}
	var all []Finding
	if slices.Compare(v[:2], vllm.Newest[:2]) > 0 { // another patch is as good
		all = found(Warn, check, fmt.Sprintf("if a server does not start, pip install 'vllm==%s'", vllm.Newest), "%s is newer than any version that is tried", v)
	}
	needs := o.needs(ctx)
	var can []string
	for _, a := range vllm.Abilities {
		switch {
		case v.Compare(a.Since) >= 0:
			can = append(can, a.Name)
		case needs[a.Name]:
			all = append(all, found(Fail, check, fmt.Sprintf("pip install 'vllm>=%s'", a.Since), "%s lacks %s, which the job needs for %s", v, a.Name, a.For)...)
		default:
			all = append(all, found(OK, check, "", "%s lacks %s, needed for %s, which %s has", v, a.Name, a.For, a.Since)...)
		}
	}
	return append(all, found(OK, check, "", "%s has %s", v, strings.Join(can, ", "))...)
}

// needs are the abilities that the job depends on.
func (o *Options) needs(ctx context.Context) map[string]bool {
	needs := map[string]bool{}
	if planned := o.job(ctx); planned != nil {
		needs[vllm.BatchInvariance] = planned.Settings.Deterministic
		return needs // its texts are read
	}
	if o.Store != nil {
		if corpus, err := job.LoadCorpus(ctx, o.Store); err == nil {
			needs[vllm.PromptLogits] = corpus.Top > 0 || corpus.Logits > 0
		}
	}
	return needs
}

func lastLine(b []byte) string {
	text := strings.TrimSpace(string(b))
	return text[strings.LastIndex(text, "\n")+1:]
}

// Write tells a finding as a line, its hint below.
func (f Finding) Write(w io.Writer) error {
	line := fmt.Sprintf("%-4s  %s: %s\n", f.Level, f.Check, f.Said)
	if f.Hint != "" {
		line += "      hint: " + f.Hint + "\n"
	}
	_, err := io.WriteString(w, line)
	return err
}
