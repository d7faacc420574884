package slurm

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/shell"
	"tokenfork/internal/store"
	"tokenfork/internal/survey"
	"tokenfork/internal/tasks"
)

// Options say what to submit.
type Options struct {
	Settings
	Store   store.Store
	Corpus  *job.Corpus // submit what predict and plan make of these texts; nil: the stages of the planned job
	Cluster Cluster
	Folder  string   // holds a folder of scripts, lists and logs for each submission; all nodes see it
	Args    []string // of the program, as it was called: status repeats them
	Missing bool     // go on where an earlier submission left off
	DryRun  bool     // show scripts and commands, hand Slurm nothing
	Print   string   // folder that gets scripts, lists and commands for hand editing
	Out     io.Writer
	Warn    io.Writer
}

// array is a call of sbatch to be.
type array struct {
	stage, side string
	shards      []int // nil: no array
	list        string
}

func (a *array) script() string { return scriptName(a.stage, a.side) }

func scriptName(stage, side string) string {
	if side == "small" || side == "reference" {
		return stage + "-" + side + ".sbatch"
	}
	return stage + ".sbatch"
}

// plan is a submission before Slurm has seen it.
type plan struct {
	*Options
	job    *job.Job // of texts, only its id
	config Config
	folder string
	arrays []array
	alive  map[string][]string // by stage: ids of earlier arrays that Slurm still works on

	earlier int             // submissions of the job so far
	warned  map[string]bool // by variable of sbatch
}

// Submit hands the stages that are not done to Slurm. The ids are kept in the
// job as they come; where Slurm refuses one the error says which, and a later
// Submit goes on from there.
func Submit(ctx context.Context, o Options) error {
	if err := errors.Join(o.validate(), printable(o.Folder, o.Print), logFolder(o.Folder)); err != nil {
		return err
	}
	p := &plan{Options: &o, alive: map[string][]string{}, warned: map[string]bool{}}
	var err error
	if o.Corpus != nil {
		p.job = &job.Job{Plan: job.Plan{ID: o.Corpus.ID}}
	} else if p.job, err = job.Load(ctx, o.Store); err != nil {
		return err
	}
	if err := p.configure(ctx); err != nil {
		return err
	}
	earlier, err := job.Submissions(ctx, o.Store)
	if err != nil {
		return err
	}
	p.earlier = len(earlier)
	alike := slices.DeleteFunc(slices.Clone(earlier), func(s job.Submission) bool { return s.OfTexts() != (o.Corpus != nil) })
	if err := p.decide(ctx, alike); err != nil {
		return err
	}
	switch {
	case len(p.arrays) == 0:
		_, err := fmt.Fprintf(o.Out, "nothing to submit: all is done or queued\n\nnext:\n  tokenfork status%s --watch\n", p.jobFlags())
		return err
	case o.DryRun:
		p.folder = p.folderOf(p.earlier + 1)
		return p.show()
	case o.Print != "":
		return p.print()
	}
	return p.submit(ctx)
}

// defaultArraySize is Slurm's own default of MaxArraySize.
const defaultArraySize = 1001

// configure asks Slurm for its limits. Scripts can be written without a Slurm.
func (p *plan) configure(ctx context.Context) error {
	patience, only := slurmTimeout, p.DryRun || p.Print != ""
	if only {
		patience = 10 * time.Second // its commands wait a minute for a controller that is not there
	}
	asking, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	config, err := p.Cluster.Config(asking, p.cluster())
	if _, none := exec.LookPath("sbatch"); none != nil && !only {
		return failure.New(failure.Refused, "submit on a login node of the cluster, or --print DIR writes the scripts", "submit: %w: %w", ErrNoSlurm, none)
	}
	if err == nil {
		partition := cmp.Or(flagValue(slices.Concat(p.Sbatch, p.GPUSbatch), "partition"), p.Partition)
		if p.Node, err = p.Cluster.GPUNode(asking, p.cluster(), partition, p.GPUs.Type); err != nil && ctx.Err() == nil {
			_, err = fmt.Fprintf(p.Warn, "tokenfork: taking 8 CPUs a task unless --cpus says else: %v\n", err)
		}
	} else if ctx.Err() == nil { // sites may deny it, or have a wrapper of sbatch alone
		config = Config{MaxArraySize: defaultArraySize, KillWait: 30 * time.Second, JobRequeue: true}
		_, err = fmt.Fprintf(p.Warn, "tokenfork: taking MaxArraySize to be %d: %v\n", defaultArraySize, err)
	}
	if p.config = config; err != nil {
		return fmt.Errorf("ask Slurm for its limits: %w", err)
	}
	if p.config.MaxArraySize < 2 {
		return failure.New(failure.Refused, "ask the administrators to raise MaxArraySize", "this Slurm takes no job arrays (MaxArraySize is %d)", p.config.MaxArraySize)
	}
	if p.config.KillWait < p.Grace+10*time.Second {
		_, err = fmt.Fprintf(p.Warn, "tokenfork: scancel and preemption leave %s (KillWait), --grace is %s: what is in flight then may be done again; --grace %s fits\n",
			p.config.KillWait, p.Grace, max(p.config.KillWait-10*time.Second, 0))
	}
	return err
}

