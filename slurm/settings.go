package slurm

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/secret"
)

// Stages of a submission, in order.
const (
	Predict = "predict" // with Plan, a submission of its own: what follows needs the plan
	Plan    = "plan"
	Infer   = "infer"
	Judge   = "judge"
	Merge   = "merge"
	Report  = "report"
)

// Settings say how the stages run on the cluster. None changes a label.
type Settings struct {
	Job       string   // as the nodes reach it: an absolute path or s3://…
	JobFlags  []string // further flags that every stage needs to reach it
	Tokenfork string   // the program, as the nodes see it

	Partition, Account string
	Time               time.Duration
	GPUs               GPUs     // of a predict or infer task, and of a local judge
	SmallGPUs          GPUs     // more than none: the small model's tasks are arrays of their own
	CPUs               int      // of a task with GPUs; 0: its share of the node's
	Memory             string   // likewise; "": its share of the node's
	Node               Node     // what a node with such GPUs has
	Sbatch             []string // further flags of sbatch, for every stage
	GPUSbatch          []string // for stages with GPUs
	CPUSbatch          []string // for those without
	Throttle           int      // tasks of an array that run at once; 0: no limit

	Prologue                   string
	VLLM                       string
	SmallModel, ReferenceModel string
	StageModel                 bool
	Scratch                    string
	PredictFlags, PlanFlags    []string
	InferFlags                 []string
	Judge                      string // URL, local or none
	JudgeModel                 string
	JudgeFlags                 []string
	Offline                    bool // compute nodes have no network

	Lead        time.Duration // SIGUSR1 before the time limit
	Grace       time.Duration
	MaxRequeues int
}

// commitTime is what the last part, the commit and Slurm's own slack (a signal
// may come late by its polling) need after the grace.
const commitTime = 30 * time.Second

// early is how much before its time Slurm may send a signal (sbatch(1), --signal). One that comes with the
// start, before the script hears it, is lost.
const early = time.Minute

func (s *Settings) validate() error {
	switch {
	case s.Lead < s.Grace+commitTime:
		return failure.New(failure.Usage, fmt.Sprintf("--signal-lead %s or more, or a shorter --grace", s.Grace+commitTime),
			"SIGUSR1 comes %s before the time limit, but running requests may take %s and the commit %s", s.Lead, s.Grace, commitTime)
	case s.Time > 0 && s.Time <= s.Lead+early:
		return failure.New(failure.Usage, fmt.Sprintf("a --time of more than %s", s.Lead+early),
			"a time limit of %s is too short: SIGUSR1 comes %s before it, and Slurm may send it a minute early", s.Time, s.Lead)
	case s.StageModel && s.SmallModel+s.ReferenceModel+s.JudgeModel == "":
		return failure.New(failure.Usage, "name the folders to copy: --small-model, --reference-model or --judge-model", "--stage-model without a model")
	case s.Judge == "":
		return failure.New(failure.Usage, "use --judge URL, --judge local or --judge none", "no judge given")
	case s.Throttle < 0 || s.CPUs < 0:
		return failure.New(failure.Usage, "0 leaves it to the script", "negative number of tasks or CPUs")
	}
	for _, flag := range slices.Concat(s.Sbatch, s.GPUSbatch, s.CPUSbatch) {
		if !strings.HasPrefix(flag, "--") {
			return failure.New(failure.Usage, "write it as --name=value", "flag %q of sbatch", flag)
		}
	}
	gpu, cpu := flagValue(slices.Concat(s.Sbatch, s.GPUSbatch), "clusters"), flagValue(slices.Concat(s.Sbatch, s.CPUSbatch), "clusters")
	if gpu != cpu || strings.Contains(gpu, ",") {
		return failure.New(failure.Usage, "give one cluster to all stages, by --sbatch --clusters=NAME",
			"stages on clusters %q and %q: a job cannot wait for one of another cluster", gpu, cpu)
	}
	return s.guard()
}

