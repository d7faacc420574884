// Package fleet gives a task the servers of its models: at URLs, or started by the
// task itself, which are laid out over its GPUs and replaced when they die or hang.
package fleet

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"strconv"
	"sync"
	"time"

	"tokenfork/internal/gpu"
	"tokenfork/internal/model"
	"tokenfork/internal/vllm"
)

// Server is a model server that may be replaced while it is in use.
type Server interface {
	// Client gives the present server and its generation; it waits while a new
	// one starts, and fails for good when there will be none.
	Client(ctx context.Context) (*vllm.Client, int, error)
	// Lost says that the server of that generation does not answer any more. What
	// can be done about it is under way when Lost returns, or ctx has ended.
	Lost(ctx context.Context, generation int)
	// Flying adds to the number of requests that wait for an answer.
	Flying(n int)
	// Running says whether it takes requests now, and how often it was restarted.
	Running() (up bool, restarts int)
	// Engine is what the answers depend on; ok is false where it is not known
	// because somebody else runs the server.
	Engine() (engine vllm.Engine, ok bool)
	// Close ends a server that the task started.
	Close() error
}

// Model says where a model is served: at URLs, or in servers that the task starts.
type Model struct {
	Name string // for messages and logs: small, reference, judge
	URLs []string
	Key  string // of the servers at URLs

	Running []Server // that an earlier stage of the process has started: no others are

	Model          *model.Model // for servers of the task's own
	Command        []string     // "vllm", or what stands before its arguments in a container
	Args           []string     // to vllm serve, after the program's
	Env            []string     // further NAME=VALUE settings
	TensorParallel int          // GPUs of each server; 0 finds the fewest that will do
	MaxModelLen    int          // tokens; 0 leaves it to the model
	StartTimeout   time.Duration
	Stall          time.Duration // without a token, after which a server is probed
	LogDir         string

	Longest int     // tokens of the longest prompt with its answer: the KV cache holds it
	Cost    float64 // predicted GPU seconds, against the other model's
}

// Fleet is a model with a place for each of its servers.
type Fleet struct {
	model  *Model
	served string // name that requests give, the same for all servers and after restarts
	places []place
	fronts int // API processes of each server; 0 leaves them to vLLM
	log    *slog.Logger
}

// place is where a server of the task's own runs.
type place struct {
	gpu.Slot
	turns []*sync.RWMutex // of its GPUs, in the same order for all
}

// mostFronts is where more API processes stopped being worth it, see docs/performance.md.
const mostFronts = 4

// leastForFronts is about 1B of parameters: a smaller model starts longer by them
// than they save.
const leastForFronts = 2 << 30

// Arrange finds a place for the servers of one model or two (nil: not needed) that
// work at the same time.
func Arrange(ctx context.Context, models [2]*Model, log *slog.Logger) (fleets [2]*Fleet, err error) {
	var needs [2]*gpu.Need
	for i, m := range models {
		if m == nil {
			continue
		}
		fleets[i] = &Fleet{model: m, served: vllm.NewName(), log: log}
		if len(m.URLs)+len(m.Running) == 0 {
			needs[i] = &gpu.Need{Name: m.Name, Model: m.Model, Longest: m.Longest, Cost: m.Cost, TP: m.TensorParallel, Args: m.Args}
		}
	}
	devices, err := gpu.Visible(ctx)
	if err != nil {
		return fleets, err
	}
	layout, err := gpu.Arrange(devices, needs)
	if err != nil {
		return fleets, err
	}
	for _, line := range layout.Lines(needs) {
		log.Info(line)
	}
	fronts := 0
	if n := len(layout[0]) + len(layout[1]); len(devices) > 0 && n > 0 {
		fronts = min(mostFronts, runtime.NumCPU()/n/2)
	}
	turns := map[string]*sync.RWMutex{}
	for i, f := range fleets {
		if f == nil {
			continue
		}
		if needs[i] != nil && needs[i].Model.Weights.Bytes >= leastForFronts {
			f.fronts = fronts
		}
		for _, s := range layout[i] {
			p := place{Slot: s}
			for _, entry := range s.GPUs {
				if turns[entry] == nil {
					turns[entry] = new(sync.RWMutex)
				}
				p.turns = append(p.turns, turns[entry])
			}
			f.places = append(f.places, p)
		}
	}
	return fleets, nil
}

