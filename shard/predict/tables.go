package predict

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"tokenfork/internal/columnar"
	"tokenfork/internal/failure"
)

// delimiterOf is that of a CSV whose header names a column with texts, or 0.
func delimiterOf(begin []byte) rune {
	header := begin
	if end := bytes.IndexAny(begin, "\r\n"); end >= 0 {
		header = begin[:end]
	}
	for _, delimiter := range ",\t;" {
		r := csv.NewReader(bytes.NewReader(header))
		r.Comma = delimiter
		fields, err := r.Read()
		if err == nil && slices.ContainsFunc(fields, func(name string) bool { return slices.Contains(columnNames[1:], name) }) {
			return delimiter
		}
	}
	return 0
}

func readCSV(name string, in *bufio.Reader, delimiter rune, yield func(Text, error) bool) bool {
	r := csv.NewReader(in)
	r.Comma, r.ReuseRecord = delimiter, true
	header, err := r.Read()
	if err != nil {
		return yield(Text{}, cannotRead(name, err))
	}
	header = slices.Clone(header)
	if strings.Contains(strings.Join(header, ""), "\r") {
		return yield(Text{}, failure.New(failure.Refused, "tr '\\r' '\\n' < FILE > NEW", "%s: its lines end with carriage returns alone", name))
	}
	if err := onlyOnce(name, header); err != nil {
		return yield(Text{}, err)
	}
	cells := map[string]string{}
	for {
		record, err := r.Read()
		if err == io.EOF {
			return true
		}
		var wrong *csv.ParseError
		if err != nil && !errors.As(err, &wrong) {
			return yield(Text{}, cannotRead(name, err))
		}
		if err != nil {
			return yield(Text{}, failure.New(failure.Refused, "correct the row, or write the table again", "%s: %w", name, err))
		}
		if isHeader(record, header) {
			line, _ := r.FieldPos(0)
			return yield(Text{}, failure.New(failure.Refused, "remove the line", "%s, line %d: the header stands here again, as where files were put together", name, line))
		}
		for i, column := range header {
			if slices.Contains(columnNames, column) {
				cells[column] = record[i]
			}
		}
		t, err := parseCells(cells)
		if err != nil {
			line, _ := r.FieldPos(0)
			err = badRow(name, fmt.Sprintf("line %d", line), err)
		}
		if !yield(t, err) {
			return false
		}
	}
}

// isHeader says whether a row is the header again. Of one column it may be a text.
func isHeader(record, header []string) bool {
	return len(header) > 1 && strings.EqualFold(strings.TrimPrefix(strings.Join(record, "\n"), bom), strings.Join(header, "\n"))
}

// onlyOnce refuses a header that names a column with meaning twice.
func onlyOnce(name string, header []string) error {
	for i, column := range header {
		if slices.Contains(columnNames, column) && slices.Contains(header[:i], column) {
			return failure.New(failure.Refused, "rename one of them", "%s has two columns %q", name, column)
		}
	}
	return nil
}

// batchTexts is how many texts of a table are in memory at once.
const batchTexts = 64

// readColumns reads Parquet and Arrow.
func readColumns(name string, f *os.File, yield func(Text, error) bool) bool {
	in, err := openColumns(f)
	if err != nil {
		return yield(Text{}, cannotRead(name, err))
	}
	columns, err := columnsOf(name, in)
	if err != nil {
		return yield(Text{}, err)
	}
	row := 0
	for batch, err := range in.Batches(columns, batchTexts) {
		if err != nil {
			return yield(Text{}, cannotRead(name, err))
		}
		texts := cellsOf(in, columns, batch)
		for i := range batch.Rows {
			row++
			cells := map[string]string{}
			for k, c := range columns {
				name := in.Columns[c].Name
				if name == "prompt" && in.Columns[c].Kind == columnar.Nested {
					name = promptChat
				}
				cells[name] = strings.Clone(texts[k][i])
			}
			t, err := parseCells(cells)
			for column, cell := range cells {
				if !utf8.ValidString(cell) {
					err = failure.New(failure.Refused, "write the column as strings in UTF-8", "the column %q is not UTF-8", column)
				}
			}
			if err != nil {
				err = badRow(name, fmt.Sprintf("row %d", row), err)
			}
			if !yield(t, err) {
				batch.Release()
				return false
			}
		}
		batch.Release()
	}
	return true
}

func openColumns(f *os.File) (*columnar.Input, error) {
	magic := make([]byte, 6)
	if _, err := f.ReadAt(magic, 0); err != nil {
		return nil, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte("PAR1")):
		return columnar.OpenParquetInput(f)
	case bytes.HasPrefix(magic, []byte("ARROW1")):
		return columnar.OpenArrowInput(f)
	}
	return columnar.OpenArrowStream(f)
}

// columnsOf are the columns with meaning, which must be strings, the id also a number,
// chats also lists.
func columnsOf(name string, in *columnar.Input) ([]int, error) {
	var header []string
	var columns []int
	for i, c := range in.Columns {
		header = append(header, c.Name)
		if !slices.Contains(columnNames, c.Name) {
			continue
		}
		chat := c.Kind == columnar.Nested && slices.Contains([]string{"messages", "conversations", "prompt"}, c.Name)
		if c.Kind != columnar.Text && !chat && (c.Kind != columnar.Whole || c.Name != "id") {
			return nil, failure.New(failure.Refused, "write the rows as JSON Lines; pandas: DataFrame.to_json(NAME, orient='records', lines=True)",
				"%s: the column %q is of type %s, which is not read", name, c.Name, c.Type)
		}
		columns = append(columns, i)
	}
	if len(columns) == 0 || len(columns) == 1 && in.Columns[columns[0]].Name == "id" {
		return nil, failure.New(failure.Refused, "name a column "+contents+"; a table of tokens goes to `tokenfork plan`",
			"%s has no column with texts, only %s", name, strings.Join(header, ", "))
	}
	return columns, onlyOnce(name, header)
}

// cellsOf are the cells of each column, valid as long as the batch.
func cellsOf(in *columnar.Input, columns []int, batch *columnar.InputBatch) [][]string {
	all := make([][]string, len(columns))
	for k, c := range columns {
		if in.Columns[c].Kind != columnar.Whole {
			all[k] = batch.Text(k)
			continue
		}
		all[k] = make([]string, batch.Rows)
		for i, n := range batch.Whole(k) {
			if n != columnar.Null {
				all[k][i] = strconv.FormatInt(n, 10)
			}
		}
	}
	return all
}
