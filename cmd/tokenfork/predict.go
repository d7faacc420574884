package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/fleet"
	"tokenfork/internal/job"
	"tokenfork/internal/model"
	"tokenfork/internal/store"
	"tokenfork/internal/table"
	"tokenfork/internal/tokenizer"
	"tokenfork/shard/predict"
)

// predictCmd makes a table from texts.
type predictCmd struct {
	Texts        []string `arg:"" optional:"" type:"existingfile" help:"The texts: JSON Lines, JSON, CSV, Parquet or Arrow files with a prompt and a response, a text or a chat per row, or plain text files. Without them, the texts that the job has."`
	Out          string   `placeholder:"FILE|s3://…" help:"The table: .csv or .parquet (with --job: table.parquet in the job)."`
	Job          string   `placeholder:"DIR|s3://…" help:"Keep texts and predictions in this job (default: in a folder beside the table, until it is whole)."`
	storeFlags   `embed:"" group:"Job and store"`
	workFlags    `embed:"" group:"Servers"`
	modelFlags   `embed:"" group:"Models"`
	predictFlags `embed:"" group:"Prediction"`
	Shard        []int `placeholder:"K,…" help:"Work on these shards only, and write no table."`
	Retry        bool  `help:"Also with --shard, read again what failed or is damaged in finished shards."`
	TableOnly    bool  `help:"Start nothing: write the table from what is finished."`

	further predictFurther `kong:"-"` // of run
}

// predictFurther is what the stages want that run has to go on with predict's servers.
type predictFurther struct {
	keep          []*fleet.Pool // takes both models' servers
	length        [2]int        // tokens that each must take beyond the texts, or in all
	deterministic bool
}

// textFlags say how texts are read.
type textFlags struct {
	MaxResponse int  `default:"1024" placeholder:"N" help:"Longest response that the reference writes where a text has none."`
	Chat        bool `help:"Put prompts, as a user's messages, and chats into the model's chat template."`
}

// predictFlags say what is read, and by which servers.
type predictFlags struct {
	textFlags         `embed:"" group:"Texts"`
	Shards            int `placeholder:"N" help:"Cut the texts into so many shards (default: by their size)."`
	serverFlags       `embed:""`
	Model             []string      `sep:"none" placeholder:"NAME=PATH" help:"In place of a small model and a reference, a model under its name in a table of the study's layout; repeat it. The last one tokenises, and writes what is missing."`
	ModelURL          []string      `name:"model-url" sep:"none" placeholder:"NAME=URL" help:"A server of a --model that already runs."`
	ModelArgs         []string      `sep:"none" placeholder:"NAME=ARGS" help:"Further flags for vllm serve of a --model."`
	Measures          string        `enum:"all,pairs,none" default:"all" help:"With --model: entropy, AU and EU beside the predictions (all), these and each model compared with the last (pairs), or none."`
	EntropyTop        int           `default:"20" placeholder:"N" help:"With --model: log-probabilities at each position that the entropy is made of. More of them make its error smaller and the answers longer."`
	Logits            int           `placeholder:"N" help:"Keep the small model's N largest logits at each position (of --model, the first's), for the router's training set that merge --format r2r writes; R2R has 100. Needs --job."`
	Stall             time.Duration `default:"10m" help:"Probe a server that has sent no answer for this long."`
	AllowMixedEngines bool          `help:"Go on although another vLLM or other flags read the first texts."`
}

// predictStall is more than a server takes for 32 long texts.
const predictStall = 10 * time.Minute

// Help shows how it is used.
func (predictCmd) Help() string {
	return `Started again, it goes on from the texts that were read.

Examples:
  tokenfork predict texts.jsonl --out table.parquet --small-model DIR --reference-model DIR
  tokenfork predict a.txt b.txt --out table.csv --small-model DIR --reference-model DIR \
    --small-url http://127.0.0.1:8001 --reference-url http://127.0.0.1:8002
  tokenfork predict texts.jsonl --out table.parquet --model 1.5=DIR --model 7.0=DIR --model 32.0=DIR
  tokenfork predict texts.jsonl --job ./job --small-model DIR --reference-model DIR
`
}

// Run is the command.
func (c *predictCmd) Run(ctx context.Context, con *console) error {
	if err := c.valid(); err != nil {
		return err
	}
	at := &jobFlags{Job: cmp.Or(c.Job, c.Out+predict.Beside), storeFlags: c.storeFlags}
	s, err := at.open(ctx, con.logger())
	if err != nil {
		return err
	}
	corpus, err := c.corpus(ctx, con, s)
	if err != nil {
		return err
	}
	if !c.TableOnly {
		o := predict.Options{Store: s, Corpus: corpus, Shards: c.Shard, Retry: c.Retry || len(c.Shard) == 0, PartEvery: c.PartEvery, Grace: c.Grace, Stall: c.Stall,
			AllowMixedEngines: c.AllowMixedEngines, Keep: c.further.keep, Deterministic: c.further.deterministic, Log: con.logger(), Console: con.err}
		o.Serve = func(r job.Reader) (*fleet.Model, error) { return c.serve(corpus, r, at) }
		err := at.watched(ctx, con, "predict", c.Shard, "both", func(who job.Attempt) error {
			o.Who = who
			return predict.Run(ctx, o)
		})
		if len(c.Shard) > 0 || err != nil && failure.Code(err) != failure.Partial { // what failed is counted with the table
			return err
		}
	}
	return c.table(ctx, con, s, corpus)
}

