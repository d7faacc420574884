package infer

import (
	"bytes"
	"encoding/json"
	"fmt"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/vllm"
)

// Rates are what calibrate measured: tokens a second of one GPU, as plan and judge count them.
// What was not measured is 0.
type Rates struct {
	Format       int        `json:"format"`
	Prefill      [2]float64 `json:"prefill_rate"` // by Side
	Decode       [2]float64 `json:"decode_rate"`  // of the tokens that plan expects, at position 2500
	End          [2]float64 `json:"end_seconds"`  // GPU seconds that a shard takes beyond its work, see shard.Throughput
	JudgePrefill float64    `json:"judge_prefill_rate"`
	JudgeDecode  float64    `json:"judge_decode_rate"`
	Measured     []Measured `json:"measured"`
}

// Measured is how a model's rates were found.
type Measured struct {
	Model    string      `json:"model"` // small, reference or judge
	Prefill  float64     `json:"prefill_rate"`
	Decode   float64     `json:"decode_rate"`
	End      float64     `json:"end_seconds"` // GPU seconds that a shard takes beyond its work; 0 for a judge
	InFlight int         `json:"in_flight"`   // requests at once that gave the most
	GPUs     int         `json:"gpus"`        // of the server
	Texts    int         `json:"sentences"`
	Requests int         `json:"requests"`
	Engine   vllm.Engine `json:"engine"`
}

// Add puts a model's rates in their place.
func (r *Rates) Add(m Measured) {
	switch m.Model {
	case "judge":
		r.JudgePrefill, r.JudgeDecode = m.Prefill, m.Decode
	default:
		for _, side := range job.Sides {
			if m.Model == side.String() {
				r.Prefill[side], r.Decode[side], r.End[side] = m.Prefill, m.Decode, m.End
			}
		}
	}
	r.Measured = append(r.Measured, m)
}

// ReadRates decodes a file of rates.
func ReadRates(name string, b []byte) (*Rates, error) {
	var r Rates
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	err := d.Decode(&r)
	if err == nil && r.Format != job.Format {
		err = fmt.Errorf("format %d, this tokenfork reads %d", r.Format, job.Format)
	}
	if err == nil && min(r.Prefill[0], r.Prefill[1], r.Decode[0], r.Decode[1], r.End[0], r.End[1], r.JudgePrefill, r.JudgeDecode) < 0 {
		err = fmt.Errorf("a rate or a time is negative")
	}
	if err != nil {
		return nil, failure.New(failure.Usage, "give a file that tokenfork calibrate wrote", "%s is no file of rates: %w", name, err)
	}
	return &r, nil
}
