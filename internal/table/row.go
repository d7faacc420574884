package table

import (
	"fmt"
	"math"
)

// row takes the cells of a record of the given number of fields.
func (r *rows) row(width int, line int32) {
	v := &r.batch.vectors
	v.lines[r.n] = line
	if r.req.SentenceIDType == String {
		v.texts[0] = append(v.texts[0], "")
		v.texts[1] = append(v.texts[1], "")
	}
	if width != r.schema.width {
		r.lost("", "", fmt.Errorf("%d fields, the header has %d", width, r.schema.width))
		return
	}
	for k := range firstMeasure {
		if r.schema.fields[k] >= 0 {
			r.number(k)
		}
	}
	if r.schema.HasMeasures {
		for k := range r.batch.Measures {
			r.measure(k)
		}
	}
	r.n++
}

func (r *rows) number(k role) {
	isID := k == smallSentence || k == referenceSentence
	if isID && r.req.SentenceIDType == String {
		side := 0
		if k == referenceSentence {
			side = 1
		}
		r.batch.vectors.texts[side][r.n] = string(r.cells[k])
		return
	}
	parse := parseCount
	if isID {
		parse = parseID
	}
	n, err := parse(r.cells[k])
	if err != nil {
		p := r.batch.problem(r.n, r.schema.names[k], string(r.cells[k]), err)
		p.Lost = isID
		n = blank
	}
	r.batch.vectors.ints[k][r.n] = n
}

func (r *rows) measure(k int) {
	f, err := parseMeasure(r.cells[int(firstMeasure)+k])
	if err != nil {
		r.batch.problem(r.n, r.schema.names[int(firstMeasure)+k], string(r.cells[int(firstMeasure)+k]), err)
		f = math.NaN()
	}
	r.batch.Measures[k][r.n] = f
}
