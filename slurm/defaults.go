package slurm

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

var directiveLine = regexp.MustCompile(`(?m)^#SBATCH --([\w-]+)`)

// otherVariables of sbatch say the same as a directive, in another way or under another name than its own.
var otherVariables = map[string][]string{
	"time":    {"SBATCH_TIMELIMIT"},
	"mem":     {"SBATCH_MEM_PER_NODE", "SBATCH_MEM_PER_CPU", "SBATCH_MEM_PER_GPU"},
	"gres":    {"SBATCH_GPUS", "SBATCH_GPUS_PER_NODE", "SBATCH_GPUS_PER_TASK"},
	"requeue": {"SBATCH_NO_REQUEUE"},
	"output":  {"SBATCH_ERROR"},
}

// overriding are the variables by which sbatch would go against the script: a variable overrides
// a script's line. SBATCH_WAIT would wait for the end of each job.
func overriding(script string) []string {
	names := []string{"SBATCH_WAIT"}
	for _, m := range directiveLine.FindAllStringSubmatch(script, -1) {
		names = append(names, "SBATCH_"+strings.ToUpper(strings.ReplaceAll(m[1], "-", "_")))
		names = append(names, otherVariables[m[1]]...)
	}
	return names
}

// defaults is the cluster without the variables that override the script, and tells of each once.
func (p *plan) defaults(script string) Cluster {
	names := overriding(script)
	env := slices.DeleteFunc(p.Cluster.env(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		if !slices.Contains(names, name) {
			return false
		}
		if !p.warned[name] {
			p.warned[name] = true
			fmt.Fprintf(p.Warn, "tokenfork: %s is not used, since it would override the scripts; --sbatch changes these\n", name) // its value may hold a key (SBATCH_EXPORT)
		}
		return true
	})
	return Cluster{Env: env}
}
