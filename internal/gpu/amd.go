package gpu

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

// visibleAMD lists AMD's GPUs. ROCR_VISIBLE_DEVICES, which Slurm sets, leaves some of
// the machine's, and HIP_VISIBLE_DEVICES, or CUDA_VISIBLE_DEVICES in its place, counts
// within those. The entries count within them too, so that they hold for a server in
// the same environment. The tools may count in another order than HIP does: the
// smallest GPU stands for all.
func visibleAMD(ctx context.Context) ([]Device, error) {
	all, err := amd(ctx)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	smallest := slices.MinFunc(all, func(a, b Device) int { return cmp.Compare(a.MiB, b.MiB) })
	left := len(all)
	if entries, set := os.LookupEnv("ROCR_VISIBLE_DEVICES"); set {
		left = len(listed(entries, func(entry string) (Device, bool) {
			n, err := strconv.Atoi(entry)
			return smallest, err == nil && 0 <= n && n < len(all) || strings.HasPrefix(entry, "GPU-")
		}))
	}
	one := func(entry string) (Device, bool) {
		n, err := strconv.Atoi(entry)
		smallest.Entry = entry
		return smallest, err == nil && 0 <= n && n < left
	}
	for _, name := range []string{"HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"} {
		if entries, set := os.LookupEnv(name); set {
			return listed(entries, one), nil
		}
	}
	var visible []Device
	for n := range left {
		d, _ := one(strconv.Itoa(n))
		visible = append(visible, d)
	}
	return visible, nil
}

// amd asks amd-smi or, where that is not, rocm-smi, for the machine's GPUs.
func amd(ctx context.Context) ([]Device, error) {
	for _, tool := range []struct {
		command []string
		read    func([]byte) ([]Device, error)
	}{
		{[]string{"amd-smi", "static", "--asic", "--vram", "--json"}, readAMDSMI},
		{[]string{"rocm-smi", "--showproductname", "--showmeminfo", "vram", "--json"}, readROCmSMI},
	} {
		path, err := exec.LookPath(tool.command[0])
		if err != nil {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, smiTimeout)
		defer cancel()
		out, err := exec.CommandContext(ctx, path, tool.command[1:]...).Output()
		if err != nil {
			return nil, fmt.Errorf("%s: %w: %s", strings.Join(tool.command, " "), err, out)
		}
		all, err := tool.read(out)
		if err != nil {
			return nil, fmt.Errorf("%s: %w: %.200s", strings.Join(tool.command, " "), err, out)
		}
		return all, nil
	}
	return nil, nil
}

// readAMDSMI reads a list of GPUs, which newer versions put into an object.
func readAMDSMI(out []byte) ([]Device, error) {
	type card struct {
		ASIC struct {
			Name string `json:"market_name"`
		} `json:"asic"`
		VRAM struct {
			Size struct {
				Value json.Number `json:"value"`
				Unit  string      `json:"unit"`
			} `json:"size"`
		} `json:"vram"`
	}
	var newer struct {
		Cards []card `json:"gpu_data"`
	}
	if err := json.Unmarshal(out, &newer); err != nil {
		if err := json.Unmarshal(out, &newer.Cards); err != nil {
			return nil, err
		}
	}
	var all []Device
	for i, c := range newer.Cards {
		n, err := c.VRAM.Size.Value.Int64()
		bytes := map[string]int64{"B": 1, "MB": mib, "GB": 1 << 30}[c.VRAM.Size.Unit] // its MB are MiB
		if err != nil || bytes == 0 {
			return nil, fmt.Errorf("GPU %d has memory of %q %q", i, c.VRAM.Size.Value, c.VRAM.Size.Unit)
		}
		all = append(all, Device{Name: c.ASIC.Name, MiB: n * bytes / mib})
	}
	return all, nil
}

// readROCmSMI reads an object of cards, which is behind warnings at times.
func readROCmSMI(out []byte) ([]Device, error) {
	text := string(out)
	var cards map[string]map[string]string
	if err := json.Unmarshal([]byte(text[max(0, strings.IndexByte(text, '{')):]), &cards); err != nil {
		return nil, err
	}
	var all []Device
	for name, c := range cards {
		if !strings.HasPrefix(name, "card") {
			continue
		}
		n, err := strconv.ParseInt(c["VRAM Total Memory (B)"], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s has memory of %q B", name, c["VRAM Total Memory (B)"])
		}
		all = append(all, Device{Name: cmp.Or(c["Card Series"], c["Card series"], c["Card SKU"]), MiB: n / mib})
	}
	return all, nil
}
