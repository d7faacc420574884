package fakevllm

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Model is a greedy language model without weights: its next token is a hash of
// the prefix.
type Model struct {
	Seed uint64 `json:"seed"`
	// Apart makes it another model than that of the same seed: after one prefix in
	// four it goes on differently. 0 is the model of the seed itself.
	Apart uint64 `json:"apart"`
	// Pieces are the texts of the ids. Of those that AddedFrom and later ids stand
	// for, tokenizer.json makes added tokens; 0: of none.
	Pieces    Pieces `json:"pieces"`
	AddedFrom int    `json:"added_from"`
	// Vocab is the number of ids that the model can say; those without a piece are
	// padding. 0: as many as pieces.
	Vocab        int     `json:"vocab"`
	EOS          []int32 `json:"eos"`
	MaxPositions int     `json:"max_positions"` // tokens; 0: 4096

	name string // of its folder
}

// Pieces are byte strings, which may hold half a character: JSON has them in base64.
type Pieces []string

// MarshalJSON writes a list of base64 strings.
func (p Pieces) MarshalJSON() ([]byte, error) {
	all := make([][]byte, len(p))
	for i, s := range p {
		all[i] = []byte(s)
	}
	return json.Marshal(all)
}

// UnmarshalJSON reads what MarshalJSON writes.
func (p *Pieces) UnmarshalJSON(b []byte) error {
	var all [][]byte
	if err := json.Unmarshal(b, &all); err != nil {
		return err
	}
	for _, s := range all {
		*p = append(*p, string(s))
	}
	return nil
}

// state stands for a prefix.
type state uint64

func (s state) add(id int32) state { return (s ^ state(uint32(id)) + 1) * 0x100000001b3 }

// mixed is splitmix64's last step.
func mixed(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func (m *Model) size() int {
	if m.Vocab > 0 {
		return m.Vocab
	}
	return len(m.Pieces)
}

func prefixState(prefix []int32) state {
	s := state(0xcbf29ce484222325)
	for _, id := range prefix {
		s = s.add(id)
	}
	return s
}

// Next is the model's greedy choice after the prefix.
func (m *Model) Next(prefix []int32) int32 { return m.next(prefixState(prefix), 0) }

// next is the choice of a request with a sampling seed; 0 is greedy.
func (m *Model) next(s state, sampling uint64) int32 {
	seed := m.Seed ^ sampling*0x9e3779b97f4a7c15
	if m.Apart != 0 && mixed(uint64(s)^m.Apart)%4 == 0 {
		seed ^= m.Apart
	}
	return int32(mixed(mixed(uint64(s))^seed) % uint64(m.size()))
}

// Gap is the lead of the best logprob over the next after the prefix: 0 to 2.
func (m *Model) Gap(prefix []int32) float64 { return m.gap(prefixState(prefix)) }

func (m *Model) gap(s state) float64 { return float64(mixed(uint64(s)+m.Seed+m.Apart)%2048) / 1024 }

// ranked gives the token of a rank, from 0, and its logprob.
func (m *Model) ranked(s state, best int32, rank int) (int32, float64) {
	id, logprob := (int(best)+rank)%m.size(), -0.125
	if rank > 0 {
		logprob -= m.gap(s) + float64(rank-1)/2
	}
	return int32(id), logprob
}

// norm is the logarithm of the sum of what ranked gives, as probabilities.
func (m *Model) norm(s state) float64 {
	sum := 0.0
	for rank := range m.size() {
		_, p := m.ranked(s, 0, rank)
		sum += math.Exp(p)
	}
	return math.Log(sum)
}

// score is a logprob that ranked gives as a server in its mode shows it: a logit, or
// a log-probability of a distribution.
func (s *Server) score(at state, p float64) float64 {
	if s.config.Logits {
		return p + 20
	}
	return p - s.config.Model.norm(at)
}

// Logprobs are the log-probabilities of all ids after the prefix, descending.
func (m *Model) Logprobs(prefix []int32) []float64 {
	at := prefixState(prefix)
	var all []float64
	for rank := range m.size() {
		_, p := m.ranked(at, 0, rank)
		all = append(all, p-m.norm(at))
	}
	return all
}

// Text is what the ids stand for.
func (m *Model) Text(ids []int32) string {
	var b strings.Builder
	for _, id := range ids {
		if int(id) < len(m.Pieces) {
			b.WriteString(m.Pieces[id])
		}
	}
	return b.String()
}

// Tokens are the ids of a text, of the longest pieces that fit; what no piece
// stands for is left out.
func (m *Model) Tokens(text string) []int32 {
	var ids []int32
	for len(text) > 0 {
		best := -1
		for id, p := range m.Pieces {
			if p != "" && strings.HasPrefix(text, p) && (best < 0 || len(p) > len(m.Pieces[best])) {
				best = id
			}
		}
		if best < 0 {
			text = text[1:]
			continue
		}
		ids, text = append(ids, int32(best)), text[len(m.Pieces[best]):]
	}
	return ids
}

// Write makes dir the model's folder, which plan reads as a real one's.
func (m Model) Write(tb testing.TB, dir string) {
	tb.Helper()
	config := map[string]any{"fake": m, "vocab_size": m.size(), "eos_token_id": m.EOS, "max_position_embeddings": max(m.MaxPositions, 0),
		"dtype": "float32", "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
	if m.MaxPositions == 0 {
		config["max_position_embeddings"] = 4096
	}
	b, err := json.Marshal(config)
	if err != nil {
		tb.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	added := m.AddedFrom
	if added == 0 {
		added = len(m.Pieces)
	}
	for name, data := range map[string][]byte{"config.json": b, "tokenizer.json": TokenizerJSON(m.Pieces[:added], m.Pieces[added:])} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
}

// readModel gives the model of a folder; ok is false where it has none.
func readModel(dir string) (m Model, ok bool, err error) {
	b, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		return m, false, nil
	}
	var config struct {
		Fake *Model `json:"fake"`
	}
	if err := json.Unmarshal(b, &config); err != nil || config.Fake == nil {
		return m, false, fmt.Errorf("%s is no fake model: %w", dir, err)
	}
	return *config.Fake, true, nil
}

// TokenizerJSON is a byte-level tokenizer.json whose ids are the pieces' indices;
// those of added tokens follow.
func TokenizerJSON(pieces, added []string) []byte {
	vocab := map[string]int{}
	for id, p := range pieces {
		var token []rune
		for _, b := range []byte(p) {
			token = append(token, byteLevel[b])
		}
		vocab[string(token)] = id
	}
	var more []map[string]any
	for i, p := range added {
		more = append(more, map[string]any{"id": len(pieces) + i, "content": p, "special": !slices.Contains(notSpecial, p)})
	}
	b, err := json.Marshal(map[string]any{"decoder": map[string]any{"type": "ByteLevel"}, "added_tokens": more,
		"model": map[string]any{"type": "BPE", "vocab": vocab, "merges": []string{}}})
	if err != nil {
		panic(err) // strings and numbers
	}
	return b
}

// notSpecial are added tokens that models' tokenizers call text.
var notSpecial = []string{"<think>", "</think>"}

// byteLevel is how byte-level tokenizers write each byte.
var byteLevel = func() (a [256]rune) {
	next := rune(256)
	for b := range a {
		if b >= '!' && b <= '~' || b >= 0xa1 && b <= 0xac || b >= 0xae {
			a[b] = rune(b)
			continue
		}
		a[b] = next
		next++
	}
	return a
}()
