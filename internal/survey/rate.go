package survey

import (
	"slices"
	"time"

	"tokenfork/internal/tasks"
)

// Rate is how fast work comes along, by the parts that were kept of late.
type Rate struct {
	PerSecond float64   `json:"per_second"`            // of the stage's unit
	Left      float64   `json:"seconds_left,omitzero"` // at that rate, by the predicted costs; 0: not known
	End       time.Time `json:"end,omitzero"`          // when it will be done, if it goes on so
}

// pace is what a task, or all of a stage, has kept, and what it has left to do.
type pace struct {
	kept []kept
	left float64 // cost
}

// kept is a part with what it stands for.
type kept struct {
	at    time.Time
	units float64
	cost  float64
}

// newPace is that of a task whose whole work costs so much.
func newPace(t *Task, o *tasks.Objects, rowsPerUnit int64, cost float64) (p pace) {
	if t.Of == 0 {
		return p
	}
	each := cost / float64(t.Of)
	for _, part := range o.Parts {
		units := float64(part.Rows) / float64(rowsPerUnit)
		p.kept = append(p.kept, kept{part.At, units, units * each})
	}
	if t.State != Done {
		p.left = float64(t.Of-t.Done) * each
	}
	return p
}

func (p *pace) add(b pace) {
	p.kept = append(p.kept, b.kept...)
	p.left += b.left
}

// rateWindow is how far back the rate looks from the newest part.
const rateWindow = 30 * time.Minute

// rate is what came of late: the window's parts but the first, whose work was done
// before it. Work that is left counts by its cost: texts differ in length.
func (p *pace) rate(now time.Time) (r Rate) {
	slices.SortFunc(p.kept, func(a, b kept) int { return a.at.Compare(b.at) })
	if len(p.kept) < 2 {
		return r
	}
	newest := p.kept[len(p.kept)-1].at
	first, _ := slices.BinarySearchFunc(p.kept, newest.Add(-rateWindow), func(k kept, t time.Time) int { return k.at.Compare(t) })
	units, cost := 0.0, 0.0
	for _, k := range p.kept[first+1:] {
		units, cost = units+k.units, cost+k.cost
	}
	seconds := newest.Sub(p.kept[first].at).Seconds()
	if units == 0 || seconds <= 0 {
		return r
	}
	r.PerSecond = units / seconds
	if p.left > 0 && cost > 0 {
		r.Left = p.left * seconds / cost
		r.End = now.Add(time.Duration(r.Left * float64(time.Second))).UTC().Truncate(time.Second)
	}
	return r
}

// costs are the predicted costs of the stage's shards, in any unit. Questions to a judge
// are taken for alike.
func (v *view) costs(stage string) (costs []float64) {
	shards, sum := v.job.Shards, 0.0
	if stage == "predict" {
		shards = v.corpus.Shards
	}
	for _, shard := range shards {
		costs = append(costs, shard.Cost)
		sum += shard.Cost
	}
	if stage == "judge" || sum == 0 {
		for k, size := range v.sizes(stage) {
			costs[k] = float64(size)
		}
	}
	return costs
}
