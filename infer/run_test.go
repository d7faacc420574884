package infer_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tokenfork/infer"
	"tokenfork/internal/failure"
	"tokenfork/internal/fleet"
	"tokenfork/internal/job"
	"tokenfork/internal/model"
	"tokenfork/internal/store"
	"tokenfork/internal/table"
	"tokenfork/internal/tokenizer"
	"tokenfork/internal/vllm/fakevllm"
	"tokenfork/shard"
)

const (
	words    = 30 // ids 0 to 29
	fullStop = 30
	eos      = 31
	padding  = 33 // of the small model alone
	shards   = 3
)

// models are a pair that differs after one prefix in four.
var models = func() [2]fakevllm.Model {
	m := fakevllm.Model{Seed: 7, EOS: []int32{eos}}
	for i := range words {
		m.Pieces = append(m.Pieces, fmt.Sprint(" w", i))
	}
	m.Pieces, m.AddedFrom = append(m.Pieces, ".", "<eos>"), eos
	small := m
	small.Apart, small.Vocab = 99, padding+1
	return [2]fakevllm.Model{small, m}
}()

// planned is a job over a random table, planned for the fake models.
type planned struct {
	store   store.Store
	shards  int
	folders [2]string
	texts   [][]int32
	log     *bytes.Buffer
}

func plan(t *testing.T, change func(*job.Settings)) *planned {
	t.Helper()
	return planOver(t, shards, change)
}

func planOver(t *testing.T, n int, change func(*job.Settings)) *planned {
	t.Helper()
	dir := t.TempDir()
	j := &planned{shards: n, log: new(bytes.Buffer)}
	text := j.table()
	o := shard.Options{Shards: shard.Shards{Count: n}, Throughput: [2]shard.Throughput{{Prefill: 1e4, Decode: 1e3}, {Prefill: 1e4, Decode: 1e3}}, Tmp: dir,
		Settings: job.Settings{Alignment: "next", Trajectories: job.Own, Replay: true, Ends: tokenizer.DefaultEnds, MaxNewTokens: 12, TopP: 1}}
	if change != nil {
		change(&o.Settings)
	}
	var err error
	if j.store, err = store.Open(t.Context(), filepath.Join(dir, "job"), store.Options{}); err != nil {
		t.Fatal(err)
	}
	o.Store = j.store
	o.Sources = []table.Source{{Name: "table.csv", Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text)), nil }}}
	var tok *tokenizer.Tokenizer
	for side := range models {
		j.folders[side] = filepath.Join(dir, job.Side(side).String())
		models[side].Write(t, j.folders[side])
		m, err := model.Load(j.folders[side])
		if err != nil {
			t.Fatal(err)
		}
		o.Models[side] = job.Model{Name: j.folders[side], Fingerprint: m.Fingerprint(), VocabSize: m.VocabSize, MaxPositions: m.MaxPositions}
		if tok, err = tokenizer.Load(m.TokenizerPath); err != nil {
			t.Fatal(err)
		}
	}
	o.Tokenizer = tok
	if o.Ends, err = tokenizer.NewEnds(tok, o.Settings.Ends, []int32{eos}, false); err != nil {
		t.Fatal(err)
	}
	if _, _, err := shard.Plan(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	return j
}

// table has texts that follow the models, each prefix of a block of 4 and more.
func (j *planned) table() []byte {
	r := rand.New(rand.NewPCG(1, 2))
	b := bytes.NewBufferString("row_id,data_id,token_id,real_token,token_type,SLM_predictions,LLM_predictions\n")
	row := 0
	for n := range 6 {
		var real []int32
		for q := range 60 {
			next := models[r.IntN(2)].Next(real)
			if next > eos { // the reference does not know the padding
				next = int32(r.IntN(words))
			}
			real = append(real, next)
			fmt.Fprintf(b, "%d,%d,%d,%d,1,%d,%d\n", row, n, q, next, models[0].Next(real), models[1].Next(real))
			row++
		}
		j.texts = append(j.texts, real)
	}
	return b.Bytes()
}

// options are for servers that show the faults, one a side.
func (j *planned) options(t *testing.T, faults ...fakevllm.Fault) infer.Options {
	t.Helper()
	o := j.plain()
	for side := range models {
		o.Servers[side].URLs = []string{fakevllm.Serve(t, fakevllm.Config{Model: models[side], BlockSize: 4, Faults: faults}).URL}
	}
	return o
}

