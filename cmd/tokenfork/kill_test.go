package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tokenfork/internal/store"
	"tokenfork/internal/store/storetest"
	"tokenfork/internal/vllm/fakevllm"
	"tokenfork/internal/vllm/vllmtest"
)

var (
	killN    = flag.Int("kill.n", 6, "kills of TestRandomKills, in a folder and in S3 each")
	killReal = flag.Int("kill.real", 0, "kills of TestRandomKills beside a real vLLM server")
	killSeed = flag.Uint64("kill.seed", 0, "seed of their moments; 0 takes one from the clock")
)

// pointVar holds a point at which the process ends by SIGKILL, or "list FILE", which
// appends every point that is passed to the file.
const pointVar = "TOKENFORK_TEST_POINT"

// killAtPoints puts points around every write: before it, when all is written but not
// yet visible (before the rename, link or last request), and after it.
func killAtPoints(spec string) {
	if spec == "" {
		return
	}
	openStore = func(ctx context.Context, location string, o store.Options) (store.Store, error) {
		s, err := store.Open(ctx, location, o)
		return &pointed{Store: s, spec: spec}, err
	}
}

type pointed struct {
	store.Store
	spec string
	mu   sync.Mutex
}

var varying = regexp.MustCompile(`\b[a-z2-7]{12}\b|\b[0-9a-f]{8,}\b|[0-9A-Z]{20,}|[0-9]+`)

// pass is at a point: a write of a kind of key.
func (s *pointed) pass(when, verb, key string) {
	point := when + " " + verb + " " + strings.Join(strings.Fields(varying.ReplaceAllString(key, "N")), "_")
	if path, ok := strings.CutPrefix(s.spec, "list "); ok {
		s.mu.Lock()
		defer s.mu.Unlock()
		f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			panic(err)
		}
		fmt.Fprintln(f, point)
		_ = f.Close() // a list for a test
	}
	if point == s.spec {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

func (s *pointed) write(verb, key string, write func(io.Writer) error, do func(func(io.Writer) error) error) error {
	s.pass("before", verb, key)
	err := do(func(w io.Writer) error {
		err := write(w)
		s.pass("within", verb, key)
		return err
	})
	s.pass("after", verb, key)
	return err
}

func (s *pointed) Create(ctx context.Context, key string, write func(io.Writer) error) error {
	return s.write("create", key, write, func(w func(io.Writer) error) error { return s.Store.Create(ctx, key, w) })
}

func (s *pointed) Replace(ctx context.Context, key string, write func(io.Writer) error) error {
	return s.write("replace", key, write, func(w func(io.Writer) error) error { return s.Store.Replace(ctx, key, w) })
}

func (s *pointed) Remove(ctx context.Context, key string) error {
	s.pass("before", "remove", key)
	err := s.Store.Remove(ctx, key)
	s.pass("after", "remove", key)
	return err
}

// place is where a job of a kill test lies: for tokenfork, and as a folder to read.
type place struct {
	name, folder string
	env          []string // by which tokenfork reaches it
}

// command is a run over the job at a place, which ends at a point; "" is none.
func (w whole) command(at place, point string) (*exec.Cmd, *bytes.Buffer) {
	cmd, out := command(w.args(at.name)...)
	cmd.Env = append(append(cmd.Env, at.env...), pointVar+"="+point)
	return cmd, out
}

// onBoth runs a test on a folder and on a real S3 server, at the same time.
func onBoth(t *testing.T, test func(t *testing.T, place func() place)) {
	t.Run("folder", func(t *testing.T) {
		t.Parallel()
		root, n := t.TempDir(), 0
		test(t, func() place {
			n++
			p := filepath.Join(root, fmt.Sprint(n), "job")
			return place{name: p, folder: p}
		})
	})
	t.Run("S3", func(t *testing.T) {
		t.Parallel()
		s3, n := storetest.StartS3(t), 0
		test(t, func() place {
			n++
			key := fmt.Sprint("jobs/", n)
			return place{"s3://" + s3.Bucket + "/" + key, filepath.Join(s3.Folder, key), []string{"TOKENFORK_S3_ENDPOINT=" + s3.URL, "TOKENFORK_S3_PATH_STYLE=true"}}
		})
	})
}

// whole is a whole run.
type whole struct {
	args func(place string) []string // over the job at a place
	done []int                       // its exit codes
}

// finish starts the job again until it is done, and compares the results with those of
// a job that nobody disturbed.
func (w whole) finish(t *testing.T, at place, clean, what string) {
	t.Helper()
	cmd, out := w.command(at, "")
	if err := cmd.Run(); !slices.Contains(w.done, cmd.ProcessState.ExitCode()) {
		t.Fatalf("%s: the restart ends with %v:\n%s", what, err, out)
	}
	if d := differs(t, clean, at.folder); len(d) > 0 {
		t.Errorf("%s: %v differ from the undisturbed job's", what, d)
	}
}

// pointsIn are the points that a run has listed.
func pointsIn(t *testing.T, list string) map[string]bool {
	t.Helper()
	b, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	points := map[string]bool{}
	for line := range strings.Lines(string(b)) {
		points[strings.TrimSpace(line)] = true
	}
	return points
}

// A kill at every named point, then a restart: the results are the same bytes.
func TestKillAtEveryPoint(t *testing.T) {
	t.Parallel()
	w := whole{newFakeJob(t, 6, 40, 2).args, []int{0}}
	onBoth(t, func(t *testing.T, next func() place) {
		clean := next()
		list := filepath.Join(t.TempDir(), "points")
		cmd, out := w.command(clean, "list "+list)
		if err := cmd.Run(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		points := pointsIn(t, list)
		for _, part := range []string{"create parts/infer", "commit.json", "create parts/judge", "create job.json", "create shards/", "replace results.parquet", "replace summary.json"} {
			for _, when := range []string{"before", "within", "after"} {
				if !slices.ContainsFunc(slices.Collect(maps.Keys(points)), func(p string) bool { return strings.HasPrefix(p, when) && strings.Contains(p, part) }) {
					t.Errorf("no point %s %s", when, part)
				}
			}
		}
		for _, point := range slices.Sorted(maps.Keys(points)) {
			at := next()
			cmd, out := w.command(at, point)
			err := cmd.Run()
			if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
				t.Errorf("%s: not killed (%v):\n%s", point, err, out)
			}
			w.finish(t, at, clean.folder, point)
		}
		t.Logf("%d points", len(points))
	})
}

// Kills at random moments of whole runs, one to three for each job.
//
//	make kill-sweep
func TestRandomKills(t *testing.T) {
	t.Parallel()
	seed := *killSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", seed)
	moments := func() *rand.Rand { return rand.New(rand.NewPCG(seed, 9)) }
	j := newFakeJob(t, 8, 60, 3, fakevllm.Fault{Kind: fakevllm.Late, Every: 3, For: 5 * time.Millisecond})
	onBoth(t, func(t *testing.T, next func() place) { whole{j.args, []int{0}}.killed(t, moments(), *killN, next) })
	if *killReal > 0 {
		t.Run("vLLM", func(t *testing.T) { killedBesideVLLM(t, moments()) })
	}
}

// killed kills runs until so many were killed, and compares what their restarts make.
func (w whole) killed(t *testing.T, r *rand.Rand, n int, next func() place) {
	clean := next()
	w.finish(t, clean, clean.folder, "undisturbed")
	began := time.Now()
	w.finish(t, next(), clean.folder, "undisturbed again")
	took := time.Since(began)
	killed := 0
	for killed < n {
		at := next()
		for range 1 + r.IntN(3) {
			cmd, out := w.command(at, "")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(r.Int64N(int64(took))))
			_ = cmd.Process.Kill() // it may have ended
			if err := cmd.Wait(); slices.Contains(w.done, cmd.ProcessState.ExitCode()) {
				break // done before
			} else if !strings.Contains(err.Error(), "killed") {
				t.Fatalf("%v:\n%s", err, out)
			}
			killed++
		}
		w.finish(t, at, clean.folder, fmt.Sprintf("after %d kills", killed))
	}
	t.Logf("%d kills, of runs that take %s", killed, took.Round(time.Millisecond))
}

