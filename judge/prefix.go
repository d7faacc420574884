package judge

import "sync"

// prefixes measures how little of the prompts a server would have to compute
// that kept the beginnings of the last ones: what follows the longest beginning
// that a prompt shares with one of them.
type prefixes struct {
	mu         sync.Mutex
	last       [64]string // prompts, more than stand between neighbours in a text
	next       int
	all, fresh int64 // bytes
}

// cacheBlock is about the bytes of a block of 16 tokens, the least that vLLM
// keeps of a prompt's beginning.
const cacheBlock = 64

// add counts a prompt that is about to be sent.
func (p *prefixes) add(prompt string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	shared := 0
	for _, other := range p.last {
		shared = max(shared, commonPrefix(prompt, other))
	}
	p.all += int64(len(prompt))
	p.fresh += int64(len(prompt) - min(shared, len(prompt)-1)/cacheBlock*cacheBlock)
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
