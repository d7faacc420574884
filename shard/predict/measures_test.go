package predict

import (
	"compress/gzip"
	"encoding/json"
	"flag"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"tokenfork/internal/vllm/vllmtest"
)

var transformers = flag.Bool("transformers", false, "have transformers compute the reference values, in place of those recorded")

// recorded is what transformers says of the first tokens of the demo's first text.
const recorded = "testdata/measures.json.gz"

// fromTransformers runs the demo's reference model in float32.
func fromTransformers(t *testing.T) []byte {
	t.Helper()
	cmd := exec.Command(filepath.Join(vllmtest.Venv(), "bin/python"), "testdata/measures.py",
		filepath.Join(vllmtest.Models(), "reference"), filepath.Join(vllmtest.Root(), ".cache/demo.csv"), "150")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("measures.py: %v", err)
	}
	return out
}

// Entropy, AU and EU from the largest scores, against transformers in float32, which
// sees all of them.
//
//	go test ./shard/predict -run TestMeasures -transformers
func TestMeasuresAgainstTransformers(t *testing.T) {
	var out []byte
	if *transformers {
		out = fromTransformers(t)
	} else {
		f, err := os.Open(recorded)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		z, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		if out, err = io.ReadAll(z); err != nil {
			t.Fatal(err)
		}
	}
	var want struct {
		Vocab            int
		Logits, Logprobs [][]float64
		Entropy, AU, EU  []float64
		R2RAU            []float64 `json:"r2r_au"`
		R2REU            []float64 `json:"r2r_eu"`
	}
	if err := json.Unmarshal(out, &want); err != nil || len(want.Entropy) < 40 {
		t.Fatalf("%d positions, %v", len(want.Entropy), err)
	}
	n := len(want.Entropy)
	for _, k := range []int{1, 10, 20, 100} {
		sum, widest := 0.0, 0.0
		for i := range n {
			h, within := entropy(want.Logprobs[i][:k], want.Vocab)
			if math.Abs(h-want.Entropy[i]) > within {
				t.Errorf("position %d, k = %d: entropy %g within %g, want %g", i, k, h, within, want.Entropy[i])
			}
			sum, widest = sum+within, max(widest, within)
		}
		t.Logf("k = %d: entropy is within %.3g on average, %.3g at most", k, sum/float64(n), widest)
	}
	positive := 0
	for i := range n {
		au, eu := uncertainty(want.Logits[i])
		if math.Abs(au-want.AU[i]) > 1e-9 || math.Abs(eu-want.EU[i]) > 1e-9 {
			t.Errorf("position %d: AU %g, EU %g, want %g, %g", i, au, eu, want.AU[i], want.EU[i])
		}
		if want.Logits[i][evidence-1] <= 0 {
			continue
		}
		if positive++; math.Abs(au-want.R2RAU[i]) > 1e-9 || math.Abs(eu-want.R2REU[i]) > 1e-9 {
			t.Errorf("position %d: AU %g, EU %g, R2R's %g, %g", i, au, eu, want.R2RAU[i], want.R2REU[i])
		}
	}
	t.Logf("AU and EU are R2R's at the %d of %d positions whose ten largest logits are positive", positive, n)
	if positive == 0 {
		t.Error("no position compares with R2R's")
	}
}

// Without evidence AU is not defined, and of an exact distribution only rounding is in doubt.
func TestMeasuresAtTheEdges(t *testing.T) {
	if au, eu := uncertainty([]float64{-1, -2}); !math.IsNaN(au) || eu != 1 {
		t.Errorf("no evidence: AU %g, EU %g", au, eu)
	}
	for _, k := range []int{1, 2, 4} {
		h, within := entropy([]float64{math.Log(0.25), math.Log(0.25), math.Log(0.25), math.Log(0.25)}[:k], 4)
		if math.Abs(h-math.Log(4)) > within+1e-12 || within > 2*logprobRounding {
			t.Errorf("k = %d: %g within %g", k, h, within)
		}
	}
}
