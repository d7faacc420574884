package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"tokenfork/internal/failure"
	"tokenfork/internal/gpu"
	"tokenfork/internal/job"
	"tokenfork/internal/terminal"
	"tokenfork/shard"
)

// mostListed bounds the lists of texts that are printed; job.json has all.
const mostListed = 10

// lines prints and keeps the first error.
type lines struct {
	w   io.Writer
	err error
}

func (l *lines) add(format string, args ...any) {
	_, err := fmt.Fprintf(l.w, format+"\n", args...)
	l.err = errors.Join(l.err, err)
}

// describePlan says what a plan comes to.
func describePlan(w io.Writer, e *shard.Estimate) error {
	l := &lines{w: w}
	l.add("%s rows in %s texts; predictions are for the %s position (%.1f %% are the next row's real token, %.1f %% their own row's)",
		terminal.Grouped(e.Rows), terminal.Grouped(e.Texts), e.Alignment, 100*e.Evidence["next"], 100*e.Evidence["same"])
	mismatches := e.Mismatches
	if e.Sample != nil {
		mismatches = e.Sample.OfMismatches
	}
	l.add("%s mismatches, %.2f %% of %s positions", terminal.Grouped(mismatches), percent(mismatches, e.Positions), terminal.Grouped(e.Positions))
	if e.Sample != nil && !e.Planned {
		l.add("%s with mismatches; planned now: %s mismatches", e.Sample, terminal.Grouped(e.Mismatches))
	}
	for _, side := range job.Sides {
		work := e.Work[side]
		if work.Requests+work.Replayed == 0 {
			continue
		}
		l.add("%-9s prefill %s tokens, generate about %s in %s requests; %s replayed and %s shared (%.1f %% of all): %.2f GPU hours", side,
			terminal.Grouped(work.Prefill), terminal.Grouped(work.Generated), terminal.Grouped(work.Requests), terminal.Grouped(work.Replayed), terminal.Grouped(work.Shared),
			percent(work.Replayed+work.Shared, work.Replayed+work.Shared+work.Generated), e.GPUHours[side])
	}
	l.add("%d shards, the largest of %.0f GPU seconds", e.Shards, e.Largest)
	if e.Padding > 0 {
		l.add("%s ids are padding of the vocabulary: they stand for no token", terminal.Grouped(e.Padding))
	}
	l.texts("left out", len(e.Skipped), func(i int) string { return e.Skipped[i].SentenceID + ": " + e.Skipped[i].Reason })
	l.texts("too long for a model in parts", len(e.TooLong), func(i int) string {
		t := e.TooLong[i]
		return fmt.Sprintf("%s: %d tokens, %d mismatches will be listed as context_length", t.SentenceID, t.Tokens, t.Mismatches)
	})
	return l.err
}

// describeLayout says where a task's servers would run: on this machine's
// GPUs, or on those that the flags describe.
func (c *planCmd) describeLayout(ctx context.Context, w io.Writer, sides []job.Side, e *shard.Estimate) error {
	devices, err := gpu.Visible(ctx)
	if err != nil {
		return err
	}
	l := &lines{w: w}
	if len(devices) == 0 {
		for i := range c.ShardGPUs {
			devices = append(devices, gpu.Device{Entry: fmt.Sprint(i), MiB: c.GPUMemory << 10})
		}
		l.add("a task with %d GPUs of %d GiB (--shard-gpus, --gpu-memory):", c.ShardGPUs, c.GPUMemory)
	} else {
		l.add("a task on this machine's %d GPUs:", len(devices))
	}
	var needs [2]*gpu.Need
	for _, side := range sides {
		m, err := findModel(side, [2]string{c.SmallModel, c.ReferenceModel}[side])
		if err != nil {
			return err
		}
		needs[side] = &gpu.Need{Name: side.String(), Model: m, Longest: e.Longest, Cost: e.GPUHours[side]}
	}
	layout, err := gpu.Arrange(devices, needs)
	if err != nil {
		l.add("  %v: %s", err, failure.Hint(err)) // a plan is none the worse for it
	}
	for _, line := range layout.Lines(needs) {
		l.add("  %s", line)
	}
	return l.err
}

func (l *lines) texts(what string, n int, line func(int) string) {
	if n == 0 {
		return
	}
	l.add("%d texts %s:", n, what)
	for i := range min(n, mostListed) {
		l.add("  %s", line(i))
	}
	if n > mostListed {
		l.add("  … and %d more, see job.json", n-mostListed)
	}
}

func percent(part, whole int64) float64 { return 100 * float64(part) / max(1, float64(whole)) }
