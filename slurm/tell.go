package slurm

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"tokenfork/internal/job"
	"tokenfork/internal/shell"
	"tokenfork/internal/tasks"
)

// describe lists a submission's ids.
func describe(sub *job.Submission) string {
	if len(sub.Arrays) == 0 {
		return fmt.Sprintf("submission %d: nothing was taken", sub.N)
	}
	var all []string
	for _, a := range sub.Arrays {
		all = append(all, strings.TrimSpace(a.Stage+" "+a.Side)+" "+a.ID+strings.TrimSuffix(" on "+a.Cluster, " on "))
	}
	return fmt.Sprintf("submission %d: %s", sub.N, strings.Join(all, ", "))
}

// told prints what was submitted and what to do next.
func (p *plan) told(sub *job.Submission) error {
	ids := map[string][]string{} // by cluster
	var b strings.Builder
	for _, a := range sub.Arrays {
		ids[a.Cluster] = append(ids[a.Cluster], a.ID)
		fmt.Fprintf(&b, "%-16s %s", strings.TrimSpace(a.Stage+" "+a.Side), a.ID)
		if a.Shards != nil {
			fmt.Fprintf(&b, "  %d tasks, shards %s", len(a.Shards), tasks.Ranges(a.Shards))
		}
		fmt.Fprintln(&b)
	}
	fmt.Fprintf(&b, "scripts and logs in %s\n\nnext:\n  tokenfork status%s --watch\n", sub.Folder, p.jobFlags())
	for _, cluster := range slices.Sorted(maps.Keys(ids)) {
		on := strings.Join(append(clusterFlags(cluster), ""), " ")
		fmt.Fprintf(&b, "  squeue %s--jobs=%s\n  scancel %s%s\n", on, strings.Join(ids[cluster], ","), on, strings.Join(ids[cluster], " "))
	}
	b.WriteString(p.withoutNetwork())
	b.WriteString(p.oncePlanned())
	_, err := fmt.Fprint(p.Out, b.String())
	return err
}

func (p *plan) jobFlags() string {
	return " " + shell.Join(append([]string{"--job", p.Job}, p.JobFlags...))
}

// withoutNetwork are the commands for a node that reaches the judge, where
// those of the cluster don't.
func (p *plan) withoutNetwork() string {
	if p.judged() || p.Judge == "none" || p.Corpus != nil {
		return ""
	}
	flags := p.jobFlags() + " " + shell.Join(p.mergeFlags())
	return fmt.Sprintf("\nthe nodes reach no hosted judge: once infer is done, on a host that does,\n  tokenfork judge%s\n  tokenfork merge%s\n  tokenfork report%s\n",
		flags, flags, p.jobFlags())
}

// oncePlanned is the command for the stages that follow texts.
func (p *plan) oncePlanned() string {
	if p.Corpus == nil {
		return ""
	}
	return fmt.Sprintf("\nonce plan has ended, the arrays of the other stages:\n  tokenfork submit%s … (the flags of the cluster and of the judge)\n", p.jobFlags())
}

// show prints scripts and commands.
func (p *plan) show() error {
	rendered, err := p.render()
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(rendered)) {
		if _, err := fmt.Fprintf(p.Out, "--- %s\n%s\n", filepath.Join(p.folder, name), rendered[name]); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(p.Out, "--- commands\n%s%s", p.commands(), p.withoutNetwork())
	return err
}

// print writes scripts, lists and commands into a folder of the user's.
func (p *plan) print() error {
	folder, err := filepath.Abs(p.Print)
	if err != nil {
		return fmt.Errorf("find %s: %w", p.Print, err)
	}
	p.folder = folder
	if _, err := p.write(); err != nil {
		return err
	}
	run := filepath.Join(folder, "submit.bash")
	text := "#!/usr/bin/env bash\n# Submits the stages in order; each waits for the former.\nset -euo pipefail\n\n" + p.commands()
	if err := os.WriteFile(run, []byte(text), 0o777); err != nil {
		return fmt.Errorf("write %s: %w", run, err)
	}
	_, err = fmt.Fprintf(p.Out, "scripts in %s: read and edit them, then\n  bash %s\n%s", folder, shell.Quote(run), p.withoutNetwork())
	return err
}

// commands are the calls of sbatch as a shell script: ids are variables.
func (p *plan) commands() string {
	var b strings.Builder
	ids := map[string][]string{Predict: p.alive[Predict], Infer: p.alive[Infer], Judge: p.alive[Judge]}
	for i, a := range p.arrays {
		name := fmt.Sprintf("%s_%d", a.stage, i)
		line := "sbatch --parsable"
		for _, arg := range p.command(&a, ids) {
			if strings.HasPrefix(arg, "--dependency=") {
				line += " " + arg // holds variables
			} else {
				line += " " + shell.Quote(arg)
			}
		}
		fmt.Fprintf(&b, "%s=$(%s)\necho \"%s $%s\"\n", name, line, a.stage, name)
		ids[a.stage] = append(ids[a.stage], "${"+name+"%%;*}")
	}
	return b.String()
}
