package vllm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"tokenfork/internal/failure"
	"tokenfork/internal/gpu"
	"tokenfork/internal/private"
)

// Server is a vLLM server that this process started.
type Server struct {
	config  Config
	launch  launch
	log     serverLog
	client  *Client
	guarded *guarded
	lock    *os.File // says that the runner lives
	engine  Engine

	done chan struct{}
	once sync.Once
	mu   sync.Mutex
	err  error
	stop bool // asked for
}

const (
	pollEvery      = 200 * time.Millisecond
	reachableEvery = 10 // polls
	progressEvery  = 10 * time.Second
	maxStarts      = 4 // vLLM may name the flags that it lacks one at a time
)

// Start starts a server and returns when it answers under the name it was
// given. Servers that dead runners left are ended first. The program must
// serve GuardCommand. Errors of the server are *DeathError, with a hint.
func Start(ctx context.Context, c Config) (*Server, error) {
	c = c.withDefaults()
	if err := c.check(); err != nil {
		return nil, err
	}
	if err := sweep(ctx, c.RunRoot, c.StopTimeout+killGrace, c.Logger); err != nil {
		return nil, err
	}
	if err := c.checkGPUs(ctx); err != nil {
		return nil, err
	}
	without := loadLacks(c.Command, c.FlagsDir)
	for try := 1; ; try++ {
		s, err := startOnce(ctx, c, without.flags)
		if err == nil || try == maxStarts || !s.mayRetry(err, without) {
			return s.orNil(err), err
		}
	}
}

func (s *Server) orNil(err error) *Server {
	if err != nil {
		return nil
	}
	return s
}

// checkGPUs refuses GPUs that others use, unless the user has said how much of
// them to take.
func (c *Config) checkGPUs(ctx context.Context) error {
	entries := c.GPUs
	if entries == nil { // then vLLM takes the first
		devices, err := gpu.Visible(ctx)
		if err != nil {
			return fmt.Errorf("start %s vLLM: %w", c.Name, err)
		}
		for _, d := range devices[:min(c.TensorParallel, len(devices))] {
			entries = append(entries, d.Entry)
		}
	}
	err := checkForeign(ctx, entries)
	if err == nil {
		return nil
	}
	for _, arg := range c.Args {
		if strings.HasPrefix(arg, "--gpu-memory-utilization") {
			c.Logger.Warn("starting beside others, since --gpu-memory-utilization is given", "found", err)
			return nil
		}
	}
	return fmt.Errorf("start %s vLLM: %w", c.Name, err)
}

// mayRetry decides whether another try can succeed where a start failed, and how.
func (s *Server) mayRetry(err error, without *lacks) bool {
	var death *DeathError
	if s == nil || !errors.As(err, &death) || s.guarded.exit == "" {
		return false
	}
	lines := s.log.lines()
	i := lastMatch(lines, unknownFlags)
	if i < 0 {
		return false
	}
	unknown := strings.Fields(unknownFlags.FindStringSubmatch(lines[i])[1])
	for _, flag := range unknown {
		if !isOptional(flag) || slices.Contains(without.flags, flag) {
			return false
		}
	}
	s.config.Logger.Warn("this vLLM lacks flags, starting without them", "flags", unknown)
	without.add(s.config.Logger, unknown...)
	return true
}

// startOnce returns the server with every error that came after its launch.
func startOnce(ctx context.Context, c Config, without []string) (*Server, error) {
	s := &Server{config: c, done: make(chan struct{})}
	s.launch = launch{nonce: newNonce(), without: without, model: c.Served}
	if c.Served == "" {
		s.launch.model = modelName(s.launch.nonce)
	}
	var err error
	if s.launch.dir, s.lock, err = newRunDir(c.RunRoot, s.launch.nonce); err != nil {
		return nil, err
	}
	if err := s.spawn(); err != nil {
		return nil, errors.Join(err, s.lock.Close(), os.RemoveAll(string(s.launch.dir)))
	}
	go s.finish()
	err = s.awaitReady(ctx)
	if err == nil {
		return s, nil
	}
	if stopErr := s.Stop(context.WithoutCancel(ctx)); stopErr != nil {
		return s, errors.Join(err, stopErr)
	}
	return s, err
}

