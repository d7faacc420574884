package progress

import (
	"fmt"
	"log/slog"
	"strings"
	"time"

	"tokenfork/internal/job"
)

// snapshot is a stage at a moment.
type snapshot struct {
	stage, unit string
	lanes       []state
	sum         state
	now         time.Time
	elapsed     time.Duration
	over        bool
}

func (m *Meter) snapshot(over bool) snapshot {
	now := time.Now()
	s := snapshot{stage: m.stage, unit: m.unit, now: now, elapsed: now.Sub(m.started), over: over, sum: state{leftKnown: true, Reading: Reading{Counters: map[string]int64{}}}}
	for _, l := range m.lanes {
		one := l.state(now)
		s.lanes = append(s.lanes, one)
		s.sum.add(one)
	}
	if over {
		s.sum.perSecond = s.sum.average
	}
	return s
}

// add sums lanes up: the slowest one ends the stage.
func (s *state) add(one state) {
	s.done, s.resumed, s.failed = s.done+one.done, s.resumed+one.resumed, s.failed+one.failed
	if s.total += one.total; one.total < 0 || s.total < 0 {
		s.total = -1
	}
	s.perSecond, s.average = s.perSecond+one.perSecond, s.average+one.average
	s.left, s.leftKnown = max(s.left, one.left), s.leftKnown && one.leftKnown
	s.InFlight, s.Servers, s.Restarts = s.InFlight+one.InFlight, s.Servers+one.Servers, s.Restarts+one.Restarts
	for name, n := range one.Counters {
		s.Counters[name] += n
	}
}

// share is a of a and b; false if there is nothing of either.
func share(a, b int64) (float64, bool) {
	if a+b <= 0 {
		return 0, false
	}
	return float64(a) / float64(a+b), true
}

// cacheHits is the share of prompt tokens in the prefix cache, where servers tell.
func (s *state) cacheHits() (float64, bool) {
	if _, told := s.Counters[job.CachedTokens]; !told {
		return 0, false
	}
	return share(s.Counters[job.CachedTokens], s.Counters[job.ComputedTokens])
}

// replayed is the share of the continuations' tokens that the table had.
func (s *state) replayed() (float64, bool) {
	if _, stage := s.Counters[job.ReplayedTokens]; !stage {
		return 0, false
	}
	return share(s.Counters[job.ReplayedTokens], s.Counters[job.SharedTokens]+s.Counters[job.GeneratedTokens])
}

// name is the stage with its side, if it has one side alone.
func (s *snapshot) name() string {
	if len(s.lanes) == 1 && s.lanes[0].side != "" {
		return s.stage + " " + s.lanes[0].side
	}
	return s.stage
}

// line is the snapshot for people.
func (s *snapshot) line() string {
	parts := []string{fmt.Sprintf("%d %s", s.sum.done, s.unit)}
	if s.sum.total >= 0 {
		parts[0] = fmt.Sprintf("%d of %d %s", s.sum.done, s.sum.total, s.unit)
	}
	if s.over {
		parts[0] += " in " + round(s.elapsed).String()
	}
	if s.sum.perSecond > 0 {
		parts = append(parts, rate(s.sum.perSecond))
	}
	if s.hasETA() {
		parts = append(parts, fmt.Sprintf("ETA %s (%s)", round(s.sum.left.Round(time.Second)), Hour(s.now, s.now.Add(s.sum.left))))
	}
	if hits, ok := s.sum.cacheHits(); ok {
		parts = append(parts, fmt.Sprintf("cache hits %.0f %%", 100*hits))
	}
	if replayed, ok := s.sum.replayed(); ok {
		parts = append(parts, fmt.Sprintf("replayed %.0f %%", 100*replayed))
	}
	if s.sum.failed > 0 {
		parts = append(parts, fmt.Sprintf("%d failed", s.sum.failed))
	}
	if s.sum.Restarts > 0 {
		parts = append(parts, fmt.Sprintf("%d server restarts", s.sum.Restarts))
	}
	return s.name() + ": " + strings.Join(parts, ", ")
}

func (s *snapshot) hasETA() bool {
	return !s.over && s.sum.leftKnown && s.sum.total >= 0 && s.sum.done < s.sum.total
}

// fields are the line's facts for a program.
func (s *snapshot) fields() []slog.Attr {
	all := []slog.Attr{slog.String("stage", s.name()), slog.String("unit", s.unit), slog.Int64("done", s.sum.done), slog.Bool("ended", s.over),
		slog.Float64("seconds", s.elapsed.Seconds())}
	if s.sum.total >= 0 {
		all = append(all, slog.Int64("total", s.sum.total))
	}
	if s.sum.perSecond > 0 {
		all = append(all, slog.Float64("per_second", s.sum.perSecond))
	}
	if s.hasETA() {
		all = append(all, slog.Float64("eta_seconds", s.sum.left.Seconds()), slog.Time("eta", s.now.Add(s.sum.left).Truncate(time.Second)))
	}
	if hits, ok := s.sum.cacheHits(); ok {
		all = append(all, slog.Float64("cache_hits", hits))
	}
	if replayed, ok := s.sum.replayed(); ok {
		all = append(all, slog.Float64("replayed", replayed))
	}
	return append(all, slog.Int64("failed", s.sum.failed), slog.Int64("server_restarts", s.sum.Restarts))
}

// barWidth is the columns of a bar.
const barWidth = 20

// bar is the line with a bar before it, at most so many columns wide.
func (s *snapshot) bar(columns int) string {
	stage, rest, _ := strings.Cut(s.line(), ": ")
	if s.sum.total > 0 {
		share := min(float64(s.sum.done)/float64(s.sum.total), 1)
		full := int(share * barWidth)
		rest = fmt.Sprintf("[%s%s] %3.0f %% %s", strings.Repeat("#", full), strings.Repeat(".", barWidth-full), 100*share, rest)
	}
	line := stage + " " + rest
	if len(line) >= columns { // all of it is ASCII
		line = line[:max(columns-1, 0)]
	}
	return line
}

func rate(perSecond float64) string { return fmt.Sprintf("%.3g/s", perSecond) }

// round leaves out what is below a hundredth.
func round(d time.Duration) time.Duration {
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond)
	case d < time.Hour:
		return d.Round(time.Second)
	}
	return d.Round(time.Minute)
}

// Hour is a time of day, with its date if that is not now's.
func Hour(now, t time.Time) string {
	now, t = now.Local(), t.Local()
	if now.Format(time.DateOnly) == t.Format(time.DateOnly) {
		return t.Format("15:04")
	}
	return t.Format("Mon 2 Jan 15:04")
}
