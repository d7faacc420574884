package main

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"

	"tokenfork/internal/job"
	"tokenfork/internal/private"
	"tokenfork/internal/store"
)

// jobFlags say where the job is; every stage takes them.
type jobFlags struct {
	Job        string `required:"" placeholder:"DIR|s3://…" help:"The job: a folder, or a prefix in S3."`
	storeFlags `embed:"" group:"Job and store"`
}

// storeFlags say how a store is reached.
type storeFlags struct {
	s3Flags      `embed:"" group:"Job and store"`
	SingleWriter bool   `help:"Allow a store without conditional writes; you ensure that no task runs twice at once."`
	Tmp          string `type:"path" placeholder:"DIR" env:"TMPDIR" help:"Folder for temporary files (default: $TMPDIR)."`
}

// s3Flags say how an S3 server is reached.
type s3Flags struct {
	S3Endpoint  string `name:"s3-endpoint" placeholder:"URL" env:"TOKENFORK_S3_ENDPOINT" help:"S3 server other than AWS (MinIO, Ceph, …)."`
	S3PathStyle bool   `name:"s3-path-style" env:"TOKENFORK_S3_PATH_STYLE" help:"Bucket in the path, as most other S3 servers want it."`
}

// openStore opens a job's store. Tests put points around its writes at which the
// process is killed.
var openStore = store.Open

func (f *jobFlags) open(ctx context.Context, log *slog.Logger) (store.Store, error) {
	return openStore(ctx, f.Job, f.options(log))
}

func (f *storeFlags) options(log *slog.Logger) store.Options {
	return store.Options{S3Endpoint: f.S3Endpoint, S3PathStyle: f.S3PathStyle, SingleWriter: f.SingleWriter, TempDir: f.Tmp, Logger: log}
}

// logDir is where servers' logs go: into the job's folder, or, if it has none, into
// the user's cache; array tasks keep theirs apart.
func (f *jobFlags) logDir() (string, error) {
	dir := filepath.Join(f.Job, "logs")
	if f.Job == "" || strings.Contains(f.Job, "://") {
		var err error
		if dir, err = ownLogs(); err != nil {
			return "", err
		}
	}
	return filepath.Join(dir, attempt().Slurm), nil
}

// ownLogs is a folder of this user's for the logs of servers on this host.
func ownLogs() (string, error) { return private.Cache(filepath.Join("logs", attempt().Host)) }

// watched does a task's work and keeps for status that it began, and why it
// failed. Only a task has one shard: other runs are watched by who started them.
func (f *jobFlags) watched(ctx context.Context, con *console, stage string, shards []int, side string, work func(job.Attempt) error) error {
	if len(shards) != 1 {
		return work(attempt())
	}
	s, err := f.open(ctx, con.logger())
	if err != nil {
		return err
	}
	return job.RecordAttempt(ctx, s, stage, shards[0], side, attempt(), work)
}

// attempt is this process, for status.
var attempt = sync.OnceValue(job.ThisProcess)