func (s *Server) spawn() error {
	client, err := NewClient(s.launch.url(), "")
	if err != nil {
		return err
	}
	client.Model = s.launch.model
	if err := os.MkdirAll(filepath.Dir(s.config.LogPath), 0o777); err != nil {
		return fmt.Errorf("make log folder: %w", err)
	}
	log, err := private.Append(s.config.LogPath, 0o666)
	if err != nil {
		return unwritable(s.config.LogPath, err)
	}
	defer log.Close() // the guard has its own
	info, err := log.Stat()
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	var keep []*os.File
	if s.launch.cache = s.launch.dir.cache(); s.config.CacheDir != "" {
		cache, lock, err := takeCache(s.config.CacheDir)
		if err != nil {
			return err
		}
		defer lock.Close()
		s.launch.cache, keep = cache, []*os.File{lock}
	}
	s.client, s.log = client, serverLog{path: s.config.LogPath, from: info.Size()}
	s.config.Logger.Info("starting vLLM", "command", strings.Join(s.launch.argv(&s.config), " "), "log", s.config.LogPath)
	s.guarded, err = startGuarded(&s.config, &s.launch, log, keep, client.Close)
	return err
}

// finish runs until nothing of the server is left, then says why.
func (s *Server) finish() {
	<-s.guarded.done
	s.client.Close()
	s.mu.Lock()
	switch {
	case s.guarded.err != nil && s.guarded.exit == "":
		s.err = fmt.Errorf("%s vLLM: %w", s.config.Name, s.guarded.err)
	case s.guarded.exit != "" && !s.stop:
		s.err = errors.Join(s.log.death(s.config.Name, "died: "+s.guarded.exit), s.guarded.err)
	default:
		s.err = s.guarded.err
	}
	s.mu.Unlock()
	s.lock.Close()
	close(s.done)
}

// awaitReady returns when the server answers under its name.
func (s *Server) awaitReady(ctx context.Context) error {
	start := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, s.config.StartTimeout, errStartTimeout)
	defer cancel()
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	told := start
	for n := 1; ; n++ {
		select {
		case <-s.guarded.done:
			return s.startDeath()
		case <-ctx.Done():
			return s.startInterrupted(context.Cause(ctx))
		case <-poll.C:
		}
		if s.healthy(ctx) == nil {
			return s.ready(ctx, time.Since(start))
		}
		if n%reachableEvery == 0 {
			if err := s.checkReachable(); err != nil {
				return err
			}
		}
		if time.Since(told) >= progressEvery { // a poll can take long on a busy node
			told = time.Now()
			s.config.Logger.Info(fmt.Sprintf("loading, %s of %s", time.Since(start).Round(time.Second), s.config.StartTimeout),
				"last", s.log.last())
		}
	}
}

var errStartTimeout = errors.New("start time-out")

func (s *Server) startDeath() error {
	if s.guarded.exit == "" {
		return failure.New(failure.Other, "give the command that runs vLLM here: --vllm, or load the module or environment that has it",
			"start %s vLLM: %w", s.config.Name, s.guarded.err)
	}
	return s.log.death(s.config.Name, "exited before it was ready: "+s.guarded.exit)
}

func (s *Server) startInterrupted(cause error) error {
	if errors.Is(cause, errStartTimeout) {
		return s.log.death(s.config.Name, fmt.Sprintf("was not ready after %s", s.config.StartTimeout))
	}
	return fmt.Errorf("start %s vLLM: %w", s.config.Name, cause)
}

func (s *Server) healthy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return s.client.Health(ctx)
}

