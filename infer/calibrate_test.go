package infer_test

import (
	"maps"
	"math"
	"slices"
	"testing"
	"time"

	"tokenfork/infer"
	"tokenfork/internal/fleet"
	"tokenfork/internal/job"
	"tokenfork/internal/model"
	"tokenfork/internal/vllm/fakevllm"
)

// TestCalibrationCountsAsPlan: the work that is measured is the work that plan predicts the cost of,
// so that the rates give the hours.
func TestCalibrationCountsAsPlan(t *testing.T) {
	for name, change := range map[string]func(*job.Settings){
		"own":       nil,
		"reference": func(s *job.Settings) { s.Trajectories = job.FromReference },
		"no replay": func(s *job.Settings) { s.Replay = false },
	} {
		j := plan(t, change)
		planned, err := job.Load(t.Context(), j.store)
		if err != nil {
			t.Fatal(err)
		}
		for _, side := range planned.Settings.Servers() {
			c := infer.Calibration{Options: j.plain()}
			prefill, decode, blocks, err := c.SampledWork(t.Context(), side)
			if err != nil {
				t.Fatal(err)
			}
			const prefillRate, decodeRate = 1e4, 1e3 // those that the job was planned with
			if got, want := (prefill+blocks)/prefillRate+decode/decodeRate, planned.Cost[side]; math.Abs(got-want) > want/100 {
				t.Errorf("%s, %s: %g seconds, planned are %g", name, side, got, want)
			}
		}
	}
}

// TestCalibrate measures both models and a judge on servers of its own, and leaves the job as it is.
func TestCalibrate(t *testing.T) {
	t.Parallel()
	j := plan(t, nil)
	c := infer.Calibration{Options: j.owned(t, fakevllm.Config{}), Time: 200 * time.Millisecond}
	m, err := model.Load(j.folders[job.Reference])
	if err != nil {
		t.Fatal(err)
	}
	s := c.Servers[job.Reference]
	c.Judge = &fleet.Model{Name: "judge", Model: m, Command: s.Command, Args: s.Args, StartTimeout: time.Minute, Stall: time.Minute, Cost: 1, MaxModelLen: 1024, Longest: 1024, LogDir: s.LogDir}
	there := func() map[string]int64 {
		all := map[string]int64{}
		for o, err := range j.store.List(t.Context(), "") {
			if err != nil {
				t.Fatal(err)
			}
			all[o.Key] = o.Size
		}
		return all
	}
	before := there()
	rates, err := c.Run(t.Context())
	if err != nil {
		t.Fatalf("%v\n%s", err, j.log)
	}
	if min(rates.Prefill[0], rates.Prefill[1], rates.Decode[0], rates.Decode[1], rates.JudgePrefill, rates.JudgeDecode) <= 0 {
		t.Errorf("%+v", rates)
	}
	var names []string
	for _, m := range rates.Measured {
		names = append(names, m.Model)
		if m.Texts == 0 || m.Requests < m.Texts || m.InFlight == 0 || m.GPUs != 1 || m.Engine.Version == "" {
			t.Errorf("%+v", m)
		}
	}
	if !slices.Equal(names, []string{"small", "reference", "judge"}) {
		t.Errorf("measured: %v", names)
	}
	if after := there(); !maps.Equal(before, after) {
		t.Errorf("the job changed: %v, was %v", after, before)
	}
}