func (c *predictCmd) valid() error {
	switch {
	case c.Out == "" && c.Job == "":
		return failure.New(failure.Usage, "give --out FILE, or --job DIR", "no place for the table is named")
	case c.Out != "" && !strings.HasSuffix(c.Out, ".csv") && !strings.HasSuffix(c.Out, ".parquet"):
		return failure.New(failure.Usage, "end it in .csv or .parquet", "--out %s: no format that tables are written in", c.Out)
	case c.Logits < 0 || c.Logits > 0 && c.Job == "":
		return failure.New(failure.Usage, "give a positive number, and a --job in which they are kept", "--logits %d", c.Logits)
	case c.TableOnly && len(c.Shard) > 0:
		return failure.New(failure.Usage, "leave one of them out", "--shard writes no table, --table-only nothing else")
	}
	return nil
}

// corpus are the texts that the flags name, or those that the job has.
func (c *predictCmd) corpus(ctx context.Context, con *console, s store.Store) (*job.Corpus, error) {
	if len(c.Texts) == 0 {
		corpus, err := job.LoadCorpus(ctx, s)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, failure.New(failure.Usage, "name the texts", "%s has no texts", s)
		}
		return corpus, err
	}
	o := predict.SplitOptions{Files: c.Texts, Store: s, Shards: c.Shards, Chat: c.Chat, MaxResponse: c.MaxResponse, Layout: table.R2R, Logits: c.Logits, Log: con.logger()}
	given := [][2]string{{job.Small.String(), c.SmallModel}, {job.Reference.String(), c.ReferenceModel}}
	if len(c.Model) > 0 {
		var err error
		if given, err = c.named("--model", c.Model); err != nil {
			return nil, err
		}
		if o.Layout = table.Study; c.Measures != "none" {
			o.Top, o.Pairs = c.EntropyTop, c.Measures == "pairs"
		}
	}
	var models []*model.Model
	for i, m := range given {
		found, err := findModelAt("--"+m[0]+"-model FOLDER", m[0], m[1])
		if err != nil {
			return nil, err
		}
		models = append(models, found)
		if m[1], err = fromRoot(m[1]); err != nil {
			return nil, err
		}
		o.Models = append(o.Models, job.CorpusModel{Side: given[i][0], EOS: found.EOS,
			Model: job.Model{Name: m[1], Fingerprint: found.Fingerprint(), VocabSize: found.VocabSize, MaxPositions: found.MaxPositions}})
	}
	for _, m := range models[:len(models)-1] {
		if _, err := tokenizer.Shared([2]*model.Model{m, models[len(models)-1]}); err != nil {
			return nil, err
		}
	}
	return predict.Split(ctx, o)
}