// guard refuses what a script, which others may read, must not hold.
func (s *Settings) guard() error {
	for _, given := range []struct{ flag, text string }{{"--prologue", s.Prologue}, {"--vllm", s.VLLM}, {"--judge", s.Judge}, {"--sbatch", strings.Join(s.Sbatch, " ")},
		{"--cpu-sbatch", strings.Join(s.CPUSbatch, " ")}, {"--gpu-sbatch", strings.Join(s.GPUSbatch, " ")}, {"--infer-flags", strings.Join(s.InferFlags, " ")},
		{"--predict-flags", strings.Join(s.PredictFlags, " ")}, {"--plan-flags", strings.Join(s.PlanFlags, " ")},
		{"--judge-flags", strings.Join(s.JudgeFlags, " ")}, {"--s3-endpoint", strings.Join(s.JobFlags, " ")}} {
		if found := secret.In(given.text); found != "" {
			return failure.New(failure.Usage, "put it into a file of mode 0600 and read it on the node: --prologue 'export TOKENFORK_JUDGE_KEY=$(cat ~/.judge-key)'",
				"%s holds a secret in plain text (%s), which scripts, the job's records and Slurm would show to others", given.flag, found)
		}
	}
	lines := slices.Concat(s.Sbatch, s.CPUSbatch, s.GPUSbatch)
	return printable(append(lines, s.Job, s.Tokenfork, s.Partition, s.Account, s.Memory, s.Scratch)...)
}

// printable refuses what would break a script's lines.
func printable(texts ...string) error {
	for _, text := range texts {
		if strings.ContainsFunc(text, unicode.IsControl) {
			return failure.New(failure.Usage, "use a name without it, such as a link to the folder", "%q holds a control character, which would break a script's lines", text)
		}
	}
	return nil
}

