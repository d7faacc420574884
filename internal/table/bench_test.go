package table

import (
	"testing"

	"tokenfork/internal/table/tabletest"
)

// BenchmarkScan parses chunks of a generated table on one goroutine.
func BenchmarkScan(b *testing.B) {
	content := []byte(generated(b, tabletest.Config{Layout: "study", Rows: 1600, Tokens: 6000, Vocab: 151_000, Mismatch: 0.11, Seed: 1}))
	at := 0
	for content[at] != '\n' {
		at++
	}
	s, err := resolve(splitHeader(content[:at]), request)
	if err != nil {
		b.Fatal(err)
	}
	req := request
	req.SentenceIDType = Int64
	p := newParser("t.csv", s, req, ',')
	data := content[at+1:]
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		batch := p.scan(&chunk{data: data, line: 2, lines: 1600})
		if batch == nil || len(batch.Problems) > 0 {
			b.Fatal("not scanned")
		}
		batch.Release()
	}
}

func splitHeader(line []byte) (names []string) {
	start := 0
	for i, c := range line {
		if c == ',' {
			names = append(names, string(line[start:i]))
			start = i + 1
		}
	}
	return append(names, string(line[start:]))
}