// tableName is what a column of the study's layout may begin with, and a task be called.
var tableName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._]*$`)

// named splits NAME=VALUE.
func (c *predictCmd) named(flag string, given []string) (pairs [][2]string, err error) {
	seen := map[string]bool{}
	for _, g := range given {
		name, value, ok := strings.Cut(g, "=")
		switch {
		case !ok || value == "" || !tableName.MatchString(name):
			return nil, failure.New(failure.Usage, "as in "+flag+" 1.5=…; names have letters, digits, dots and underscores", "%s %s", flag, g)
		case flag == "--model" && seen[name]:
			return nil, failure.New(failure.Usage, "give each a name of its own", "two models %s", name)
		}
		seen[name] = true
		pairs = append(pairs, [2]string{name, value})
	}
	switch {
	case flag == "--model" && len(pairs) < 2:
		return nil, failure.New(failure.Usage, "repeat --model", "one model makes no mismatch")
	case flag == "--model" && c.SmallModel+c.ReferenceModel != "":
		return nil, failure.New(failure.Usage, "leave --small-model and --reference-model out", "models are named in two ways")
	case flag == "--model" && c.EntropyTop < 1:
		return nil, failure.New(failure.Usage, "1 at least", "--entropy-top %d", c.EntropyTop)
	}
	return pairs, nil
}

// of are the values for the name.
func (c *predictCmd) of(flag string, given []string, name string) (values []string, err error) {
	pairs, err := c.named(flag, given)
	for _, p := range pairs {
		if p[0] == name {
			values = append(values, p[1])
		}
	}
	return values, err
}

// serve says where a reading's model is served: at its URLs, or in servers of the
// task's own.
func (c *predictCmd) serve(corpus *job.Corpus, r job.Reader, at *jobFlags) (*fleet.Model, error) {
	m := &corpus.Models[r.Model]
	f := &fleet.Model{Name: m.Side, Key: serverKey(), StartTimeout: c.StartTimeout, Stall: c.Stall, Cost: 1}
	path, err := c.flagsOf(corpus, m, f)
	if err != nil || len(f.URLs) > 0 {
		return f, err
	}
	if slices.ContainsFunc(f.Args, func(arg string) bool { return strings.HasPrefix(arg, "--speculative") }) {
		return nil, failure.New(failure.Usage, "leave it out; infer may have it", "vLLM's scores of a prompt are wrong with speculative decoding (vllm#53488)")
	}
	if corpus.Top > 0 || corpus.KeepsLogits(r) {
		mode, most := "raw_logits", 20
		if r.Entropy {
			mode, most = "raw_logprobs", max(most, corpus.Top)
		}
		if corpus.KeepsLogits(r) {
			most = max(most, corpus.Logits)
		}
		f.Args = append([]string{"--logprobs-mode", mode, "--max-logprobs", strconv.Itoa(most)}, f.Args...)
	}
	if f.Command, err = words("--vllm", c.VLLM); err != nil {
		return nil, err
	}
	if f.LogDir, err = c.logs(at); err != nil {
		return nil, err
	}
	dir, err := model.Resolve(cmp.Or(path, m.Name), os.Getenv)
	if err != nil {
		return nil, fmt.Errorf("find the %s model: %w", m.Side, err)
	}
	if f.Model, err = model.Load(dir); err != nil {
		return nil, err
	}
	if d := m.Fingerprint.Diff(f.Model.Fingerprint()); len(d) > 0 {
		return nil, failure.New(failure.Refused, "give the one that began, or begin in another place",
			"%s is not the %s model that began to read these texts: %s", dir, m.Side, strings.Join(d, "; "))
	}
	if c.further.deterministic {
		f.Env = append(f.Env, "VLLM_BATCH_INVARIANT=1")
	}
	longest := max(corpus.Longest+c.further.length[0], c.further.length[1])
	// The longest text has at most so many tokens as bytes, and usually a third of them.
	f.MaxModelLen, f.Longest = (longest+255)/256*256, (longest+2)/3
	if m.MaxPositions > 0 {
		f.MaxModelLen, f.Longest = min(f.MaxModelLen, m.MaxPositions), min(f.Longest, m.MaxPositions)
	}
	return f, nil
}

// flagsOf fills in what the flags say of the corpus' model, and gives its path, if they
// name another one.
func (c *predictCmd) flagsOf(corpus *job.Corpus, m *job.CorpusModel, f *fleet.Model) (path string, err error) {
	flag, args := "--small-args", c.SmallArgs
	switch {
	case corpus.Layout == table.Study:
		var paths []string
		if len(c.Model) > 0 {
			paths, err = c.of("--model", c.Model, m.Side)
		}
		urls, err1 := c.of("--model-url", c.ModelURL, m.Side)
		lines, err2 := c.of("--model-args", c.ModelArgs, m.Side)
		if err := errors.Join(err, err1, err2); err != nil {
			return "", err
		}
		flag, args, f.URLs = "--model-args", strings.Join(lines, " "), urls
		path = strings.Join(paths, "")
	case m.Side == job.Reference.String():
		flag, args, path = "--reference-args", c.ReferenceArgs, c.ReferenceModel
		f.URLs, f.TensorParallel = c.ReferenceURL, c.ReferenceTP
	default:
		f.URLs, path = c.SmallURL, c.SmallModel
	}
	f.Args, err = words(flag, args)
	return path, err
}

// logs is where the servers' go: beside a table they would be lost with the folder.
func (c *predictCmd) logs(at *jobFlags) (string, error) {
	if c.Job == "" {
		return ownLogs()
	}
	return at.logDir()
}

// table writes the table, and clears a folder beside it once it is whole.
func (c *predictCmd) table(ctx context.Context, con *console, s store.Store, corpus *job.Corpus) error {
	o := predict.TableOptions{Store: s, Corpus: corpus, Out: s, Key: job.TableKey, Log: con.logger()}
	if c.Out != "" {
		folder := "."
		o.Key = c.Out
		if i := strings.LastIndex(c.Out, "/"); i >= 0 {
			folder, o.Key = c.Out[:max(i, 1)], c.Out[i+1:]
		}
		var err error
		if o.Out, err = store.Open(ctx, folder, c.options(con.logger())); err != nil {
			return err
		}
	}
	if err := predict.Write(ctx, o); err != nil || c.Job != "" {
		return err
	}
	if err := predict.Clear(ctx, s); err != nil {
		return err
	}
	return removeEmpty(c.Out + predict.Beside)
}

// removeEmpty removes a folder with all folders below it that hold no file.
func removeEmpty(dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) { // it is in S3
		return nil
	}
	for _, dir := range slices.Backward(dirs) {
		_ = os.Remove(dir) // one that holds something stays
	}
	return err
}
