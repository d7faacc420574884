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
	"strconv"
	"time"

	"tokenfork/internal/failure"
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
	TensorParallel int
	Args           []string // to vllm serve, after ours
	StartTimeout   time.Duration
	LogDir         string
}

func startServers(ctx context.Context, o *Options, plan *job.Plan, side job.Side) ([]Server, error) {
	var all []Server
	for _, url := range o.Servers[side].URLs {
		s, err := newRemote(ctx, url, o.Servers[side].Key, o.Log)
		if err != nil {
			return nil, errors.Join(err, stopServers(all))
		}
		all = append(all, s)
	}
	if len(all) > 0 {
		return all, nil
	}
	s, err := newOwned(ctx, o, plan, side)
	if err != nil {
		return nil, err
	}
	return []Server{s}, nil
}

func stopServers(all []Server) error {
	var errs []error
	for _, s := range all {
		if c, ok := s.(io.Closer); ok {
			errs = append(errs, c.Close())
		}
	}
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

func newRemote(ctx context.Context, url, key string, log *slog.Logger) (*remote, error) {
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
func (r *remote) Lost(int, error) {}

// Flying is of no interest: nobody watches over this server.
func (r *remote) Flying(int) {}

// engine is what answers: recorded once per side, since another one may
// answer differently. Of a server that somebody else runs less is known.
type engine struct {
	vllm.Engine
	Args          []string `json:"args,omitempty"` // the user's
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
	}
	b, err := json.MarshalIndent(e, "", " ")
	if err != nil {
		return "", err
	}
	return job.EngineHash(b), keepEngine(ctx, o, job.EngineKey(side), b)
}

func keepEngine(ctx context.Context, o *Options, key string, b []byte) error {
	err := o.Store.Create(ctx, key, func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	})
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	r, err := o.Store.Open(ctx, key)
	if err != nil {
		return fmt.Errorf("read %s: %w", key, err)
	}
	defer r.Close()
	first, err := io.ReadAll(r)
	if err != nil {
		return fmt.Errorf("read %s: %w", key, err)
	}
	if bytes.Equal(first, b) {
		return nil
	}
	if o.AllowMixedEngines {
		o.Log.Warn("another engine than the first task's", "first", string(first), "this", string(b))
		return nil
	}
	return failure.New(failure.Refused, "use the same vLLM and flags for every task, or --allow-mixed-engines",
		"%s was made by\n%s\nthis task's engine is\n%s", key, first, b)
}