// decide lays out the arrays: shards that are done, or that Slurm still has
// from an earlier submission, are left out.
func (p *plan) decide(ctx context.Context, earlier []job.Submission) error {
	if n := len(earlier); n > 0 && !p.Missing && earlier[n-1].Refused == nil && !p.DryRun && p.Print == "" {
		return failure.New(failure.Refused, "`"+earlier[n-1].Again()+"` submits what is neither done nor queued; tokenfork status shows it",
			"job %s was submitted before, %s", p.Store, describe(&earlier[n-1]))
	}
	var live []survey.Live
	ids := map[JobID]bool{}
	if err := p.settle(ctx, earlier); err != nil {
		return err
	}
	if len(earlier) > 0 {
		var err error
		if live, ids, err = p.Cluster.Live(ctx, earlier); err != nil && !errors.Is(err, ErrNoSlurm) {
			return fmt.Errorf("ask Slurm what is queued: %w", err)
		}
	}
	for _, s := range earlier {
		for _, a := range s.Arrays {
			if ids[JobID{a.ID, a.Cluster}] {
				p.alive[a.Stage] = append(p.alive[a.Stage], a.ID)
			}
		}
	}
	table, err := tasks.List(ctx, p.Store, tasks.AllShards)
	if err != nil {
		return err
	}
	var all []job.Task
	if p.Corpus != nil {
		for k := range p.Corpus.Shards {
			all = append(all, p.Corpus.Tasks(k)...)
		}
	}
	for k := range p.job.Shards {
		all = append(all, p.job.Tasks(k)...)
	}
	unfinished, err := table.Unfinished(ctx, all)
	if err != nil {
		return err
	}
	p.layOut(unfinished, live)
	return nil
}

// settle finds out whether Slurm has taken the job that an earlier submission was about to record.
func (p *plan) settle(ctx context.Context, earlier []job.Submission) error {
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("name this host: %w", err)
	}
	for i := range earlier {
		sub := &earlier[i]
		switch {
		case sub.Asked == nil:
			continue
		case sub.UnderWay(host, func(pid int) bool { return !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }):
			return failure.New(failure.Refused, "wait until it has ended; if it was killed, try again in 3 minutes",
				"submission %d of %s is under way on %s, process %d", sub.N, p.Store, sub.Host, sub.PID)
		}
		taken, err := p.Cluster.taken(ctx, sub)
		if errors.Is(err, ErrNoSlurm) && (p.DryRun || p.Print != "") {
			return nil
		}
		if err != nil {
			return fmt.Errorf("ask Slurm for %s of submission %d: %w", sub.Asked.Name, sub.N, err)
		}
		sub.Arrays, sub.Asked = taken, nil
		if p.DryRun || p.Print != "" {
			continue
		}
		if err := sub.Save(ctx, p.Store); err != nil {
			return err
		}
	}
	return nil
}