func (j *planned) plain() infer.Options {
	share := 0.2
	var mu sync.Mutex
	log := slog.New(slog.NewTextHandler(writer(func(b []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return j.log.Write(b)
	}), nil))
	return infer.Options{Store: j.store, InFlight: 8, PartEvery: time.Millisecond, Grace: 100 * time.Millisecond, Stall: time.Minute,
		MinAgreement: 0.95, AuditShare: &share, Who: job.Attempt{Host: "h"}, Log: log, Console: io.Discard}
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }

// rows are the committed continuations, and the counters of their commits.
func (j *planned) rows(t *testing.T) (rows []job.Continuation, counters job.Counters) {
	t.Helper()
	counters = job.Counters{}
	for k := range j.shards {
		m, err := job.OpenManifest(t.Context(), j.store, k)
		if err != nil {
			t.Fatal(err)
		}
		for _, side := range m.Settings.Servers() {
			c, err := job.OpenCommitted[job.Continuation](t.Context(), j.store, job.Task{Stage: "infer", Shard: k, Side: side.String(), Manifest: m.Shard.SHA256})
			if err != nil {
				t.Fatal(err)
			}
			counters.Add(c.Commit().Counters)
			for x, err := range m.Texts() {
				if err != nil {
					t.Fatal(err)
				}
				own, err := c.Text(t.Context(), x.Ordinal)
				if err != nil {
					t.Fatal(err)
				}
				rows = append(rows, own...)
			}
		}
	}
	return rows, counters
}

// check compares all continuations with the models' own, but those of the classes.
func (j *planned) check(t *testing.T, classes ...string) map[string]int {
	t.Helper()
	rows, _ := j.rows(t)
	failed := map[string]int{}
	for _, c := range rows {
		if c.Error != nil {
			failed[*c.Error]++
			continue
		}
		prefix := append(slices.Clone(j.texts[c.Ordinal][:c.Position]), c.IDs[0])
		want := c.IDs[:1:1]
		for last := c.IDs[0]; last != fullStop && last != eos && len(want) <= 12; {
			last = models[c.Fork].Next(prefix)
			if last == eos {
				break
			}
			prefix, want = append(prefix, last), append(want, last)
		}
		if !slices.Equal(c.IDs, want) {
			t.Fatalf("text %d, position %d, fork %d: %v, want %v", c.Ordinal, c.Position, c.Fork, c.IDs, want)
		}
	}
	for class := range failed {
		if !slices.Contains(classes, class) {
			t.Errorf("failed forks: %v", failed)
		}
	}
	if len(rows) < 50 {
		t.Errorf("%d rows: the table does not exercise it", len(rows))
	}
	return failed
}

// wants runs infer and wants an error of the code and words, none for 0.
func wants(t *testing.T, o infer.Options, code int, words string) {
	t.Helper()
	wantsIn(t.Context(), t, o, code, words)
}

func wantsIn(ctx context.Context, t *testing.T, o infer.Options, code int, words string) {
	t.Helper()
	err := infer.Run(ctx, o)
	if got := failure.Code(err); err == nil && code != 0 || err != nil && got != code || err != nil && !strings.Contains(err.Error()+failure.Hint(err), words) {
		t.Fatalf("infer ended with %v (code %d), want code %d with %q", err, got, code, words)
	}
}

func TestRun(t *testing.T) {
	t.Parallel()
	j := plan(t, nil)
	o := j.options(t)
	o.Servers[job.Small].URLs = append(o.Servers[job.Small].URLs, fakevllm.Serve(t, fakevllm.Config{Model: models[job.Small], BlockSize: 4, Old: true}).URL)
	wants(t, o, 0, "")
	j.check(t)
	_, c := j.rows(t)
	for _, name := range []string{job.Requests, job.ReplayedTokens, job.SharedTokens, infer.Probed, infer.Audited} {
		if c[name] == 0 {
			t.Errorf("counter %s is 0: %v", name, c)
		}
	}
	if c[infer.Audited] != c[infer.AuditAgreed] || c[infer.Probed] != c[infer.ProbesAgreed] {
		t.Errorf("counters %v", c)
	}
	wants(t, o, 0, "")
	if !strings.Contains(j.log.String(), "nothing to do") {
		t.Errorf("a finished job is worked on again:\n%s", j.log)
	}
}

// A text is computed once: what one server of a side computes is what is ideal,
// but for the probes and audits.
func TestComputedOnce(t *testing.T) {
	t.Parallel()
	j := plan(t, func(s *job.Settings) { s.Replay = false })
	wants(t, j.options(t), 0, "")
	j.check(t)
	if _, c := j.rows(t); c[job.ComputedTokens] > c[job.IdealTokens]+4*c[infer.Probed] { // a probe computes a block of 4
		t.Errorf("%d tokens computed, ideal are %d", c[job.ComputedTokens], c[job.IdealTokens])
	}
}

