package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/private"
	"tokenfork/internal/vllm"
)

// owned is a server that the task started: when it dies or hangs, another
// takes its place, a few times.
type owned struct {
	config   vllm.Config
	kvBytes  int64           // size of its KV cache on each GPU, given at the start; 0: vLLM measures what is free
	turns    []*sync.RWMutex // of its GPUs
	stall    time.Duration
	log      *slog.Logger
	inFlight atomic.Int64
	lost     chan chan struct{} // asks for a look at the server; closed when that is over
	stop     context.CancelFunc
	stopped  chan struct{}

	mu         sync.Mutex
	server     *vllm.Server
	generation int
	ready      chan struct{} // closed once server, or err, holds for the generation
	err        error
}

const maxRestarts = 5

// compileCache keeps what servers of this user compile on this node: a folder
// that nodes shared would keep code made for another's processor.
func compileCache() (string, error) {
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("name the compile cache: %w", err)
	}
	return private.Cache(filepath.Join("vllm", host))
}

// newOwned starts the fleet's server i in its place.
func newOwned(ctx context.Context, f *Fleet, i int) (*owned, error) {
	m, at, label := f.model, f.places[i], f.label(i)
	var args []string
	if m.MaxModelLen > 0 {
		args = append(args, "--max-model-len", strconv.Itoa(m.MaxModelLen))
	}
	if f.fronts > 1 { // one Python process does not keep a GPU with a small model busy
		args = append(args, "--api-server-count", strconv.Itoa(f.fronts))
	}
	cache, err := compileCache()
	if err != nil {
		return nil, err
	}
	flags, err := private.Cache("vllm-flags")
	if err != nil {
		return nil, err
	}
	c := vllm.Config{Command: m.Command, Model: m.Model.Dir, Name: label, Served: f.served, TensorParallel: at.TP, GPUs: at.GPUs, MemoryFraction: at.Fraction,
		Args: append(args, m.Args...), Env: m.Env, LogPath: filepath.Join(m.LogDir, "vllm-"+label+".log"), CacheDir: cache, FlagsDir: flags, StartTimeout: m.StartTimeout, Logger: f.log}
	w := &owned{config: c, kvBytes: at.KVBytes, turns: at.turns, stall: m.Stall, log: f.log.With("server", label), lost: make(chan chan struct{}), ready: make(chan struct{}), stopped: make(chan struct{})}
	server, err := w.start(ctx)
	if err != nil {
		return nil, err
	}
	w.server = server
	close(w.ready)
	live, stop := context.WithCancel(context.WithoutCancel(ctx))
	w.stop = stop
	go w.supervise(live)
	return w, nil
}

// start goes on beside other starts on its GPUs if the size of the KV cache is given.
// Otherwise it waits its turn: vLLM measures how much memory is free, and another
// server that loads meanwhile would be counted as its own.
func (w *owned) start(ctx context.Context) (*vllm.Server, error) {
	if w.kvBytes > 0 {
		server, err := w.startFixed(ctx)
		if died := (*vllm.DeathError)(nil); err == nil || ctx.Err() != nil || !errors.As(err, &died) {
			return server, err
		}
		w.log.Warn("no start with a KV cache of a given size: trying once more, with one that vLLM measures", "bytes", w.kvBytes, "error", err)
		w.kvBytes = 0
	}
	for _, turn := range w.turns {
		turn.Lock()
		defer turn.Unlock()
	}
	return vllm.Start(ctx, w.config)
}

func (w *owned) startFixed(ctx context.Context) (*vllm.Server, error) {
	for _, turn := range w.turns {
		turn.RLock()
		defer turn.RUnlock()
	}
	c := w.config
	c.Args = append([]string{"--kv-cache-memory-bytes", strconv.FormatInt(w.kvBytes, 10)}, c.Args...)
	return vllm.Start(ctx, c)
}

// Client waits while a server starts.
func (w *owned) Client(ctx context.Context) (*vllm.Client, int, error) {
	w.mu.Lock()
	ready := w.ready
	w.mu.Unlock()
	select {
	case <-ready:
	case <-ctx.Done():
		return nil, 0, context.Cause(ctx)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return nil, 0, w.err
	}
	return w.server.Endpoint(), w.generation, nil
}

// Lost has the server probed, if it is still the one that was lost, and
// returns when it was found to work or a new one is on its way.
func (w *owned) Lost(ctx context.Context, generation int) {
	w.mu.Lock()
	current := w.generation == generation && w.err == nil
	w.mu.Unlock()
	if !current {
		return
	}
	looked := make(chan struct{})
	select {
	case w.lost <- looked:
	case <-w.stopped:
		return
	case <-ctx.Done(): // no probe while a new one starts
		return
	}
	select {
	case <-looked:
	case <-ctx.Done():
	}
}

// Flying adds to the number of requests that wait for an answer.
func (w *owned) Flying(n int) { w.inFlight.Add(int64(n)) }

// Running says whether the server is up.
func (w *owned) Running() (up bool, restarts int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.ready:
		return w.err == nil, w.generation
	default:
		return false, w.generation
	}
}

// Engine is that of the present server.
func (w *owned) Engine() (vllm.Engine, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.server.Engine(), true
}

// Close ends the server.
func (w *owned) Close() error {
	w.stop()
	<-w.stopped
	return w.server.Stop(context.Background())
}

// supervise replaces the server whenever it is gone.
func (w *owned) supervise(ctx context.Context) {
	defer close(w.stopped)
	for n := 1; ; n++ {
		cause := w.watch(ctx)
		if cause == nil {
			return
		}
		server, err := w.restart(ctx, n, cause)
		w.mu.Lock()
		if err != nil {
			w.err = err
		} else {
			w.server = server
		}
		close(w.ready)
		w.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (w *owned) restart(ctx context.Context, n int, cause error) (*vllm.Server, error) {
	if n <= maxRestarts {
		w.log.Warn(fmt.Sprintf("vLLM is gone, restart %d of %d", n, maxRestarts), "cause", cause, "in_flight", w.inFlight.Load())
	}
	if err := w.server.Stop(ctx); err != nil {
		return nil, fmt.Errorf("end the %s server: %w", w.config.Name, err)
	}
	if n > maxRestarts {
		blame := w.server.Blame(cause)
		return nil, failure.New(failure.Server, cmp.Or(failure.Hint(blame), "its log says why; what is finished is kept, and the same command goes on"),
			"the %s server died more than %d times: %w", w.config.Name, maxRestarts, blame)
	}
	return w.start(ctx)
}

// watch returns why the server has to be replaced, nil when ctx ends. Client
// waits for the new one from then on.
func (w *owned) watch(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	hung := make(chan error, 1)
	dog := vllm.NewWatchdog(w.server.Endpoint(), w.stall, func() int { return int(w.inFlight.Load()) })
	go func() { hung <- dog.Watch(ctx) }()
	for {
		select {
		case <-w.server.Done():
			w.renew()
			return errors.Join(w.server.Err(), errServerEnded)
		case err := <-hung:
			if err == nil || ctx.Err() != nil {
				return nil
			}
			w.renew()
			return err
		case looked := <-w.lost:
			if err := w.healthy(ctx); err != nil && ctx.Err() == nil {
				w.renew()
				close(looked)
				return err
			}
			close(looked)
		}
	}
}

// renew makes everybody wait for the next server.
func (w *owned) renew() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.generation++
	w.ready = make(chan struct{})
}

var errServerEnded = errors.New("the server has ended")

// healthy gives a server whose connection broke a moment to answer. One that
// is up but does not work is the watchdog's.
func (w *owned) healthy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return w.server.Endpoint().Health(ctx)
}
