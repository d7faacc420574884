package shard

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"hash"
	"iter"
	"log/slog"
	"math"
	"runtime"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/ordered"
	"tokenfork/internal/store"
	"tokenfork/internal/table"
)

// planner is one planning under way.
type planner struct {
	Options
	settings job.Settings // with what the table settled
	writes   bool         // not a dry run, nor a look at whether a job is the same
	before   *job.Job     // the job that is there already, or nil
	offset   int          // of a row's prediction from the row: 1 under next, 0 under same
	classes  []uint8
	texts    *texts

	stitcher    *stitcher
	analysts    chan *analyst
	spool       *spool
	out         *outputs
	all         []planned
	split       [][]planned // the shards, of a job that grows the new ones
	cost        [2]float64  // of the split, in GPU nanoseconds by side
	fingerprint hash.Hash   // of the input
	total       tally
	estimate    Estimate
	told        time.Time // of the last line about progress
}

// Plan reads the table, writes the job and returns it. If the same job is there
// already, it is returned and nothing is written; if another one is, it is an error.
func Plan(ctx context.Context, o Options) (*job.Job, *Estimate, error) {
	before, err := existing(ctx, o.Store)
	if err != nil {
		return nil, nil, err
	}
	p := newPlanner(o)
	p.before, p.writes = before, before == nil || o.Grow
	defer p.close()
	if o.Grow {
		if err := p.growable(); err != nil {
			return nil, nil, err
		}
	} else if p.writes {
		if err := store.Probe(ctx, o.Store); err != nil {
			return nil, nil, err
		}
	}
	if err := p.read(ctx); err != nil {
		return nil, nil, err
	}
	if before != nil && !o.Grow {
		p.estimate.Planned = true
		return before, &p.estimate, p.sameShards()
	}
	if p.estimate.Planned = len(p.split) == 0 && o.Grow; p.estimate.Planned {
		return before, &p.estimate, nil
	}
	j, err := p.commit(ctx)
	return j, &p.estimate, err
}

// DryRun reads the table and says what planning it would come to.
func DryRun(ctx context.Context, o Options) (*Estimate, error) {
	p := newPlanner(o)
	defer p.close()
	if o.Grow {
		var err error
		if p.before, err = existing(ctx, o.Store); err == nil {
			err = p.growable()
		}
		if err != nil {
			return nil, err
		}
	}
	return &p.estimate, p.read(ctx)
}

func newPlanner(o Options) *planner {
	p := &planner{Options: o, settings: o.Settings, fingerprint: sha256.New(), told: time.Now()}
	if p.Logger == nil {
		p.Logger = slog.New(slog.DiscardHandler)
	}
	vocab := max(o.Models[job.Small].VocabSize, o.Models[job.Reference].VocabSize)
	p.classes = classes(o.Tokenizer, vocab)
	p.texts = newTexts(o.Tokenizer, vocab)
	return p
}

func (p *planner) close() {
	if p.spool != nil {
		p.spool.remove()
	}
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
	if err := p.prepare(ctx, r); err != nil {
		return err
	}
	workers := runtime.GOMAXPROCS(0)
	p.analysts = make(chan *analyst, workers)
	for range workers {
		a, err := newAnalyst(p)
		if err != nil {
			return err
		}
		p.analysts <- a
	}
	if err := ordered.Map(ctx, workers, p.stitcher.texts(follow(head, next)), p.work, p.collect); err != nil {
		return err
	}
	for _, doubt := range r.Doubts() {
		p.Logger.Warn(doubt)
	}
	return p.sum()
}

func (p *planner) request() table.Request {
	s := &p.settings
	return table.Request{Layout: s.Layout, Small: s.Small, Reference: s.Reference, SentenceIDType: s.SentenceIDType,
		VocabSize:     [2]int{p.Models[job.Small].VocabSize, p.Models[job.Reference].VocabSize},
		NeedReference: s.Trajectories != job.Real, ExactMeasures: s.Trajectories == job.Real}
}

// headRows are read before anything is decided.
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
		return nil, failure.New(failure.Refused, "check that this is the right file and that it is complete", "%s has a header but no rows", p.Sources[0].Name)
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

// settle fills the settings that the table decides, and compares them with
// those of the job that is there.
func (p *planner) settle(r *table.Reader, head []*table.Batch) error {
	schema, s := r.Schema(), &p.settings
	s.Layout, s.Small, s.Reference = schema.Layout, schema.Small, schema.Reference
	s.SentenceIDType = r.Request().SentenceIDType
	first := firstPosition(head)
	s.FirstPosition = int(max(first, 0))
	p.stitcher = &stitcher{skipBad: s.OnBadText == "skip", firstPosition: first, seen: newSeen()}
	if s.Alignment == alignAuto {
		var a agreement
		for _, b := range head {
			a.countBatch(b)
		}
		if s.Alignment = a.alignment(); s.Alignment == "" {
			return cmp.Or(p.stitcher.problem(head), a.unclear()) // texts in disorder look unclear
		}
	}
	p.offset = s.PredictionOffset()
	if !schema.HasTypes {
		p.Logger.Warn("the table has no token_type: mismatches in prompts count too")
	}
	if p.before != nil {
		return p.same()
	}
	return nil
}

// firstPosition is where most texts of the head begin, 0 or 1; where as many begin at
// either 0, since a lost first row makes a 1 of it. It is -1 if none begins at either.
func firstPosition(head []*table.Batch) int64 {
	var n starts
	last := ""
	for i, b := range head {
		for k, run := range b.Runs {
			if i == 0 || k > 0 || run.ID != last {
				n.count(run.Position)
			}
			last = run.ID
		}
	}
	return n.most()
}