func TestSampledRunsAreRepeated(t *testing.T) {
	t.Parallel()
	sampled := func(s *job.Settings) { s.Temperature, s.Seed, s.Margins = 1, 5, true }
	a, b := plan(t, sampled), plan(t, sampled)
	wants(t, a.options(t), 0, "")
	o := b.options(t, fakevllm.Fault{Kind: fakevllm.Late, Every: 3, For: 20 * time.Millisecond})
	wants(t, o, 0, "")
	first, _ := a.rows(t)
	second, _ := b.rows(t)
	x, y := marshal(t, first), marshal(t, second)
	if x != y {
		t.Error("two runs with one seed differ")
	}
}

func marshal(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// What goes wrong on the way changes no continuation.
func TestPassingFaults(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]fakevllm.Fault{
		"late":                     {Kind: fakevllm.Late, Every: 4, For: 30 * time.Millisecond},
		"slow":                     {Kind: fakevllm.Slow, Every: 8, For: 100 * time.Millisecond},
		"500 once":                 {Kind: fakevllm.Refuse, Status: 500, Every: 5, Times: 1},
		"429 a few times":          {Kind: fakevllm.Refuse, Status: 429, Every: 9, Times: 4},
		"cut":                      {Kind: fakevllm.Cut, Every: 6, Times: 1},
		"gone for a while":         {Kind: fakevllm.Die, For: 200 * time.Millisecond, After: 30, Most: 1},
		"gone twice at one prompt": {Kind: fakevllm.Die, For: 20 * time.Millisecond, Every: 30, Times: 2, After: 4},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := plan(t, nil)
			o := j.options(t, f)
			if f.Times == 2 { // else what was in flight at two deaths of other prompts is set aside after two of its own
				o.InFlight = 1
			}
			wants(t, o, 0, "")
			j.check(t)
		})
	}
}

// What can't be had is listed by its class, and had where the server is well again.
func TestFailedForks(t *testing.T) {
	t.Parallel()
	for class, f := range map[string]fakevllm.Fault{
		fleet.ClassRefused:             {Kind: fakevllm.Refuse, Status: 422, Every: 8, After: 80},
		fleet.ClassServer:              {Kind: fakevllm.Refuse, Status: 503, Every: 20, After: 80},
		fleet.ClassServer + " id":      {Kind: fakevllm.WrongID, Every: 8, After: 80},
		fleet.ClassServer + " end":     {Kind: fakevllm.WrongEnd, Every: 8, After: 80},
		fleet.ClassServer + " endless": {Kind: fakevllm.Endless, Every: 8, After: 80},
		fleet.ClassServerCrash:         {Kind: fakevllm.Die, For: 10 * time.Millisecond, Every: 30, After: 80},
		fleet.ClassContextLength:       {Kind: fakevllm.Short, Every: 8, After: 80},
	} {
		t.Run(class, func(t *testing.T) {
			t.Parallel()
			class, _, _ = strings.Cut(class, " ")
			j := planOver(t, 1, func(s *job.Settings) { s.Replay = false }) // what a probe meets ends the task: they come first
			o := j.options(t, f)
			o.AuditShare = new(float64)
			wants(t, o, failure.Partial, "forks failed")
			if failed := j.check(t, class, fleet.ClassServer); failed[class] == 0 { // nothing at all is a server's
				t.Errorf("no fork of class %s", class)
			}
			o = j.options(t)
			o.Retry = true
			wants(t, o, 0, "")
			j.check(t)
		})
	}
}

func TestForkThatDoesNotFit(t *testing.T) {
	t.Parallel()
	j := plan(t, nil)
	o := j.plain()
	for side := range models {
		o.Servers[side].URLs = []string{fakevllm.Serve(t, fakevllm.Config{Model: models[side], MaxModelLen: 50}).URL}
	}
	wants(t, o, failure.Partial, "forks failed")
	j.check(t, fleet.ClassContextLength)
}

