package table

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/agext/levenshtein"

	"tokenfork/internal/failure"
)

// Layouts.
const (
	Study = "study"
	R2R   = "r2r"
)

// Types of sentence ids.
const (
	Int64  = "int64"
	String = "string"
)

// Request says what is wanted of a table. Empty fields are settled by the table.
type Request struct {
	Layout         string
	Small          string // a model of the table
	Reference      string
	SentenceIDType string
	NeedReference  bool   // without the reference's predictions the table is of no use
	VocabSize      [2]int // how many ids each model knows, small and reference
	ExactMeasures  bool   // measures exact in every row, not only where the predictions differ
}

// role is what a column means.
type role int

const (
	rowID role = iota
	smallSentence
	smallPosition
	smallReal
	smallPrediction
	referenceSentence
	referencePosition
	referenceReal
	referencePrediction
	tokenType
	firstMeasure // six of them, in the order of job.Measures
	roles        = firstMeasure + 6
)

// Schema is what a table's header says.
type Schema struct {
	Layout           string
	Small, Reference string // the models, as the table spells them
	HasReference     bool
	HasTypes         bool
	HasMeasures      bool

	fields [roles]int // the column of each role, -1 where there is none
	names  [roles]string
	width  int // columns of the table
	header []string
}

// typesColumn may be left out of a study table.
const typesColumn = "token_type"

var studySuffixes = map[role]string{
	smallSentence: "sentence_id", smallPosition: "token_id", smallReal: "real_token", smallPrediction: "predictions",
	firstMeasure: "entropy", firstMeasure + 1: "AU", firstMeasure + 2: "EU",
}

// resolve finds the columns that the request needs.
func resolve(header []string, req Request) (*Schema, error) {
	if err := checkHeader(header); err != nil {
		return nil, err
	}
	s := &Schema{Layout: req.Layout, width: len(header), header: header}
	if s.Layout == "" {
		s.Layout = Study
		if slices.Contains(header, "SLM_predictions") {
			s.Layout = R2R
		}
	}
	for r := range s.fields {
		s.fields[r] = -1
	}
	var err error
	if s.Layout == R2R {
		err = s.resolveR2R(header, req)
	} else {
		err = s.resolveStudy(header, req)
	}
	if err != nil {
		return nil, err
	}
	s.HasReference = s.fields[referencePrediction] >= 0
	s.HasTypes = s.fields[tokenType] >= 0
	s.HasMeasures = s.fields[firstMeasure] >= 0
	return s, nil
}

func checkHeader(header []string) error {
	if first := strings.Join(header[:min(len(header), 1)], ""); strings.HasPrefix(first, "sep=") || strings.HasPrefix(first, "#") {
		return failure.New(failure.Refused, "remove the first line: tail -n +2 FILE | tokenfork plan -", "the first line is %q, not the columns' names", first)
	}
	for _, h := range header {
		if trimmed := strings.TrimSpace(h); trimmed != h && hasMeaning(trimmed) {
			return failure.New(failure.Refused, "write the table without spaces around the delimiters", "the column %q has white space around its name", h)
		}
		if !slices.Contains(header, typesColumn) && distance(strings.ToLower(h), typesColumn) <= 1 {
			return failure.New(failure.Refused, "rename it, or fetch the file again if the name is damaged", "is the column %q meant to be %q?", h, typesColumn)
		}
	}
	if len(header) == 1 {
		return otherDelimiter(header[0])
	}
	return nil
}

// checkPartitions refuses a file that lacks a column since its folder's name holds it, as Hive's partitions do.
func checkPartitions(file string, header []string) error {
	for folder := range strings.SplitSeq(path.Dir(file), "/") {
		if key, _, ok := strings.Cut(folder, "="); ok && hasMeaning(key) && !slices.Contains(header, key) {
			return failure.New(failure.Refused, "write one table, in DuckDB: COPY (FROM 'DIR/**/*.parquet' ORDER BY row_id) TO 'table.parquet'",
				"%s: the column %q stands in the folder's name, not in the file, which is not read", file, key)
		}
	}
	return nil
}

// otherDelimiter refuses a header that has names of columns between other delimiters than the one asked for.
func otherDelimiter(line string) error {
	for _, d := range []string{";", "\t", "|", " ", ","} {
		names := strings.Split(line, d)
		if len(names) == 1 || !slices.ContainsFunc(names, func(h string) bool { return hasMeaning(strings.Trim(h, `" `)) }) {
			continue
		}
		name := d
		if d == "\t" {
			name = "tab"
		}
		return failure.New(failure.Refused, "--delimiter '"+name+"'", "the header is one column with %q in it: another delimiter", d)
	}
	return nil
}

