// Package progress shows how far a stage is: a bar with rate and remaining
// time on a terminal, a plain line now and then in a log file.
package progress

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"tokenfork/internal/terminal"
)

// Meter counts the finished units of a stage. A nil Meter counts nothing.
type Meter struct {
	mu      sync.Mutex
	w       io.Writer
	bar     *progressbar.ProgressBar // nil in a log
	what    string                   // "infer"
	unit    string                   // "mismatches"
	total   int64
	done    int64
	resumed int64
	started time.Time
	last    time.Time
	every   time.Duration
}

// New starts a meter over total units (-1 if not known).
func New(w io.Writer, what, unit string, total int64) *Meter {
	now := time.Now()
	if safe, ok := w.(*terminal.Writer); ok { // a bar moves the cursor; its text is ours
		w = safe.Unwrap()
	}
	m := &Meter{w: w, what: what, unit: unit, total: total, started: now, last: now, every: 30 * time.Second}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		m.bar = progressbar.NewOptions64(total, progressbar.OptionSetWriter(w), progressbar.OptionSetDescription(what),
			progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionSetItsString(unit),
			progressbar.OptionSetPredictTime(true), progressbar.OptionThrottle(200*time.Millisecond), progressbar.OptionFullWidth())
	}
	return m
}

// Resumed counts units that an earlier run finished: they say nothing of the rate.
func (m *Meter) Resumed(n int64) { m.add(n, n) }

// Add counts units finished now.
func (m *Meter) Add(n int64) { m.add(n, 0) }

func (m *Meter) add(n, resumed int64) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.done == m.resumed { // what came before the first finished unit was loading
		m.started = time.Now()
	}
	m.done += n
	m.resumed += resumed
	if m.bar != nil {
		_ = m.bar.Add64(n) // the terminal is gone
		return
	}
	if time.Since(m.last) >= m.every {
		m.line()
	}
}

// Close prints the last state.
func (m *Meter) Close() {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.bar != nil {
		_ = m.bar.Exit()
		fmt.Fprintln(m.w)
		return
	}
	m.line()
}

func (m *Meter) line() {
	m.last = time.Now()
	passed := time.Since(m.started).Seconds()
	rate := float64(m.done-m.resumed) / max(passed, 1e-3)
	switch {
	case passed < 1 && m.done < m.total: // the first to be finished tells nothing of the rate
		fmt.Fprintf(m.w, "%s: %d of %d %s\n", m.what, m.done, m.total, m.unit)
	case m.total < 0:
		fmt.Fprintf(m.w, "%s: %d %s, %.3g/s\n", m.what, m.done, m.unit, rate)
	case m.done >= m.total || rate == 0:
		fmt.Fprintf(m.w, "%s: %d of %d %s, %.3g/s\n", m.what, m.done, m.total, m.unit, rate)
	default:
		left := time.Duration(float64(m.total-m.done) / rate * float64(time.Second)).Round(time.Second)
		fmt.Fprintf(m.w, "%s: %d of %d %s, %.3g/s, %s left\n", m.what, m.done, m.total, m.unit, rate, left)
	}
}
