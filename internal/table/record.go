package table

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"sync"
)

// parser turns chunks into batches. It is used by many goroutines.
type parser struct {
	name   string
	schema *Schema
	req    Request

	delimiter byte   // of cells
	roleAt    []role // by column; roles where nothing is wanted
}

func newParser(name string, s *Schema, req Request, delimiter byte) *parser {
	p := &parser{name: name, schema: s, req: req, delimiter: delimiter, roleAt: make([]role, s.width)}
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
	r := recordsPool.Get().(*records)
	defer recordsPool.Put(r)
	r.parser, r.cells = p, [roles][]byte{} // those of the chunk before may lie in memory that is used again
	r.start(p.name, p.schema, p.req, c.line, c.lines)
	if c.quoted {
		r.quoted(c)
	} else {
		r.plain(c.data, c.line)
	}
	r.rows = len(r.lines)
	return r.batch()
}

// records reads rows cell by cell: those that the scanner does not understand.
type records struct {
	vectors
	*parser
	cells [roles][]byte // of the row at hand
}

var recordsPool = sync.Pool{New: func() any { return new(records) }}

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
	width, delimiter := 0, []byte{r.delimiter}
	for more := true; more; width++ {
		var cell []byte
		cell, record, more = bytes.Cut(record, delimiter)
		if width < len(r.roleAt) && r.roleAt[width] < roles {
			r.cells[r.roleAt[width]] = cell
		}
	}
	r.row(width, line)
}

// quoted reads records the long way.
func (r *records) quoted(c *chunk) {
	cr := csv.NewReader(bytes.NewReader(c.data))
	cr.FieldsPerRecord = -1
	cr.ReuseRecord = true
	cr.Comma = rune(r.delimiter)
	for {
		record, err := cr.Read()
		if err == io.EOF {
			return
		}
		if bad, ok := errors.AsType[*csv.ParseError](err); ok {
			r.spoilRow(len(r.lines), bad.Err)
			r.lines = append(r.lines, c.line+int64(bad.StartLine)-1)
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
	row := len(r.lines)
	r.lines = append(r.lines, line)
	if width != r.parser.schema.width {
		r.spoilRow(row, fmt.Errorf("%d fields, the header has %d", width, r.parser.schema.width))
		return
	}
	for k := range firstMeasure {
		switch {
		case r.parser.schema.fields[k] < 0:
		case r.isText(k):
			r.texts[sideOf(k)][row] = string(r.cells[k])
		default:
			r.ints[k][row] = r.parseNumber(row, k, r.cells[k])
		}
	}
	for k, m := range r.Measures {
		if m != nil {
			m[row] = r.parseMeasure(row, firstMeasure+role(k), r.cells[firstMeasure+role(k)])
		}
	}
}
