package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"

	"tokenfork/internal/gpu"
	"tokenfork/internal/job"
	"tokenfork/internal/model"
	"tokenfork/internal/tokenizer"
)

func models(ctx context.Context, o *Options) []Finding {
	planned := o.job(ctx)
	var all []Finding
	for _, side := range job.Sides {
		if o.Models[side] != "" {
			all = append(all, checkModel(side, o, planned)...)
		}
	}
	if o.Judge.Model != "" {
		all = append(all, o.judge()...)
	}
	return all
}

// load reads a model's folder.
func (o *Options) load(side job.Side) (*model.Model, error) { return o.find(o.Models[side]) }

func (o *Options) find(name string) (*model.Model, error) {
	dir, err := model.Resolve(name, o.Env)
	if err != nil {
		return nil, err
	}
	return model.Load(dir)
}

// wholeFolder is what a model is.
const wholeFolder = "give a folder with config.json, tokenizer.json and the weights, as hf download makes it"

// judge looks at a local judge's model, which no job names.
func (o *Options) judge() []Finding {
	m, err := o.find(o.Judge.Model)
	if err != nil {
		return failed("judge model", err, wholeFolder)
	}
	if lacking := weights("judge model", m); lacking != nil {
		return lacking
	}
	return found(OK, "judge model", "", "%s, %d layers, %d positions", m.Dir, m.Layers, m.MaxPositions)
}

// weights are not needed everywhere: a login node has a model without them.
func weights(check string, m *model.Model) []Finding {
	if m.Weights.Source == model.FromHeaders {
		return nil
	}
	return found(Warn, check, "enough for plan; a node that serves the model needs them: hf download, or tokenfork stage", "%s has no weights (safetensors files)", m.Dir)
}

func checkModel(side job.Side, o *Options, planned *job.Job) []Finding {
	check := side.String() + " model"
	m, err := o.load(side)
	if err != nil {
		return failed(check, err, wholeFolder)
	}
	if planned != nil {
		if diff := planned.Models[side].Fingerprint.Diff(m.Fingerprint()); len(diff) > 0 {
			return found(Fail, check, "give the model that the job was planned for: "+planned.Models[side].Name, "%s is not the job's model: %s", m.Dir, strings.Join(diff, "; "))
		}
	}
	if lacking := weights(check, m); lacking != nil {
		return lacking
	}
	if planned != nil && m.MaxPositions > 0 && planned.Longest > m.MaxPositions {
		return found(Warn, check, "infer lists those forks as context_length; leave the texts out of the table if that is not wanted",
			"%s takes %d tokens, the job's longest fork has %d", m.Dir, m.MaxPositions, planned.Longest)
	}
	return found(OK, check, "", "%s, %d layers, %d positions", m.Dir, m.Layers, m.MaxPositions)
}

// tokenizers compares the models' vocabularies, which a comparison of tokens needs to be one.
func tokenizers(_ context.Context, o *Options) []Finding {
	var models [2]*model.Model
	for _, side := range job.Sides {
		m, err := o.load(side)
		if o.Models[side] == "" || err != nil {
			return nil // models has told
		}
		models[side] = m
	}
	if _, err := tokenizer.Shared(models); err != nil {
		return failed("tokenizers", err, "save the tokenizer as a fast one: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)")
	}
	return found(OK, "tokenizers", "", "equal")
}

// usualLongest stands for the longest text where no job tells.
const usualLongest = 8192

// wants are what serving the models takes, of those that can be read.
func (o *Options) wants(ctx context.Context) (needs [2]*gpu.Need) {
	longest, cost, sides := usualLongest, [2]float64{1, 1}, job.Sides[:]
	if planned := o.job(ctx); planned != nil {
		longest, cost, sides = planned.Longest, planned.Cost, planned.Settings.Servers()
	}
	for _, side := range sides {
		if o.Models[side] == "" {
			continue
		}
		if m, err := o.load(side); err == nil { // models has told
			needs[side] = &gpu.Need{Name: side.String(), Model: m, Longest: longest, Cost: cost[side], Args: o.Args[side]}
		}
	}
	if n := needs[job.Reference]; n != nil {
		n.TP = o.TP
	}
	return needs
}

// layout shows where infer, and then the judge, would run their servers on this node, or what
// they would need.
func layout(ctx context.Context, o *Options) []Finding {
	all := arranged(ctx, o.wants(ctx))
	if o.Judge.Model == "" {
		return all
	}
	m, err := o.find(o.Judge.Model)
	if err != nil {
		return all // models has told
	}
	judge := &gpu.Need{Name: "judge", Model: m, Longest: o.Judge.Longest, Cost: 1, TP: o.Judge.TP, Args: o.Judge.Args}
	return append(all, arranged(ctx, [2]*gpu.Need{judge})...)
}

