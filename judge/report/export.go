package report

import (
	"context"
	"crypto/sha256"
	_ "embed" // the card's template and Croissant's context
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"tokenfork/internal/columnar"
	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/stats"
	"tokenfork/internal/store"
	"tokenfork/internal/terminal"
)

// Keys of what Export writes beside the data.
const (
	CardKey      = "README.md"
	CroissantKey = "croissant.json"
	CitationKey  = "CITATION.cff"
	ChecksumsKey = "SHA256SUMS" // last
)

// fillIn stands where only the authors know what to write.
const fillIn = "TO FILL IN"

var (
	//go:embed card.md.tmpl
	cardText string
	//go:embed citation.cff.tmpl
	citationText string

	cardFuncs = template.FuncMap{"code": code, "json": quoted, "grouped": terminal.Grouped, "percent": share}
	cards     = template.Must(template.New("card").Funcs(cardFuncs).Parse(cardText))
	cites     = template.Must(template.New("citation").Funcs(cardFuncs).Parse(citationText))
)

// dataset is what its card and its metadata say.
type dataset struct {
	*About
	FillIn   string
	Settings job.Settings
	Models   []datasetModel
	Inputs   []string
	Status   map[string]int64
	Partial  bool
	Rates    []datasetRate
	Fields   []columnar.ParquetField
	Files    []datasetFile
	Size     string // Hugging Face's class
}

type datasetModel struct{ Side, Name, Weights, Engine string }

type datasetRate struct {
	What, Rows string
	stats.Share
}

type datasetFile struct {
	Name   string
	SHA256 string
	Size   int64
}

// Export writes the results to o.Out as a folder that Hugging Face's datasets reads: the
// Parquet files as they are, a card, Croissant metadata, a citation and checksums. It is
// refused where anything is: people complete the card by hand. It gives the keys written.
func Export(ctx context.Context, o Options) ([]string, error) {
	for e, err := range o.Out.List(ctx, "") {
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", o.Out, err)
		}
		return nil, failure.New(failure.Refused, "name an empty folder or a new one", "%s has files already: %s", o.Out, e.Key)
	}
	b, about, err := gather(ctx, o)
	if err != nil {
		return nil, err
	}
	if b.summary == nil {
		return nil, failure.New(failure.Refused, "run `"+job.Command(o.Store, "merge")+"` first", "no summary.json at %s", o.Store)
	}
	d := &dataset{About: about, FillIn: fillIn, Settings: b.summary.Settings, Status: b.sample.status, Partial: b.summary.Partial, Rates: b.datasetRates(), Size: sizeClass(about.Mismatches)}
	for _, j := range b.summary.Jobs {
		for _, s := range j.Input.Sources {
			d.Inputs = append(d.Inputs, publicName(s))
		}
	}
	if err := d.describeModels(ctx, o.Store); err != nil {
		return nil, err
	}
	if err := d.copyData(ctx, o, b); err != nil {
		return nil, err
	}
	return d.describe(ctx, o.Out)
}

// datasetRates are the overall rates with their intervals.
func (b *builder) datasetRates() (rates []datasetRate) {
	if b.tokens != nil && b.tokens.positions > 0 {
		rates = append(rates, datasetRate{"mismatches of tokens", "all", b.tokens.overall.Shares(b.Bootstrap)[0]})
	}
	for _, v := range b.sample.variants() {
		if with, _ := b.sample.verdicts(v); with > 0 {
			rates = append(rates, datasetRate{"divergent of judged mismatches", v.name, b.sample.divergence(v, func(int) int32 { return 0 }).Shares(b.Bootstrap)[0]})
		}
	}
	return rates
}

// describeModels names the models and their engines, as far as the job knows them: of
// several jobs' merged results only the names in the table are known.
func (d *dataset) describeModels(ctx context.Context, s store.Store) error {
	names := [2]string{d.Settings.Small, d.Settings.Reference}
	j, err := job.Load(ctx, s)
	known := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, side := range job.Sides {
		m := datasetModel{Side: side.String(), Name: names[side]}
		if known {
			m.Name += ": " + publicName(j.Models[side].Name)
			m.Weights = j.Models[side].Fingerprint.Weights
			if m.Engine, err = engineOf(ctx, s, side); err != nil {
				return err
			}
		}
		d.Models = append(d.Models, m)
	}
	return nil
}

