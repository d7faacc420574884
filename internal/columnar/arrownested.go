package columnar

import (
	"encoding/json"
	"fmt"
	"io"
)

// arrowTree reads a list, map or struct, or what it is made of, as JSON.
type arrowTree struct {
	arrowPart
	names    []string // of the fields of a struct
	children []*arrowTree
	cells    cells // of a leaf
}

// treeOf says how a field is read whose own nodes and buffers come after those
// in at, and adds its own there; nil if nothing of it can be read.
func treeOf(t fbTable, at *arrowLayout) (*arrowTree, error) {
	own := layoutOf(t, 0)
	defer at.add(own)
	if own.unknown {
		return nil, nil
	}
	if _, ok := t.table(4); ok {
		return nil, notRead("dictionaries within lists and structs, as of %s", t.text(0))
	}
	tree := &arrowTree{arrowPart: arrowPart{node: at.nodes, buffer: at.buffers, before: at.viewColumns, inner: true}}
	inner := arrowLayout{at.nodes + 1, at.buffers + 1, at.viewColumns, false}
	switch id := t.GetByteSlot(slot(2), 0); id {
	case arrowList, arrowLargeList, arrowMap:
		inner.buffers++
		tree.form, tree.width = listForm, 4
		if id == arrowLargeList {
			tree.width = 8
		}
	case arrowStruct:
		tree.form = structForm
	default:
		_, tree.arrowType = typeOf(t)
		if tree.kind == Unread {
			return nil, nil
		}
		return tree, nil
	}
	for _, field := range t.tables(5) {
		child, err := treeOf(field, &inner)
		if err != nil {
			return nil, err
		}
		if child != nil {
			tree.children, tree.names = append(tree.children, child), append(tree.names, field.text(0))
		}
	}
	if len(tree.children) == 0 {
		return nil, nil
	}
	return tree, nil
}

// isNested says whether a type is one of those that arrowTree reads.
func isNested(t fbTable) bool {
	switch t.GetByteSlot(slot(2), 0) {
	case arrowList, arrowLargeList, arrowMap, arrowStruct:
		tree, err := treeOf(t, new(arrowLayout))
		return tree != nil || err != nil
	}
	return false
}

// begin opens the buffers of a batch.
func (t *arrowTree) begin(r io.ReaderAt, batch *arrowBatch) error {
	if err := t.arrowPart.begin(r, batch); err != nil {
		return err
	}
	for _, child := range t.children {
		if err := child.begin(r, batch); err != nil {
			return err
		}
		if t.form == structForm && child.left != t.left {
			return badArrow("a struct of %d rows has a field of %d", t.left, child.left)
		}
	}
	if t.form == listForm && t.last > 0 { // what a slice left out
		return t.children[0].skip(t.last)
	}
	return nil
}

func (t *arrowTree) skip(n int64) error {
	for n > 0 {
		m := min(n, InputRows)
		if _, err := t.json(int(m)); err != nil {
			return err
		}
		n -= m
	}
	return nil
}

func (t *arrowTree) read(dst *cells, n int) error {
	all, err := t.json(n)
	for _, b := range all {
		dst.text = append(dst.text, string(b))
	}
	return err
}

func (t *arrowTree) end() error {
	if err := t.arrowPart.end(); err != nil {
		return err
	}
	for _, child := range t.children {
		if child.open && child.left > 0 {
			return fmt.Errorf("%d elements are in no list", child.left)
		}
		if err := child.end(); err != nil {
			return err
		}
	}
	return nil
}

// json reads the next n, nil where there is none.
func (t *arrowTree) json(n int) (all [][]byte, err error) {
	if int64(n) > t.left {
		return nil, io.ErrUnexpectedEOF
	}
	switch t.form {
	case listForm:
		all, err = t.lists(n)
	case structForm:
		all, err = t.structs(n)
	default:
		all = make([][]byte, n)
		t.cells.reset()
		if err = t.arrowPart.read(&t.cells, n); err != nil {
			return nil, err
		}
		for i := range all {
			if all[i], err = t.cells.json(t.kind, i); err != nil {
				return nil, err
			}
		}
	}
	t.left -= int64(n)
	for i, d := range t.defined {
		if d == 0 {
			all[i] = nil
		}
	}
	return all, err
}

func (t *arrowTree) structs(n int) ([][]byte, error) {
	if err := t.readValidity(n); err != nil {
		return nil, err
	}
	all := make([][]byte, n)
	for k, child := range t.children {
		name, err := json.Marshal(t.names[k])
		if err != nil {
			return nil, err
		}
		values, err := child.json(n)
		if err != nil {
			return nil, err
		}
		for i, v := range values {
			mark := byte(',')
			if k == 0 {
				mark = '{'
			}
			all[i] = appendOrNull(append(append(append(all[i], mark), name...), ':'), v)
		}
	}
	for i := range all {
		all[i] = append(all[i], '}')
	}
	return all, nil
}

func (t *arrowTree) lists(n int) ([][]byte, error) {
	if err := t.readValidity(n); err != nil {
		return nil, err
	}
	from := t.last
	offsets, err := t.nextOffsets(n)
	if err != nil {
		return nil, err
	}
	values, err := t.children[0].json(int(t.last - from))
	if err != nil {
		return nil, err
	}
	all := make([][]byte, n)
	for i, to := range offsets {
		b := []byte{'['}
		for ; from < to; from++ {
			if len(b) > 1 {
				b = append(b, ',')
			}
			b = appendOrNull(b, values[0])
			values = values[1:]
		}
		all[i] = append(b, ']')
	}
	return all, nil
}

func appendOrNull(b, value []byte) []byte {
	if value == nil {
		return append(b, "null"...)
	}
	return append(b, value...)
}
