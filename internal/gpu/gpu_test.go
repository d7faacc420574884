package gpu

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tokenfork/internal/failure"
	"tokenfork/internal/model"
)

// fakeSMI puts an nvidia-smi in front of PATH: two whole GPUs and one in slices.
func fakeSMI(t *testing.T) {
	t.Helper()
	fakeTool(t, "nvidia-smi", `if [ "$1" = -L ]; then cat <<'END'
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-aaaa-1)
GPU 2: NVIDIA A100-SXM4-40GB (UUID: GPU-cccc-3)
  MIG 3g.20gb     Device  0: (UUID: MIG-1111-a)
  MIG 1g.5gb+me   Device  1: (UUID: MIG-2222-b)
END
else
printf '0, GPU-aaaa-1, NVIDIA H100 80GB HBM3, 81559\n1, GPU-bbbb-2, NVIDIA H100 80GB HBM3, 81559\n2, GPU-cccc-3, NVIDIA A100-SXM4-40GB, 40960\n'
fi
`)
}

// fakeTool puts a program in front of PATH.
func fakeTool(t *testing.T, name, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestVisible(t *testing.T) {
	fakeSMI(t)
	for _, tt := range []struct{ env, want string }{
		{"1,0", "1:81559 0:81559"},
		{"GPU-bbbb-2", "1:81559"}, // not every vLLM takes a UUID
		{"GPU-bb,2", "1:81559 2:40960"},
		{"MIG-2222-b,MIG-1111", "MIG-2222-b:5120 MIG-1111-a:20480"},
		{"1,9,0", "1:81559"}, // CUDA stops at the first that is not there
		{"", ""},
		{"-1", ""},
	} {
		t.Setenv("CUDA_VISIBLE_DEVICES", tt.env)
		devices, err := Visible(t.Context())
		var got []string
		for _, d := range devices {
			got = append(got, fmt.Sprintf("%s:%d", d.Entry, d.MiB))
		}
		if err != nil || strings.Join(got, " ") != tt.want {
			t.Errorf("CUDA_VISIBLE_DEVICES=%s: %q, %v, want %q", tt.env, got, err, tt.want)
		}
	}
	if err := os.Unsetenv("CUDA_VISIBLE_DEVICES"); err != nil {
		t.Fatal(err)
	}
	if devices, err := Visible(t.Context()); err != nil || len(devices) != 3 || devices[2].Entry != "2" {
		t.Errorf("unset: %v, %v", devices, err)
	}
}

// What AMD's tools print, shortened, as public reports of an MI300X, an MI250 and a
// Radeon show it; tried on no real one.
const (
	mi300X = `{"gpu": %d, "asic": {"market_name": "AMD Instinct MI300X", "vendor_id": "0x1002"}, "vram": {"type": "HBM3", "size": {"value": 196592, "unit": "MB"}}}`
	radeon = `{"gpu": %d, "asic": {"market_name": "AMD Radeon PRO W7800"}, "vram": {"size": {"value": 34359738368, "unit": "B"}}}`
	mi250  = `WARNING: AMD GPU device(s) is/are in a low-power state. Check power control/runtime_status

{"card0": {"VRAM Total Memory (B)": "68702699520", "VRAM Total Used Memory (B)": "51527024640", "Card Series": "AMD INSTINCT MI250 (MCM) OAM AC MBA"},
 "card1": {"VRAM Total Memory (B)": "68702699520", "VRAM Total Used Memory (B)": "11665408", "Card Series": "AMD INSTINCT MI250 (MCM) OAM AC MBA"}, "system": {"Driver version": "6.2.4"}}`
)

func TestVisibleAMD(t *testing.T) {
	four := fmt.Sprintf("[%s, %s, %s, %s]", fmt.Sprintf(mi300X, 0), fmt.Sprintf(mi300X, 1), fmt.Sprintf(mi300X, 2), fmt.Sprintf(mi300X, 3))
	for _, tt := range []struct{ name, tool, says, rocr, hip, cuda, want string }{
		{"a list", "amd-smi", four, "", "", "", "0:196592 1:196592 2:196592 3:196592"},
		{"an object", "amd-smi", `{"gpu_data": ` + four + "}", "", "", "", "0:196592 1:196592 2:196592 3:196592"},
		{"the smallest stands for all", "amd-smi", "[" + fmt.Sprintf(mi300X, 0) + "," + fmt.Sprintf(radeon, 1) + "]", "", "", "", "0:32768 1:32768"},
		{"Slurm leaves two", "amd-smi", four, "2,3", "", "", "0:196592 1:196592"},
		{"HIP counts within those", "amd-smi", four, "1,2,3", "2,0", "", "2:196592 0:196592"},
		{"and stops at what is not there", "amd-smi", four, "2,3", "1,2,0", "", "1:196592"},
		{"CUDA's list in place of HIP's", "amd-smi", four, "", "", "3", "3:196592"},
		{"by UUID", "amd-smi", four, "GPU-2150e7d042a1124,GPU-aaaa", "", "", "0:196592 1:196592"},
		{"rocm-smi, behind a warning", "rocm-smi", mi250, "", "", "", "0:65520 1:65520"},
		{"no GPU", "amd-smi", "[]", "", "", "", ""},
		{"memory in no known unit", "amd-smi", `[{"gpu": 0, "vram": {"size": "N/A"}}]`, "", "", "", "error"},
		{"no JSON", "rocm-smi", "ERROR:root:Driver not initialized (amdgpu not found in modules)", "", "", "", "error"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fakeTool(t, tt.tool, "cat <<'END'\n"+tt.says+"\nEND\n")
			for name, value := range map[string]string{"ROCR_VISIBLE_DEVICES": tt.rocr, "HIP_VISIBLE_DEVICES": tt.hip, "CUDA_VISIBLE_DEVICES": tt.cuda} {
				t.Setenv(name, value)
				if value == "" {
					if err := os.Unsetenv(name); err != nil {
						t.Fatal(err)
					}
				}
			}
			devices, err := Visible(t.Context())
			var got []string
			for _, d := range devices {
				got = append(got, fmt.Sprintf("%s:%d", d.Entry, d.MiB))
			}
			if (err != nil) != (tt.want == "error") || err == nil && strings.Join(got, " ") != tt.want {
				t.Errorf("%q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

// No server is spread over slices, whose GPUs NCCL does not join.
func TestArrangeSlices(t *testing.T) {
	slice := []Device{{Entry: "MIG-a", MiB: 40 << 10, Slice: true}, {Entry: "MIG-b", MiB: 40 << 10, Slice: true}, {Entry: "MIG-c", MiB: 40 << 10, Slice: true}}
	needs := pair(8192, 1, 4)
	needs[1] = &Need{Name: "reference", Model: qwen1B, Longest: 8192, Cost: 2}
	if l, err := Arrange(slice, needs); err != nil || short(l) != "MIG-c | MIG-a MIG-b" {
		t.Errorf("%s, %v", short(l), err)
	}
	if _, err := Arrange(slice, pair(8192, 1, 4)); failure.Code(err) != failure.Refused || !strings.HasPrefix(failure.Hint(err), "no number of such GPUs") {
		t.Errorf("a 32B on slices of 40 GiB: %v, hint %q", err, failure.Hint(err))
	}
	needs = pair(8192, 1, 4)
	needs[1].TP = 2
	if _, err := Arrange(slice, needs); failure.Code(err) != failure.Usage || !strings.Contains(err.Error(), "MIG slices") {
		t.Errorf("--reference-tp 2: %v", err)
	}
}

// The study's pair and a judge, by shape.
var (
	qwen1B  = &model.Model{Layers: 28, Heads: 12, KVHeads: 2, HeadDim: 128, Dtype: "bfloat16", Weights: model.Weights{Bytes: 3_554_000_000}}
	qwen32B = &model.Model{Layers: 64, Heads: 40, KVHeads: 8, HeadDim: 128, Dtype: "bfloat16", Weights: model.Weights{Bytes: 65_528_000_000}}
)

func machine(n int, mib int64) []Device {
	var all []Device
	for i := range n {
		all = append(all, Device{Entry: fmt.Sprint(i), MiB: mib})
	}
	return all
}

const (
	h100 = 81559
	h200 = 143771
	l40s = 46068
)

func pair(longest int, costSmall, costReference float64) [2]*Need {
	return [2]*Need{{Name: "small", Model: qwen1B, Longest: longest, Cost: costSmall}, {Name: "reference", Model: qwen32B, Longest: longest, Cost: costReference}}
}

// short writes a layout as "6 7 | 0,1 2,3 4,5", shared memory in percent.
func short(l Layout) string {
	var sides []string
	for _, servers := range l {
		var all []string
		for _, s := range servers {
			text := strings.Join(s.GPUs, ",")
			if s.Fraction > 0 {
				text += fmt.Sprintf(":%.0f", 100*s.Fraction)
			}
			all = append(all, text)
		}
		sides = append(sides, strings.Join(all, " "))
	}
	return strings.Join(sides, " | ")
}

func TestArrange(t *testing.T) {
	for _, tt := range []struct {
		name    string
		devices []Device
		needs   [2]*Need
		want    string
	}{
		{"one small GPU cannot hold the pair", machine(1, l40s), pair(8192, 1, 4), "1 GPUs of 45 GiB do not hold the small model (3.3 GiB of weights, 0.2 GiB of KV cache for a text of 8192 tokens) and the reference model (61.0 GiB of weights, 2.0 GiB of KV cache for a text of 8192 tokens)"},
		{"one H200 for both", machine(1, h200), pair(8192, 1, 4), "0:7 | 0:83"},
		{"two H100: both share", machine(2, h100), pair(8192, 1, 4), "0:11 | 0,1:79"},
		{"four H100", machine(4, h100), pair(8192, 1, 4), "0:11 | 0,1:79 2,3"},
		{"eight H100", machine(8, h100), pair(8192, 1, 6), "6 7 | 0,1 2,3 4,5"},
		{"little for the small to do", machine(8, h100), pair(8192, 0.01, 6), "0:11 | 0,1:79 2,3 4,5 6,7"},
		{"much for the small to do", machine(8, h100), pair(8192, 3, 3), "4 5 6 7 | 0,1 2,3"},
		{"four H100, both with much to do", machine(4, h100), pair(8192, 3, 3), "2 3 | 0,1"},
		{"long texts on GPUs of 45 GiB", machine(8, l40s), pair(32768, 1, 6), "0:26 | 0,1,2,3:64 4,5,6,7"},
		{"the reference alone", machine(8, h100), [2]*Need{1: pair(8192, 0, 1)[1]}, " | 0,1 2,3 4,5 6,7"},
		{"the small alone", machine(3, l40s), [2]*Need{0: pair(8192, 1, 0)[0]}, "0 1 2 | "},
		{"no GPUs known", nil, pair(8192, 1, 4), " | "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, err := Arrange(tt.devices, tt.needs)
			got := short(l)
			if err != nil {
				got = err.Error()
			}
			if got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

// What the user says of TP and memory is kept to.
func TestArrangeAsTold(t *testing.T) {
	needs := pair(8192, 1, 6)
	needs[1].TP = 4
	l, err := Arrange(machine(8, h100), needs)
	if err != nil || short(l) != "0:11 | 0,1,2,3:79 4,5,6,7" {
		t.Errorf("--reference-tp 4: %s, %v", short(l), err)
	}
	needs = pair(8192, 1, 6)
	needs[1].Args = []string{"-tp", "8"}
	if l, err := Arrange(machine(8, h100), needs); err != nil || len(l[1]) != 1 || len(l[1][0].GPUs) != 8 || l[0][0].GPUs[0] != "0" || l[0][0].Fraction == 0 {
		t.Errorf("-tp 8: %s, %v", short(l), err)
	}
	needs = pair(8192, 1, 6)
	needs[0].Args, needs[1].Args = []string{"--gpu-memory-utilization", "0.2"}, []string{"--gpu-memory-utilization=0.7", "--kv-cache-dtype", "fp8"}
	if l, err := Arrange(machine(1, h200), needs); err != nil || short(l) != "0:20 | 0:70" {
		t.Errorf("shares: %s, %v", short(l), err)
	}
	needs[0].Args = []string{"--gpu-memory-utilization", "2"}
	if _, err := Arrange(machine(1, h200), needs); failure.Code(err) != failure.Usage {
		t.Errorf("a share of 2: %v", err)
	}
	_, err = Arrange(machine(1, h100), pair(8192, 1, 4))
	if !strings.HasPrefix(failure.Hint(err), "2 would do") {
		t.Errorf("hint %q", failure.Hint(err))
	}
	_, err = Arrange(machine(1, h100), pair(8_000_000, 1, 4))
	if !strings.HasPrefix(failure.Hint(err), "no number of such GPUs") {
		t.Errorf("hint %q", failure.Hint(err))
	}
}

// shares says whether servers of both sides lie on one of the GPUs.
func shares(l Layout, gpus []string) bool {
	on := func(servers []Slot, gpu string) bool {
		return slices.ContainsFunc(servers, func(s Slot) bool { return slices.Contains(s.GPUs, gpu) })
	}
	return slices.ContainsFunc(gpus, func(g string) bool { return on(l[0], g) && on(l[1], g) })
}

// Whatever the machine and the work: GPUs are used once, or by exactly the
// two servers that are told to share, and every server holds a longest text.
func TestArrangeHoldsTogether(t *testing.T) {
	const seed = 7
	r := rand.New(rand.NewPCG(seed, 1))
	placed := 0
	for trial := range 5000 {
		devices := machine(1+r.IntN(8), []int64{l40s, h100, h200}[r.IntN(3)])
		longest := 256 << r.IntN(8)
		needs := pair(longest, r.Float64(), 4*r.Float64())
		l, err := Arrange(devices, needs)
		if err != nil {
			continue
		}
		placed++
		share := map[string]float64{}
		for _, servers := range l {
			for _, s := range servers {
				if (s.KVBytes > 0) != shares(l, s.GPUs) {
					t.Fatalf("seed %d trial %d: a KV cache of %d bytes for %v: %s", seed, trial, s.KVBytes, s.GPUs, short(l))
				}
				if s.TP != len(s.GPUs) || s.KVTokens < int64(longest) {
					t.Fatalf("seed %d trial %d: %+v for texts of %d", seed, trial, s, longest)
				}
				for _, g := range s.GPUs {
					if s.Fraction == 0 {
						share[g]++
					}
					share[g] += s.Fraction
				}
			}
		}
		for g, sum := range share {
			if sum > 1 {
				t.Fatalf("seed %d trial %d: GPU %s is given out %.2f times: %s", seed, trial, g, sum, short(l))
			}
		}
		if len(l[0]) == 0 || len(l[1]) == 0 || slices.ContainsFunc(l.Lines(needs), func(s string) bool { return s == "" }) {
			t.Fatalf("seed %d trial %d: %s", seed, trial, short(l))
		}
	}
	if placed < 2000 {
		t.Errorf("only %d of 5000 fit", placed)
	}
}
