package shard

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/store"
	"tokenfork/internal/table"
)

// heldIn are the ids of the texts in each of a job's shards.
func heldIn(t *testing.T, o Options, j *job.Job) [][]string {
	t.Helper()
	var all [][]string
	for k, said := range j.Shards {
		m, err := job.OpenManifest(t.Context(), o.Store, k)
		if err != nil {
			t.Fatal(err)
		}
		if m.Shard != said || m.ID != j.ID {
			t.Errorf("shard %d: the manifest says %+v of job %s, job.json %+v of %s", k, m.Shard, m.ID, said, j.ID)
		}
		var ids []string
		for x, err := range m.Texts() {
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, x.ID)
		}
		all = append(all, ids)
	}
	return all
}

// shuffled is the table with its texts in another order.
func shuffled(csv string) string {
	head, body, _ := strings.Cut(csv, "\n")
	texts := map[string][]string{}
	at := slices.Index(strings.Split(head, ","), "1.5_sentence_id")
	for line := range strings.Lines(body) {
		id := strings.Split(line, ",")[at]
		texts[id] = append(texts[id], line)
	}
	ids := slices.Sorted(maps.Keys(texts))
	rand.New(rand.NewPCG(1, 1)).Shuffle(len(ids), func(i, k int) { ids[i], ids[k] = ids[k], ids[i] })
	b := head + "\n"
	for _, id := range ids {
		b += strings.Join(texts[id], "")
	}
	return b
}

func sampled(t *testing.T, source table.Source, s Sample) (Options, *job.Job) {
	t.Helper()
	o := options(t, 1000, source)
	o.Sample, o.Shards.Count = s, 2
	j, _, err := Plan(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return o, j
}

// TestSample takes the texts of the lowest ranks: a larger sample has all of a smaller one's,
// and the order of the table plays no part.
func TestSample(t *testing.T) {
	csv := generated(t, 9_000, 200, 1000)
	o, all := sampled(t, inMemory("a", csv), Sample{})
	want := slices.Concat(heldIn(t, o, all)...)
	slices.SortFunc(want, func(a, b string) int {
		if job.SampleRank(a) < job.SampleRank(b) {
			return -1
		}
		return 1
	})
	if len(want) < 50 || all.Sample != nil {
		t.Fatalf("%d texts, sample %v", len(want), all.Sample)
	}
	for _, c := range []struct {
		sample Sample
		texts  int
	}{{Sample{Share: 1e-9}, 1}, {Sample{Share: 0.1}, (len(want) + 9) / 10}, {Sample{Texts: 31}, 31}, {Sample{Texts: 1 << 40}, len(want)}, {Sample{Share: 1}, len(want)}} {
		for _, table := range []string{csv, shuffled(csv)} {
			o, j := sampled(t, inMemory("a", table), c.sample)
			got := slices.Concat(heldIn(t, o, j)...)
			slices.Sort(got)
			if w := slices.Sorted(slices.Values(want[:c.texts])); !slices.Equal(got, w) {
				t.Errorf("%+v: texts %v, want %v", c.sample, got, w)
			}
			if s := j.Sample; c.texts == len(want) {
				if s != nil {
					t.Errorf("%+v: all texts are %+v", c.sample, s)
				}
			} else if s.Texts != int64(c.texts) || s.OfTexts != int64(len(want)) || s.OfMismatches != all.Mismatches || !s.Partial() || len(s.Steps) != 1 {
				t.Errorf("%+v: %+v, want %d of %d texts with %d mismatches", c.sample, s, c.texts, len(want), all.Mismatches)
			}
		}
	}
}

// contents are a job's objects but job.json.
func contents(t *testing.T, s store.Store) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for o, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		b, err := store.ReadAll(t.Context(), s, o.Key)
		if err != nil {
			t.Fatal(err)
		}
		if o.Key != job.Key {
			all[o.Key] = b
		}
	}
	return all
}

