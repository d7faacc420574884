package table

import (
	"math"
	"slices"
	"strings"
)

// vectors are the cells of consecutive rows, column by column, before they are
// compared and checked.
type vectors struct {
	*builder
	rows    int
	first   int64                 // line of the first row
	lines   []int64               // of each row, where they do not just follow each other
	ints    [firstMeasure][]int64 // by role; blank where there is no number
	texts   [2][]string           // sentence ids that are text, by side
	spoiled map[int][]Problem     // cells that cannot be used, by row
}

// start makes place for rows.
func (v *vectors) start(name string, s *Schema, req Request, first int64, rows int) {
	v.builder, v.rows, v.first, v.lines, v.spoiled = newBuilder(name, s, req, rows), rows, first, v.lines[:0], nil
	for r := range v.ints {
		v.ints[r] = grow(v.ints[r], rows)
		if s.fields[r] < 0 || v.isText(role(r)) {
			clear(v.ints[r])
		}
	}
	for side := range v.texts {
		if v.texts[side] = v.texts[side][:0]; v.isText(smallSentence) {
			v.texts[side] = grow(v.texts[side], rows)
		}
	}
}

// isText says whether a column is sentence ids that are text.
func (v *vectors) isText(r role) bool { return isSentence(r) && v.req.SentenceIDType == String }

// sideOf is whose sentence ids a column has.
func sideOf(r role) int {
	if r == referenceSentence {
		return 1
	}
	return 0
}

// spoil notes a cell that cannot be used.
func (v *vectors) spoil(row int, r role, value string, reason error) {
	if v.spoiled == nil {
		v.spoiled = map[int][]Problem{}
	}
	p := Problem{Column: v.schema.names[r], Value: value, Reason: reason.Error(), Lost: isSentence(r)}
	if p.Lost && !v.byRow {
		p.Hint = "if sentence ids are not all numbers: --sentence-id-type string"
	}
	v.spoiled[row] = append(v.spoiled[row], p)
}

// header makes one problem of a row whose cells are all names of columns.
func (v *vectors) header(spoiled []Problem) []Problem {
	same := true
	for _, p := range spoiled {
		value := strings.TrimSpace(strings.TrimPrefix(p.Value, "\ufeff"))
		if !slices.ContainsFunc(v.schema.header, func(h string) bool { return strings.EqualFold(h, value) }) {
			return spoiled
		}
		same = same && strings.EqualFold(p.Column, value)
	}
	p := spoiled[0]
	p.Lost, p.Reason, p.Hint = true, "is the column's name: the header stands here again, as where files were put together", "remove the line"
	if !same {
		p.Reason, p.Hint = "is the name of a column: a header with another order of columns stands here", "cut the file before this line, and name both files"
	}
	return []Problem{p}
}

// parseNumber reads a cell with an id, or notes what is wrong with it.
func (v *vectors) parseNumber(row int, r role, cell []byte) int64 {
	parse := parseCount
	if isSentence(r) {
		parse = parseID
	}
	n, err := parse(cell)
	if err != nil {
		n, err = parse(unpadded(cell))
	}
	if err != nil {
		v.spoil(row, r, string(cell), err)
		return blank
	}
	return n
}

// parseMeasure reads a cell with a measure, or notes what is wrong with it.
func (v *vectors) parseMeasure(row int, r role, cell []byte) float64 {
	f, err := parseMeasure(cell)
	if err != nil {
		f, err = parseMeasure(unpadded(cell))
	}
	if err != nil {
		v.spoil(row, r, string(cell), err)
		return math.NaN()
	}
	return f
}

// spoilRow notes a row that cannot be read at all.
func (v *vectors) spoilRow(row int, reason error) {
	if v.spoiled == nil {
		v.spoiled = map[int][]Problem{}
	}
	v.spoiled[row] = []Problem{{Reason: reason.Error(), Lost: true}}
}

// batch builds the batch.
func (v *vectors) batch() *Batch {
	alike := v.alike()
	x := values{}
	for i := range v.rows {
		if x.line = v.first + int64(i); len(v.lines) > 0 {
			x.line = v.lines[i]
		}
		x.rowID, x.position, x.sentence = v.ints[rowID][i], v.ints[smallPosition][i], v.ints[smallSentence][i]
		x.real, x.small, x.reference, x.kind = v.ints[smallReal][i], v.ints[smallPrediction][i], v.ints[referencePrediction][i], v.ints[tokenType][i]
		if v.spoiled != nil && v.tell(x.line, v.spoiled[i]) {
			continue
		}
		if v.isText(smallSentence) {
			x.text = v.texts[0][i]
		}
		if !alike {
			v.mergeRow(i, &x)
		}
		v.add(&x)
	}
	return v.done()
}

// tell notes what is wrong with the cells of a row; true if there is no more to say of it.
func (v *vectors) tell(line int64, spoiled []Problem) (lost bool) {
	if len(spoiled) > 0 && spoiled[0].Column != "" {
		spoiled = v.header(spoiled)
	}
	for _, p := range spoiled {
		lost = lost || p.Lost
		if p.Column == "" {
			v.lost(line, p.Reason)
			return true
		}
	}
	for _, p := range spoiled {
		noted := v.problem(line, p.Column, p.Value, p.Reason)
		noted.Lost, noted.Hint = lost, p.Hint
	}
	return false
}

// alike says whether both models' copies of columns are the same throughout.
func (v *vectors) alike() bool {
	if v.schema.fields[referencePosition] < 0 {
		return true
	}
	for _, r := range []role{smallSentence, smallPosition, smallReal} {
		if !slices.Equal(v.ints[r], v.ints[r.ofReference()]) {
			return false
		}
	}
	return slices.Equal(v.texts[0], v.texts[1])
}

func (v *vectors) mergeRow(i int, x *values) {
	v.merge(x.line, smallPosition, &x.position, v.ints[referencePosition][i])
	v.merge(x.line, smallReal, &x.real, v.ints[referenceReal][i])
	v.merge(x.line, smallSentence, &x.sentence, v.ints[referenceSentence][i])
	if v.isText(smallSentence) {
		v.mergeText(x.line, &x.text, v.texts[1][i])
	}
}