func (p *plan) layOut(unfinished []job.Task, live []survey.Live) {
	busy, todo := map[tasks.Key]bool{}, map[tasks.Key]bool{}
	for _, l := range live {
		busy[l.Key] = true
	}
	for _, t := range unfinished {
		todo[tasks.KeyOf(t)] = !busy[tasks.KeyOf(t)]
	}
	if p.Corpus != nil {
		p.window(Predict, "", len(p.Corpus.Shards), func(k int) bool {
			return !busy[tasks.Key{Stage: Predict, Side: both, Shard: k}] && slices.ContainsFunc(p.Corpus.Tasks(k), func(t job.Task) bool { return todo[tasks.KeyOf(t)] })
		})
		p.then(Plan)
		return
	}
	shards := len(p.job.Shards)
	open := func(side string, k int) bool { return todo[tasks.Key{Stage: Infer, Side: side, Shard: k}] }
	servers := p.job.Settings.Servers()
	if p.SmallGPUs.Count > 0 && len(servers) > 1 {
		for _, side := range servers {
			p.window(Infer, side.String(), shards, func(k int) bool { return open(side.String(), k) })
		}
	} else {
		p.window(Infer, both, shards, func(k int) bool {
			return slices.ContainsFunc(servers, func(s job.Side) bool { return open(s.String(), k) })
		})
	}
	if p.judged() {
		// Which judging the flags make, only judge knows: a task whose shard is judged ends within seconds.
		p.window(Judge, "", shards, func(k int) bool { return !busy[tasks.Key{Stage: Judge, Side: both, Shard: k}] })
	}
	if p.judged() || p.Judge == "none" {
		p.then(Merge, Report)
	}
}

// then adds the stages that follow the arrays, unless they wait for all that there is already.
func (p *plan) then(stages ...string) {
	if len(p.arrays) == 0 && len(p.alive[stages[0]]) > 0 {
		return
	}
	for _, s := range stages {
		p.arrays = append(p.arrays, array{stage: s})
	}
}

// window cuts the shards into arrays below the limit.
func (p *plan) window(stage, side string, shards int, open func(k int) bool) {
	var ks []int
	for k := range shards {
		if open(k) {
			ks = append(ks, k)
		}
	}
	n := 0
	for part := range slices.Chunk(ks, p.config.MaxArraySize) {
		list := strings.TrimSuffix(scriptName(stage, side), ".sbatch") + "-" + strconv.Itoa(n) + ".list"
		p.arrays = append(p.arrays, array{stage, side, part, list})
		n++
	}
}

// folderOf is the folder of submission n.
func (p *plan) folderOf(n int) string { return filepath.Join(p.Folder, strconv.Itoa(n)) }

// write puts scripts and lists into the submission's folder.
func (p *plan) write() (map[string]string, error) {
	rendered, err := p.render()
	if err != nil {
		return nil, err
	}
	for _, a := range p.arrays {
		if a.shards == nil {
			continue
		}
		var lines strings.Builder
		for _, k := range a.shards {
			fmt.Fprintln(&lines, k)
		}
		rendered[a.list] = lines.String()
	}
	return rendered, write(p.folder, rendered)
}

func (p *plan) render() (map[string]string, error) {
	rendered := map[string]string{}
	for _, a := range p.arrays {
		if _, done := rendered[a.script()]; done {
			continue
		}
		text, err := p.script(a.stage, a.side, p.folder)
		if err != nil {
			return nil, err
		}
		rendered[a.script()] = text
	}
	return rendered, nil
}

// command is sbatch's arguments, but for --parsable. ids are, by stage, what
// was submitted before.
func (p *plan) command(a *array, ids map[string][]string) []string {
	var args []string
	if a.shards != nil {
		args = append(args, "--array="+p.indexes(a))
	}
	if d := p.dependency(a.stage, ids); d != "" {
		args = append(args, "--dependency="+d)
	}
	if a.stage == Report {
		args = append(args, "--kill-on-invalid-dep=yes")
	}
	args = append(args, filepath.Join(p.folder, a.script()))
	if a.shards != nil {
		args = append(args, filepath.Join(p.folder, a.list))
	}
	return args
}

// indexes is the array's range, with its share of the throttle: the bound holds
// over all arrays of a stage. Where it is less than one task each, the arrays
// run one after the other, and so they do after those of an earlier submission.
func (p *plan) indexes(a *array) string {
	r := "0-" + strconv.Itoa(len(a.shards)-1)
	switch {
	case p.Throttle == 0:
		return r
	case p.inTurn(a.stage):
		return r + "%" + strconv.Itoa(p.Throttle)
	}
	return r + "%" + strconv.Itoa(p.Throttle/p.arraysOf(a.stage))
}

func (p *plan) arraysOf(stage string) (n int) {
	for _, a := range p.arrays {
		if a.stage == stage && a.shards != nil {
			n++
		}
	}
	return n
}

