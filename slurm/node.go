package slurm

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"tokenfork/internal/failure"
)

// GPUs are what a task asks for: how many, and of which type where the site has several.
type GPUs struct {
	Type  string // "" takes any
	Count int
}

var gpusText = regexp.MustCompile(`^(?:(\d*[A-Za-z][\w.-]*):)?(\d+)$`)

// UnmarshalText reads 4 or h100:4.
func (g *GPUs) UnmarshalText(text []byte) error {
	m := gpusText.FindSubmatch(text)
	if m == nil {
		return failure.New(failure.Usage, "4, or h100:4 for a type", "%q is no number of GPUs", text)
	}
	g.Type = string(m[1])
	var err error
	if g.Count, err = strconv.Atoi(string(m[2])); err != nil {
		return failure.New(failure.Usage, "4, or h100:4 for a type", "%q is no number of GPUs", text)
	}
	return nil
}

// gres is the value of sbatch's --gres.
func (g GPUs) gres() string {
	if g.Type != "" {
		return "gpu:" + g.Type + ":" + strconv.Itoa(g.Count)
	}
	return "gpu:" + strconv.Itoa(g.Count)
}

// Node is what the smallest node of a partition has, as far as tasks with GPUs
// can be placed there. Zero where Slurm does not tell.
type Node struct {
	CPUs   int
	Memory int // MiB
	GPUs   int
}

// share is what of the node goes to a task with so many GPUs: at least one CPU,
// and nine tenths of the memory, since sites keep some for the system.
func (n Node) share(gpus int) (cpus, memory int) {
	if n.GPUs == 0 {
		return 0, 0
	}
	part := min(float64(gpus)/float64(n.GPUs), 1)
	return max(int(float64(n.CPUs)*part), 1), int(float64(n.Memory) * part * 0.9)
}

var gresGPU = regexp.MustCompile(`(?:^|,)gpu:(?:(\d*[A-Za-z][\w.-]*):)?(\d+)`)

// GPUNode asks sinfo for the nodes of a partition, or of the default one, that
// have GPUs of the type.
func (c Cluster) GPUNode(ctx context.Context, cluster, partition, gpuType string) (Node, error) {
	args := append(clusterFlags(cluster), "--noheader", "--format=%P|%c|%m|%G")
	if partition != "" {
		args = append(args, "--partition="+partition)
	}
	out, err := c.command(ctx, "sinfo", args...)
	if err != nil {
		return Node{}, fmt.Errorf("ask sinfo for the nodes: %w", err)
	}
	var least Node
	for line := range strings.Lines(out) {
		f := strings.SplitN(strings.TrimSpace(line), "|", 4)
		if len(f) != 4 || partition == "" && !strings.HasSuffix(f[0], "*") {
			continue
		}
		n := Node{CPUs: leading(f[1]), Memory: leading(f[2])}
		for _, m := range gresGPU.FindAllStringSubmatch(f[3], -1) {
			if gpuType == "" || strings.EqualFold(m[1], gpuType) {
				n.GPUs += leading(m[2])
			}
		}
		switch {
		case n.GPUs == 0:
		case least.GPUs == 0:
			least = n
		default:
			least = Node{min(least.CPUs, n.CPUs), min(least.Memory, n.Memory), max(least.GPUs, n.GPUs)}
		}
	}
	return least, nil
}

// leading is the number that a text begins with: sinfo writes 64+ where nodes differ.
func leading(text string) int {
	n := 0
	for _, c := range text {
		if c < '0' || c > '9' {
			break
		}
		n = 10*n + int(c-'0')
	}
	return n
}
