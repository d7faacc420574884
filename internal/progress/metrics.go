package progress

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/version"
)

// family is a metric and its samples.
type family struct {
	name, kind, help string
	lines            []string
}

// WriteMetrics writes the stages of this process in Prometheus' text format.
func (c *Console) WriteMetrics(w io.Writer) error {
	families := []*family{{"tokenfork_build_info", "gauge", "The version that runs.", []string{fmt.Sprintf("{version=%s} 1", quoted(version.Current().String()))}}}
	byName := map[string]*family{}
	add := func(name, kind, help, labels string, value float64) {
		f := byName[name]
		if f == nil {
			f = &family{name: name, kind: kind, help: help}
			byName[name] = f
			families = append(families, f)
		}
		f.lines = append(f.lines, fmt.Sprintf("{%s} %g", labels, value))
	}
	seen := map[string]bool{}
	for _, s := range slices.Backward(c.last()) { // the last of two stages with one name counts
		for _, l := range s.lanes {
			labels := fmt.Sprintf("stage=%s,side=%s,unit=%s", quoted(s.stage), quoted(l.side), quoted(s.unit))
			if seen[labels] {
				continue
			}
			seen[labels] = true
			l.metrics(func(name, kind, help string, value float64) { add(name, kind, help, labels, value) })
			add("tokenfork_elapsed_seconds", "gauge", "Since the stage began.", labels, s.elapsed.Seconds())
		}
	}
	for _, f := range families {
		if _, err := fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n%s%s\n", f.name, f.help, f.name, f.kind, f.name, strings.Join(f.lines, "\n"+f.name)); err != nil {
			return err
		}
	}
	return nil
}

func (s *state) metrics(add func(name, kind, help string, value float64)) {
	add("tokenfork_done", "gauge", "Units finished, resumed and failed ones included.", float64(s.done))
	if s.total >= 0 {
		add("tokenfork_planned", "gauge", "Units that this process was given.", float64(s.total))
	}
	add("tokenfork_resumed", "gauge", "Units that an earlier run had finished.", float64(s.resumed))
	add("tokenfork_failed", "gauge", "Units of this run that failed.", float64(s.failed))
	add("tokenfork_per_second", "gauge", "Units finished per second of late.", s.perSecond)
	if s.leftKnown {
		add("tokenfork_eta_seconds", "gauge", "Estimated time to the end of the stage; absent while it cannot be told.", s.left.Seconds())
	}
	add("tokenfork_requests_in_flight", "gauge", "Requests that wait for an answer.", float64(s.InFlight))
	add("tokenfork_servers_up", "gauge", "Servers that take requests.", float64(s.Servers))
	add("tokenfork_server_restarts_total", "counter", "Restarts of servers.", float64(s.Restarts))
	for _, name := range slices.Sorted(maps.Keys(s.Counters)) {
		add("tokenfork_"+name+"_total", "counter", "Counter "+name+" of this run, as summary.json has it.", float64(s.Counters[name]))
	}
}

// quoted is a label's value.
func quoted(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s) + `"`
}

// Serve answers GET /metrics at 127.0.0.1:PORT, or at a socket unix:/PATH that only this
// user can open, until the returned function is called.
func (c *Console) Serve(at string) (stop func(), err error) {
	l, err := listen(at)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_ = c.WriteMetrics(w) // who asked has gone
	})
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second}
	go func() { _ = s.Serve(l) }() // until it is closed
	c.Logger().Info("metrics", "at", l.Addr().String())
	return func() { _ = s.Close() }, nil
}

const place = "give 127.0.0.1:PORT, or unix:/PATH of a socket in a folder of yours"

func listen(at string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(at, "unix:"); ok {
		return listenUnix(path)
	}
	host, port, err := net.SplitHostPort(at)
	if err != nil || port == "" {
		return nil, failure.New(failure.Usage, place, "--metrics-listen %s is not an address", at)
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return nil, failure.New(failure.Usage, place+"; from another machine, ssh -L", "--metrics-listen %s can be reached from other machines", at)
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, port))
	if err != nil {
		return nil, failure.New(failure.Usage, "give another port, or a socket: tasks on one node need one each", "--metrics-listen: %w", err)
	}
	return l, nil
}

// longestSocket is what the kernel takes of a socket's path.
const longestSocket = 107

func listenUnix(path string) (net.Listener, error) {
	folder := filepath.Dir(path)
	info, err := os.Stat(folder)
	switch {
	case !filepath.IsAbs(path) || len(path) > longestSocket:
		return nil, failure.New(failure.Usage, "give an absolute path of at most 107 bytes", "--metrics-listen unix:%s", path)
	case err != nil:
		return nil, failure.New(failure.Usage, "make the folder first: mkdir -m 700 "+folder, "--metrics-listen unix:%s: %w", path, err)
	case info.Sys().(*syscall.Stat_t).Uid != uint32(os.Geteuid()) || info.Mode().Perm()&0o022 != 0:
		return nil, failure.New(failure.Usage, "give a folder that only you can write to: mkdir -m 700 DIR", "--metrics-listen unix:%s: other users can write to %s", path, folder)
	}
	if err := removeDead(path); err != nil {
		return nil, err
	}
	old := syscall.Umask(0o177) // nobody else gets in before a chmod would
	l, err := net.Listen("unix", path)
	syscall.Umask(old)
	if err != nil {
		return nil, failure.New(failure.Usage, "give another path", "--metrics-listen: %w", err)
	}
	return l, nil
}

// removeDead removes a socket that a killed process left.
func removeDead(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	taken := failure.New(failure.Usage, "give another path", "--metrics-listen unix:%s is in use", path)
	if err != nil || info.Mode().Type() != fs.ModeSocket {
		return taken
	}
	if conn, err := net.Dial("unix", path); !errors.Is(err, syscall.ECONNREFUSED) {
		if err == nil {
			_ = conn.Close()
		}
		return taken
	}
	return os.Remove(path)
}