// checkReachable finds a server that serves on a socket which is not the one
// that this process sees.
func (s *Server) checkReachable() error {
	if lastMatch(s.log.lines(), serving) < 0 {
		return nil
	}
	if _, err := os.Stat(s.launch.dir.socket()); err == nil {
		return nil
	}
	root := s.config.RunRoot
	bind := fmt.Sprintf("--bind %s:%s", root, root)
	if base := filepath.Base(s.config.Command[0]); base == "docker" || base == "podman" {
		bind = fmt.Sprintf("-v %s:%s", root, root)
	}
	return failure.New(failure.Other,
		fmt.Sprintf("add %q to the container command", bind),
		"%s vLLM serves on %s, which is not visible outside its container", s.config.Name, s.launch.dir.socket())
}

// checkEnvironment refuses a server in a container that hands on no environment: it
// would run on any GPU, and outlive a runner that is killed. What serves at the
// socket can be asked; where its environment cannot be read nothing is said.
func (s *Server) checkEnvironment() error {
	c, err := net.Dial("unix", s.launch.dir.socket())
	if err != nil {
		return fmt.Errorf("reach the %s server: %w", s.config.Name, err)
	}
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return fmt.Errorf("reach the %s server: %w", s.config.Name, err)
	}
	var peer *unix.Ucred
	var peerErr error
	if err := errors.Join(raw.Control(func(fd uintptr) { peer, peerErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }), peerErr); err != nil {
		return fmt.Errorf("reach the %s server: %w", s.config.Name, err)
	}
	if _, err := os.ReadFile(procPath(int(peer.Pid), "environ")); err != nil || hasEnv(int(peer.Pid), serverVar, s.launch.nonce) {
		return nil
	}
	return failure.New(failure.Other, "have the container command hand on the environment: podman --env-host, docker and enroot --env NAME for each",
		"the %s vLLM runs without the environment that tokenfork gives it, such as CUDA_VISIBLE_DEVICES and %s", s.config.Name, serverVar)
}

// ready makes sure that it is this server which answers.
func (s *Server) ready(ctx context.Context, took time.Duration) error {
	if _, err := s.client.Check(ctx, Want{Model: s.launch.model}); err != nil {
		if status, ok := errors.AsType[*StatusError](err); ok && status.Status >= 500 {
			return s.log.death(s.config.Name, "failed its first request: "+status.Error())
		}
		return err
	}
	if err := s.checkEnvironment(); err != nil {
		return err
	}
	if s.engine = s.log.engine(); s.engine == (Engine{}) {
		if err := s.log.writable(); err != nil {
			return err
		}
	}
	s.config.Logger.Info("ready", "after", took.Round(time.Second))
	return nil
}

// Endpoint is the client of this server.
func (s *Server) Endpoint() *Client { return s.client }

// Engine is what the server's answers depend on.
func (s *Server) Engine() Engine { return s.engine }

// Done is closed when the server has ended, by itself or by Stop, and nothing
// of it is left.
func (s *Server) Done() <-chan struct{} { return s.done }

// Err tells, after Done, why the server ended by itself or what of it could
// not be ended. It is nil after a clean Stop.
func (s *Server) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Blame is why the server had to be replaced, with what its log says.
func (s *Server) Blame(cause error) error {
	if _, ok := errors.AsType[*DeathError](cause); ok {
		return cause
	}
	return s.log.death(s.config.Name, "does not work: "+cause.Error())
}

// Stop ends open requests, then the server with all its children, and returns
// when they are gone and their GPU memory is free. When ctx ends, SIGKILL
// replaces patience.
func (s *Server) Stop(ctx context.Context) error {
	s.client.Close() // vLLM waits for its clients to leave
	s.once.Do(func() {
		s.mu.Lock()
		s.stop = true
		s.mu.Unlock()
		s.guarded.stop()
	})
	select {
	case <-s.done:
	case <-ctx.Done():
		s.guarded.kill()
	case <-time.After(s.config.StopTimeout + killGrace + freeWait): // the guard hangs
		s.guarded.kill()
	}
	<-s.done
	var death *DeathError
	if err := s.Err(); !errors.As(err, &death) {
		return err
	}
	return nil // it had died before, and Err tells how
}
