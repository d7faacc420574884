package vllm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/gpu"
)

// foreignMiB is the memory that others may hold on a GPU: drivers and desktops
// take a little, and vLLM leaves a part free by default.
const foreignMiB = 2048

// freeWait is how long an ended process's GPU memory may take to come back.
const freeWait = 60 * time.Second

type usedGPU struct {
	index, uuid string
	usedMiB     int64
}

type gpuProcess struct {
	gpu     string // uuid
	pid     int
	usedMiB int64 // 0 where not told
}

func gpuProcesses(ctx context.Context) ([]gpuProcess, error) {
	rows, err := gpu.Query(ctx, "--query-compute-apps=gpu_uuid,pid,used_memory")
	if err != nil {
		return nil, err
	}
	var list []gpuProcess
	for _, row := range rows {
		if len(row) != 3 {
			continue // a remark instead of a row
		}
		if pid, err := strconv.Atoi(row[1]); err == nil {
			list = append(list, gpuProcess{gpu: row[0], pid: pid, usedMiB: gpu.MiB(row[2])})
		}
	}
	return list, nil
}

// gpus lists those of the machine that entries name by index or UUID; MIG
// devices are left out, since their GPU's figures count others' slices.
func gpus(ctx context.Context, entries []string) ([]usedGPU, error) {
	rows, err := gpu.Query(ctx, "--query-gpu=index,uuid,memory.used")
	if err != nil {
		return nil, err
	}
	var list []usedGPU
	for _, row := range rows {
		if len(row) != 3 {
			continue
		}
		named := slices.ContainsFunc(entries, func(e string) bool {
			return e == row[0] || len(e) > 4 && strings.HasPrefix(row[1], e) // CUDA takes shortened UUIDs
		})
		if named {
			list = append(list, usedGPU{index: row[0], uuid: row[1], usedMiB: gpu.MiB(row[2])})
		}
	}
	return list, nil
}

// checkForeign fails if processes other than this runner's servers hold memory
// on the GPUs. Memory of a process that has just ended is waited for.
func checkForeign(ctx context.Context, entries []string) error {
	deadline := time.Now().Add(freeWait)
	for {
		err, dying := foreignUse(ctx, entries)
		if err == nil || !dying || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(time.Second):
		}
	}
}

// foreignUse also tells whether waiting can help: no live process is to blame.
func foreignUse(ctx context.Context, entries []string) (use error, dying bool) {
	devices, err := gpus(ctx, entries)
	if err != nil || len(devices) == 0 {
		return err, false
	}
	users, err := gpuProcesses(ctx)
	if err != nil {
		return err, false
	}
	for _, d := range devices {
		foreign, pids, alive := d.usedMiB, []string{}, false
		for _, u := range users {
			switch {
			case u.gpu != d.uuid:
			case hasEnv(u.pid, runnerVar, runnerID()):
				foreign -= u.usedMiB
			default:
				pids = append(pids, strconv.Itoa(u.pid))
				_, running := readProcess(u.pid)
				alive = alive || running
			}
		}
		if foreign > foreignMiB {
			return foreignError(d, foreign, pids), !alive
		}
	}
	return nil, false
}

func foreignError(d usedGPU, foreign int64, pids []string) error {
	by := "processes that are not visible here"
	if len(pids) > 0 {
		by = "pid " + strings.Join(pids, ", ")
	}
	return failure.New(failure.Other,
		"end them, choose other GPUs by CUDA_VISIBLE_DEVICES, or set --gpu-memory-utilization for what is left",
		"GPU %s has %.1f GiB in use by %s (not ours)", d.index, float64(foreign)/1024, by)
}

// awaitFree waits until no GPU lists the pids any more.
func awaitFree(ctx context.Context, pids map[int]bool) error {
	deadline := time.Now().Add(freeWait)
	for {
		users, err := gpuProcesses(ctx)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(users, func(u gpuProcess) bool { return pids[u.pid] })
		if i < 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("GPU %s still lists %d MiB of pid %d, which has ended", users[i].gpu, users[i].usedMiB, users[i].pid)
		}
		time.Sleep(time.Second)
	}
}