// logFolder refuses what keeps Slurm from telling the logs of tasks apart.
func logFolder(folder string) error {
	if strings.Contains(folder, `\`) {
		return failure.New(failure.Usage, "give --folder", "the logs would go into %s: Slurm fills in no task numbers behind a backslash", folder)
	}
	return nil
}

// cluster is the one that the flags of sbatch or its variables name; "" leaves it to Slurm.
func (s *Settings) cluster() string {
	name := cmp.Or(flagValue(s.Sbatch, "clusters"), os.Getenv("SBATCH_CLUSTERS"), os.Getenv("SLURM_CLUSTERS"))
	if strings.Contains(name, ",") { // sbatch chooses, and tells which
		return ""
	}
	return name
}

// flagValue is what the last of the flags with this name says; "" if there is none.
func flagValue(flags []string, name string) string {
	value := ""
	for _, flag := range flags {
		if v, ok := strings.CutPrefix(flag, "--"+name+"="); ok {
			value = v
		}
	}
	return value
}

// judged says whether the submission has a judge array.
func (s *Settings) judged() bool {
	return s.Judge == "local" || s.Judge != "none" && !s.Offline
}

// script renders a stage's script; gpus is what a task of it gets.
func (s *Settings) script(stage, side, folder string) (string, error) {
	return render(stage+".sbatch", s.directives(stage, side, folder), s.assignments(side, folder))
}

func (s *Settings) directives(stage, side, folder string) []directive {
	name := strings.TrimSuffix(scriptName(stage, side), ".sbatch")
	ds := []directive{{name: "job-name", value: "tokenfork-" + name}, {name: "output", value: strings.ReplaceAll(folder, "%", "%%") + "/logs/" + logName(stage, side)}}
	add := func(name, value string) {
		if value != "" {
			ds = append(ds, directive{name: name, value: value})
		}
	}
	add("partition", s.Partition)
	add("account", s.Account)
	if stage == Predict || stage == Infer || stage == Judge {
		add("signal", "B:USR1@"+strconv.Itoa(int(s.Lead.Seconds())))
		if s.Time > 0 {
			add("time", slurmTime(s.Time))
		}
	}
	if gpus := s.gpus(stage, side); gpus.Count > 0 {
		return append(ds, s.gpuDirectives(gpus)...)
	}
	for _, flag := range slices.Concat(s.Sbatch, s.CPUSbatch) {
		if d := parseDirective(flag); !slices.Contains(gpuRequests, d.name) { // a stage without GPUs never asks for them
			ds = append(ds, d)
		}
	}
	return ds
}

// Flags of sbatch that say the same in another way: one that the user gives
// takes the place of the script's own.
var (
	gpuRequests    = []string{"gres", "gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket", "gpu-bind", "gpu-freq", "mem-per-gpu", "cpus-per-gpu"}
	cpuRequests    = []string{"cpus-per-task", "cpus-per-gpu"}
	memoryRequests = []string{"mem", "mem-per-cpu", "mem-per-gpu"}
)

func parseDirective(flag string) directive {
	name, value, _ := strings.Cut(strings.TrimPrefix(flag, "--"), "=")
	return directive{name: name, value: value}
}

// gpuDirectives ask for a task's GPUs, CPUs and memory.
func (s *Settings) gpuDirectives(gpus GPUs) []directive {
	var theirs []directive
	asked := func(names []string) bool {
		return slices.ContainsFunc(theirs, func(d directive) bool { return slices.Contains(names, d.name) })
	}
	for _, flag := range slices.Concat(s.Sbatch, s.GPUSbatch) {
		theirs = append(theirs, parseDirective(flag))
	}
	var ds []directive
	cpus, memory := s.Node.share(gpus.Count)
	switch {
	case asked(cpuRequests):
		ds = append(ds, directive{name: "cpus-per-task", off: true})
	case s.CPUs > 0:
		ds = append(ds, directive{name: "cpus-per-task", value: strconv.Itoa(s.CPUs)})
	case cpus > 0:
		ds = append(ds, directive{name: "cpus-per-task", value: strconv.Itoa(cpus)})
	}
	switch {
	case asked(memoryRequests):
	case s.Memory != "":
		ds = append(ds, directive{name: "mem", value: s.Memory})
	case memory > 0:
		ds = append(ds, directive{name: "mem", value: strconv.Itoa(memory) + "M"})
	}
	if asked([]string{"gres", "gpus", "gpus-per-node", "gpus-per-task"}) {
		ds = append(ds, directive{name: "gres", off: true})
	} else {
		ds = append(ds, directive{name: "gres", value: gpus.gres()})
	}
	return append(ds, theirs...)
}

// gpus are those of a task of the stage.
func (s *Settings) gpus(stage, side string) GPUs {
	switch {
	case stage == Infer && side == job.Small.String():
		return s.SmallGPUs
	case stage == Predict, stage == Infer, stage == Judge && s.Judge == "local":
		return s.GPUs
	}
	return GPUs{}
}

func (s *Settings) assignments(side, folder string) []assignment {
	flag := map[bool]string{true: "1"}
	return []assignment{
		word("JOB", s.Job), words("JOB_FLAGS", s.JobFlags), word("SCRIPTS", folder), word("TOKENFORK", s.Tokenfork),
		word("PROLOGUE", s.Prologue), word("VLLM", s.VLLM), word("SIDE", side),
		word("SMALL_MODEL", s.SmallModel), word("REFERENCE_MODEL", s.ReferenceModel), word("STAGE_MODEL", flag[s.StageModel]),
		word("SCRATCH", s.Scratch), word("GRACE", s.Grace.String()), words("INFER_FLAGS", s.InferFlags),
		words("PREDICT_FLAGS", s.PredictFlags), words("PLAN_FLAGS", s.PlanFlags),
		word("MAX_REQUEUES", strconv.Itoa(s.MaxRequeues)),
		word("JUDGE", s.Judge), word("JUDGE_MODEL", s.JudgeModel), words("JUDGE_FLAGS", s.JudgeFlags),
		words("MERGE_FLAGS", s.mergeFlags()),
	}
}

// mergeFlags name the judge where merge can ask it for what is missing. A local
// one it can't start: merge then takes the job's judging as it is.
func (s *Settings) mergeFlags() []string {
	switch s.Judge {
	case "local":
		return nil
	case "none":
		return []string{"--judge", s.Judge}
	}
	flags := []string{"--judge", s.Judge}
	if s.JudgeModel != "" {
		flags = append(flags, "--judge-model", s.JudgeModel)
	}
	return append(flags, s.JudgeFlags...)
}

// logName holds what tells a log apart: stage, side, the array and the task.
func logName(stage, side string) string {
	name := strings.TrimSuffix(scriptName(stage, side), ".sbatch")
	if stage == Plan || stage == Merge || stage == Report {
		return name + "-%j.log"
	}
	return name + "-%A_%a.log"
}

// slurmTime writes D-HH:MM:SS.
func slurmTime(d time.Duration) string {
	s := int(d.Seconds())
	return fmt.Sprintf("%d-%02d:%02d:%02d", s/86400, s/3600%24, s/60%60, s%60)
}
