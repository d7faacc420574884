package predict

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"iter"
	"log/slog"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/internal/store"
)

// SplitOptions say which texts are read, and how.
type SplitOptions struct {
	Files       []string
	Store       store.Store
	Shards      int               // 0 finds a number by the size of the texts
	Models      []job.CorpusModel // the last tokenises
	Chat        bool
	MaxResponse int
	Layout      string // of the table
	Top         int    // log-probabilities that entropy is made of; 0: no measures
	Pairs       bool   // compare each model with the last; needs Top
	Logits      int    // of the first model that are kept at each position
	Log         *slog.Logger
}

const (
	// shardBytes is what a shard takes where no number is given: a manifest is read whole.
	shardBytes = 64 << 20
	// templateTokens is more than what chat templates and special tokens add to a text.
	templateTokens = 1024
)

// Split reads the texts and writes them to the job's store as shards, in their order.
// If the same texts for the same models are there already it writes nothing.
func Split(ctx context.Context, o SplitOptions) (*job.Corpus, error) {
	s := &splitter{SplitOptions: o, corpus: &job.Corpus{Format: job.Format, Models: o.Models, Chat: o.Chat, MaxResponse: o.MaxResponse, Layout: o.Layout, Top: o.Top, Pairs: o.Pairs, Logits: o.Logits, Sources: o.Files}}
	if err := s.measure(); err != nil {
		return nil, err
	}
	there, err := job.LoadCorpus(ctx, o.Store)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return s.write(ctx)
	case err != nil:
		return nil, err
	case there.ID != s.corpus.ID:
		return nil, failure.New(failure.Refused, "give another --out or --job, or remove that one",
			"%s was begun with other texts, models or settings", o.Store)
	}
	return there, nil
}

type splitter struct {
	SplitOptions
	corpus *job.Corpus
	sizes  []int64 // of the texts in bytes
	total  int64
}

// measure goes through the texts: what is wrong with them is known before
// anything is written or started.
func (s *splitter) measure() error {
	chats, sum := false, sha256.New()
	for x, err := range s.sources(sum) {
		if err != nil {
			return err
		}
		size := s.corpus.Size(x)
		s.sizes, s.total = append(s.sizes, size), s.total+size
		s.corpus.Longest = max(s.corpus.Longest, int(size)+templateTokens) // a token has a byte at least
		chats = chats || x.Messages != nil
	}
	if len(s.sizes) == 0 {
		return failure.New(failure.Refused, "name files with texts", "no text in %v", s.Files)
	}
	if chats && !s.Chat {
		s.Log.Warn("the texts are chats, read as the messages' contents alone; --chat puts them into the model's chat template")
	}
	s.corpus.Texts, s.corpus.Fingerprint = int64(len(s.sizes)), hex.EncodeToString(sum.Sum(nil))
	var err error
	s.corpus.ID, err = s.corpus.Identity()
	return err
}

// sources yields the texts and adds them to a hash.
func (s *splitter) sources(sum hash.Hash) iter.Seq2[*job.Source, error] {
	return func(yield func(*job.Source, error) bool) {
		encode := json.NewEncoder(sum)
		n := int64(0)
		for t, err := range Read(s.Files) {
			if err != nil {
				yield(nil, err)
				return
			}
			x := &job.Source{Ordinal: n, ID: t.ID, Prompt: t.Prompt, Response: t.Response}
			if t.Messages != nil {
				b, err := json.Marshal(t.Messages)
				if err != nil {
					yield(nil, fmt.Errorf("text %q: %w", t.ID, err))
					return
				}
				messages := string(b)
				x.Messages = &messages
			}
			if err := encode.Encode(x); err != nil {
				yield(nil, err)
				return
			}
			if !yield(x, nil) {
				return
			}
			n++
		}
	}
}

// write cuts the texts into shards of about the same size and writes them, corpus.json
// last. Texts stay in order, so that the table is the shards' rows one after the other.
func (s *splitter) write(ctx context.Context) (*job.Corpus, error) {
	if err := store.Probe(ctx, s.Store); err != nil {
		return nil, err
	}
	writer, err := job.NewManifestWriter[job.Source]()
	if err != nil {
		return nil, err
	}
	sum := sha256.New()
	next, stop := iter.Pull2(s.sources(sum))
	defer stop()
	s.corpus.Shards = s.cut()
	for k := range s.corpus.Shards {
		said := &s.corpus.Shards[k]
		h := job.Header{Plan: job.Plan{Format: job.Format, ID: s.corpus.ID}, Index: k, Of: len(s.corpus.Shards), Shard: *said}
		err := s.Store.Replace(ctx, job.CorpusManifestKey(k), func(w io.Writer) (err error) {
			said.SHA256, err = writer.Write(w, h, s.pieces(ctx, writer, next, said.Texts))
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("write shard %d of the texts: %w", k, err)
		}
	}
	if _, _, more := next(); more || hex.EncodeToString(sum.Sum(nil)) != s.corpus.Fingerprint {
		return nil, errChanged
	}
	err = s.commit(ctx)
	return s.corpus, err
}

// cut says how many texts, and bytes, each shard gets: one text at least.
func (s *splitter) cut() []job.Shard {
	count := s.Shards
	if count == 0 {
		count = int((s.total + shardBytes - 1) / shardBytes)
	}
	shards := make([]job.Shard, min(count, len(s.sizes)))
	k, done := 0, int64(0)
	for i, size := range s.sizes {
		here := &shards[k]
		left, later := len(s.sizes)-i, len(shards)-1-k
		if here.Texts > 0 && later > 0 && (left == later || float64(done) >= float64(s.total)*float64(k+1)/float64(len(shards))) {
			k++
			here = &shards[k]
		}
		here.Texts++
		here.Cost += float64(size)
		done += size
	}
	return shards
}

var errChanged = failure.New(failure.Refused, "run the same command again once nothing writes them", "the texts changed while they were read")

func (s *splitter) pieces(ctx context.Context, w *job.ManifestWriter[job.Source], next func() (*job.Source, error, bool), n int) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		var piece []byte
		for range n {
			x, err, ok := next()
			if !ok {
				err = errChanged
			}
			if err == nil {
				err = ctx.Err()
			}
			if err == nil {
				piece, err = w.Encode(piece[:0], x)
			}
			if !yield(piece, err) || err != nil {
				return
			}
		}
	}
}

// commit writes corpus.json, the first to do so.
func (s *splitter) commit(ctx context.Context) error {
	b, err := job.SealJSON(s.corpus)
	if err != nil {
		return fmt.Errorf("encode %s: %w", job.CorpusKey, err)
	}
	err = store.CreateBytes(ctx, s.Store, job.CorpusKey, b)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	there, err := job.LoadCorpus(ctx, s.Store)
	if err == nil && there.ID != s.corpus.ID {
		err = failure.New(failure.Refused, "give another --out or --job", "another command put other texts into %s at the same time", s.Store)
	}
	if err == nil {
		s.corpus = there
	}
	return err
}
