package progress

import (
	"io"
	"math"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

// event is units finished at a time since the stage began.
type event struct {
	at    time.Duration
	lane  int
	units int64
	work  float64
}

// course is how a stage comes along.
type course struct {
	name   string
	loaded time.Duration // of all lanes
	lanes  []*Lane
	events []event // ascending
}

// steady finishes n units, each so long after the one before, in one lane.
func steady(name string, n int, from time.Duration, after func(i int) time.Duration, work func(i int) float64) course {
	c := course{name: name, loaded: from}
	sum := 0.0
	for i := range n {
		from += after(i)
		sum += work(i)
		c.events = append(c.events, event{from, 0, 1, work(i)})
	}
	c.lanes = []*Lane{NewLane("", int64(n), sum, nil)}
	return c
}

func every(d time.Duration) func(int) time.Duration { return func(int) time.Duration { return d } }
func alike(int) float64                             { return 1 }

func courses() []course {
	r := rand.New(rand.NewPCG(1, 2))
	minute := steady("one minute of work, loaded in 40 seconds", 3000, 40*time.Second, every(20*time.Millisecond), alike)
	since := func(i int) time.Duration { // 32 units a second after a minute
		seconds := math.Sqrt(2 * float64(i) * 60 / 32)
		if i > 960 {
			seconds = 60 + float64(i-960)/32
		}
		return time.Duration(seconds * float64(time.Second))
	}
	ramp := steady("requests in flight rise for a quarter of the time", 6000, time.Minute, func(i int) time.Duration { return since(i+1) - since(i) }, alike)
	long := func(i int) float64 { return 1 + 15*float64(i)/400 }
	rising := steady("texts get longer, 1 to 16", 400, 10*time.Second, func(i int) time.Duration { return time.Duration(long(i) * float64(time.Second)) }, long)
	uneven := make([]float64, 500)
	for i := range uneven {
		uneven[i] = r.ExpFloat64()
	}
	chance := steady("texts of any length, costs half guessed", 500, 0, func(i int) time.Duration {
		return time.Duration((0.5 + r.Float64()) * uneven[i] * float64(time.Second))
	}, func(i int) float64 { return uneven[i] })
	bursts := course{name: "answers come in bursts of 32"}
	for i := range 30 {
		for range 32 {
			bursts.events = append(bursts.events, event{time.Duration(i+1) * 20 * time.Second, 0, 1, 1})
		}
	}
	bursts.lanes = []*Lane{NewLane("", 960, 960, nil)}
	known := steady("a third is known at once", 2000, 0, func(i int) time.Duration {
		if i < 700 {
			return time.Millisecond
		}
		return 200 * time.Millisecond
	}, alike)
	resumed := steady("goes on from 90 in 100", 300, 30*time.Second, every(time.Second), alike)
	resumed.lanes = []*Lane{NewLane("", 3000, 3000, nil)}
	resumed.lanes[0].Resumed(2700, 2700)
	two := course{name: "a fast model and a slow one", loaded: 90 * time.Second, lanes: []*Lane{NewLane("small", 1000, 0, nil), NewLane("reference", 1000, 0, nil)}}
	for i := range 1000 {
		two.events = append(two.events, event{10*time.Second + time.Duration(i)*10*time.Millisecond, 0, 1, 1})
	}
	for i := range 1000 {
		two.events = append(two.events, event{90*time.Second + time.Duration(i)*300*time.Millisecond, 1, 1, 1})
	}
	week := steady("a week", 60480, 10*time.Minute, every(10*time.Second), alike)
	return []course{minute, ramp, rising, chance, bursts, known, resumed, two, week}
}

// TestETA: whatever a stage's beginning is like, an estimate is never off by more than a
// factor of 2, from 40 % of the time on by no more than 15 %, and there is one by a third of it.
func TestETA(t *testing.T) {
	for _, c := range courses() {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := NewLanes(io.Discard, "test", "units", c.lanes...)
				defer m.Close()
				shown := false
				began := time.Now()
				begin := c.loaded
				end := c.events[len(c.events)-1].at
				step, next := (end-begin)/500, 0
				for at := time.Duration(0); at < end; at += step {
					for ; next < len(c.events) && c.events[next].at <= at; next++ {
						e := c.events[next]
						time.Sleep(e.at - time.Since(began))
						c.lanes[e.lane].Add(e.units, 0, e.work)
					}
					time.Sleep(at - time.Since(began))
					s := m.snapshot(false)
					truth, share := (end - at).Seconds(), float64(at-begin)/float64(end-begin)
					if !s.hasETA() {
						if share > 1./3 && share < 0.99 {
							t.Fatalf("no estimate after %.0f %% of the time", 100*share)
						}
						continue
					}
					got := s.sum.left.Seconds()
					if !shown {
						t.Logf("first estimate after %.1f %% of the time: %.0f s, in truth %.0f s", 100*share, got, truth)
						shown = true
					}
					slack := (end - begin).Seconds() / 20 // near the end a factor says nothing
					if got > 2*truth+slack || got < truth/2-slack {
						t.Errorf("after %.1f %% of the time: %.0f s, in truth %.0f s", 100*share, got, truth)
					}
					if share > 0.4 && (got > 1.15*truth+slack || got < truth/1.15-slack) {
						t.Errorf("after %.1f %% of the time: %.0f s, in truth %.0f s", 100*share, got, truth)
					}
				}
			})
		})
	}
}
