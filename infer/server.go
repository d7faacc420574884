package infer

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/fleet"
	"tokenfork/internal/job"
	"tokenfork/internal/model"
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

	// Length is what servers of the task's own must take at least, in tokens, where
	// Keep is to have them for a later stage.
	Length int
	Keep   *fleet.Pool

	Running *fleet.Pool // servers that an earlier stage has started; nil or empty: there are none
	taken   bool        // those are used
}

// arrange finds the models that the task serves itself, and a place for each server.
func arrange(ctx context.Context, o *Options, plan *job.Plan, todo [2][]int) ([2]*fleet.Fleet, error) {
	var models [2]*fleet.Model
	for _, side := range job.Sides {
		s := &o.Servers[side]
		if len(todo[side]) == 0 {
			continue
		}
		f := &fleet.Model{Name: side.String(), URLs: s.URLs, Key: s.Key, Command: s.Command, Args: s.Args, TensorParallel: s.TensorParallel,
			MaxModelLen: servedLength(plan, side, s.Length), StartTimeout: s.StartTimeout, Stall: o.Stall, LogDir: s.LogDir,
			Longest: max(plan.Longest, s.Length), Cost: plan.Cost[side]}
		if plan.Settings.Deterministic && len(s.URLs) > 0 {
			return [2]*fleet.Fleet{}, failure.New(failure.Refused, fmt.Sprintf("leave out --%s-url, or plan without --deterministic", side),
				"the job is planned with --deterministic, and whether the server at %s is batch-invariant cannot be asked of it", s.URLs[0])
		}
		if plan.Settings.Deterministic {
			f.Env = append(f.Env, "VLLM_BATCH_INVARIANT=1")
		}
		if s.Running != nil {
			f.Running = s.Running.Take()
			if s.taken = len(f.Running) > 0; s.taken {
				f.URLs = nil // theirs, if they are at URLs
			}
		}
		if models[side] = f; len(s.URLs)+len(f.Running) > 0 {
			continue
		}
		var err error
		if f.Model, err = findModel(&plan.Models[side], side, s.Model); err != nil {
			return [2]*fleet.Fleet{}, err
		}
	}
	return fleet.Arrange(ctx, models, o.Log)
}

// findModel finds the side's model, here perhaps in another place than where
// the job was planned, and makes sure that it is the same.
func findModel(planned *job.Model, side job.Side, name string) (*model.Model, error) {
	dir, err := model.Resolve(cmp.Or(name, planned.Name), os.Getenv)
	if err != nil {
		return nil, fmt.Errorf("find the %s model: %w", side, err)
	}
	m, err := model.Load(dir)
	if err != nil {
		return nil, err
	}
	if d := planned.Fingerprint.Diff(m.Fingerprint()); len(d) > 0 {
		return nil, failure.New(failure.Refused, fmt.Sprintf("give the planned one by --%s-model, or plan anew", side),
			"%s is not the %s model that the job was planned for: %s", dir, side, strings.Join(d, "; "))
	}
	return m, nil
}

// servedLength is what the longest fork needs, in full blocks of 256, and at least so
// many tokens, if the model can take it: the KV cache of a 128k window often does not
// fit a GPU.
func servedLength(plan *job.Plan, side job.Side, least int) int {
	n := max(least, (plan.Longest+255)/256*256)
	if most := plan.Models[side].MaxPositions; most > 0 {
		n = min(n, most)
	}
	return n
}

// arrivals are a side's replicas on their way up.
type arrivals struct {
	*fleet.Arrivals
	replicas chan *replica // closed when all that will come have come
}

// bringUp connects to the side's servers, or starts its own. The end of admit ends
// those that are not up yet.
func (l *lane) bringUp(admit context.Context, f *fleet.Fleet) *arrivals {
	up := &arrivals{replicas: make(chan *replica)}
	up.Arrivals = f.Up(admit, func(loading context.Context, s fleet.Server) error {
		r, err := l.newReplica(loading, s)
		if err != nil {
			return err
		}
		select {
		case up.replicas <- r:
		case <-loading.Done():
		}
		return nil
	})
	go func() {
		<-up.Done
		close(up.replicas)
	}()
	return up
}

// recordEngine writes the side's engine-<side>.json, or compares with the one
// that is there, and gives the record's hash.
func recordEngine(ctx context.Context, o *Options, plan *job.Plan, side job.Side, s fleet.Server, length int) (string, error) {
	e := fleet.Engine{Deterministic: plan.Settings.Deterministic}
	if err := e.Ask(ctx, s, o.Servers[side].Args, length); err != nil {
		return "", err
	}
	if _, own := s.Engine(); own {
		// What a later stage wants beyond that changes no label.
		if longer := servedLength(plan, side, o.Servers[side].Length); e.MaxModelLen == strconv.Itoa(longer) || o.Servers[side].taken {
			e.MaxModelLen = strconv.Itoa(servedLength(plan, side, 0))
		}
	}
	return e.Keep(ctx, o.Store, job.EngineKey(side), o.AllowMixedEngines, o.Log)
}
