package table

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
)

// parser turns chunks into batches. It is used by many goroutines.
type parser struct {
	name   string
	schema *Schema
	req    Request
	roleAt []role // by column; roles where nothing is wanted
}

func newParser(name string, s *Schema, req Request) *parser {
	p := &parser{name: name, schema: s, req: req, roleAt: make([]role, s.width)}
	for i := range p.roleAt {
		p.roleAt[i] = roles
	}
	for r, at := range s.fields {
		if at >= 0 {
			p.roleAt[at] = role(r)
		}
	}
	return p
}

func (p *parser) parse(c *chunk) *Batch {
	defer buffers.Put(c.buffer)
	if !c.quoted {
		if b := p.scan(c); b != nil {
			return b
		}
	}
	r := &records{builder: newBuilder(p.name, p.schema, p.req, c.lines), parser: p}
	if c.quoted {
		r.quoted(c)
	} else {
		r.plain(c.data, c.line)
	}
	return r.done()
}

// records reads rows cell by cell: those that the scanner does not understand.
type records struct {
	*builder
	*parser
	cells [roles][]byte // of the row at hand
}

// plain reads records without quotes.
func (r *records) plain(data []byte, line int64) {
	for ; len(data) > 0; line++ {
		record := data
		if end := bytes.IndexByte(data, '\n'); end >= 0 {
			record, data = data[:end], data[end+1:]
		} else {
			data = nil
		}
		r.record(record, line)
	}
}

// record reads one line; an empty one is no row.
func (r *records) record(record []byte, line int64) {
	if n := len(record); n > 0 && record[n-1] == '\r' {
		record = record[:n-1]
	}
	if len(record) == 0 {
		return
	}
	width := 0
	for more := true; more; width++ {
		var cell []byte
		cell, record, more = bytes.Cut(record, comma)
		if width < len(r.roleAt) && r.roleAt[width] < roles {
			r.cells[r.roleAt[width]] = cell
		}
	}
	r.row(width, line)
}

var comma = []byte(",")

// quoted reads records the long way.
func (r *records) quoted(c *chunk) {
	cr := csv.NewReader(bytes.NewReader(c.data))
	cr.FieldsPerRecord = -1
	cr.ReuseRecord = true
	for {
		record, err := cr.Read()
		if err == io.EOF {
			return
		}
		var bad *csv.ParseError
		if errors.As(err, &bad) {
			r.lost(c.line+int64(bad.StartLine)-1, bad.Err)
			return
		}
		at, _ := cr.FieldPos(0)
		for i, cell := range record {
			if i < len(r.roleAt) && r.roleAt[i] < roles {
				r.cells[r.roleAt[i]] = append(r.cells[r.roleAt[i]][:0], cell...)
			}
		}
		r.row(len(record), c.line+int64(at)-1)
	}
}

// row takes the cells of a record of the given number of fields.
func (r *records) row(width int, line int64) {
	if width != r.builder.schema.width {
		r.lost(line, fmt.Errorf("%d fields, the header has %d", width, r.builder.schema.width))
		return
	}
	v := values{line: line, rowID: r.number(rowID, line), real: r.number(smallReal, line), position: r.number(smallPosition, line), small: r.number(smallPrediction, line)}
	v.reference, v.kind = r.optional(referencePrediction, line), r.optional(tokenType, line)
	r.sentence(&v)
	if r.has(referencePosition) {
		r.merge(line, smallPosition, &v.position, r.number(referencePosition, line))
		r.merge(line, smallReal, &v.real, r.number(referenceReal, line))
	}
	for k := range r.Measures {
		if r.Measures[k] != nil {
			r.Measures[k][r.n] = r.measure(firstMeasure+role(k), line)
		}
	}
	r.add(&v)
}

func (r *records) has(k role) bool { return r.builder.schema.fields[k] >= 0 }

// optional is 0 where the table has no such column.
func (r *records) optional(k role, line int64) int64 {
	if !r.has(k) {
		return 0
	}
	return r.number(k, line)
}

func (r *records) sentence(v *values) {
	if r.builder.req.SentenceIDType == String {
		v.text = text(r.cells[smallSentence])
		if r.has(referenceSentence) {
			r.mergeText(v.line, &v.text, text(r.cells[referenceSentence]))
		}
		return
	}
	v.sentence = r.number(smallSentence, v.line)
	if r.has(referenceSentence) {
		r.merge(v.line, smallSentence, &v.sentence, r.number(referenceSentence, v.line))
	}
}

func (r *records) number(k role, line int64) int64 {
	parse := parseCount
	if isSentence(k) {
		parse = parseID
	}
	n, err := parse(r.cells[k])
	if err != nil {
		r.problem(line, r.builder.schema.names[k], string(r.cells[k]), err.Error()).Lost = isSentence(k)
		return blank
	}
	return n
}

func (r *records) measure(k role, line int64) float64 {
	f, err := parseMeasure(r.cells[k])
	if err != nil {
		r.problem(line, r.builder.schema.names[k], string(r.cells[k]), err.Error())
		return math.NaN()
	}
	return f
}
