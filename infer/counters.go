package infer

import (
	"tokenfork/internal/fleet"
	"tokenfork/internal/job"
	"tokenfork/internal/vllm"
)

// Names of the counters in commits and in summary.json, per side, beside those of package job.
const (
	Probed       = "probed" // recorded predictions that the server was asked for before replay
	ProbesAgreed = "probes_agreed"
)

// count adds an answer.
func (w *text) count(a *vllm.Completion) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := fleet.Spent(a.Usage, len(a.TokenIDs))
	w.counters.Add(c)
	if w.spent != nil {
		w.spent(c)
	}
}

// countSaved adds what was not generated for forks of one rest, or of none, because the
// table or another fork has it.
func (w *text) countSaved(forks []*branch) job.Counters {
	replayed, longest, all := 0, 0, 0
	for _, b := range forks {
		n := 0
		if b.rest != nil {
			n = len(b.tail.IDs) - 1 - b.replayed
		}
		replayed, longest, all = replayed+b.replayed, max(longest, n), all+n
	}
	c := job.Counters{job.ReplayedTokens: int64(replayed), job.SharedTokens: int64(all - longest)}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counters.Add(c)
	return c
}

// countIdeal adds the least prompt tokens that a server with this block size
// must compute: the text up to the last fork once, and each rest's tokens
// after its last full block. A server always computes a prompt's last token.
func (w *text) countIdeal(block int) {
	once, tails := 0, 0
	for _, r := range w.rests {
		prompt := int(r.At)
		if r.Token >= 0 {
			prompt++
		}
		cached := min(int(r.At), prompt-1) / block * block
		once = max(once, cached)
		tails += prompt - cached
	}
	w.counters[job.IdealTokens] += int64(once + tails)
	w.counters[job.IdealTextTokens] += int64(once)
}

// prefix is the room that the text takes in the KV cache while any of its
// rests is in flight: the text up to the last of them, once.
func (w *text) prefix() int64 { return int64(w.rests[len(w.rests)-1].At) }

// forkTokens is what a request in flight takes beside its text: a block that
// it shares with nobody, and on average no more than half of what it generates.
func (r *replica) forkTokens() int64 { return min(int64(r.block+meanGenerated), r.capacity/2) }

// meanGenerated is more than half of a text.
const meanGenerated = 32
