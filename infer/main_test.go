package infer_test

import (
	"os"
	"testing"

	"tokenfork/infer"
	"tokenfork/internal/vllm"
	"tokenfork/internal/vllm/fakevllm"
)

// TestMain makes this binary the guard or a fake vLLM where it is started as one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case vllm.GuardCommand:
			os.Exit(vllm.GuardMain(os.Args[2:]))
		case fakevllm.Command:
			os.Exit(fakevllm.Main(os.Args[2:]))
		}
	}
	infer.HurryUp()
	os.Exit(m.Run())
}
