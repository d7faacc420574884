package check

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"tokenfork/internal/failure"
	"tokenfork/internal/results"
	"tokenfork/internal/store"
	"tokenfork/judge/merge"
)

// results compares what merge wrote with what it would write now. Where
// something is wrong with what it reads there is nothing to compare with.
func (c *checker) results(ctx context.Context) error {
	if c.summary == nil {
		if c.there[merge.SummaryKey] {
			return nil // damaged, as was told
		}
		flags := ""
		if len(c.judgings) == 0 {
			flags = " --judge 'URL|local|none'"
		}
		return c.say(c.command("merge")+flags, "the job is not merged: %s is missing", merge.SummaryKey)
	}
	fix := c.command("merge") + mergeFlags(c.summary)
	if err := c.resultFiles(fix); err != nil {
		return err
	}
	if c.found > 0 {
		return nil
	}
	o := merge.Source{Judging: c.summary.Judging, Retry: &c.summary.Retry, Recheck: true} // the job may have been moved since
	for _, r := range c.judgings {
		if r.ID() != o.Judging {
			continue
		}
		text, err := results.LoadText(ctx, c.Store)
		if err != nil {
			return err
		}
		if o.Accept, err = r.Accept(&c.job.Plan, text); err != nil {
			return c.tolerate(err)
		}
	}
	if o.Judging != "" && o.Accept == nil {
		return c.say(fix, "%s names the judging %s, which the job does not have", merge.SummaryKey, o.Judging)
	}
	return c.compare(ctx, o, fix)
}

// resultFiles names the files of the results that are missing, and those of an
// earlier merge that a reader of the dataset would take for part of it.
func (c *checker) resultFiles(fix string) error {
	files := c.summary.Files()
	for _, key := range files {
		if !c.there[key] {
			if err := c.say(fix, "%s is missing", key); err != nil {
				return err
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(c.there)) {
		if merge.IsResult(key) && !slices.Contains(files, key) {
			if err := c.say(fix, "%s is left over from an earlier merge: %s does not name it", key, merge.SummaryKey); err != nil {
				return err
			}
		}
	}
	return nil
}

// mergeFlags are those that the results were merged with.
func mergeFlags(s *merge.Summary) string {
	flags := " --judge none"
	if s.Judging != "" {
		flags = " --judging " + s.Judging
	}
	if s.R2R {
		flags += " --format r2r"
	}
	if s.CSVSafe {
		flags += " --csv-safe"
	}
	if len(s.Formats) > 0 {
		flags += " --formats " + strings.Join(s.Formats, ",")
	}
	if s.Parts > 0 {
		flags += fmt.Sprintf(" --partition %d", s.Parts)
	}
	return flags
}

// compare merges again, into comparisons with what is there.
func (c *checker) compare(ctx context.Context, o merge.Source, fix string) error {
	s := &comparing{Store: c.Store}
	o.Store = s
	_, err := merge.Merge(ctx, merge.Options{Jobs: []merge.Source{o}, Out: s, R2R: c.summary.R2R, CSVSafe: c.summary.CSVSafe, Formats: c.summary.Formats, Parts: c.summary.Parts, TempDir: c.TempDir, Console: c.Console})
	if failure.Code(err) != failure.Partial { // rows that failed are in the results too
		if err := c.tolerate(err); err != nil {
			return err
		}
	}
	for _, said := range s.differ {
		if err := c.say(fix, "%s", said); err != nil {
			return err
		}
	}
	return nil
}

// comparing is a store that writes nothing: it compares with what it has.
type comparing struct {
	store.Store
	mu     sync.Mutex
	differ []string
}

// Replace compares what write writes with the object.
func (s *comparing) Replace(ctx context.Context, key string, write func(io.Writer) error) error {
	r, err := s.Open(ctx, key)
	if err != nil {
		return err
	}
	defer r.Close()
	c := &comparison{r: bufio.NewReaderSize(r, 256<<10), differs: -1}
	if err := write(c); err != nil {
		return err
	}
	if _, err := c.r.ReadByte(); c.differs < 0 && err == nil {
		c.differs = c.at
	}
	if c.differs >= 0 {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.differ = append(s.differ, fmt.Sprintf("%s is damaged or older than its parts: from byte %d on it is not what they give", key, c.differs))
	}
	return nil
}

// Remove removes nothing.
func (s *comparing) Remove(context.Context, string) error { return nil }

// comparison reads as much as is written and notes where the two first differ.
type comparison struct {
	r       *bufio.Reader
	buf     []byte
	at      int64
	differs int64 // -1: nowhere yet
}

// Write compares p with the next bytes.
func (c *comparison) Write(p []byte) (int, error) {
	if c.differs >= 0 {
		return len(p), nil
	}
	c.buf = append(c.buf[:0], p...)
	n, err := io.ReadFull(c.r, c.buf)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return 0, err
	}
	if n < len(p) || !bytes.Equal(c.buf, p) {
		same := 0
		for same < n && c.buf[same] == p[same] {
			same++
		}
		c.differs = c.at + int64(same)
	}
	c.at += int64(len(p))
	return len(p), nil
}
