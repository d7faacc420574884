package infer

import (
	"cmp"
	"fmt"
	"log/slog"
	"math"
	"slices"

	"tokenfork/internal/fork"
	"tokenfork/internal/job"
	"tokenfork/internal/stats"
)

// Counters of the audits.
const (
	Audited       = "audited"         // replayed forks that were generated as well
	AuditAgreed   = "audit_agreed"    // with the same continuation
	AuditNearTies = "audit_near_ties" // that differ first where the two best logprobs are nearly equal
	AuditFailed   = "audit_failed"    // that could not be generated
)

// auditShare is the share that the task was told, or the job was planned with.
func auditShare(told *float64, plan *job.Plan) float64 {
	usual := 0.005
	return *cmp.Or(told, plan.Audit, &usual)
}

// audit adds a rest that generates the whole of a replayed fork, for a share
// of them chosen by hash. Its outcome is counted and nothing else.
func (w *text) audit(b *branch, ends fork.Ends, limit int, share float64) {
	if b.replayed == 0 || float64(hashOf("audit", w.ID, b.position, b.fork)>>11) >= share*(1<<53) {
		return
	}
	t, r := fork.Direct(ends, w.Real, int(b.position), b.tail.IDs[0], limit)
	w.rests = append(w.rests, &rest{Rest: *r, sharers: []*branch{{position: b.position, fork: b.fork, tail: t, margin: math.Inf(1)}}, audits: b})
}

// countAudits compares what was generated with what was replayed.
func (w *text) countAudits() {
	for _, r := range w.rests {
		if r.audits == nil {
			continue
		}
		w.counters[Audited]++
		got := r.sharers[0]
		switch {
		case got.err != nil || r.audits.err != nil:
			w.counters[AuditFailed]++
		case slices.Equal(got.tail.IDs, r.audits.tail.IDs) && got.tail.Finish == r.audits.tail.Finish:
			w.counters[AuditAgreed]++
		case stats.NearTie(r.gapAt(firstDifference(got.tail.IDs, r.audits.tail.IDs))):
			w.counters[AuditNearTies]++
		}
	}
}

func firstDifference(a, b []int32) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// gapAt is the gap at a continuation's token i; the first was not generated.
func (r *rest) gapAt(i int) float64 {
	if i < 1 || i > len(r.gaps) {
		return math.NaN()
	}
	return r.gaps[i-1]
}

// tellAudit says how the replayed forks that were generated as well compare:
// the interval is of the agreement outside near-ties (95 %, Wilson).
func tellAudit(log *slog.Logger, c *job.Commit) {
	n := c.Counters[Audited] - c.Counters[AuditFailed]
	if n == 0 {
		return
	}
	in := stats.Wilson(c.Counters[AuditAgreed], n-c.Counters[AuditNearTies])
	log.Info("replay audited", "shard", c.Shard, "side", c.Side, "forks", n, "agreed", c.Counters[AuditAgreed],
		"near_ties", c.Counters[AuditNearTies], "agreement", fmt.Sprintf("%.4f-%.4f", in.Low, in.High))
}
