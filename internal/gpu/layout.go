package gpu

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"tokenfork/internal/failure"
	"tokenfork/internal/model"
)

// Need is what serving one model takes.
type Need struct {
	Name     string // "small" or "reference"
	Model    *model.Model
	Longest  int      // tokens of the longest fork with its continuation
	Cost     float64  // predicted GPU seconds of the side's work, against the other side's
	TP       int      // GPUs to spread each server over; 0 finds the fewest that will do
	Args     []string // the user's flags for vllm serve
	fraction float64  // of a GPU's memory, as Args say; 0: they don't
}

// Slot is one server's place.
type Slot struct {
	GPUs     []string // CUDA_VISIBLE_DEVICES entries; nil leaves the choice to vLLM
	TP       int      // tensor parallel size; 0 where nothing is known of GPUs
	Fraction float64  // of the GPUs' memory that it may take; 0: vLLM's default
	KVTokens int64    // that its KV cache should hold
	KVBytes  int64    // on each GPU, to be fixed at the start where another server shares one; 0: vLLM finds out
}

// Layout has the servers of both sides, those of the small model first.
type Layout [2][]Slot

const (
	// enoughTexts of the longest kind, and the forks in flight, have to fit a
	// server's KV cache at once: with fewer, a text is thrown out while its
	// forks still wait.
	enoughTexts = 4
	forkTokens  = 16_384
	// usual is the share of a GPU's memory that vLLM takes by default.
	usual = 0.9
	// reserve is what a GPU needs beside weights and KV cache: activations,
	// CUDA graphs, NCCL's buffers.
	reserve = 4 << 30
	// apart says how much slower a layout may be in which no GPU is shared:
	// sharing costs more than the sum of both works.
	apart = 1.15
	mib   = 1 << 20
	// mostGPUs bounds the search for how many would do.
	mostGPUs = 64
)

// Arrange gives each side that needs servers (nil: it needs none) its GPUs. Of
// the layouts that fit it takes the one that should end first: several
// replicas of either model where GPUs are left, one GPU for both where they
// are few. The smallest device stands for all. Without devices every side gets
// one server that knows nothing of GPUs.
func Arrange(devices []Device, needs [2]*Need) (Layout, error) {
	for _, n := range needs {
		if n != nil {
			if err := n.read(); err != nil {
				return Layout{}, err
			}
			if err := n.unspread(devices); err != nil {
				return Layout{}, err
			}
		}
	}
	if len(devices) == 0 {
		return unknown(needs), nil
	}
	bytes := devices[0].MiB * mib
	entries := make([]string, len(devices))
	for i, d := range devices {
		bytes = min(bytes, d.MiB*mib)
		entries[i] = d.Entry
	}
	if best := choose(len(devices), bytes, needs); best != nil {
		return best.place(entries, needs), nil
	}
	hint := "no number of such GPUs would do: see --reference-tp, --max-model-len and --gpu-memory-utilization among the servers' flags"
	for g := len(devices) + 1; g <= mostGPUs; g++ {
		if choose(g, bytes, needs) != nil {
			hint = fmt.Sprintf("%d would do: ask for more GPUs, or run one side at a time (--side)", g)
			break
		}
	}
	return Layout{}, failure.New(failure.Refused, hint, "%d GPUs of %.0f GiB do not hold %s", len(devices), float64(bytes)/(1<<30), describe(needs))
}

func unknown(needs [2]*Need) (l Layout) {
	for side, n := range needs {
		if n != nil {
			l[side] = []Slot{{TP: n.TP}}
		}
	}
	return l
}

func describe(needs [2]*Need) string {
	var parts []string
	for _, n := range needs {
		if n != nil {
			parts = append(parts, fmt.Sprintf("the %s model (%.1f GiB of weights, %.1f GiB of KV cache for a text of %d tokens)",
				n.Name, float64(n.Model.Weights.Bytes)/(1<<30), float64(n.kvBytes(1)*int64(n.Longest))/(1<<30), n.Longest))
		}
	}
	return strings.Join(parts, " and ")
}

// group is how many servers of which size a side has.
type group struct {
	servers, tp int
	fraction    float64
	kv          int64
}

