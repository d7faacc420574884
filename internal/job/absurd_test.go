package job

import (
	"bytes"
	"strings"
	"testing"

	"tokenfork/internal/failure"
	"tokenfork/internal/store"
)

// A manifest may be sealed, and so as somebody wrote it, and yet make no sense.
func TestAbsurdManifest(t *testing.T) {
	sound := func() *Text {
		return &Text{ID: "a", Real: []int32{1, 2, 3}, SmallPredictions: []int32{-1, 5, 3, -1}, ReferencePredictions: []int32{-1, 2, 4, -1}, Mismatches: []int32{1, 2}}
	}
	for _, c := range []struct {
		name   string
		change func(*Text, *Header)
		want   string // "" is sound
	}{
		{"sound", func(*Text, *Header) {}, ""},
		{"a mismatch beyond the text", func(s *Text, _ *Header) { s.Mismatches[1] = 1 << 30 }, "mismatch 1 is at position 1073741824 of 3"},
		{"a mismatch before the text", func(s *Text, _ *Header) { s.Mismatches[0] = -1 }, "mismatch 0 is at position -1"},
		{"mismatches out of order", func(s *Text, _ *Header) { s.Mismatches[1] = 1 }, "mismatch 1 is at position 1"},
		{"too few predictions", func(s *Text, _ *Header) { s.SmallPredictions = nil }, "3 tokens have 0 predictions of the small model"},
		{"types of another text", func(s *Text, _ *Header) { s.TokenType = []int32{1} }, "3 tokens have 1 types"},
		{"values of other mismatches", func(s *Text, _ *Header) { s.SmallAU = make([]float64, 9) }, "2 mismatches have 9 values"},
		{"half a run of rows", func(s *Text, _ *Header) { s.RowRuns = []int64{1} }, "its row ids end within a run"},
		{"a negative place", func(s *Text, _ *Header) { s.Ordinal = -5 }, "text -5 comes after"},
		{"more mismatches in the header", func(_ *Text, h *Header) { h.Shard.Mismatches = 1e15 }, "its header says 1 with 1000000000000000"},
		{"more texts in the header", func(_ *Text, h *Header) { h.Shard.Texts = 2 }, "it has 1 texts with 2 mismatches"},
	} {
		text, h := sound(), Header{Plan: Plan{Format: Format}, Of: 1, Shard: Shard{Texts: 1, Mismatches: 2}}
		c.change(text, &h)
		w, err := NewManifestWriter[Text]()
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if _, err := w.Write(&b, h, func(yield func([]byte, error) bool) { yield(w.Encode(nil, text)) }); err != nil {
			t.Fatal(err)
		}
		s, err := store.Open(t.Context(), t.TempDir(), store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := store.CreateBytes(t.Context(), s, ManifestKey(0), b.Bytes()); err != nil {
			t.Fatal(err)
		}
		m, err := OpenManifest(t.Context(), s, 0)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		for _, textErr := range m.Texts() {
			err = textErr
		}
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want != "" && (failure.Code(err) != failure.Refused || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}
