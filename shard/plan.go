package shard

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"iter"
	"log/slog"
	"math"
	"runtime"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/ordered"
	"tokenfork/internal/table"
)

// planner is one planning under way.
type planner struct {
	Options
	settings     job.Settings
	dryRun       bool
	offset       int // of a row's prediction from the row: 1 under next, 0 under same
	classes      []uint8
	texts        *texts
	tokenizer    Tokenizer
	throughput   [2]Throughput
	maxPositions [2]int
	schema       *table.Schema

	stitcher *stitcher
	analysts chan *analyst
	spool    *spool
	all      []planned
	print    hash.Hash // of the input
	total    tally
	estimate Estimate
	out      *outputs
}

// Plan reads the table, writes the job and returns it. A job that is there
// already is returned as it is, if it is the same.
func Plan(ctx context.Context, o Options) (*job.Job, *Estimate, error) {
	before, err := job.Load(ctx, o.Store)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		if _, err := o.Store.Open(ctx, job.Key); !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, err
		}
	}
	_ = before
	p, err := newPlanner(o, false)
	if err != nil {
		return nil, nil, err
	}
	defer p.close()
	if err := p.read(ctx); err != nil {
		return nil, nil, err
	}
	j, err := p.write(ctx)
	if err != nil {
		return nil, nil, err
	}
	return j, &p.estimate, nil
}

// DryRun reads the table and says what planning it would come to.
func DryRun(ctx context.Context, o Options) (*Estimate, error) {
	p, err := newPlanner(o, true)
	if err != nil {
		return nil, err
	}
	defer p.close()
	if err := p.read(ctx); err != nil {
		return nil, err
	}
	return &p.estimate, nil
}

func newPlanner(o Options, dryRun bool) (*planner, error) {
	p := &planner{Options: o, settings: o.Settings, dryRun: dryRun, tokenizer: o.Tokenizer, throughput: o.Throughput, print: sha256.New()}
	if p.Logger == nil {
		p.Logger = slog.New(slog.DiscardHandler)
	}
	var err error
	vocab := 0
	for _, side := range job.Sides {
		p.maxPositions[side] = o.Models[side].MaxPositions
		vocab = max(vocab, o.Models[side].VocabSize)
	}
	p.classes = classes(o.Tokenizer, vocab)
	p.texts = newTexts(o.Tokenizer, vocab)
	p.spool, err = newSpool(o.Tmp)
	return p, err
}

func (p *planner) close() {
	p.spool.remove()
	if p.out != nil {
		p.out.abort()
	}
}

// read goes through the table once.
func (p *planner) read(ctx context.Context) error {
	r := table.NewReader(p.Sources, p.request(), p.Tmp)
	next, stop := iter.Pull2(r.Batches(ctx))
	defer stop()
	head, err := p.head(next)
	if err != nil {
		return err
	}
	if err := p.settle(r, head); err != nil {
		return err
	}
	if !p.dryRun {
		if p.out, err = p.openOutputs(ctx); err != nil {
			return err
		}
	}
	p.stitcher = &stitcher{skipBad: p.settings.OnBadSentence == "skip", textIDs: p.settings.SentenceIDType == table.String, firstPosition: int64(p.settings.FirstPosition), seen: newSeen()}
	workers := runtime.GOMAXPROCS(0)
	p.analysts = make(chan *analyst, workers)
	for range workers {
		a := &analyst{planner: p, counts: make([]cell, maxTypes*classCount)}
		a.walker = walker{ends: p.Ends, limit: p.settings.MaxNewTokens, replay: p.settings.Replay && p.settings.Temperature == 0}
		p.analysts <- a
	}
	err = ordered.Map(ctx, workers, p.stitcher.sentences(follow(head, next)), p.work, p.collect)
	if err != nil {
		return err
	}
	return p.sum()
}

func (p *planner) request() table.Request {
	s := &p.settings
	return table.Request{Layout: s.Layout, Small: s.Small, Reference: s.Reference, SentenceIDType: s.SentenceIDType,
		VocabSize:     [2]int{p.Models[job.Small].VocabSize, p.Models[job.Reference].VocabSize},
		NeedReference: s.Trajectories != realText, ExactMeasures: s.Trajectories == realText}
}

// headRows are looked at before anything is decided.
const headRows = 50_000

type pull = func() (*table.Batch, error, bool)

// head takes the first batches.
func (p *planner) head(next pull) ([]*table.Batch, error) {
	var head []*table.Batch
	for rows := 0; rows < headRows; {
		b, err, ok := next()
		if err != nil {
			return nil, err
		}
		if !ok {
			break
		}
		head = append(head, b)
		rows += b.Rows
	}
	if len(head) == 0 {
		return nil, failure.New(failure.Refused, "", "%s has a header but no rows", p.Sources[0].Name)
	}
	return head, nil
}