func arranged(ctx context.Context, needs [2]*gpu.Need) []Finding {
	if needs[0] == nil && needs[1] == nil {
		return nil
	}
	for _, n := range needs {
		if n != nil && n.TP > 1 && n.Model.Heads%n.TP != 0 {
			return found(Fail, "layout", fmt.Sprintf("give --%s-tp %s", n.Name, divisors(n.Model.Heads)), "vLLM cannot spread the %d attention heads of the %s model over %d GPUs", n.Model.Heads, n.Name, n.TP)
		}
	}
	devices, err := gpu.Visible(ctx)
	if err != nil {
		return nil // gpus has told
	}
	if len(devices) == 0 {
		return append(needed(needs), hostMemory(needs)...)
	}
	l, err := gpu.Arrange(devices, needs)
	if err != nil {
		return failed("layout", err, "ask for more GPUs, or for larger ones")
	}
	var all []Finding
	for _, line := range l.Lines(needs) {
		all = append(all, found(OK, "layout", "", "%s", line)...)
	}
	for side, servers := range l {
		for _, s := range servers {
			if s.KVTokens > 0 && s.KVTokens < enoughTexts*int64(needs[side].Longest) {
				return append(all, found(Warn, "layout", "give more GPUs (--gpus, --reference-tp, --judge-tp), or run one side at a time (--side)",
					"the %s server's KV cache holds %d tokens, less than %d texts of %d: it will be slow", needs[side].Name, s.KVTokens, enoughTexts, needs[side].Longest)...)
			}
		}
	}
	return all
}

// enoughTexts in the KV cache keep a server busy.
const enoughTexts = 4

// divisors lists the numbers of GPUs that heads can be spread over.
func divisors(heads int) string {
	var all []string
	for n := 1; n <= 8; n++ {
		if heads%n == 0 {
			all = append(all, strconv.Itoa(n))
		}
	}
	return strings.Join(all, ", ")
}

// needed says which GPUs would hold the models, where none is visible.
func needed(needs [2]*gpu.Need) []Finding {
	var fits []string
	for _, gib := range []int64{24, 40, 80, 141} {
		for _, count := range []int{1, 2, 4, 8} {
			devices := make([]gpu.Device, count)
			for i := range devices {
				devices[i] = gpu.Device{Entry: strconv.Itoa(i), MiB: gib << 10}
			}
			fresh := needs
			for i, n := range needs {
				if n != nil {
					again := *n
					fresh[i] = &again
				}
			}
			if _, err := gpu.Arrange(devices, fresh); err == nil {
				fits = append(fits, fmt.Sprintf("%d of %d GiB", count, gib))
				break
			}
		}
	}
	what := "weights of"
	for _, n := range needs {
		if n != nil {
			what += fmt.Sprintf(" %.1f GiB (%s)", float64(n.Model.Weights.Bytes)/(1<<30), n.Name)
		}
	}
	if len(fits) == 0 {
		return found(Fail, "gpu memory", "run one side at a time (--side), or give quantised weights or a shorter --max-model-len", "%s: 8 GPUs of 141 GiB do not hold them with their KV caches", what)
	}
	return found(OK, "gpu memory", "", "%s: GPUs that would do: %s", what, strings.Join(fits, ", or "))
}

var available = regexp.MustCompile(`(?m)^MemAvailable:\s+(\d+) kB$`)

// hostMemory compares the weights with this host's memory, in which vLLM for CPUs runs.
func hostMemory(needs [2]*gpu.Need) []Finding {
	b, err := os.ReadFile("/proc/meminfo")
	m := available.FindSubmatch(b)
	if m == nil {
		return failed("host memory", errors.Join(errors.New("/proc/meminfo does not say how much memory is available"), err), "this node is no usual Linux: expect surprises")
	}
	kib, _ := strconv.ParseInt(string(m[1]), 10, 64)
	weights := int64(0)
	for _, n := range needs {
		if n != nil {
			weights += n.Model.Weights.Bytes
		}
	}
	free := float64(kib) / (1 << 20)
	if float64(weights)*2 > float64(kib<<10) {
		return found(Warn, "host memory", "right for a login node; servers without GPUs need a host with more memory, or smaller models",
			"%.1f GiB are available, vLLM on CPUs wants about %.1f for these models", free, float64(weights)*2/(1<<30))
	}
	return found(OK, "host memory", "", "%.1f GiB are available", free)
}

// job is the planned one, nil if there is none: the store's own check tells.
func (o *Options) job(ctx context.Context) *job.Job {
	if o.Store == nil {
		return nil
	}
	planned, _ := job.Load(ctx, o.Store)
	return planned
}
