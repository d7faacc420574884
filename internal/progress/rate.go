package progress

import (
	"math"
	"time"
)

const (
	finest     = 50 * time.Millisecond // work that is finished within it counts as finished at once
	perElapsed = 256                   // samples in the time since the first unit, as long as that is below longest
	longest    = time.Hour
	recent     = 30 * time.Minute // the longest stretch that the rate is made of
)

// Limits of a first estimate.
const (
	leastTime  = 5 * time.Second
	leastUnits = 8
	leastShare = 0.02 // of the work of this run
	longEnough = 2 * time.Minute
	manyUnits  = 100
	anyway     = 0.2 // of the work: from here on the estimate is shown, steady or not
	unsteady   = 1.1 // between the two halves of the stretch, beside chance
	unstable   = 2   // the same, for an estimate that is shown to be taken back
)

// estimator tells from the work finished so far how long the rest will take. What is
// finished first stands for its start: loading and the first requests say nothing of
// the rate. The rate is that of the later half of the time since, so that a slow start counts less and less.
type estimator struct {
	samples []sample
	shown   bool // an estimate was given
}

// sample is what was finished at a time, in all.
type sample struct {
	at    time.Time
	work  float64
	units int64
}

// add takes what is finished in all by now.
func (e *estimator) add(now time.Time, work float64, units int64) {
	n := len(e.samples)
	if n == 0 {
		e.samples = []sample{{now, work, units}}
		return
	}
	last := &e.samples[n-1]
	if now.Sub(last.at) < max(finest, min(now.Sub(e.samples[0].at), longest)/perElapsed) {
		last.work, last.units = work, units
		return
	}
	e.samples = append(e.samples, sample{now, work, units})
	if now.Sub(e.samples[0].at) > longest { // the first one stands for the start until then
		e.samples = e.samples[e.index(now.Add(-recent)):]
	}
}

// index of the last sample at or before t, or the first one.
func (e *estimator) index(t time.Time) int {
	i := len(e.samples) - 1
	for i > 0 && e.samples[i].at.After(t) {
		i--
	}
	return i
}

// stretch is the work between two samples, and how long it took.
type stretch struct {
	rate   float64 // work per second
	units  int64
	perSec float64 // units per second
	idle   time.Duration
}

// between measures from one sample to another. Answers come in bursts, so it ends at the
// last burst, unless the wait since is longer than any before it.
func (e *estimator) between(from, to int, until time.Time) stretch {
	a, b := e.samples[from], e.samples[to]
	gap := time.Duration(0)
	for i := from; i < to; i++ {
		gap = max(gap, e.samples[i+1].at.Sub(e.samples[i].at))
	}
	s := stretch{units: b.units - a.units, idle: min(until.Sub(b.at), gap)}
	if seconds := until.Add(-s.idle).Sub(a.at).Seconds(); seconds > 0 {
		s.rate, s.perSec = (b.work-a.work)/seconds, float64(s.units)/seconds
	}
	return s
}

// latest is the rate of the later half of the time.
func (e *estimator) latest(now time.Time) (whole stretch, steady bool) {
	if len(e.samples) < 2 {
		return stretch{}, false
	}
	half := min(now.Sub(e.samples[0].at)/2, recent)
	from, mid, last := e.index(now.Add(-half)), e.index(now.Add(-half/2)), len(e.samples)-1
	whole = e.between(from, last, now)
	if from == mid || mid == last {
		return whole, false
	}
	early, late := e.between(from, mid, e.samples[mid].at), e.between(mid, last, now)
	chance := 2 / math.Sqrt(float64(max(whole.units, 1)))
	ratio, limit := max(early.rate, late.rate)/min(early.rate, late.rate), unsteady+chance
	if e.shown {
		limit = unstable + chance
	}
	return whole, ratio <= limit
}

// left estimates how long the rest of the work takes; false while that is not known.
// work is that of this run, done of it is finished.
func (e *estimator) left(now time.Time, done, work float64) (time.Duration, bool) {
	s, steady := e.latest(now)
	if s.rate <= 0 || work <= 0 {
		return 0, false
	}
	elapsed, share := now.Sub(e.samples[0].at), done/work
	enough := elapsed >= leastTime && s.units >= leastUnits && (share >= leastShare || elapsed >= longEnough && s.units >= manyUnits)
	if !(enough && steady) && !(elapsed >= leastTime && share >= anyway) {
		e.shown = false
		return 0, false
	}
	e.shown = true
	left := (work-done)/s.rate - s.idle.Seconds()
	if left > float64(math.MaxInt64/2)/float64(time.Second) {
		return 0, false
	}
	return time.Duration(max(left, 0) * float64(time.Second)), true
}
