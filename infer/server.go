package infer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"runtime"
	"strconv"
	"sync"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/gpu"
	"tokenfork/internal/job"
	"tokenfork/internal/vllm"
)

// Servers say where a side's model runs: at URLs, or in servers that the task
// starts from a model folder.
type Servers struct {
	URLs []string
	Key  string // of the servers at URLs

	Command        []string // "vllm", or what stands before its arguments in a container
	Model          string   // folder
	TensorParallel int      // GPUs of each server; 0 finds the fewest that will do
	Args           []string // to vllm serve, after ours
	StartTimeout   time.Duration
	LogDir         string
}

// fleet is where a side's own servers run.
type fleet struct {
	dir     string // the model's folder
	servers []gpu.Server
	turns   [][]*sync.Mutex // by server: of its GPUs, in the same order for all
	fronts  int             // API processes of each server; 0 leaves them to vLLM
}

// mostFronts is where more API processes stopped being worth it, see docs/performance.md.
const mostFronts = 4

// arrange finds the models that the task serves itself, and a place for each server.
func arrange(ctx context.Context, o *Options, plan *job.Plan, todo [2][]int) (fleets [2]fleet, err error) {
	var needs [2]*gpu.Need
	for _, side := range job.Sides {
		s := &o.Servers[side]
		if len(todo[side]) == 0 || len(s.URLs) > 0 {
			continue
		}
		m, err := findModel(&plan.Models[side], side, s.Model)
		if err != nil {
			return fleets, err
		}
		fleets[side].dir = m.Dir
		needs[side] = &gpu.Need{Name: side.String(), Model: m, Longest: plan.Longest, Cost: plan.Cost[side], TP: s.TensorParallel, Args: s.Args}
	}
	devices, err := gpu.Visible(ctx)
	if err != nil {
		return fleets, err
	}
	layout, err := gpu.Arrange(devices, needs)
	if err != nil {
		return fleets, err
	}
	for _, line := range layout.Lines() {
		o.Log.Info(line)
	}
	fronts := 0
	if n := len(layout[job.Small]) + len(layout[job.Reference]); len(devices) > 0 && n > 0 {
		fronts = min(mostFronts, runtime.NumCPU()/n/2)
	}
	turns := map[string]*sync.Mutex{}
	for side := range fleets {
		fleets[side].servers, fleets[side].fronts = layout[side], fronts
		for _, s := range layout[side] {
			var own []*sync.Mutex
			for _, entry := range s.GPUs {
				if turns[entry] == nil {
					turns[entry] = new(sync.Mutex)
				}
				own = append(own, turns[entry])
			}
			fleets[side].turns = append(fleets[side].turns, own)
		}
	}
	return fleets, nil
}

// arrivals are a side's servers on their way up, each on its own.
type arrivals struct {
	replicas chan *replica   // closed when all that will come have come
	loading  context.Context // done once no more are wanted: enough was called, or the task told to stop
	enough   context.CancelFunc

	loads   sync.WaitGroup
	mu      sync.Mutex
	servers []Server
	err     error // why one did not come
}

// bringUp connects to the side's servers, or starts its own, side by side where
// they share no GPU. The end of admit, or enough, ends those that are not up yet.
func (l *lane) bringUp(admit context.Context, f *fleet) *arrivals {
	loading, enough := context.WithCancel(admit)
	up := &arrivals{replicas: make(chan *replica), loading: loading, enough: enough}
	o := l.options
	for _, url := range o.Servers[l.side].URLs {
		up.loads.Go(func() {
			up.come(l, func() (Server, error) { return newRemote(url, o.Servers[l.side].Key, o.Log) })
		})
	}
	for i := range f.servers {
		up.loads.Go(func() {
			up.come(l, func() (Server, error) { return newOwned(loading, o, l.plan, l.side, f, i) })
		})
	}
	go func() {
		up.loads.Wait()
		close(up.replicas)
	}()
	return up
}

func (up *arrivals) come(l *lane, start func() (Server, error)) {
	s, err := start()
	var r *replica
	if err == nil {
		up.mu.Lock()
		up.servers = append(up.servers, s)
		up.mu.Unlock()
		r, err = l.newReplica(up.loading, s)
	}
	if err != nil {
		up.mu.Lock()
		defer up.mu.Unlock()
		if up.err == nil {
			up.err = err
		}
		return
	}
	select {
	case up.replicas <- r:
	case <-up.loading.Done():
	}
}

