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

// DealOptions say which texts are read, and how.
type DealOptions struct {
	Files       []string
	Store       store.Store
	Shards      int               // 0 finds a number by the size of the texts
	Models      []job.CorpusModel // the last tokenises
	Chat        bool
	MaxResponse int
	Layout      string // of the table
	Top         int    // log-probabilities that entropy is made of; 0: no measures
	Log         *slog.Logger
}

const (
	// shardBytes is what a shard takes where no number is given: a manifest is read whole.
	shardBytes = 64 << 20
	// templateTokens is more than what chat templates and special tokens add to a text.
	templateTokens = 1024
)

// Deal reads the texts and writes them to the job's store as shards, in their order.
// If the same texts for the same models are there already it writes nothing.
func Deal(ctx context.Context, o DealOptions) (*job.Corpus, error) {
	d := &dealer{DealOptions: o, corpus: &job.Corpus{Format: job.Format, Models: o.Models, Chat: o.Chat, MaxResponse: o.MaxResponse, Layout: o.Layout, Top: o.Top, Sources: o.Files}}
	if err := d.measure(); err != nil {
		return nil, err
	}
	there, err := job.LoadCorpus(ctx, o.Store)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return d.write(ctx)
	case err != nil:
		return nil, err
	case there.ID != d.corpus.ID:
		return nil, failure.New(failure.Refused, "give another --out or --job, or remove that one",
			"%s was begun with other texts, models or settings", o.Store)
	}
	return there, nil
}

type dealer struct {
	DealOptions
	corpus *job.Corpus
	sizes  []int64 // of the texts in bytes
	total  int64
}

// measure goes through the texts: what is wrong with them is known before
// anything is written or started.
func (d *dealer) measure() error {
	chats, sum := false, sha256.New()
	for x, err := range d.sources(sum) {
		if err != nil {
			return err
		}
		size := d.sizeOf(x)
		d.sizes, d.total = append(d.sizes, size), d.total+size
		d.corpus.Longest = max(d.corpus.Longest, int(size)+templateTokens) // a token has a byte at least
		chats = chats || x.Messages != nil
	}
	if len(d.sizes) == 0 {
		return failure.New(failure.Refused, "name files with texts", "no text in %v", d.Files)
	}
	if chats && !d.Chat {
		d.Log.Warn("the texts are chats, read as the messages' contents alone; --chat puts them into the model's chat template")
	}
	d.corpus.Texts, d.corpus.Fingerprint = int64(len(d.sizes)), hex.EncodeToString(sum.Sum(nil))
	var err error
	d.corpus.ID, err = d.corpus.Identity()
	return err
}

// sizeOf bounds the text's tokens.
func (d *dealer) sizeOf(x *job.Source) int64 {
	size := len(x.Prompt) + 1
	if x.Response != nil {
		size += len(*x.Response)
	} else {
		size += d.MaxResponse
	}
	return int64(size)
}

// sources yields the texts and adds them to a hash.
func (d *dealer) sources(sum hash.Hash) iter.Seq2[*job.Source, error] {
	return func(yield func(*job.Source, error) bool) {
		encode := json.NewEncoder(sum)
		n := int64(0)
		for t, err := range Read(d.Files) {
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
func (d *dealer) write(ctx context.Context) (*job.Corpus, error) {
	if err := store.Probe(ctx, d.Store); err != nil {
		return nil, err
	}
	writer, err := job.NewManifestWriter[job.Source]()
	if err != nil {
		return nil, err
	}
	sum := sha256.New()
	next, stop := iter.Pull2(d.sources(sum))
	defer stop()
	d.corpus.Shards = d.cut()
	for k := range d.corpus.Shards {
		said := &d.corpus.Shards[k]
		h := job.Header{Plan: job.Plan{Format: job.Format, ID: d.corpus.ID}, Index: k, Of: len(d.corpus.Shards), Shard: *said}
		err := d.Store.Replace(ctx, job.CorpusManifestKey(k), func(w io.Writer) (err error) {
			said.SHA256, err = writer.Write(w, h, d.pieces(ctx, writer, next, said.Texts))
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("write shard %d of the texts: %w", k, err)
		}
	}
	if _, _, more := next(); more || hex.EncodeToString(sum.Sum(nil)) != d.corpus.Fingerprint {
		return nil, errChanged
	}
	err = d.commit(ctx)
	return d.corpus, err
}

// cut says how many texts, and bytes, each shard gets: one text at least.
func (d *dealer) cut() []job.Shard {
	count := d.Shards
	if count == 0 {
		count = int((d.total + shardBytes - 1) / shardBytes)
	}
	shards := make([]job.Shard, min(count, len(d.sizes)))
	k, done := 0, int64(0)
	for i, size := range d.sizes {
		here := &shards[k]
		left, later := len(d.sizes)-i, len(shards)-1-k
		if here.Texts > 0 && later > 0 && (left == later || float64(done) >= float64(d.total)*float64(k+1)/float64(len(shards))) {
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

func (d *dealer) pieces(ctx context.Context, w *job.ManifestWriter[job.Source], next func() (*job.Source, error, bool), n int) iter.Seq2[[]byte, error] {
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
func (d *dealer) commit(ctx context.Context) error {
	b, err := job.SealJSON(d.corpus)
	if err != nil {
		return fmt.Errorf("encode %s: %w", job.CorpusKey, err)
	}
	err = store.CreateBytes(ctx, d.Store, job.CorpusKey, b)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	there, err := job.LoadCorpus(ctx, d.Store)
	if err == nil && there.ID != d.corpus.ID {
		err = failure.New(failure.Refused, "give another --out or --job", "another command put other texts into %s at the same time", d.Store)
	}
	if err == nil {
		d.corpus = there
	}
	return err
}
