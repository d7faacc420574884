package predict

import (
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"tokenfork/internal/vllm/vllmtest"
)

// Entropy, AU and EU from the largest scores, against transformers in float32, which
// sees all of them.
func TestMeasuresAgainstTransformers(t *testing.T) {
	cmd := exec.Command(filepath.Join(vllmtest.Venv(), "bin/python"), "testdata/measures.py",
		filepath.Join(vllmtest.Models(), "reference"), filepath.Join(vllmtest.Root(), ".cache/demo.csv"), "150")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("measures.py: %v", err)
	}
	var want struct {
		Vocab            int
		Logits, Logprobs [][]float64
		Entropy, AU, EU  []float64
	}
	if err := json.Unmarshal(out, &want); err != nil || len(want.Entropy) != 150 {
		t.Fatalf("%d positions, %v", len(want.Entropy), err)
	}
	off := func(got, want float64) float64 { return math.Abs(got - want) }
	var most struct{ au, eu, entropy float64 }
	for _, k := range []int{1, 10, 20, 100} {
		sum, widest := 0.0, 0.0
		for i := range want.Entropy {
			h, within := entropy(want.Logprobs[i][:k], want.Vocab)
			if off(h, want.Entropy[i]) > within {
				t.Errorf("position %d, k = %d: entropy %g within %g, want %g", i, k, h, within, want.Entropy[i])
			}
			sum, widest = sum+within, max(widest, within)
		}
		t.Logf("k = %d: entropy is within %.3g on average, %.3g at most", k, sum/150, widest)
	}
	for i := range want.Entropy {
		au, eu := uncertainty(want.Logits[i])
		most.au, most.eu = max(most.au, off(au, want.AU[i])), max(most.eu, off(eu, want.EU[i]))
	}
	t.Logf("AU is off by %.2g at most, EU by %.2g", most.au, most.eu)
	if most.au > 1e-9 || most.eu > 1e-9 {
		t.Error("AU or EU differ")
	}
}

// Without evidence AU is not defined, and an exact distribution has no error.
func TestMeasuresAtTheEdges(t *testing.T) {
	if au, eu := uncertainty([]float64{-1, -2}); !math.IsNaN(au) || eu != 1 {
		t.Errorf("no evidence: AU %g, EU %g", au, eu)
	}
	for _, k := range []int{1, 2, 4} {
		h, within := entropy([]float64{math.Log(0.25), math.Log(0.25), math.Log(0.25), math.Log(0.25)}[:k], 4)
		if math.Abs(h-math.Log(4)) > within+1e-12 || within > 2e-5 {
			t.Errorf("k = %d: %g within %g", k, h, within)
		}
	}
}
