package gpu

import (
	"context"
	"encoding/csv"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Device is a GPU, or a MIG slice of one, that this process may use.
type Device struct {
	Entry string // names it in CUDA_VISIBLE_DEVICES: index, or MIG UUID
	Name  string
	MiB   int64 // of memory
	Slice bool  // a MIG slice: no server can be spread over several
}

const smiTimeout = 30 * time.Second

// smi runs nvidia-smi; ok is false where there is none.
func smi(ctx context.Context, args ...string) (out string, ok bool, err error) {
	path, err := exec.LookPath("nvidia-smi")
	if err != nil {
		return "", false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, smiTimeout) // it hangs on a broken GPU
	defer cancel()
	b, err := exec.CommandContext(ctx, path, args...).Output()
	if err != nil {
		return "", true, fmt.Errorf("nvidia-smi %s: %w: %s", strings.Join(args, " "), err, b)
	}
	return string(b), true, nil
}

// Query asks nvidia-smi for a table, such as --query-gpu=index,uuid; rows are
// nil where there is no nvidia-smi.
func Query(ctx context.Context, query string) (rows [][]string, err error) {
	out, ok, err := smi(ctx, query, "--format=csv,noheader,nounits")
	if err != nil || !ok {
		return nil, err
	}
	r := csv.NewReader(strings.NewReader(out))
	r.TrimLeadingSpace, r.FieldsPerRecord = true, -1
	rows, err = r.ReadAll()
	if err != nil {
		return nil, fmt.Errorf("nvidia-smi %s: %w", query, err)
	}
	return rows, nil
}

// MiB reads a field of nvidia-smi's; "[N/A]" is 0.
func MiB(field string) int64 {
	n, err := strconv.ParseInt(strings.TrimSpace(field), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// Visible lists the devices that CUDA_VISIBLE_DEVICES, for AMD also HIP_ and
// ROCR_VISIBLE_DEVICES, leave to this process, in its order; all of the machine where
// none is set. None without nvidia-smi, amd-smi and rocm-smi.
func Visible(ctx context.Context) ([]Device, error) {
	rows, err := Query(ctx, "--query-gpu=index,uuid,name,memory.total")
	if err != nil {
		return nil, err
	}
	var all []Device
	var uuids []string
	for _, row := range rows {
		if len(row) == 4 {
			all = append(all, Device{Entry: row[0], Name: row[2], MiB: MiB(row[3])})
			uuids = append(uuids, row[1])
		}
	}
	if len(all) == 0 {
		return visibleAMD(ctx)
	}
	entries, set := os.LookupEnv("CUDA_VISIBLE_DEVICES")
	if !set {
		return all, nil
	}
	var slices []Device
	if strings.Contains(entries, "MIG-") {
		if slices, err = mig(ctx); err != nil {
			return nil, err
		}
	}
	return listed(entries, func(entry string) (Device, bool) { return find(entry, all, uuids, slices) }), nil
}

// listed are the devices of a list of entries up to the first that is not there, as
// CUDA and HIP take it.
func listed(entries string, find func(string) (Device, bool)) (visible []Device) {
	for entry := range strings.SplitSeq(entries, ",") {
		d, ok := find(strings.TrimSpace(entry))
		if !ok {
			break
		}
		visible = append(visible, d)
	}
	return visible
}

// find gives the device of an entry. A whole GPU goes by its index, which every vLLM
// takes, and not all of them a UUID; a slice has its UUID alone. CUDA takes
// shortened UUIDs.
func find(entry string, all []Device, uuids []string, slices []Device) (Device, bool) {
	for i, d := range all {
		if entry == d.Entry || len(entry) > 4 && strings.HasPrefix(uuids[i], entry) {
			return d, true
		}
	}
	for _, d := range slices {
		if len(entry) > 4 && strings.HasPrefix(d.Entry, entry) {
			return d, true
		}
	}
	return Device{}, false
}

// migLine is "  MIG 3g.40gb     Device  0: (UUID: MIG-…)".
var migLine = regexp.MustCompile(`^\s+MIG (\S*?(\d+)gb\S*)\s+Device\s+\d+: \(UUID: (MIG-\S+)\)`)

// mig lists the machine's MIG slices; only their profile tells their memory.
func mig(ctx context.Context) ([]Device, error) {
	out, _, err := smi(ctx, "-L")
	if err != nil {
		return nil, err
	}
	var all []Device
	for line := range strings.Lines(out) {
		if m := migLine.FindStringSubmatch(line); m != nil {
			gib, _ := strconv.ParseInt(m[2], 10, 64) // digits alone
			all = append(all, Device{Entry: m[3], Name: "MIG " + m[1], MiB: gib << 10, Slice: true})
		}
	}
	return all, nil
}
