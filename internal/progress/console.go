package progress

import (
	"context"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"tokenfork/internal/terminal"
)

// Formats of a log.
const (
	Text = "text"
	JSON = "json"
)

// Console is where a process writes its log and its stages' progress: a terminal, on
// which the bar stays below the log's lines, or a file.
type Console struct {
	mu       sync.Mutex
	to       io.Writer
	terminal *os.File // nil: a file
	handler  slog.Handler
	json     bool
	bar      string // what is drawn now
	live     []*Meter
	ended    []snapshot // the meters themselves would hold on to what their stages had
}

// NewConsole writes to w, log lines in the format.
func NewConsole(w io.Writer, format string) *Console {
	c := &Console{to: w}
	raw := w
	if safe, ok := w.(*terminal.Writer); ok { // a bar moves the cursor; its text is ours
		raw = safe.Unwrap()
	}
	if f, ok := raw.(*os.File); ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
		c.terminal = f
	}
	c.SetFormat(format)
	return c
}

// SetFormat is called before anything is written.
func (c *Console) SetFormat(format string) {
	if c.json = format == JSON; c.json {
		c.terminal = nil
		c.handler = slog.NewJSONHandler((*above)(c), &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Value.Kind() == slog.KindDuration { // which would be nanoseconds
				a.Value = slog.Float64Value(a.Value.Duration().Seconds())
			}
			return a
		}})
		return
	}
	c.handler = slog.NewTextHandler((*above)(c), &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			a.Value = slog.StringValue(a.Value.Time().Format(time.TimeOnly))
		}
		return a
	}})
}

// JSON says whether log lines are JSON.
func (c *Console) JSON() bool { return c.json }

// Logger writes to the console.
func (c *Console) Logger() *slog.Logger { return slog.New(c.handler) }

// clearLine returns the cursor and clears to the end of the line.
const clearLine = "\r\x1b[K"

// Write writes whole lines; among JSON each becomes an object.
func (c *Console) Write(p []byte) (int, error) {
	if !c.json {
		return (*above)(c).Write(p)
	}
	for line := range strings.Lines(string(p)) {
		if err := c.handler.Handle(context.Background(), slog.NewRecord(time.Now(), slog.LevelInfo, strings.TrimRight(line, "\n"), 0)); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// above writes above the bar.
type above Console

func (a *above) Write(p []byte) (int, error) {
	c := (*Console)(a)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bar == "" {
		return c.to.Write(p)
	}
	c.draw(clearLine)
	n, err := c.to.Write(p)
	c.draw(c.bar)
	return n, err
}

// draw writes to the terminal itself. An error means that it is gone.
func (c *Console) draw(s string) { _, _ = io.WriteString(c.terminal, s) }

// last are the stages that have ended, as they ended, and those under way.
func (c *Console) last() []snapshot {
	c.mu.Lock()
	all, live := slices.Clone(c.ended), slices.Clone(c.live)
	c.mu.Unlock()
	for _, m := range live {
		all = append(all, m.snapshot(false))
	}
	return all
}

func (c *Console) begin(m *Meter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.live = append(c.live, m)
}

// show tells of a stage under way.
func (c *Console) show(s snapshot) {
	if c.terminal == nil {
		c.report(s)
		return
	}
	columns, _, err := term.GetSize(int(c.terminal.Fd()))
	if err != nil || columns <= 0 {
		columns = 80
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bar = s.bar(columns)
	c.draw(clearLine + c.bar)
}

// end tells of a stage that has ended.
func (c *Console) end(m *Meter) {
	s := m.snapshot(true)
	c.mu.Lock()
	c.ended = append(c.ended, s)
	c.live = slices.DeleteFunc(c.live, func(one *Meter) bool { return one == m })
	if c.bar != "" {
		c.draw(clearLine)
		c.bar = ""
	}
	c.mu.Unlock()
	c.report(s)
}

// report writes a line.
func (c *Console) report(s snapshot) {
	if !c.json {
		_, _ = io.WriteString(c, s.line()+"\n") // as with any line of a log
		return
	}
	r := slog.NewRecord(s.now, slog.LevelInfo, s.line(), 0)
	r.AddAttrs(s.fields()...)
	_ = c.handler.Handle(context.Background(), r)
}
