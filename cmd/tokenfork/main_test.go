package main

import (
	"context"
	"flag"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"tokenfork/internal/version"
	"tokenfork/internal/vllm"
	"tokenfork/internal/vllm/fakevllm"
)

// TestMain makes this binary the guard, a fake vLLM or tokenfork itself where it
// is started as one of them.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == fakevllm.Command {
		os.Exit(fakevllm.Main(os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == vllm.GuardCommand {
		os.Exit(vllm.GuardMain(os.Args[2:]))
	}
	if os.Getenv("TOKENFORK_TEST_MAIN") != "" {
		killAtPoints(os.Getenv(pointVar))
		countGoroutines(os.Getenv(goroutinesVar))
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGUSR1)
		code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
		stop()
		os.Exit(code)
	}
	if err := flag.Set("test.parallel", "8"); err != nil { // parallel tests wait for Slurm
		panic(err)
	}
	os.Exit(m.Run())
}

func TestVersion(t *testing.T) {
	var out, errs strings.Builder
	if code := run(t.Context(), []string{"--version"}, &out, &errs); code != 0 || errs.Len() > 0 {
		t.Fatalf("exit code %d: %s", code, &errs)
	}
	if want := "tokenfork " + version.Current().String() + "\n"; out.String() != want || !strings.Contains(want, runtime.Version()) {
		t.Errorf("got %q, want %q", &out, want)
	}
}