// follow yields the head and what comes after it.
func follow(head []*table.Batch, next pull) iter.Seq2[*table.Batch, error] {
	return func(yield func(*table.Batch, error) bool) {
		for _, b := range head {
			if !yield(b, nil) {
				return
			}
		}
		for {
			b, err, ok := next()
			if !ok || !yield(b, err) || err != nil {
				return
			}
		}
	}
}

// settle fills the settings that the table decides.
func (p *planner) settle(r *table.Reader, head []*table.Batch) error {
	p.schema = r.Schema()
	s := &p.settings
	s.Layout, s.Small, s.Reference = p.schema.Layout, p.schema.Small, p.schema.Reference
	s.SentenceIDType = r.Request().SentenceIDType
	s.FirstPosition = -1
	if first := head[0].Runs[0].Position; first == 0 || first == 1 {
		s.FirstPosition = int(first)
	}
	if s.Alignment == alignAuto {
		var a agreement
		for _, b := range head {
			countBatch(&a, b)
		}
		if s.Alignment = a.alignment(); s.Alignment == "" {
			return a.unclear()
		}
	}
	if s.Alignment == alignNext {
		p.offset = 1
	}
	if !p.schema.HasTypes {
		p.Logger.Warn("the table has no token_type: mismatches in prompts count too")
	}
	return nil
}

func countBatch(a *agreement, b *table.Batch) {
	predictions := b.Reference
	if predictions == nil {
		predictions = b.Small
	}
	for k, run := range b.Runs {
		to := b.Rows
		if k+1 < len(b.Runs) {
			to = b.Runs[k+1].Row
		}
		a.count(predictions[run.Row:to], b.Real[run.Row:to])
	}
}

// work lends the sentence an analyst.
func (p *planner) work(s *sentence) *worked {
	a := <-p.analysts
	defer func() { p.analysts <- a }()
	return a.work(s)
}

// collect takes the sentences' results in the table's order.
func (p *planner) collect(w *worked) error {
	if w.err != nil {
		return w.err
	}
	p.estimate.Sentences++
	p.print.Write(w.digest[:])
	if w.tooLong != nil {
		p.estimate.TooLong = append(p.estimate.TooLong, *w.tooLong)
	}
	if w.packed != nil {
		at, err := p.spool.add(w.packed)
		if err != nil {
			return err
		}
		w.planned.at, w.planned.size = at, int32(len(w.packed))
		p.all = append(p.all, w.planned)
		p.estimate.Mismatches += int64(w.planned.mismatches)
	}
	if p.dryRun {
		return nil
	}
	return p.out.add(w)
}

// sum brings the analysts' tallies together and checks what they found.
func (p *planner) sum() error {
	var cost [2]float64
	for range cap(p.analysts) {
		a := <-p.analysts
		p.total.add(&a.tally)
	}
	if found := p.total.agreement.alignment(); p.Settings.Alignment == alignAuto && found != p.settings.Alignment {
		return fmt.Errorf("the head of the table says --alignment %s, the whole table does not: %w", p.settings.Alignment, p.total.agreement.unclear())
	}
	p.print.Write(p.total.histogramBytes())
	for i := range cost {
		cost[i] = p.total.cost[i] / 1e9
		p.estimate.GPUHours[i] = cost[i] / 3600
	}
	e := &p.estimate
	e.Rows, e.Positions, e.Padding, e.Work = p.stitcher.rows, p.total.positions, p.total.padding, p.total.work
	e.Skipped, e.Spool = len(p.stitcher.skipped), p.spool.size
	e.Shards = p.shards(cost[0] + cost[1])
	for _, s := range balance(p.all, e.Shards) {
		e.Largest = max(e.Largest, costOf(s))
	}
	return p.spool.flush()
}

func costOf(s []planned) float64 {
	sum := 0.0
	for _, x := range s {
		sum += x.cost
	}
	return sum
}

// shards is how many shards there are: never one without a sentence.
func (p *planner) shards(seconds float64) int {
	n := p.Shards.Count
	if n == 0 {
		n = int(math.Ceil(seconds / p.Shards.Seconds))
	}
	return min(max(n, 1), len(p.all))
}

func (p *planner) fingerprint() string { return hex.EncodeToString(p.print.Sum(nil)) }

// add sums two tallies.
func (t *tally) add(b *tally) {
	t.agreement.add(b.agreement)
	t.positions += b.positions
	t.padding += b.padding
	t.tooLong += b.tooLong
	t.longest = max(t.longest, b.longest)
	for i := range t.work {
		t.work[i].add(b.work[i])
		t.cost[i] += b.cost[i]
	}
	for i := range t.histograms {
		for j := range t.histograms[i] {
			for k, v := range b.histograms[i][j] {
				t.histograms[i][j][k] += v
			}
		}
	}
}

func (t *tally) histogramBytes() []byte {
	b, err := json.Marshal(t.histograms)
	if err != nil {
		panic(err) // numbers only
	}
	return b
}
