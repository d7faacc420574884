package judge

import (
	"cmp"
	"sync"
)

// prefixes estimates how little of the prompts a server would have to compute
// that kept the beginnings of the last ones: what follows the longest beginning
// that a prompt shares with one of them. It is an estimate, by bytes: the judge's
// tokenizer and chat template are its server's.
type prefixes struct {
	mu         sync.Mutex
	last       [64]string // prompts, more than stand between neighbours in a text
	next       int
	block      int   // bytes of a block of the cache, 0 for 16 tokens; set before the first prompt
	all, fresh int64 // bytes
}

// A server keeps a prompt's beginning in whole blocks. 16 tokens are what vLLM mostly takes.
const (
	blockTokens   = 16
	bytesPerToken = 4 // of a prompt, about
)

// inBlocksOf sets the size of a server's blocks, in tokens; 0 where it is not known.
func (p *prefixes) inBlocksOf(tokens int) { p.block = tokens * bytesPerToken }

// add counts a prompt that is about to be sent.
func (p *prefixes) add(prompt string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	shared, block := 0, cmp.Or(p.block, blockTokens*bytesPerToken)
	for _, other := range p.last {
		if shared < min(len(prompt), len(other)) && prompt[shared] == other[shared] { // else it shares no more
			shared = max(shared, commonPrefix(prompt, other))
		}
	}
	p.all += int64(len(prompt))
	p.fresh += int64(len(prompt) - min(shared, len(prompt)-1)/block*block)
	p.last[p.next%len(p.last)] = prompt
	p.next++
}

func commonPrefix(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// ideal is the part of so many prompt tokens that had to be computed.
func (p *prefixes) ideal(tokens int64) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all == 0 {
		return 0
	}
	return int64(float64(tokens) * float64(p.fresh) / float64(p.all))
}
