package main

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"tokenfork/internal/failure"
	"tokenfork/internal/job"
	"tokenfork/judge/merge"
)

var (
	damageN    = flag.Int("damage.n", 4, "damages to each kind of file by TestDamageSweep")
	damageSeed = flag.Uint64("damage.seed", 0, "seed of the damages; 0 takes one from the clock")
)

// maxAlloc is more than any command may allocate over a damaged file of a tiny job.
const maxAlloc = 512 << 20

// TestDamageSweep flips bits, cuts and punches holes in a file of every kind that a
// finished job has. check names each; the stages that read the file refuse it with the
// exit code of damage. None panics, and none believes a length that the file states.
//
//	go test ./cmd/tokenfork -run TestDamageSweep -damage.n 200
func TestDamageSweep(t *testing.T) { // by itself: it counts what the process allocates
	seed := *damageSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 4))
	dir := filepath.Join(t.TempDir(), "job")
	j := newFakeJob(t, 4, 30, 2)
	j.whole(t, dir)
	kinds := map[string]string{}
	for _, key := range files(t, dir) {
		kinds[varying.ReplaceAllString(key, "N")] = key
	}
	if len(kinds) < 15 {
		t.Errorf("only %d kinds of files", len(kinds))
	}
	for kind, key := range kinds {
		whole, err := os.ReadFile(filepath.Join(dir, key))
		if err != nil {
			t.Fatal(err)
		}
		for range *damageN {
			bad, what := damage(r, whole)
			d := &damagedJob{t: t, j: j, dir: dir, key: key, what: fmt.Sprintf("%s, %s, seed %d", kind, what, seed)}
			write(t, dir, key, string(bad))
			d.read()
		}
		write(t, dir, key, string(whole))
	}
	t.Logf("%d kinds of files", len(kinds))
	var said bytes.Buffer
	if code := run(t.Context(), []string{"check", "--job", dir}, &said, &said); code != 0 {
		t.Errorf("the job that was put right: exit code %d: %s", code, &said)
	}
}

// damage does to a file what disks do.
func damage(r *rand.Rand, whole []byte) (bad []byte, what string) {
	for {
		bad = bytes.Clone(whole)
		at := r.IntN(len(bad))
		switch r.IntN(3) {
		case 0:
			bad[at] ^= 1 << r.IntN(8)
			what = fmt.Sprintf("a bit of byte %d", at)
		case 1:
			bad, what = bad[:at], fmt.Sprintf("cut at %d", at)
		case 2:
			end := min(len(bad), at+1+r.IntN(4096))
			clear(bad[at:end])
			what = fmt.Sprintf("a hole from %d to %d", at, end)
		}
		if !bytes.Equal(bad, whole) {
			return bad, what
		}
	}
}

type damagedJob struct {
	t              *testing.T
	j              *fakeJob
	dir, key, what string
}

// read has the commands that read the file do so.
func (d *damagedJob) read() {
	switch name := filepath.Base(d.key); {
	case name == "attempt.json" || strings.HasSuffix(d.key, ".start.json") || strings.HasSuffix(d.key, ".end.json"):
		d.says([]int{0, failure.Refused}, false, "check") // for people only: no more than its form is checked
		d.says([]int{0}, false, "status")
		return
	case name == merge.ParquetKey || name == job.RatesKey:
		d.says([]int{failure.Refused}, true, "report", "--out", filepath.Join(d.j.dir, "report"), "--resamples", "10")
	case name == job.Key || strings.HasPrefix(d.key, "shards/") || strings.HasPrefix(d.key, "parts/infer") && strings.HasSuffix(d.key, ".arrow"):
		d.says([]int{failure.Refused}, true, "merge", "--judge", "none")
	}
	d.says([]int{failure.Refused}, true, "check")
}

// says runs a command over the job and wants one of the exit codes and, if it is to be
// named, the file in what it says.
func (d *damagedJob) says(codes []int, named bool, verb string, args ...string) {
	d.t.Helper()
	var said bytes.Buffer
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	code := run(d.t.Context(), append([]string{verb, "--job", d.dir}, args...), &said, &said)
	runtime.ReadMemStats(&after)
	if !slices.Contains(codes, code) || named && !strings.Contains(said.String(), strings.TrimSuffix(d.key, ".arrow")) && !strings.Contains(said.String(), "damaged") {
		d.t.Errorf("%s: %s gives exit code %d, want one of %v and the file's name:\n%s", d.what, verb, code, codes, &said)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > maxAlloc {
		d.t.Errorf("%s: %s allocates %d MiB", d.what, verb, n>>20)
	}
}
