package job

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"

	"tokenfork/internal/columnar"
	"tokenfork/internal/failure"
	"tokenfork/internal/store"
)

// Text is one text of a manifest. With n real tokens, positions run from
// 0 to n-1 (the table's numbering less Settings.FirstPosition); the slices by
// mismatch are parallel to Mismatches.
type Text struct {
	Ordinal   int64   `col:"ordinal"` // place in the input, from 0
	ID        string  `col:"sentence_id"`
	RowRuns   []int64 `col:"row_runs"`   // the n row ids as runs of consecutive ones: the first and how many
	Real      []int32 `col:"real"`       // n token ids
	TokenType []int32 `col:"token_type"` // n, or nil where the table has none

	// Recorded predictions for positions 0…n: n+1 ids, -1 where there is none.
	SmallPredictions     []int32 `col:"small_predictions"`
	ReferencePredictions []int32 `col:"reference_predictions"`

	Mismatches []int32 `col:"mismatches"` // positions, ascending

	// By mismatch, of the row that holds the prediction; NaN where the cell is blank.
	SmallEntropy     []float64 `col:"small_entropy"`
	SmallAU          []float64 `col:"small_au"`
	SmallEU          []float64 `col:"small_eu"`
	ReferenceEntropy []float64 `col:"reference_entropy"`
	ReferenceAU      []float64 `col:"reference_au"`
	ReferenceEU      []float64 `col:"reference_eu"`

	Cost float64 `col:"cost"`
}

// TextOrdinal makes it a stage's text.
func (s *Text) TextOrdinal() int64 { return s.Ordinal }

// SetRowIDs says which rows of the table the text is.
func (s *Text) SetRowIDs(ids []int64) {
	s.RowRuns = s.RowRuns[:0]
	for i := 0; i < len(ids); {
		first := i
		for i++; i < len(ids) && ids[i] == ids[i-1]+1; i++ {
		}
		s.RowRuns = append(s.RowRuns, ids[first], int64(i-first))
	}
}

// RowID is the id of the k-th row; false if the text has fewer.
func (s *Text) RowID(k int64) (id int64, ok bool) {
	for i := 0; i+1 < len(s.RowRuns); i += 2 {
		first, n := s.RowRuns[i], s.RowRuns[i+1]
		if k < n {
			return first + k, k >= 0
		}
		k -= n
	}
	return 0, false
}

// Predictions are the recorded predictions of the side's model.
func (s *Text) Predictions(side Side) []int32 {
	if side == Small {
		return s.SmallPredictions
	}
	return s.ReferencePredictions
}

// Header is what a manifest says beside its texts: all that a task needs
// but the models.
type Header struct {
	Plan
	Index int   `json:"index"` // which shard
	Of    int   `json:"of"`    // shards of the job
	Shard Shard `json:"shard"` // SHA256 is empty inside the manifest itself
}

const headerKey = "tokenfork_manifest"

// ManifestWriter encodes texts, one by one, as pieces of manifests yet to
// be written: which shard a text belongs to is known only when all costs
// are. Encode belongs to one goroutine, Write to any.
type ManifestWriter[X any] struct{ pieces *columnar.Pieces[X] }

// NewManifestWriter prepares to encode.
func NewManifestWriter[X any]() (*ManifestWriter[X], error) {
	p, err := columnar.NewPieces[X]()
	return &ManifestWriter[X]{p}, err
}

// Encode gives the text's piece, appended to dst.
func (m *ManifestWriter[X]) Encode(dst []byte, x *X) ([]byte, error) {
	piece, err := m.pieces.Row(dst, x)
	if err != nil {
		return nil, fmt.Errorf("encode a text: %w", err)
	}
	return piece, nil
}

// Write writes a manifest of encoded texts, in ascending order of ordinal:
// a sealed zstd-compressed Arrow stream with the header in its schema. It
// returns the seal's hash.
func (m *ManifestWriter[X]) Write(w io.Writer, h Header, texts iter.Seq2[[]byte, error]) (sum string, err error) {
	h.Shard.SHA256 = ""
	said, err := json.Marshal(h)
	if err != nil {
		return "", fmt.Errorf("encode manifest header: %w", err)
	}
	head, tail, err := m.pieces.Ends(columnar.Metadata(map[string]string{headerKey: string(said)}))
	if err != nil {
		return "", fmt.Errorf("write manifest: %w", err)
	}
	sealed := newSealer(w)
	if _, err := sealed.Write(head); err != nil {
		return "", fmt.Errorf("write manifest: %w", err)
	}
	for piece, err := range texts {
		if err != nil {
			return "", err
		}
		if _, err := sealed.Write(piece); err != nil {
			return "", fmt.Errorf("write manifest: %w", err)
		}
	}
	if _, err := sealed.Write(tail); err != nil {
		return "", fmt.Errorf("write manifest: %w", err)
	}
	return sealed.seal()
}