// candidate is a layout by numbers.
type candidate struct {
	sides  [2]group
	shared bool // the small server lies on the first GPU of the first reference server
	time   float64
	other  float64 // time of the side that ends first
}

// choose finds the layout of g equal GPUs that ends first; nil if none fits.
func choose(g int, bytes int64, needs [2]*Need) *candidate {
	small, reference := needs[0], needs[1]
	if small == nil || reference == nil {
		return alone(g, bytes, needs)
	}
	best := separate(g, bytes, small, reference)
	if c := together(g, bytes, small, reference); c != nil && (best == nil || c.time*apart < best.time) {
		best = c
	}
	return best
}

func alone(g int, bytes int64, needs [2]*Need) *candidate {
	c := &candidate{}
	for side, n := range needs {
		if n == nil {
			continue
		}
		tp, kv := n.size(g, bytes, n.share())
		if tp == 0 {
			return nil
		}
		c.sides[side] = group{servers: g / tp, tp: tp, fraction: n.fraction, kv: kv}
	}
	return c
}

// separate gives each side GPUs of its own, in all numbers that there are.
func separate(g int, bytes int64, small, reference *Need) (best *candidate) {
	tpS, kvS := small.size(g, bytes, small.share())
	tpR, kvR := reference.size(g, bytes, reference.share())
	if tpS == 0 || tpR == 0 {
		return nil
	}
	for n := 1; n*tpS+tpR <= g; n++ {
		m := (g - n*tpS) / tpR
		a, b := small.Cost/float64(n*tpS), reference.Cost/float64(m*tpR)
		c := &candidate{time: max(a, b), other: min(a, b), sides: [2]group{
			{n, tpS, small.fraction, kvS}, {m, tpR, reference.fraction, kvR}}}
		if best == nil || c.time < best.time || c.time == best.time && c.other < best.other {
			best = c
		}
	}
	return best
}

// together has one small server share the first GPU with a reference server.
func together(g int, bytes int64, small, reference *Need) *candidate {
	s, r := small.fraction, reference.fraction
	if s == 0 {
		wants := float64(small.Model.Weights.Bytes + reserve + small.enough()*small.kvBytes(1))
		s = math.Ceil(100*wants/float64(bytes)) / 100
	}
	if r == 0 {
		r = math.Round(100*(usual-s)) / 100
	}
	if small.TP > 1 || r <= 0 || s+r > 1 {
		return nil
	}
	kvS := small.kvTokens(1, bytes, s)
	tpR, kvR := reference.size(g, bytes, r)
	if kvS < int64(small.Longest) || tpR == 0 {
		return nil
	}
	m := g / tpR
	return &candidate{shared: true, time: (reference.Cost + small.Cost*float64(tpR)) / float64(m*tpR),
		sides: [2]group{{1, 1, s, kvS}, {m, tpR, r, kvR}}}
}

// place names the GPUs: the reference's from the first on, so that a server's
// are neighbours, then the small model's.
func (c *candidate) place(entries []string, needs [2]*Need) (l Layout) {
	next := 0
	for _, side := range []int{1, 0} {
		if c.shared && side == 0 {
			next = 0
		}
		for i := range c.sides[side].servers {
			g := c.sides[side]
			s := Slot{GPUs: entries[next : next+g.tp : next+g.tp], TP: g.tp, Fraction: g.fraction, KVTokens: g.kv}
			switch {
			case c.shared && side == 1 && i > 0:
				s.Fraction = 0 // has its GPUs alone
			case c.shared:
				s.KVBytes = g.kv * needs[side].kvBytes(g.tp)
			}
			l[side] = append(l[side], s)
			next += g.tp
		}
	}
	return l
}

// read takes from the user's flags what bears on the layout.
func (n *Need) read() error {
	if v, ok := flag(n.Args, "--gpu-memory-utilization"); ok {
		var err error
		if n.fraction, err = strconv.ParseFloat(v, 64); err != nil || n.fraction <= 0 || n.fraction > 1 {
			return failure.New(failure.Usage, "give a number up to 1", "--gpu-memory-utilization %s of the %s server is no share", v, n.Name)
		}
	}
	for _, name := range []string{"--tensor-parallel-size", "-tp"} {
		v, ok := flag(n.Args, name)
		if !ok {
			continue
		}
		var err error
		if n.TP, err = strconv.Atoi(v); err != nil || n.TP < 1 {
			return failure.New(failure.Usage, "give a number of GPUs", "%s %s of the %s server is no number", name, v, n.Name)
		}
	}
	return nil
}