// close ends all servers.
func (up *arrivals) close() error {
	up.enough()
	up.loads.Wait()
	return stopServers(up.servers)
}

func stopServers(all []Server) error {
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, s := range all {
		if c, ok := s.(io.Closer); ok {
			wg.Go(func() { errs[i] = c.Close() })
		}
	}
	wg.Wait()
	return errors.Join(errs...)
}

// remote is a server that somebody else runs.
type remote struct {
	client *vllm.Client
	url    string
	log    *slog.Logger
}

// remoteWait is how long a server at a URL may be gone before the task stops, resumable.
const remoteWait = 2 * time.Minute

func newRemote(url, key string, log *slog.Logger) (*remote, error) {
	c, err := vllm.NewClient(url, key)
	if err != nil {
		return nil, failure.New(failure.Usage, "", "%w", err)
	}
	return &remote{c, url, log}, nil
}

// Client waits until the server answers.
func (r *remote) Client(ctx context.Context) (*vllm.Client, int, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, remoteWait,
		failure.New(failure.Stopped, "start it again and run the same command", "the server at %s has been gone for %s", r.url, remoteWait))
	defer cancel()
	for told := false; ; told = true {
		err := r.client.Health(ctx)
		if err == nil {
			return r.client, 0, nil
		}
		if !told {
			r.log.Warn("server does not answer, waiting", "url", r.url, "error", err)
		}
		if err := sleep(ctx, time.Second); err != nil {
			return nil, 0, err
		}
	}
}

// Lost needs no action: Client waits for the server.
func (r *remote) Lost(context.Context, int) {}

// Flying is of no interest: nobody watches over this server.
func (r *remote) Flying(int) {}

// engine is what answers: recorded once per side, since another one may
// answer differently. Of a server that somebody else runs less is known.
type engine struct {
	vllm.Engine
	Args          []string `json:"args,omitempty"` // the user's
	Root          string   `json:"root,omitempty"` // what a server at a URL says it was given
	Deterministic bool     `json:"deterministic,omitempty"`
}

// recordEngine writes the side's engine-<side>.json, or compares with the one
// that is there, and gives the record's hash.
func recordEngine(ctx context.Context, o *Options, plan *job.Plan, side job.Side, s Server, length int) (string, error) {
	e := engine{Deterministic: plan.Settings.Deterministic}
	if own, ok := s.(*owned); ok {
		e.Engine, e.Args = own.server.Engine(), o.Servers[side].Args
	} else {
		client, _, err := s.Client(ctx)
		if err != nil {
			return "", err
		}
		if e.Version, err = client.Version(ctx); err != nil {
			return "", fmt.Errorf("ask the %s server for its version: %w", side, err)
		}
		e.MaxModelLen = strconv.Itoa(length)
		models, err := client.Models(ctx)
		if err != nil {
			return "", fmt.Errorf("ask the %s server for its model: %w", side, err)
		}
		for _, m := range models {
			if m.ID == client.Model {
				e.Root = m.Root
			}
		}
	}
	return keepEngine(ctx, o, job.EngineKey(side), e)
}

// keepEngine gives the hash of the record that counts for this task's rows.
func keepEngine(ctx context.Context, o *Options, key string, e engine) (string, error) {
	b, err := json.MarshalIndent(e, "", " ")
	if err != nil {
		return "", err
	}
	hash := job.EngineHash(b)
	err = o.Store.Create(ctx, key, func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	})
	if !errors.Is(err, fs.ErrExist) {
		return hash, err
	}
	r, err := o.Store.Open(ctx, key)
	if err != nil {
		return hash, fmt.Errorf("read %s: %w", key, err)
	}
	defer r.Close()
	first, err := io.ReadAll(r)
	if err != nil {
		return hash, fmt.Errorf("read %s: %w", key, err)
	}
	var there engine
	if json.Unmarshal(first, &there) == nil && there.Root == "" && e.Root != "" { // a record of an earlier version has none
		e.Root = ""
		return keepEngine(ctx, o, key, e)
	}
	if bytes.Equal(first, b) {
		return hash, nil
	}
	if o.AllowMixedEngines {
		o.Log.Warn("another engine than the first task's", "first", string(first), "this", string(b))
		return hash, nil
	}
	return hash, failure.New(failure.Refused, "use the same vLLM and flags for every task, or --allow-mixed-engines",
		"%s was made by\n%s\nthis task's engine is\n%s", key, first, b)
}