// Manifest is a shard's manifest, checked whole before anything of it is used.
type Manifest struct {
	Header
	body []byte
}

// OpenManifest reads shard k's manifest and checks its hash.
func OpenManifest(ctx context.Context, s store.Store, k int) (*Manifest, error) {
	return openManifest[Text](ctx, s, ManifestKey(k), k)
}

func openManifest[X any](ctx context.Context, s store.Store, key string, k int) (*Manifest, error) {
	b, err := store.ReadAll(ctx, s, key)
	if err != nil {
		return nil, fmt.Errorf("read manifest %s of %s: %w", key, s, err)
	}
	m, err := parseManifest[X](b)
	if err != nil {
		return nil, failure.New(failure.Refused, "restore it or plan the job again; other shards are not touched", "manifest %s of %s: %w", key, s, err)
	}
	if m.Index != k {
		return nil, failure.New(failure.Refused, "restore it or plan the job again", "manifest %s of %s is shard %d's", key, s, m.Index)
	}
	return m, nil
}

func parseManifest[X any](b []byte) (*Manifest, error) {
	body, sum, err := unseal(b)
	if err != nil {
		return nil, err
	}
	r, err := columnar.ReadStream[X](bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if err := r.Close(); err != nil {
		return nil, err
	}
	m := &Manifest{body: body}
	if err := json.Unmarshal([]byte(r.Metadata()[headerKey]), &m.Header); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	if m.Format != Format {
		return nil, fmt.Errorf("format %d, this tokenfork reads %d", m.Format, Format)
	}
	m.Shard.SHA256 = sum
	return m, nil
}

// Texts yields the shard's texts in ascending order of ordinal.
func (m *Manifest) Texts() iter.Seq2[*Text, error] {
	return m.checked(rowsOf[Text](m))
}

func rowsOf[X any](m *Manifest) iter.Seq2[*X, error] {
	r, err := columnar.ReadStream[X](bytes.NewReader(m.body))
	if err != nil {
		return func(yield func(*X, error) bool) { yield(nil, err) }
	}
	return r.Rows()
}

// checked yields texts that are what they say: a manifest's seal says that no one has
// changed it since, not that it makes sense.
func (m *Manifest) checked(rows iter.Seq2[*Text, error]) iter.Seq2[*Text, error] {
	absurd := func(format string, args ...any) error {
		return failure.New(failure.Refused, "plan the job again", "manifest %s makes no sense: "+format, append([]any{ManifestKey(m.Index)}, args...)...)
	}
	return func(yield func(*Text, error) bool) {
		texts, mismatches, last := 0, 0, int64(-1)
		for s, err := range rows {
			if err == nil {
				if err = s.check(); err != nil {
					err = absurd("text %q: %w", s.ID, err)
				} else if s.Ordinal <= last {
					err = absurd("text %d comes after text %d", s.Ordinal, last)
				}
			}
			if !yield(s, err) || err != nil {
				return
			}
			texts, mismatches, last = texts+1, mismatches+len(s.Mismatches), s.Ordinal
		}
		if texts != m.Shard.Texts || mismatches != m.Shard.Mismatches {
			yield(nil, absurd("it has %d texts with %d mismatches, its header says %d with %d", texts, mismatches, m.Shard.Texts, m.Shard.Mismatches))
		}
	}
}

// check says how a text's parts do not fit each other.
func (s *Text) check() error {
	n := len(s.Real)
	if s.TokenType != nil && len(s.TokenType) != n {
		return fmt.Errorf("%d tokens have %d types", n, len(s.TokenType))
	}
	for _, side := range Sides {
		if p := s.Predictions(side); len(p) != n+1 {
			return fmt.Errorf("%d tokens have %d predictions of the %s model", n, len(p), side)
		}
	}
	for i, p := range s.Mismatches {
		if p < 0 || int(p) >= n || i > 0 && p <= s.Mismatches[i-1] {
			return fmt.Errorf("mismatch %d is at position %d of %d", i, p, n)
		}
	}
	for _, v := range [][]float64{s.SmallEntropy, s.SmallAU, s.SmallEU, s.ReferenceEntropy, s.ReferenceAU, s.ReferenceEU} {
		if v != nil && len(v) != len(s.Mismatches) {
			return fmt.Errorf("%d mismatches have %d values of a measure", len(s.Mismatches), len(v))
		}
	}
	if len(s.RowRuns)%2 != 0 {
		return fmt.Errorf("its row ids end within a run")
	}
	return nil
}