// killedBesideVLLM kills runs whose requests a real server works on, which carries on and
// judges. Its answers are rounded by what else is in a batch: those of the first run count.
func killedBesideVLLM(t *testing.T, r *rand.Rand) {
	server := vllmtest.Record(t, vllmtest.Start(t, "reference")[0].Endpoint().URL())
	server.Work()
	m := mainJob{table: filepath.Join(t.TempDir(), "short.csv"), reference: server}
	shorten(t, filepath.Join(vllmtest.Root(), ".cache/demo.csv"), m.table, 3, 100)
	w := whole{done: done, args: func(place string) []string {
		all := append([]string{"run", m.table, "--job", place, "--trajectories", "real", "--max-new-tokens", "8", "--shards", "2"}, m.models()...)
		return append(append(all, "--reference-url", server.URL, "--part-every", "100ms"), m.judge()...)
	}}
	root, n := t.TempDir(), 0
	w.killed(t, r, *killReal, func() place {
		n++
		p := filepath.Join(root, fmt.Sprint(n))
		return place{name: p, folder: p}
	})
	if server.Repeated() == 0 {
		t.Error("the server had nothing to do while runs were killed")
	}
	t.Logf("the server answered %d requests, and worked on %d again", server.Fresh(), server.Repeated())
}

// shorten writes the first tokens of the first texts of the demo's table.
func shorten(t *testing.T, from, to string, texts, tokens int) {
	t.Helper()
	f, err := os.Open(from)
	ok(t, err)
	defer f.Close()
	all, err := csv.NewReader(f).ReadAll()
	ok(t, err)
	token, text := slices.Index(all[0], "1.5_token_id"), slices.Index(all[0], "1.5_sentence_id")
	short, seen := all[:1:1], map[string]bool{}
	for _, row := range all[1:] {
		if i, err := strconv.Atoi(row[token]); err == nil && i < tokens {
			if seen[row[text]] = true; len(seen) > texts {
				break
			}
			short = append(short, row)
		}
	}
	var b strings.Builder
	ok(t, csv.NewWriter(&b).WriteAll(short))
	ok(t, os.WriteFile(to, []byte(b.String()), 0o600))
}