// Args are the user's flags of the model's servers.
func (f *Fleet) Args() []string { return f.model.Args }

// Arrivals are a model's servers on their way up, each on its own.
type Arrivals struct {
	Loading context.Context // done once no more are wanted: Enough was called, or the task told to stop
	Enough  context.CancelFunc
	Done    <-chan struct{} // closed when all that will come have come

	loads   sync.WaitGroup
	mu      sync.Mutex
	servers []Server
	err     error
}

// Up connects to the servers at URLs, or starts the task's own, side by side. It calls come for each one that works, at the same time; what
// come returns counts as why the server did not come. The end of ctx, or Enough,
// ends those that are not up yet.
func (f *Fleet) Up(ctx context.Context, come func(context.Context, Server) error) *Arrivals {
	loading, enough := context.WithCancel(ctx)
	done := make(chan struct{})
	up := &Arrivals{Loading: loading, Enough: enough, Done: done}
	for _, s := range f.model.Running {
		up.loads.Go(func() {
			up.come(come, func() (Server, error) { return s, nil })
		})
	}
	for _, url := range f.model.URLs {
		up.loads.Go(func() {
			up.come(come, func() (Server, error) { return newRemote(url, f.model.Key, f.log) })
		})
	}
	for i := range f.places {
		up.loads.Go(func() {
			up.come(come, func() (Server, error) { return newOwned(loading, f, i) })
		})
	}
	go func() {
		up.loads.Wait()
		close(done)
	}()
	return up
}

func (up *Arrivals) come(come func(context.Context, Server) error, start func() (Server, error)) {
	s, err := start()
	if err == nil {
		up.mu.Lock()
		up.servers = append(up.servers, s)
		up.mu.Unlock()
		err = come(up.Loading, s)
	}
	if err != nil {
		up.mu.Lock()
		defer up.mu.Unlock()
		if up.err == nil {
			up.err = err
		}
	}
}

// Err is why one of the servers did not come.
func (up *Arrivals) Err() error {
	up.mu.Lock()
	defer up.mu.Unlock()
	return up.err
}

// Close ends the servers of the task's own; those that keep takes, which may be
// nil, stay for another stage.
func (up *Arrivals) Close(keep *Pool) error {
	up.Enough()
	up.loads.Wait()
	if keep != nil {
		keep.Put(up.servers)
		return nil
	}
	return Close(up.servers)
}

// Close ends servers, those of the task's own.
func Close(servers []Server) error {
	errs := make([]error, len(servers))
	var wg sync.WaitGroup
	for i, s := range servers {
		wg.Go(func() { errs[i] = s.Close() })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Running counts the servers that take requests, and the restarts of all.
func Running(servers []Server) (up, restarts int64) {
	for _, s := range servers {
		now, n := s.Running()
		if now {
			up++
		}
		restarts += int64(n)
	}
	return up, restarts
}

// All brings up every server of the fleet; an error ends those that came.
func (f *Fleet) All(ctx context.Context) ([]Server, error) {
	var mu sync.Mutex
	var all []Server
	up := f.Up(ctx, func(_ context.Context, s Server) error {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, s)
		return nil
	})
	<-up.Done
	if err := up.Err(); err != nil {
		return nil, errors.Join(err, up.Close(nil))
	}
	up.Enough()
	return all, nil
}

// Pool holds servers that a later stage of the same process goes on to use.
type Pool struct {
	mu      sync.Mutex
	servers []Server
}

// Put adds servers.
func (p *Pool) Put(servers []Server) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.servers = append(p.servers, servers...)
}

// Servers are those that are not taken yet.
func (p *Pool) Servers() []Server {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.servers
}

// Take gives the servers away, to whom they then belong; none if none were kept.
func (p *Pool) Take() []Server {
	p.mu.Lock()
	defer p.mu.Unlock()
	servers := p.servers
	p.servers = nil
	return servers
}

// Close ends those that were not taken.
func (p *Pool) Close() error { return Close(p.Take()) }

// label tells a fleet's servers apart.
func (f *Fleet) label(i int) string {
	if len(f.places) > 1 {
		return f.model.Name + "-" + strconv.Itoa(i+1)
	}
	return f.model.Name
}
