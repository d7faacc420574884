package judge

import (
	"strings"
	"testing"

	"tokenfork/internal/job"
	"tokenfork/internal/job/jobtest"
)

// Neighbours in a text share all but the end of their prompts.
func TestPrefixes(t *testing.T) {
	var p prefixes
	head := strings.Repeat("h", 640)
	for _, prompt := range []string{head + "a", head + "b", head + strings.Repeat("b", 100), head + strings.Repeat("b", 90) + "c"} {
		p.add(prompt)
	}
	const want = 641 + 1 + 100 + (91 - 64)
	if p.fresh != want || p.all != 641+641+740+731 || p.ideal(2*p.all) != 2*want {
		t.Errorf("%d of %d bytes, ideal %d; want %d", p.fresh, p.all, p.ideal(2*p.all), want)
	}
}

// A server with larger blocks keeps less of what two prompts share.
func TestPrefixesInBlocks(t *testing.T) {
	for tokens, fresh := range map[int]int64{0: 641 + 1, 16: 641 + 1, 32: 641 + 1, 48: 641 + 641 - 576, 512: 641 + 641} {
		var p prefixes
		p.inBlocksOf(tokens)
		head := strings.Repeat("h", 640)
		p.add(head + "a")
		p.add(head + "b")
		if p.fresh != fresh {
			t.Errorf("blocks of %d tokens: %d bytes are new, want %d", tokens, p.fresh, fresh)
		}
	}
}

// What all questions share comes first and what one text's share comes next,
// so that a prefix cache leaves at most half of what the study's own layout did.
func TestPromptsShareTheirBeginnings(t *testing.T) {
	var now, before prefixes
	s := jobtest.Large(t, 2, 1)
	r, err := newRunner(t.Context(), &Options{Store: s, Settings: Defaults()})
	if err != nil {
		t.Fatal(err)
	}
	old := oldPrompt(t, "seed-1")
	run, err := r.shardRun(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	for x, err := range run.manifest.Texts() {
		if err != nil {
			t.Fatal(err)
		}
		rows, err := run.results.Rows(t.Context(), x)
		if err != nil {
			t.Fatal(err)
		}
		for i := range rows {
			q := r.framer.Question(x, &rows[i])
			for p, to := range map[*Prompt]*prefixes{r.prompt: &now, old: &before} {
				text, err := p.Render(q, Defaults(), job.Sides)
				if err != nil {
					t.Fatal(err)
				}
				to.add(text)
			}
		}
	}
	if 2*now.fresh > before.fresh {
		t.Errorf("%d of %d bytes are new in each prompt, before %d of %d", now.fresh, now.all, before.fresh, before.all)
	}
	t.Logf("new: %d of %d bytes, before %d of %d", now.fresh, now.all, before.fresh, before.all)
}