// A padding id of the small model is none of the reference's.
func TestIDThatTheServerLacks(t *testing.T) {
	t.Parallel()
	j := plan(t, func(s *job.Settings) { s.Trajectories = job.FromReference })
	wants(t, j.options(t), failure.Partial, "forks failed")
	rows, _ := j.rows(t)
	refused := 0
	for _, c := range rows {
		if c.Error != nil {
			refused++
			if *c.Error != fleet.ClassRefused || !strings.Contains(*c.Message, "the served model has 32 ids") {
				t.Errorf("%s: %s", *c.Error, *c.Message)
			}
		}
	}
	if refused == 0 {
		t.Error("no id of the padding was met")
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	other := models[job.Small]
	other.Seed++
	for name, c := range map[string]struct {
		change func(*testing.T, *infer.Options)
		words  string
	}{
		"another model": {func(t *testing.T, o *infer.Options) {
			o.Servers[job.Small].URLs = []string{fakevllm.Serve(t, fakevllm.Config{Model: other}).URL}
		}, "another model"},
		"a smaller vocabulary": {func(t *testing.T, o *infer.Options) {
			o.Servers[job.Small].URLs = []string{fakevllm.Serve(t, fakevllm.Config{Model: models[job.Reference]}).URL}
		}, "does not know token id 33"},
		"servers of two lengths": {func(t *testing.T, o *infer.Options) {
			o.Servers[job.Small].URLs = append(o.Servers[job.Small].URLs, fakevllm.Serve(t, fakevllm.Config{Model: models[job.Small], MaxModelLen: 100}).URL)
		}, "one --max-model-len"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := plan(t, nil)
			o := j.options(t, fakevllm.Fault{Kind: fakevllm.Late, For: 10 * time.Millisecond})
			c.change(t, &o)
			wants(t, o, failure.Refused, c.words)
		})
	}
	t.Run("no URL", func(t *testing.T) {
		t.Parallel()
		o := plan(t, nil).plain()
		o.Servers[job.Small].URLs, o.Servers[job.Reference].URLs = []string{"ftp://x"}, []string{"ftp://y"}
		wants(t, o, failure.Usage, "ftp://")
	})
	t.Run("no job", func(t *testing.T) {
		t.Parallel()
		s, err := store.Open(t.Context(), t.TempDir(), store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		wants(t, infer.Options{Store: s}, failure.Refused, "tokenfork plan")
	})
}

func TestAnotherEngine(t *testing.T) {
	t.Parallel()
	j := plan(t, nil)
	o := j.options(t)
	o.Shards = []int{0}
	wants(t, o, 0, "")
	o = j.plain()
	for side := range models {
		o.Servers[side].URLs = []string{fakevllm.Serve(t, fakevllm.Config{Model: models[side], MaxModelLen: 1000}).URL}
	}
	wants(t, o, failure.Refused, "--allow-mixed-engines")
	o.AllowMixedEngines = true
	wants(t, o, 0, "")
	j.check(t)
}

func TestServersThatStayAway(t *testing.T) {
	t.Parallel()
	t.Run("gone", func(t *testing.T) {
		t.Parallel()
		j := plan(t, nil)
		wants(t, j.options(t, fakevllm.Fault{Kind: fakevllm.Die, After: 60, Most: 1}), failure.Stopped, "has been gone")
		wants(t, j.options(t), 0, "")
		j.check(t)
	})
	t.Run("hung", func(t *testing.T) {
		t.Parallel()
		j := plan(t, nil)
		o := j.options(t, fakevllm.Fault{Kind: fakevllm.Hang, After: 60})
		o.Stall = 300 * time.Millisecond
		wants(t, o, failure.Stopped, "hangs")
		wants(t, j.options(t), 0, "")
		j.check(t)
	})
}

// Told to stop, it keeps what is finished; started again it goes on.
func TestStopped(t *testing.T) {
	t.Parallel()
	j := plan(t, nil)
	o := j.plain()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	for side := range models {
		s := fakevllm.Serve(t, fakevllm.Config{Model: models[side], Faults: []fakevllm.Fault{{Kind: fakevllm.Late, For: 20 * time.Millisecond}}})
		o.Servers[side].URLs = []string{s.URL}
		go func() {
			for ctx.Err() == nil && s.Asked() < 90 {
				time.Sleep(time.Millisecond)
			}
			stop()
		}()
	}
	wantsIn(ctx, t, o, failure.Stopped, "stopped on request")
	wantsIn(ctx, t, j.options(t), failure.Stopped, "stopped on request") // before anything began
	wants(t, j.options(t), 0, "")
	j.check(t)
}

func TestTwoAtOnce(t *testing.T) {
	t.Parallel()
	j := plan(t, nil)
	o := j.options(t, fakevllm.Fault{Kind: fakevllm.Late, For: 5 * time.Millisecond})
	var both sync.WaitGroup
	errs := make([]error, 2)
	for i := range errs {
		both.Go(func() { errs[i] = infer.Run(t.Context(), o) })
	}
	both.Wait()
	if errs[0] != nil || errs[1] != nil {
		t.Errorf("%v, %v", errs[0], errs[1])
	}
	j.check(t)
}