// hasMeaning says whether a column may be one that a table is read by.
func hasMeaning(name string) bool {
	if name == "row_id" || name == "data_id" || name == typesColumn {
		return true
	}
	for _, suffix := range studySuffixes {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return false
}

func (s *Schema) resolveR2R(header []string, req Request) error {
	for _, m := range []struct{ asked, is string }{{req.Small, "SLM"}, {req.Reference, "LLM"}} {
		if m.asked != "" && m.asked != m.is {
			return failure.New(failure.Refused, "leave out --small and --reference, or name the layout with --layout study", "an r2r table has the models SLM and LLM, not %s", m.asked)
		}
	}
	s.Small, s.Reference = "SLM", "LLM"
	wanted := map[role]string{
		rowID: "row_id", smallSentence: "data_id", smallPosition: "token_id", smallReal: "real_token",
		smallPrediction: "SLM_predictions", tokenType: typesColumn,
	}
	if req.NeedReference || slices.Contains(header, "LLM_predictions") {
		wanted[referencePrediction] = "LLM_predictions"
	}
	return s.find(header, wanted)
}

func (s *Schema) resolveStudy(header []string, req Request) error {
	models := modelsOf(header)
	if len(models) == 0 {
		return failure.New(failure.Refused, "a table has the columns of the study layout or of R2R's, see docs/plan.md", "no column *_predictions; the table has %s", strings.Join(header, ", "))
	}
	var err error
	if s.Small, err = pick(models, req.Small, "1.5", "--small"); err != nil {
		return err
	}
	if s.Reference, err = pick(models, req.Reference, "32.0", "--reference"); err != nil {
		return err
	}
	if s.Small == s.Reference {
		return failure.New(failure.Usage, "name two of "+strings.Join(models, ", "), "small and reference are the same model %s", s.Small)
	}
	wanted := map[role]string{rowID: "row_id"}
	if slices.Contains(header, typesColumn) {
		wanted[tokenType] = typesColumn
	}
	measured := slices.ContainsFunc(header, func(h string) bool {
		return h == s.Small+"_entropy" || h == s.Reference+"_entropy"
	})
	for r, suffix := range studySuffixes {
		if r >= firstMeasure && !measured {
			continue
		}
		wanted[r] = s.Small + "_" + suffix
		wanted[r.ofReference()] = s.Reference + "_" + suffix
	}
	return s.find(header, wanted)
}

// ofReference is the reference's role for one of the small model's.
func (r role) ofReference() role {
	if r >= firstMeasure {
		return r + 3
	}
	return r + (referenceSentence - smallSentence)
}

func modelsOf(header []string) []string {
	var models []string
	for _, h := range header {
		if m, ok := strings.CutSuffix(h, "_predictions"); ok {
			models = append(models, m)
		}
	}
	return models
}

// pick finds the model that the user means: 7, 7.0 and 7B are one.
func pick(models []string, asked, otherwise, flag string) (string, error) {
	if asked = cmp.Or(asked, otherwise); slices.Contains(models, asked) {
		return asked, nil
	}
	if i := slices.IndexFunc(models, func(m string) bool { return size(m) == size(asked) }); i >= 0 {
		return models[i], nil
	}
	return "", failure.New(failure.Refused, "choose with "+flag+" NAME", "no model %s in the table; it has %s", asked, strings.Join(models, ", "))
}

// size spells a number of parameters in one way; other names are left as they are.
func size(model string) string {
	if f, err := strconv.ParseFloat(strings.TrimRight(model, "bB"), 64); err == nil {
		return strconv.FormatFloat(f, 'g', -1, 64)
	}
	return model
}

func (s *Schema) find(header []string, wanted map[role]string) error {
	for r := range roles {
		name, ok := wanted[r]
		if !ok {
			continue
		}
		at := slices.Index(header, name)
		if at < 0 {
			return failure.New(failure.Refused, missingHint(header, wanted, name), "column %q is missing; the table has %s", name, strings.Join(header, ", "))
		}
		if slices.Contains(header[at+1:], name) {
			return failure.New(failure.Refused, "remove one of them", "duplicate column %q", name)
		}
		s.fields[r], s.names[r] = at, name
	}
	return nil
}

// missingHint names the column most like the missing one, of those that mean nothing else.
func missingHint(header []string, wanted map[role]string, name string) string {
	best, least := "", len(name)/2+1
	for _, h := range header {
		if d := distance(strings.ToLower(h), strings.ToLower(name)); d < least && !slices.Contains(slices.Collect(maps.Values(wanted)), h) {
			best, least = h, d
		}
	}
	if best == "" {
		return "write the table with that column; pandas: DataFrame.reset_index() makes one of the index"
	}
	return fmt.Sprintf("is %q meant? Rename it", best)
}

func distance(a, b string) int { return levenshtein.Distance(a, b, nil) }

// same says how a further file's schema differs from the first one's, or "".
func (s *Schema) same(first *Schema) string {
	switch {
	case s.Layout != first.Layout:
		return "layout " + s.Layout + ", not " + first.Layout
	case s.HasReference != first.HasReference:
		return "reference predictions in one of them only"
	case s.HasTypes != first.HasTypes:
		return "token_type in one of them only"
	case s.HasMeasures != first.HasMeasures:
		return "entropy, AU and EU in one of them only"
	}
	return ""
}
