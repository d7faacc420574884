// Package progress shows how far a stage is: a line that is redrawn on a terminal, a
// line every 30 seconds in a log, and numbers for Prometheus.
package progress

import (
	"io"
	"sync"
	"time"
)

const (
	redrawn  = 500 * time.Millisecond // on a terminal
	reported = 30 * time.Second       // in a log
)

// Reading is what a lane's servers do, and did in this run.
type Reading struct {
	InFlight int64            // requests that wait for an answer
	Servers  int64            // that are up
	Restarts int64            // of servers
	Counters map[string]int64 // by the names that they have in commits
}

// Lane is a part of a stage that runs beside the others, at a rate of its own: a
// model's servers, or all of a stage that has one lane. A nil Lane counts nothing.
type Lane struct {
	side  string
	total int64
	work  float64
	read  func() Reading

	mu      sync.Mutex
	done    int64 // resumed and failed ones included
	resumed int64
	failed  int64
	did     float64   // work, of this run
	before  float64   // work, resumed
	began   time.Time // when the first unit was finished
	rate    estimator
}

// NewLane describes a lane of total units (-1 if not known) that make so much work, in any
// measure; 0 if units count alike. read tells what the lane's servers do; it may be nil.
func NewLane(side string, total int64, work float64, read func() Reading) *Lane {
	return &Lane{side: side, total: total, work: work, read: read}
}

// Resumed counts units that an earlier run finished: they say nothing of the rate.
func (l *Lane) Resumed(units int64, work float64) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done += units
	l.resumed += units
	l.before += l.measure(units, work)
}

// Add counts units finished now, those that failed among them.
func (l *Lane) Add(units, failed int64, work float64) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done += units
	l.failed += failed
	l.did += l.measure(units, work)
	now := time.Now()
	if l.began.IsZero() {
		l.began = now
	}
	l.rate.add(now, l.did, l.done-l.resumed)
}

func (l *Lane) measure(units int64, work float64) float64 {
	if l.work == 0 {
		return float64(units)
	}
	return work
}

// state is a lane at a moment.
type state struct {
	Reading
	side      string
	total     int64
	done      int64
	resumed   int64
	failed    int64
	perSecond float64 // units, of late; 0: not known
	average   float64 // units per second since the first one was finished
	left      time.Duration
	leftKnown bool
}

func (l *Lane) state(now time.Time) state {
	s := state{side: l.side, total: l.total}
	if l.read != nil {
		s.Reading = l.read()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s.done, s.resumed, s.failed = l.done, l.resumed, l.failed
	late, _ := l.rate.latest(now)
	s.perSecond = late.perSec
	if active := now.Sub(l.began).Seconds(); s.done > s.resumed && active > 1e-3 {
		s.average = float64(s.done-s.resumed) / active
	}
	if l.total < 0 {
		return s
	}
	work := l.work
	if work == 0 {
		work = float64(l.total)
	}
	s.left, s.leftKnown = l.rate.left(now, l.did, work-l.before)
	if s.done >= s.total {
		s.left, s.leftKnown, s.perSecond = 0, true, 0
	}
	return s
}

// Meter shows the lanes of a stage together. A nil Meter counts nothing.
type Meter struct {
	console *Console
	stage   string // "infer"
	unit    string // "forks"
	lanes   []*Lane
	started time.Time
	stop    chan struct{}
	stopped chan struct{}
}

// New starts a meter over total units (-1 if not known). To a *Console it writes as
// that says, to any other writer plain lines.
func New(w io.Writer, stage, unit string, total int64) *Meter {
	return NewLanes(w, stage, unit, NewLane("", total, 0, nil))
}

// NewLanes starts a meter over lanes that run side by side.
func NewLanes(w io.Writer, stage, unit string, lanes ...*Lane) *Meter {
	c, ok := w.(*Console)
	if !ok {
		c = NewConsole(w, Text)
	}
	m := &Meter{console: c, stage: stage, unit: unit, lanes: lanes, started: time.Now(), stop: make(chan struct{}), stopped: make(chan struct{})}
	c.begin(m)
	go m.tell()
	return m
}

// Add counts units finished now in a stage of one lane.
func (m *Meter) Add(n int64) {
	if m != nil {
		m.lanes[0].Add(n, 0, 0)
	}
}

// tell shows the meter now and then.
func (m *Meter) tell() {
	defer close(m.stopped)
	every := reported
	if m.console.terminal != nil {
		every = redrawn
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			m.console.show(m.snapshot(false))
		case <-m.stop:
			return
		}
	}
}

// Close shows the last state.
func (m *Meter) Close() {
	if m == nil {
		return
	}
	close(m.stop)
	<-m.stopped
	m.console.end(m)
}
