package shard

import (
	"math"

	"tokenfork/internal/failure"
	"tokenfork/internal/table"
)

// Alignments: which position a row's predictions are for.
const (
	alignAuto = "auto"
	alignNext = "next"
	alignSame = "same"
)

// agreement counts how often predictions are the real token under each reading.
type agreement struct {
	next, nextOf int64
	same, sameOf int64
}

// count adds the rows of one text, or of a piece of one.
func (a *agreement) count(predictions, real []int32) {
	for i, p := range predictions {
		if p == table.NoPrediction {
			continue
		}
		a.sameOf++
		if p == real[i] {
			a.same++
		}
		if i+1 < len(real) {
			a.nextOf++
			if p == real[i+1] {
				a.next++
			}
		}
	}
}

// countBatch adds a batch of the table, by the reference's predictions if there are any.
func (a *agreement) countBatch(b *table.Batch) {
	predictions := b.Reference
	if predictions == nil {
		predictions = b.Small
	}
	for k, run := range b.Runs {
		to := b.Rows
		if k+1 < len(b.Runs) {
			to = b.Runs[k+1].Row
		}
		a.count(predictions[run.Row:to], b.Real[run.Row:to])
	}
}

func (a *agreement) add(b agreement) {
	a.next += b.next
	a.nextOf += b.nextOf
	a.same += b.same
	a.sameOf += b.sameOf
}

func (a *agreement) shares() (next, same float64) {
	return float64(a.next) / max(1, float64(a.nextOf)), float64(a.same) / max(1, float64(a.sameOf))
}

// evidence is the shares as job.json keeps them.
func (a *agreement) evidence() map[string]float64 {
	next, same := a.shares()
	return map[string]float64{alignNext: next, alignSame: same}
}

// alignment is the reading that is clearly better, or "". Clearly is by a tenth
// and by three standard errors.
func (a *agreement) alignment() string {
	next, same := a.shares()
	apart := max(0.1, 3*math.Sqrt(0.5/max(1, float64(a.sameOf))))
	switch {
	case next-same >= apart:
		return alignNext
	case same-next >= apart:
		return alignSame
	}
	return ""
}

func (a *agreement) unclear() error {
	next, same := a.shares()
	if a.sameOf == 0 {
		return failure.New(failure.Refused, "write the table with predictions, or say it: --alignment next or --alignment same",
			"cannot tell which position a row's predictions are for: they are all blank")
	}
	return failure.New(failure.Refused, "say it: --alignment next if a row predicts the token after its own, --alignment same if its own",
		"cannot tell which position a row's predictions are for: %.1f %% of %d are the next row's real token, %.1f %% of %d their own row's", 100*next, a.nextOf, 100*same, a.sameOf)
}
