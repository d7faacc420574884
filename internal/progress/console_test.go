package progress

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"tokenfork/internal/job"
	"tokenfork/internal/terminal"
)

// twoMinutes is a stage of two sides, one of which was half done before.
func twoMinutes(w io.Writer) {
	var answers atomic.Int64
	reference := NewLane("reference", 235, 0, func() Reading {
		n := answers.Load()
		return Reading{InFlight: 8, Servers: 1, Restarts: 1, Counters: map[string]int64{job.CachedTokens: 90 * n, job.ComputedTokens: 10 * n, job.ReplayedTokens: 3 * n, job.GeneratedTokens: n, job.SharedTokens: 0}}
	})
	small := NewLane("small", 100, 0, nil)
	small.Resumed(100, 0)
	m := NewLanes(w, "infer", "forks", small, reference)
	defer m.Close()
	reference.Resumed(120, 0)
	time.Sleep(time.Millisecond) // so that no line is due as a unit ends
	for i := range 115 {
		time.Sleep(time.Second)
		answers.Add(1)
		failed := int64(0)
		if i%40 == 0 {
			failed = 1
		}
		reference.Add(1, failed, 0)
	}
}

func TestLogLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		twoMinutes(terminal.NewWriter(&b))
		end := func(after time.Duration) string {
			return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Add(after).Local().Format("15:04")
		}
		want := fmt.Sprintf(`infer: 249 of 335 forks, 1/s, ETA 1m25s (%s), cache hits 90 %%, replayed 75 %%, 1 failed, 1 server restarts
infer: 279 of 335 forks, 1/s, ETA 55s (%s), cache hits 90 %%, replayed 75 %%, 2 failed, 1 server restarts
infer: 309 of 335 forks, 1/s, ETA 25s (%s), cache hits 90 %%, replayed 75 %%, 3 failed, 1 server restarts
infer: 335 of 335 forks in 1m55s, 1.01/s, cache hits 90 %%, replayed 75 %%, 3 failed, 1 server restarts
`, end(115*time.Second), end(115*time.Second), end(115*time.Second))
		if b.String() != want {
			t.Errorf("got\n%swant\n%s", &b, want)
		}
	})
}

func TestJSONLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		twoMinutes(NewConsole(&b, JSON))
		lines := strings.Split(strings.TrimSpace(b.String()), "\n")
		if len(lines) != 4 {
			t.Fatalf("%d lines:\n%s", len(lines), &b)
		}
		var got struct {
			Time, ETA           time.Time
			Msg, Stage, Unit    string
			Done, Total, Failed int64
			Ended               bool
			Seconds, Replayed   float64
			PerSecond           float64 `json:"per_second"`
			ETASeconds          float64 `json:"eta_seconds"`
			CacheHits           float64 `json:"cache_hits"`
			Restarts            int64   `json:"server_restarts"`
			Level               string
		}
		d := json.NewDecoder(strings.NewReader(lines[1]))
		d.DisallowUnknownFields()
		if err := d.Decode(&got); err != nil {
			t.Fatal(err)
		}
		if got.Stage != "infer" || got.Unit != "forks" || got.Done != 279 || got.Total != 335 || got.Failed != 2 || got.Ended || got.Seconds != 60 || got.Replayed != 0.75 ||
			got.PerSecond != 1 || got.ETASeconds < 55 || got.ETASeconds > 56 || got.CacheHits != 0.9 || got.Restarts != 1 || !strings.HasPrefix(got.Msg, "infer: 279 of 335 forks") {
			t.Errorf("%s", lines[1])
		}
		if !strings.Contains(lines[3], `"ended":true`) || strings.Contains(lines[3], "eta") {
			t.Errorf("the last line is %s", lines[3])
		}
	})
}

// TestPlainLinesAmongJSON: what others write to the console is an object a line too.
func TestPlainLinesAmongJSON(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	c := NewConsole(&b, JSON)
	fmt.Fprint(c, "one \"line\"\nand another\n")
	c.Logger().Warn("a third", "after", 1500*time.Millisecond)
	var said []string
	for line := range strings.Lines(b.String()) {
		var l struct {
			Time, Level, Msg string
			After            float64 // seconds
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil || l.Time == "" {
			t.Errorf("%v: %s", err, line)
		}
		said = append(said, fmt.Sprintf("%s %s %g", l.Level, l.Msg, l.After))
	}
	if got := strings.Join(said, "|"); got != `INFO one "line" 0|INFO and another 0|WARN a third 1.5` {
		t.Error(got)
	}
}

// pseudoTerminal gives both of its ends.
func pseudoTerminal(t *testing.T) (screen, end *os.File) {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { screen.Close() })
	if err := unix.IoctlSetPointerInt(int(screen.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(screen.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if end, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end.Close() })
	if err := unix.IoctlSetWinsize(int(end.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 60}); err != nil {
		t.Fatal(err)
	}
	return screen, end
}

// TestBar: on a terminal there is one line, redrawn, below what the log says, and the last line stays.
func TestBar(t *testing.T) {
	screen, end := pseudoTerminal(t)
	c := NewConsole(terminal.NewWriter(end), Text)
	l := NewLane("", 200, 0, nil)
	m := NewLanes(c, "judge", "mismatches", l)
	l.Add(50, 0, 0)
	c.show(m.snapshot(false))
	c.Logger().Warn("a server is slow")
	l.Add(150, 2, 0)
	m.Close()
	fmt.Fprintln(end, "THE END")
	var seen strings.Builder
	for r := bufio.NewReader(screen); ; {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(line, "THE END") {
			break
		}
		seen.WriteString(line)
	}
	lines := strings.Split(seen.String(), "\r\n")
	bar := "\r\x1b[Kjudge [#####...............]  25 % 50 of 200 mismatches"
	if !strings.HasPrefix(lines[0], bar+clearLine+"time=") || !strings.Contains(lines[0], `msg="a server is slow"`) {
		t.Errorf("first %q", lines[0])
	}
	if !strings.HasPrefix(lines[1], bar[4:]+clearLine+"judge: 200 of 200 mismatches in ") || !strings.HasSuffix(lines[1], "2 failed") || len(lines) != 3 {
		t.Errorf("then %q", lines[1:])
	}
}

// TestBarFits: a terminal that is too narrow gets a line that it need not wrap.
func TestBarFits(t *testing.T) {
	l := NewLane("", 200, 0, nil)
	m := NewLanes(io.Discard, "judge", "mismatches", l)
	defer m.Close()
	s := m.snapshot(false)
	for _, columns := range []int{1, 20, 60, 200} {
		if got := s.bar(columns); len(got) >= columns || columns == 200 && !strings.HasSuffix(got, "0 of 200 mismatches") {
			t.Errorf("%d columns: %q", columns, got)
		}
	}
}
