package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/model"
	"tokenfork/internal/store"
	"tokenfork/internal/vllm"
	"tokenfork/shard/predict"
)

// predictCmd makes a table from texts.
type predictCmd struct {
	Texts       []string `arg:"" type:"existingfile" help:"The texts: JSON Lines, JSON, CSV, Parquet or Arrow files with a prompt and a response, a text or a chat per row, or plain text files."`
	Out         string   `required:"" placeholder:"FILE|s3://…" help:"The table: .csv or .parquet."`
	storeFlags  `embed:""`
	modelFlags  `embed:""`
	MaxResponse int  `default:"1024" placeholder:"N" help:"Longest response that the reference writes where a line has none."`
	Chat        bool `help:"Put prompts, as a user's messages, and chats into the model's chat template."`

	VLLM          string        `name:"vllm" default:"vllm" placeholder:"CMD" env:"TOKENFORK_VLLM" help:"Command that runs vLLM, container or environment included."`
	StartTimeout  time.Duration `default:"30m" help:"How long a server may take to start."`
	SmallURL      []string      `name:"small-url" placeholder:"URL" help:"Servers of the small model that already run."`
	ReferenceURL  []string      `name:"reference-url" placeholder:"URL" help:"Servers of the reference model that already run."`
	SmallArgs     string        `placeholder:"ARGS" help:"Further flags for vllm serve of the small model."`
	ReferenceArgs string        `placeholder:"ARGS" help:"Further flags for vllm serve of the reference model."`
	ReferenceTP   int           `name:"reference-tp" placeholder:"N" help:"GPUs that the reference is spread over (tensor parallel)."`
}

// Help shows how it is used.
func (predictCmd) Help() string {
	return `Started again, it goes on from the texts that are done.

Examples:
  tokenfork predict texts.jsonl --out table.parquet --small-model DIR --reference-model DIR --reference-tp 2
  tokenfork predict a.txt b.txt --out table.csv --small-model DIR --reference-model DIR \
    --small-url http://127.0.0.1:8001 --reference-url http://127.0.0.1:8002
`
}

// Run is the command.
func (c *predictCmd) Run(ctx context.Context, con *console) error {
	if !strings.HasSuffix(c.Out, ".csv") && !strings.HasSuffix(c.Out, ".parquet") {
		return failure.New(failure.Usage, "end it in .csv or .parquet", "--out %s: no format that tables are written in", c.Out)
	}
	folder, table := ".", c.Out
	if i := strings.LastIndex(c.Out, "/"); i >= 0 {
		folder, table = c.Out[:max(i, 1)], c.Out[i+1:]
	}
	log := con.logger()
	s, err := store.Open(ctx, folder, c.options(log))
	if err != nil {
		return err
	}
	o := predict.Options{Files: c.Texts, Store: s, Table: table, Chat: c.Chat, MaxResponse: c.MaxResponse, Log: log, Console: con.err}
	var models [2]*model.Model
	for side, name := range [2]string{c.SmallModel, c.ReferenceModel} {
		if models[side], err = findModel(job.Side(side), name); err != nil {
			return err
		}
		if o.Models[side], err = c.model(job.Side(side), models[side], log); err != nil {
			return err
		}
	}
	if _, err := sharedTokenizer(models); err != nil {
		return err
	}
	if err := predict.Run(ctx, o); err != nil {
		return err
	}
	_ = os.Remove(c.Out + predict.Beside) // of a table in a folder: empty now
	return nil
}

// model says how a model is reached: at its URLs, or in a server of our own.
// Those run one after the other, so that each has the GPUs for itself.
func (c *predictCmd) model(side job.Side, m *model.Model, log *slog.Logger) (predict.Model, error) {
	identity, err := json.Marshal(m.Fingerprint())
	if err != nil {
		return predict.Model{}, err
	}
	p := predict.Model{Identity: string(identity), EOS: m.EOS}
	urls, flag, args, tp := c.SmallURL, "--small-args", c.SmallArgs, 1
	if side == job.Reference {
		urls, flag, args, tp = c.ReferenceURL, "--reference-args", c.ReferenceArgs, c.ReferenceTP
	}
	if len(urls) > 0 {
		p.Connect = func(ctx context.Context) ([]*vllm.Client, func() error, error) {
			return c.remote(ctx, urls, vllm.Want{VocabSize: m.VocabSize})
		}
		return p, nil
	}
	logs, err := ownLogs()
	if err != nil {
		return p, err
	}
	own := vllm.Config{Model: m.Dir, Name: side.String(), TensorParallel: tp, StartTimeout: c.StartTimeout, Logger: log,
		LogPath: filepath.Join(logs, "vllm-predict-"+side.String()+".log")}
	if own.Command, err = words("--vllm", c.VLLM); err != nil {
		return p, err
	}
	if own.Args, err = words(flag, args); err != nil {
		return p, err
	}
	p.Connect = func(ctx context.Context) ([]*vllm.Client, func() error, error) {
		server, err := vllm.Start(ctx, own)
		if err != nil {
			return nil, nil, err
		}
		return []*vllm.Client{server.Endpoint()}, func() error { return server.Stop(context.WithoutCancel(ctx)) }, nil
	}
	return p, nil
}

// remote checks the servers at URLs, which stay when the work is done.
func (c *predictCmd) remote(ctx context.Context, urls []string, want vllm.Want) ([]*vllm.Client, func() error, error) {
	var clients []*vllm.Client
	for _, url := range urls {
		client, err := vllm.NewClient(url, serverKey())
		if err != nil {
			return nil, nil, failure.New(failure.Usage, "", "%w", err)
		}
		if _, err := client.Check(ctx, want); err != nil {
			return nil, nil, err
		}
		clients = append(clients, client)
	}
	return clients, func() error { return nil }, nil
}