// starts counts texts that begin at 0 and at 1.
type starts [2]int64

func (n *starts) count(position int64) {
	if position == 0 || position == 1 {
		n[position]++
	}
}

func (n *starts) most() int64 {
	switch {
	case n[0]+n[1] == 0:
		return -1
	case n[1] > n[0]:
		return 1
	}
	return 0
}

// prepare makes what the job's files are written through.
func (p *planner) prepare(ctx context.Context, r *table.Reader) (err error) {
	if !p.writes {
		return nil
	}
	if p.spool, err = newSpool(p.Tmp); err != nil {
		return err
	}
	p.spool.announce(p.Logger, r.RowsExpected())
	if p.Grow {
		return nil // the files of the table are there
	}
	p.out, err = openOutputs(ctx, p.Store, p.settings.SentenceIDType == table.Int64)
	return err
}

// work lends the sentence an analyst.
func (p *planner) work(s *text) *worked {
	a := <-p.analysts
	defer func() { p.analysts <- a }()
	return a.work(s)
}

// collect takes the texts' results in the table's order.
func (p *planner) collect(w *worked) error {
	defer allWorked.Put(w)
	if w.err != nil {
		return w.err
	}
	p.fingerprint.Write(w.digest[:])
	e := &p.estimate
	e.Texts++
	e.Mismatches += int64(w.planned.mismatches)
	if w.tooLong != nil {
		e.TooLong = append(e.TooLong, *w.tooLong)
	}
	p.tell()
	if p.out != nil {
		if err := p.out.add(w); err != nil {
			return err
		}
	}
	if w.planned.mismatches == 0 {
		return nil
	}
	if p.writes {
		at, err := p.spool.add(w.packed)
		if err != nil {
			return err
		}
		w.planned.at, w.planned.size = at, int32(len(w.packed))
	}
	p.all = append(p.all, w.planned)
	return nil
}

// tell logs now and then how far planning is.
func (p *planner) tell() {
	if now := time.Now(); now.Sub(p.told) > 30*time.Second {
		p.told = now
		p.Logger.Info("planning", "sentences", p.estimate.Texts, "mismatches", p.estimate.Mismatches)
	}
}

// sum brings the analysts' tallies together, checks what they found, and splits
// the texts out.
func (p *planner) sum() error {
	for range cap(p.analysts) {
		p.total.add(&(<-p.analysts).tally)
	}
	if p.Settings.Alignment == alignAuto && p.total.agreement.alignment() != p.settings.Alignment {
		return fmt.Errorf("the head of the table says --alignment %s, the whole table does not: %w", p.settings.Alignment, p.total.agreement.unclear())
	}
	if err := p.checkTexts(); err != nil {
		return err
	}
	histograms, err := json.Marshal(p.total.histograms)
	if err != nil {
		return fmt.Errorf("hash the histograms: %w", err)
	}
	p.fingerprint.Write(histograms)
	e, t := &p.estimate, &p.total
	e.Rows, e.Positions, e.Padding, e.Skipped = p.stitcher.rows, t.positions, t.padding, p.stitcher.skipped
	e.Longest = t.longest
	e.Alignment, e.Evidence = p.settings.Alignment, t.agreement.evidence()
	if p.before != nil {
		if err := p.sameTable(); err != nil {
			return err
		}
	}
	chosen, err := p.choose()
	if err != nil {
		return err
	}
	ends := 0.0 // of a shard, on the sides that have work
	for side := range p.cost {
		if p.cost[side] > 0 {
			ends += p.Throughput[side].End
		}
	}
	e.Shards = min(p.shards((p.cost[0]+p.cost[1])/1e9, ends), len(chosen))
	for side := range p.cost {
		if p.cost[side] > 0 {
			p.cost[side] += float64(e.Shards) * p.Throughput[side].End * 1e9
		}
		e.GPUHours[side] = p.cost[side] / 1e9 / 3600
	}
	p.split = balance(chosen, e.Shards)
	for _, s := range p.split {
		e.Largest = max(e.Largest, costOf(s)+ends)
	}
	if !p.writes {
		return nil
	}
	e.Spool = p.spool.size
	return p.spool.flush()
}

// checkTexts looks at what only the whole table can show of its texts.
func (p *planner) checkTexts() error {
	st := p.stitcher
	if most := st.starts.most(); most >= 0 && most != st.firstPosition {
		return failure.New(failure.Refused, "number the positions of all texts from 0, or all from 1",
			"at the head of the table most texts begin at position %d, in the whole table %d begin at 0 and %d at 1", st.firstPosition, st.starts[0], st.starts[1])
	}
	overlapping, err := st.rowIDs.check(&st.seen)
	if err != nil {
		return err
	}
	if overlapping != nil {
		p.Logger.Warn("row_ids of several texts are mixed: whether one is in two texts is not checked", "texts", overlapping)
	}
	return nil
}

// shards is how many shards are asked for, where each takes ends beyond its part of the seconds.
func (p *planner) shards(seconds, ends float64) int {
	n := p.Shards.Count
	if n == 0 { // one that is asked to be little more than its end is at least half work
		n = int(math.Ceil(seconds / max(p.Shards.Cost-ends, p.Shards.Cost/2)))
	}
	return max(n, 1)
}

// add sums two tallies.
func (t *tally) add(b *tally) {
	t.agreement.add(b.agreement)
	t.positions += b.positions
	t.padding += b.padding
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
