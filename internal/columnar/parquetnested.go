package columnar

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"

	"tokenfork/internal/failure"
)

// nestedColumn puts the leaves of a list, map or struct together to JSON, row by
// row, as the Dremel paper (Melnik et al. 2010) has it.
type nestedColumn struct {
	root   *parquetNode
	leaves map[*parquetNode]*nestedLeaf
}

// nestedLeaf is the values of a leaf that are of one row.
type nestedLeaf struct {
	*parquetColumn
	value   int // the next cell of the page at hand that is not null
	entries []nestedEntry
}

type nestedEntry struct {
	rep, def int
	json     []byte // of a value that is not null
}

func (f *parquetFile) openNested(root *parquetNode) (columnReader, error) {
	c := &nestedColumn{root: root, leaves: map[*parquetNode]*nestedLeaf{}}
	for _, leaf := range root.readable {
		c.leaves[leaf] = &nestedLeaf{parquetColumn: f.openLeaf(leaf)}
	}
	return c, nil
}

func (c *nestedColumn) read(dst *cells, n int) error {
	for range n {
		for _, l := range c.leaves {
			if err := l.row(); err != nil {
				return err
			}
		}
		all := spans{}
		for n, l := range c.leaves {
			all[n] = l.entries
		}
		b, err := c.root.json(nil, all)
		if err != nil {
			return failure.New(failure.Refused, writeAgain, "column %s: %w", c.root.Name, err)
		}
		if string(b) == "null" {
			b = nil
		}
		dst.text = append(dst.text, string(b))
	}
	return nil
}

func (c *nestedColumn) end() error {
	for _, l := range c.leaves {
		if l.at < l.rows || len(l.pages) > 0 {
			return l.place(nil, errors.New("it has more rows than the footer says"))
		}
		if err := l.parquetColumn.end(); err != nil {
			return err
		}
	}
	return nil
}

// row takes the next row's entries: up to the next that goes on no list.
func (l *nestedLeaf) row() error {
	l.entries = l.entries[:0]
	for {
		for l.at == l.rows {
			if len(l.pages) == 0 && len(l.entries) > 0 {
				return nil // the row group ends
			}
			if err := l.next(); err != nil {
				return err
			}
			l.value = 0
		}
		e := nestedEntry{def: l.leaf.def}
		if l.levels.rep != nil {
			e.rep = int(l.levels.rep[l.at])
		}
		if (e.rep == 0) != (len(l.entries) == 0) {
			if e.rep == 0 {
				return nil
			}
			return l.place(nil, errors.New("it begins within a row"))
		}
		if len(l.levels.def) > 0 {
			e.def = int(l.levels.def[l.at])
		}
		if e.def == l.leaf.def {
			var err error
			if e.json, err = l.cells.json(l.leaf.Kind, l.value); err != nil {
				return l.place(nil, err)
			}
			l.value++
		}
		l.entries, l.at = append(l.entries, e), l.at+1
	}
}

// json is a cell as JSON.
func (c *cells) json(kind Kind, i int) ([]byte, error) {
	switch kind {
	case Whole:
		return strconv.AppendInt(nil, c.whole[i], 10), nil
	case Text:
		if !utf8.ValidString(c.text[i]) {
			return nil, fmt.Errorf("the text %.40q is not UTF-8", c.text[i])
		}
		return json.Marshal(c.text[i])
	}
	if f := c.float[i]; !math.IsNaN(f) && !math.IsInf(f, 0) {
		return strconv.AppendFloat(nil, f, 'g', -1, 64), nil
	}
	return []byte("null"), nil
}

// spans are the entries that belong to the part of the row at hand, by leaf.
type spans map[*parquetNode][]nestedEntry

var errShape = errors.New("the fields of a struct have lists of different lengths")

// json appends what n is, null where none of its fields can be read.
func (n *parquetNode) json(b []byte, all spans) ([]byte, error) {
	if !n.repeated() {
		return n.value(b, all)
	}
	parts, err := n.elements(all)
	if err != nil {
		return nil, err
	}
	b = append(b, '[')
	for i, part := range parts {
		if i > 0 {
			b = append(b, ',')
		}
		if n.wraps {
			b, err = n.children[0].json(b, part)
		} else {
			b, err = n.value(b, part)
		}
		if err != nil {
			return nil, err
		}
	}
	return append(b, ']'), nil
}

// value is json for what is no list, or for one element of it.
func (n *parquetNode) value(b []byte, all spans) (_ []byte, err error) {
	switch first := all[n.readable[0]][0]; {
	case first.def < n.def:
		return append(b, "null"...), nil
	case n.isLeaf():
		return append(b, first.json...), nil
	case len(n.children) == 1 && n.children[0].repeated():
		return n.children[0].json(b, all)
	}
	b = append(b, '{')
	begin := len(b)
	for _, child := range n.children {
		if len(child.readable) == 0 {
			continue
		}
		if len(b) > begin {
			b = append(b, ',')
		}
		name, err := json.Marshal(child.Name)
		if err != nil {
			return nil, err
		}
		if b, err = child.json(append(append(b, name...), ':'), all); err != nil {
			return nil, err
		}
	}
	return append(b, '}'), nil
}

// elements splits the entries of a list.
func (n *parquetNode) elements(all spans) (parts []spans, err error) {
	if all[n.readable[0]][0].def < n.def {
		return nil, nil
	}
	for k, leaf := range n.readable {
		entries, i := all[leaf], 0
		for from := 0; from < len(entries); i++ {
			to := from + 1
			for to < len(entries) && entries[to].rep > n.rep {
				to++
			}
			if k == 0 {
				parts = append(parts, spans{})
			} else if i == len(parts) {
				return nil, errShape
			}
			parts[i][leaf] = entries[from:to]
			from = to
		}
		if i != len(parts) {
			return nil, errShape
		}
	}
	return parts, nil
}
