package merge_test

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"tokenfork/internal/job"
	"tokenfork/internal/job/jobtest"
	"tokenfork/internal/store"
	"tokenfork/judge/merge"
)

var (
	mismatches = flag.Int("mismatches", 100_000, "how many BenchmarkMerge merges")
	shards     = flag.Int("shards", 0, "of how many shards; 0 is one for each 50,000 mismatches")
	keep       = flag.String("keep", "", "a new folder: BenchmarkMerge leaves the job there and merges nothing")
)

// TestMain makes this binary the process whose memory is measured, where it is
// started as one.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "merge" {
		if err := mergeAlone(context.Background(), os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// mergeAlone takes the verdicts as they are: questions do not grow with the job.
func mergeAlone(ctx context.Context, dir string) error {
	s, err := store.Open(ctx, dir, store.Options{})
	if err != nil {
		return err
	}
	accept := func(*job.Text, *job.Result, *job.Verdict) error { return nil }
	_, err = merge.Merge(ctx, merge.Options{Jobs: []merge.Source{{Store: s, Judging: jobtest.Judging, Accept: accept}}, Out: s, Console: io.Discard})
	return err
}

// BenchmarkMerge measures the memory of a process that merges a large job.
func BenchmarkMerge(b *testing.B) {
	texts := max(1, *mismatches/jobtest.LargePerText)
	dir := jobtest.Large(b, texts, cmp.Or(*shards, max(1, texts/225))).String()
	if *keep != "" {
		if err := os.Rename(dir, *keep); err != nil {
			b.Fatal(err)
		}
		return
	}
	for b.Loop() {
		cmd := exec.Command(os.Args[0], "merge", dir)
		cmd.Stderr = os.Stderr
		start := time.Now()
		if err := cmd.Run(); err != nil {
			b.Fatal(err)
		}
		used := cmd.ProcessState.SysUsage().(*syscall.Rusage)
		b.ReportMetric(float64(texts*jobtest.LargePerText)/time.Since(start).Seconds(), "rows/s")
		b.ReportMetric(float64(used.Maxrss)/1024, "MiB")
	}
}