// inTurn says whether the stage's arrays wait for each other.
func (p *plan) inTurn(stage string) bool {
	return p.Throttle > 0 && (p.Throttle < p.arraysOf(stage) || len(p.alive[stage]) > 0)
}

// dependency: a stage starts when the former has ended, however; it refuses by
// itself what is missing. A report wants a merge that went well.
func (p *plan) dependency(stage string, ids map[string][]string) string {
	after := func(stages ...string) string {
		var all []string
		for _, s := range stages {
			all = append(all, ids[s]...)
		}
		return strings.Join(all, ":")
	}
	kind, on := "afterany:", ""
	switch stage {
	case Predict, Infer:
		if p.inTurn(stage) {
			on = after(stage)
		}
	case Plan:
		on = after(Predict)
	case Judge:
		if on = after(Infer); p.inTurn(stage) {
			on = after(Infer, Judge)
		}
	case Merge:
		on = after(Infer, Judge)
	case Report:
		kind, on = "afterok:", after(Merge)
	}
	if on == "" {
		return ""
	}
	return kind + on
}

// submit claims a number, writes the scripts and hands the arrays to Slurm one
// after the other.
func (p *plan) submit(ctx context.Context) error {
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("name this host: %w", err)
	}
	sub := &job.Submission{Submitted: time.Now().UTC().Truncate(time.Second), Host: host, PID: os.Getpid(), UID: os.Getuid(), Args: p.Args, Folder: p.folderOf(p.earlier + 1), Asked: p.asked(0)}
	if err := sub.Claim(ctx, p.Store, p.earlier+1); err != nil {
		return fmt.Errorf("claim a submission of %s: %w", p.Store, err)
	}
	p.folder = sub.Folder
	rendered, err := p.write()
	if err != nil {
		sub.Asked, sub.Refused = nil, &job.SlurmError{Command: "write " + p.folder, Said: err.Error()}
		return errors.Join(err, sub.Save(ctx, p.Store))
	}
	ids := map[string][]string{Predict: p.alive[Predict], Infer: p.alive[Infer], Judge: p.alive[Judge]}
	for i, a := range p.arrays {
		command := p.command(&a, ids)
		id, err := p.defaults(rendered[a.script()]).sbatch(ctx, p.cluster(), sub.Asked.Name, command)
		if err != nil {
			sub.Refused = &job.SlurmError{Command: "sbatch " + shell.Join(command), Said: err.Error()}
			return p.refused(ctx, sub, &a, err)
		}
		ids[a.stage] = append(ids[a.stage], id.ID)
		sub.Asked.ID, sub.Asked.Cluster = id.ID, id.Cluster
		sub.Arrays = append(sub.Arrays, *sub.Asked)
		sub.Asked = p.asked(i + 1)
		if err := sub.Save(context.WithoutCancel(ctx), p.Store); err != nil {
			return fmt.Errorf("%w (Slurm has taken %s)", err, id.ID)
		}
	}
	return p.told(sub)
}

// asked is what the i-th array's record holds before Slurm has taken it, nil after the last. Its name is
// of this one call: two jobs planned from one table have the same ID.
func (p *plan) asked(i int) *job.SlurmJob {
	if i == len(p.arrays) {
		return nil
	}
	a := p.arrays[i]
	return &job.SlurmJob{Stage: a.stage, Side: a.side, Name: fmt.Sprintf("tokenfork-%s-%.8s-%s", a.stage, p.job.ID, rand.Text()), Cluster: p.cluster(), Shards: a.shards, Log: logName(a.stage, a.side)}
}

// refused records and tells what Slurm did not take.
func (p *plan) refused(ctx context.Context, sub *job.Submission, a *array, cause error) error {
	what := a.stage
	if a.shards != nil {
		what = fmt.Sprintf("%s array 0-%d (shards %s)", strings.TrimSpace(a.stage+" "+a.side), len(a.shards)-1, tasks.Ranges(a.shards))
	}
	err := failure.New(failure.Refused, "fix it and resume with `"+sub.Again()+"`: what is queued is not submitted again",
		"%s refused: %w; %s", what, cause, describe(sub))
	return errors.Join(err, sub.Save(context.WithoutCancel(ctx), p.Store))
}
