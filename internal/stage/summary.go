package stage

import (
	"cmp"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/tasks"
)

// Summary collects what became of the shards, of one Stage or of several at once.
type Summary struct {
	mu           sync.Mutex
	rows, failed int // in committed shards
	stopped      []job.Task
	refused      map[int]error // by shard: why its manifest cannot be used
}

func (s *Summary) commit(c *job.Commit, rows int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rows += rows // a commit after a retry lists more
	s.failed += c.Failed
}

// Stop notes a task that is not finished, or was not begun.
func (s *Summary) Stop(t job.Task) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = append(s.stopped, t)
}

// Refuse notes a task whose shard has a manifest that cannot be used, and says why.
func (s *Summary) Refuse(log *slog.Logger, t job.Task, why error) {
	log.Error("the other shards go on without this one", "shard", t.Shard, "reason", why)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refused == nil {
		s.refused = map[int]error{}
	}
	s.refused[t.Shard] = why // both sides say the same
}

// Result is the error that says how complete the stage is: nil, or of
// failure.Stopped, failure.Refused or failure.Partial. failed says what is the matter with the
// failed rows: "forks failed"; hint what lists them.
func (s *Summary) Result(failed, hint string) error {
	switch {
	case len(s.stopped) > 0:
		return failure.New(failure.Stopped, "run the same command again to go on", "stopped on request; not finished: %s", s.unfinished())
	case len(s.refused) > 0:
		ks := slices.Sorted(maps.Keys(s.refused))
		return failure.New(failure.Refused, cmp.Or(failure.Hint(s.refused[ks[0]]), "restore it or plan the job again"),
			"shards %s cannot be worked on, the others are finished: %w", tasks.Ranges(ks), s.refused[ks[0]])
	case s.failed > 0:
		return failure.New(failure.Partial, hint, "%d of %d %s", s.failed, s.rows, failed)
	}
	return nil
}

// unfinished names the tasks that were stopped: infer of shards 1, 4-6, small.
func (s *Summary) unfinished() string {
	shards := map[string][]int{}
	var sides []string
	for _, t := range s.stopped {
		if shards[t.Side] == nil {
			sides = append(sides, t.Side)
		}
		shards[t.Side] = append(shards[t.Side], t.Shard)
	}
	slices.Sort(sides)
	for i, side := range sides {
		slices.Sort(shards[side])
		sides[i] = s.stopped[0].Stage + " of shards " + tasks.Ranges(shards[side]) + ", " + side
	}
	return strings.Join(sides, "; ")
}