// TestGrow grows a sample twice. What was there stays as it is, each text is planned once, and a
// growth that was interrupted goes on.
func TestGrow(t *testing.T) {
	csv := generated(t, 9_000, 200, 1000)
	whole, all := sampled(t, inMemory("a", csv), Sample{})
	o, _ := sampled(t, inMemory("a", csv), Sample{Texts: 10})
	o.Grow = true
	for _, to := range []Sample{{Texts: 40}, {}, {}} {
		before, jobBefore := contents(t, o.Store), readJob(t, o.Store)
		o.Sample = to
		planned, err := DryRun(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		j, e, err := Plan(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if planned.Mismatches != e.Mismatches || planned.Work != e.Work || planned.Shards != e.Shards {
			t.Errorf("a dry run gives %+v, planning %+v", planned, e)
		}
		after := contents(t, o.Store)
		for key, b := range before {
			if !bytes.Equal(after[key], b) {
				t.Errorf("growing to %+v changed %s", to, key)
			}
		}
		grown := readJob(t, o.Store)
		if err := store.ReplaceBytes(t.Context(), o.Store, job.Key, jobBefore); err != nil { // as if it had been killed before its last step
			t.Fatal(err)
		}
		if _, _, err := Plan(t.Context(), o); err != nil {
			t.Errorf("grow again: %v", err)
		}
		if !bytes.Equal(readJob(t, o.Store), grown) {
			t.Errorf("a growth that was interrupted makes another job.json")
		}
		ids := slices.Concat(heldIn(t, o, j)...)
		slices.Sort(ids)
		if n := len(ids); int64(n) != j.Sample.Texts || len(slices.Compact(ids)) != n {
			t.Errorf("%d texts, %d different ones: %+v", n, len(slices.Compact(ids)), j.Sample)
		}
	}
	j, err := job.Load(t.Context(), o.Store)
	if err != nil {
		t.Fatal(err)
	}
	got, want := slices.Sorted(slices.Values(slices.Concat(heldIn(t, o, j)...))), slices.Sorted(slices.Values(slices.Concat(heldIn(t, whole, all)...)))
	if !slices.Equal(got, want) || j.ID != all.ID || j.Mismatches != all.Mismatches || j.Longest != all.Longest || j.Sample.Partial() || len(j.Sample.Steps) != 3 {
		t.Errorf("%d texts of job %s with %d mismatches, %+v; planned whole: %d of %s with %d", len(got), j.ID, j.Mismatches, j.Sample, len(want), all.ID, all.Mismatches)
	}
	if hours := j.Cost[0] + j.Cost[1] - all.Cost[0] - all.Cost[1]; hours > 1e-6 || hours < -1e-6 {
		t.Errorf("it costs %v, planned whole %v", j.Cost, all.Cost)
	}
}

func readJob(t *testing.T, s store.Store) []byte {
	t.Helper()
	b, err := store.ReadAll(t.Context(), s, job.Key)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestSampleRefused refuses what a job is not, and says which flag goes on.
func TestSampleRefused(t *testing.T) {
	csv := generated(t, 6_000, 200, 1000)
	for _, c := range []struct {
		name, want, hint string
		change           func(*Options)
	}{
		{"a smaller one", "holds 10 texts already, more than 5", "another place", func(o *Options) { o.Grow, o.Sample.Texts = true, 5 }},
		{"another sample", "holds 10 of 43 texts with mismatches, asked for are 12", "--sample 10", func(o *Options) { o.Sample.Texts = 12 }},
		{"no sample", "asked for are 43", "--grow", func(o *Options) { o.Sample = Sample{} }},
		{"another table", "planned from another table", "another place", func(o *Options) {
			o.Grow, o.Sample = true, Sample{}
			o.Sources = []table.Source{inMemory("b", generated(t, 6_200, 200, 1000))}
		}},
		{"other settings", "max_new_tokens is 128 there, 64 now", "settings of the job", func(o *Options) { o.Grow, o.Sample, o.Settings.MaxNewTokens = true, Sample{}, 64 }},
		{"no job", "no job", "--sample", func(o *Options) { o.Grow, o.Store = true, folder(t) }},
		{"a growth beside another", "running or was interrupted", "same flags", func(o *Options) {
			o.Grow, o.Sample.Texts = true, 20
			if err := store.CreateBytes(t.Context(), o.Store, job.ManifestKey(2), []byte("another growth's")); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		o, _ := sampled(t, inMemory("a", csv), Sample{Texts: 10})
		before := readJob(t, o.Store)
		there := o.Store
		c.change(&o)
		_, _, err := Plan(t.Context(), o)
		if failure.Code(err) != failure.Refused || !strings.Contains(err.Error(), c.want) || !strings.Contains(failure.Hint(err), c.hint) {
			t.Errorf("%s: %v (%s)", c.name, err, failure.Hint(err))
		}
		if !bytes.Equal(readJob(t, there), before) {
			t.Errorf("%s: job.json changed", c.name)
		}
	}
}
