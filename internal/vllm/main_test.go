package vllm

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"tokenfork/internal/vllm/fakevllm"
)

// TestMain makes this binary the guard, a runner or the fake server where it
// is started as one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case GuardCommand:
			os.Exit(GuardMain(os.Args[2:]))
		case fakevllm.Command:
			os.Exit(fakevllm.Main(os.Args[2:]))
		case "runner":
			os.Exit(runnerMain())
		}
	}
	os.Exit(m.Run())
}

// runnerMain is a runner to be killed: it starts the server that its
// environment describes, says so, and waits.
func runnerMain() int {
	s, err := Start(context.Background(), configFromEnv())
	if err != nil {
		fmt.Println("error:", err)
		return 1
	}
	fmt.Println("ready", s.launch.nonce, s.guarded.cmd.Process.Pid, s.launch.dir)
	time.Sleep(time.Hour)
	return 0
}
