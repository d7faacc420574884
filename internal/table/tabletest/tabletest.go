// Package tabletest makes tables that look like real ones, of any size and
// always the same, for tests and benchmarks.
package tabletest

import (
	"bufio"
	"io"
	"math"
	"math/rand/v2"
	"strconv"
)

// Config says what the table is like.
type Config struct {
	Layout   string // study or r2r
	Rows     int
	Tokens   int     // mean tokens of a text; lengths are heavy-tailed
	Vocab    int     // ids are below
	Mismatch float64 // share of positions at which neighbouring models differ
	Seed     uint64
}

// Models of a study-layout table.
var Models = []string{"1.5", "7.0", "14.0", "32.0"}

const header = "row_id"

// table is one being written.
type table struct {
	Config
	r       *rand.Rand
	line    []byte
	numbers [3][]string // spelled measures to draw from
	real    []int
	guess   [4]int // predictions of the models for the next position
}

// Write writes the table as CSV, row i predicting the token of row i+1.
func Write(w io.Writer, c Config) error {
	t := &table{Config: c, r: rand.New(rand.NewPCG(c.Seed, 1))}
	for i := range t.numbers {
		t.numbers[i] = t.spelled(i)
	}
	b := bufio.NewWriterSize(w, 1<<20)
	if _, err := b.Write(t.header()); err != nil {
		return err
	}
	for row, sentence := 0, 0; row < c.Rows; sentence++ {
		n := min(t.length(), c.Rows-row)
		t.text(n)
		for position := range n {
			t.row(row+position, sentence, position)
			if _, err := b.Write(t.line); err != nil {
				return err
			}
		}
		row += n
	}
	return b.Flush()
}

// spelled makes 2^14 values of entropy, AU or EU, most of them small.
func (t *table) spelled(kind int) []string {
	all := make([]string, 1<<14)
	for i := range all {
		v := t.r.ExpFloat64() * []float64{0.6, 1.5, 0.2}[kind]
		if t.r.IntN(3) == 0 {
			v *= 1e-3
		}
		all[i] = strconv.FormatFloat(v, 'g', -1, 64)
	}
	return all
}

func (t *table) header() []byte {
	if t.Layout == "r2r" {
		return []byte("row_id,data_id,token_id,real_token,token_type,SLM_predictions,LLM_predictions\n")
	}
	b := []byte(header)
	for _, m := range Models {
		for _, s := range []string{"token_id", "sentence_id", "real_token", "predictions", "entropy", "AU", "EU"} {
			b = append(append(append(append(b, ','), m...), '_'), s...)
		}
	}
	return append(b, '\n')
}

// length draws from a log-normal distribution.
func (t *table) length() int {
	return max(2, int(float64(t.Tokens)*math.Exp(0.8*t.r.NormFloat64()-0.32)))
}

// text draws the real tokens of a text, common ones more often.
func (t *table) text(n int) {
	t.real = t.real[:0]
	for range n + 1 {
		t.real = append(t.real, t.token())
	}
}

func (t *table) token() int {
	return int(math.Exp(t.r.Float64()*math.Log(float64(t.Vocab)))) - 1
}

func (t *table) row(row, sentence, position int) {
	t.predict(position)
	b := strconv.AppendInt(t.line[:0], int64(row), 10)
	if t.Layout == "r2r" {
		kind := 1
		if position < 40 {
			kind = 0
		}
		for _, v := range []int{sentence, position, t.real[position], kind, t.guess[0], t.guess[3]} {
			b = strconv.AppendInt(append(b, ','), int64(v), 10)
		}
		t.line = append(b, '\n')
		return
	}
	draw := t.r.Uint64()
	for m := range Models {
		for _, v := range []int{position, sentence, t.real[position], t.guess[m]} {
			b = strconv.AppendInt(append(b, ','), int64(v), 10)
		}
		for kind := range t.numbers {
			all := t.numbers[kind]
			b = append(append(b, ','), all[(draw>>(kind*14)+uint64(m*977))%uint64(len(all))]...)
		}
	}
	t.line = append(b, '\n')
}

// predict gives the largest model the real token mostly, and each smaller one
// its neighbour's guess mostly.
func (t *table) predict(position int) {
	guess := t.real[position+1]
	if t.r.Float64() < 0.12 {
		guess = t.token()
	}
	for m := len(t.guess) - 1; m >= 0; m-- {
		if m < len(t.guess)-1 && t.r.Float64() < t.Mismatch/3 {
			guess = t.token()
		}
		t.guess[m] = guess
	}
}