// unspread gives a server a MIG slice: NCCL does not join several.
func (n *Need) unspread(devices []Device) error {
	if !slices.ContainsFunc(devices, func(d Device) bool { return d.Slice }) {
		return nil
	}
	if n.TP > 1 {
		return failure.New(failure.Usage, "ask for whole GPUs, or leave tensor parallelism out", "the %s server cannot be spread over %d MIG slices", n.Name, n.TP)
	}
	n.TP = 1
	return nil
}

// flag finds --name VALUE or --name=VALUE; the last one counts.
func flag(args []string, name string) (value string, ok bool) {
	for i, a := range args {
		if v, cut := strings.CutPrefix(a, name+"="); cut {
			value, ok = v, true
		} else if a == name && i+1 < len(args) {
			value, ok = args[i+1], true
		}
	}
	return value, ok
}

// share is what a server with GPUs of its own takes of them.
func (n *Need) share() float64 {
	if n.fraction > 0 {
		return n.fraction
	}
	return usual
}

// enough is the tokens that a KV cache should hold.
func (n *Need) enough() int64 { return enoughTexts*int64(n.Longest) + forkTokens }

// size is the fewest GPUs whose KV cache holds enough of the longest texts,
// else the most that hold one; 0 if none do.
func (n *Need) size(g int, bytes int64, fraction float64) (tp int, kv int64) {
	for try := 1; try <= g; try *= 2 {
		if n.TP > 0 {
			if try = n.TP; try > g {
				break
			}
		} else if n.Model.Heads%try != 0 {
			break
		}
		tokens := n.kvTokens(try, bytes, fraction)
		if tokens >= int64(n.Longest) {
			tp, kv = try, tokens
		}
		if n.TP > 0 || tokens >= n.enough() {
			break
		}
	}
	return tp, kv
}

// kvTokens is what the KV cache of a server of tp GPUs holds.
func (n *Need) kvTokens(tp int, bytes int64, fraction float64) int64 {
	free := fraction*float64(bytes) - reserve - float64(n.Model.Weights.Bytes)/float64(tp)
	return int64(math.Max(0, free/float64(n.kvBytes(tp))))
}

// kvBytes is what a token takes in the KV cache of each of tp GPUs.
func (n *Need) kvBytes(tp int) int64 {
	width := 2
	kind, ok := flag(n.Args, "--kv-cache-dtype")
	if !ok || kind == "auto" {
		if kind, ok = flag(n.Args, "--dtype"); !ok || kind == "auto" {
			kind = n.Model.Dtype
		}
	}
	switch {
	case strings.HasPrefix(kind, "fp8"):
		width = 1
	case kind == "float32" || kind == "float":
		width = 4
	}
	m := n.Model
	heads := (m.KVHeads + tp - 1) / tp // beyond their number they are repeated
	return max(1, int64(2*m.Layers*heads*m.HeadDim*width))
}

// Lines describe the layout of those needs to people, one line a server.
func (l Layout) Lines(needs [2]*Need) []string {
	var lines []string
	for side, servers := range l {
		for _, s := range servers {
			line := needs[side].Name + " on "
			switch {
			case s.GPUs == nil:
				line += "what vLLM finds"
			case len(s.GPUs) == 1:
				line += "GPU " + s.GPUs[0]
			default:
				line += fmt.Sprintf("GPUs %s (tensor parallel %d)", strings.Join(s.GPUs, ","), s.TP)
			}
			if s.Fraction > 0 {
				line += fmt.Sprintf(", %.0f %% of the memory", 100*s.Fraction)
			}
			if s.KVTokens > 0 {
				line += fmt.Sprintf(", KV cache of about %d tokens", s.KVTokens)
			}
			lines = append(lines, line)
		}
	}
	return lines
}