// engineOf says what of a side's engine touches its answers, without arguments and paths.
func engineOf(ctx context.Context, s store.Store, side job.Side) (string, error) {
	e, err := engineRecord(ctx, s, side)
	if e == nil || err != nil {
		return "", err
	}
	said := []string{"vLLM"}
	for _, name := range []string{"version", "dtype", "quantization", "kv_cache_dtype", "tensor_parallel", "max_model_len", "deterministic"} {
		if v, ok := e[name]; ok {
			said = append(said, fmt.Sprintf("%s %v", name, v))
		}
	}
	return strings.Join(said, ", "), nil
}

// publicName is a model's or a table's name without the folders of this machine: a hub
// name and an address stay as they are.
func publicName(name string) string {
	if filepath.IsAbs(name) || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "~") {
		return filepath.Base(name)
	}
	return name
}

// copyData copies the results, which must be what the summary and the figures are of.
func (d *dataset) copyData(ctx context.Context, o Options, b *builder) error {
	keys, err := b.resultKeys(ctx, o.Store)
	if err != nil {
		return err
	}
	for i, key := range keys {
		f := datasetFile{Name: fmt.Sprintf("data/train-%05d-of-%05d.parquet", i, len(keys))}
		l, err := fetch(ctx, o.Store, key, o.TempDir, b.sums[key])
		if err != nil {
			return err
		}
		f.SHA256 = l.sha256
		err = o.Out.Replace(ctx, f.Name, func(w io.Writer) (err error) {
			f.Size, err = io.Copy(w, io.NewSectionReader(l, 0, math.MaxInt64))
			return err
		})
		if err == nil && i == 0 {
			d.Fields, err = fieldsOf(l)
		}
		if err = errors.Join(err, l.close()); err != nil {
			return fmt.Errorf("copy %s of %s: %w", key, o.Store, err)
		}
		d.Files = append(d.Files, f)
	}
	return nil
}

func fieldsOf(l *local) ([]columnar.ParquetField, error) {
	g, err := columnar.OpenParquetGroups[index](l)
	if err != nil {
		return nil, err
	}
	return g.Fields()
}

// describe writes all but the data; the checksums come last and have every other file.
func (d *dataset) describe(ctx context.Context, out store.Store) (keys []string, err error) {
	croissant, err := json.MarshalIndent(d.croissant(), "", " ")
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", CroissantKey, err)
	}
	files := map[string]func(io.Writer) error{
		CardKey:      func(w io.Writer) error { return cards.Execute(w, d) },
		CitationKey:  func(w io.Writer) error { return cites.Execute(w, d) },
		CroissantKey: func(w io.Writer) error { _, err := w.Write(append(croissant, '\n')); return err },
	}
	var sums strings.Builder
	for _, f := range d.Files {
		fmt.Fprintf(&sums, "%s  %s\n", f.SHA256, f.Name)
		keys = append(keys, f.Name)
	}
	for _, key := range slices.Sorted(maps.Keys(files)) {
		h := sha256.New()
		if err := out.Replace(ctx, key, func(w io.Writer) error { h.Reset(); return files[key](io.MultiWriter(w, h)) }); err != nil {
			return nil, err
		}
		fmt.Fprintf(&sums, "%s  %s\n", hex.EncodeToString(h.Sum(nil)), key)
		keys = append(keys, key)
	}
	return append(keys, ChecksumsKey), store.ReplaceBytes(ctx, out, ChecksumsKey, []byte(sums.String()))
}

// sizeClass is Hugging Face's class of a number of rows.
func sizeClass(n int64) string {
	classes := []string{"n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B"}
	for i, limit := 0, int64(1000); i < len(classes); i, limit = i+1, limit*10 {
		if n < limit {
			return classes[i]
		}
	}
	return "1B<n<10B"
}

// code is text that Markdown shows as it is, in one line, also in a table.
func code(v any) string {
	s := strings.NewReplacer("`", "'", "|", "¦").Replace(fmt.Sprint(v))
	q := strconv.Quote(s)
	return "`" + strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`) + "`"
}

// quoted is a JSON string, which YAML reads too.
func quoted(v any) (string, error) {
	b, err := json.Marshal(v)
	return string(b), err
}

func share(e stats.Estimate) string {
	if math.IsNaN(e.Value) {
		return "–"
	}
	s := fmt.Sprintf("%.2f %%", 100*e.Value)
	if math.IsNaN(e.Low) {
		return s + ", no interval: rows of fewer than " + strconv.Itoa(stats.MinClusters) + " texts"
	}
	return fmt.Sprintf("%s [%.2f, %.2f]", s, 100*e.Low, 100*e.High)
}
