package merge_test

import (
	"fmt"
	"io"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tokenfork/internal/job"
	"tokenfork/internal/job/jobtest"
	"tokenfork/internal/store"
	"tokenfork/internal/store/storetest"
	"tokenfork/internal/vllm/vllmtest"
	"tokenfork/judge/merge"
)

// TestDataset writes results in parts and in one format, then as usual again:
// the parts are the rows of the one file, and what another merge left is gone.
func TestDataset(t *testing.T) {
	s := jobtest.Large(t, 5, 2)
	run := func(parts int, formats ...string) *merge.Summary {
		t.Helper()
		sum, err := merge.Merge(t.Context(), merge.Options{Jobs: []merge.Source{{Store: s, Judging: jobtest.Judging, Accept: accepted}},
			Out: s, Parts: parts, Formats: formats, Console: io.Discard})
		if err != nil {
			t.Fatal(err)
		}
		return sum
	}
	there := func() (keys []string) {
		for o, err := range s.List(t.Context(), "results") {
			if err != nil {
				t.Fatal(err)
			}
			keys = append(keys, o.Key)
		}
		return keys
	}
	lines := func(keys ...string) (all []string) {
		for _, key := range keys {
			b, err := store.ReadAll(t.Context(), s, key)
			if err != nil {
				t.Fatal(err)
			}
			_, rows, _ := strings.Cut(string(b), "\n") // the header
			all = append(all, rows)
		}
		return all
	}
	run(0)
	whole := lines(merge.CSVKey)[0]
	sum := run(3, "csv")
	want := []string{"results/part-00000.csv", "results/part-00001.csv", "results/part-00002.csv"}
	if got := there(); !slices.Equal(got, want) || !slices.Equal(sum.Results("csv"), want) || sum.Results("arrow") != nil {
		t.Fatalf("files %v, want %v; the summary says %v", got, want, sum.Files())
	}
	for _, key := range want {
		b, err := store.ReadAll(t.Context(), s, key)
		if err != nil || len(sum.SHA256) != len(want) || sum.SHA256[key] != job.Sum(b) {
			t.Errorf("%v; sha256 %v, of %s it is %s", err, sum.SHA256, key, job.Sum(b))
		}
	}
	parts := lines(want...)
	if strings.Join(parts, "") != whole || slices.Contains(parts, "") || sum.Mismatches != 5*jobtest.LargePerText {
		t.Errorf("the parts of %d, %d and %d bytes are not the file of %d", len(parts[0]), len(parts[1]), len(parts[2]), len(whole))
	}
	if sum := run(9, "csv"); len(there()) != 9 || strings.Join(lines(sum.Results("csv")...), "") != whole {
		t.Errorf("more parts than texts: %v", there())
	}
	run(0)
	if got := there(); !slices.Equal(got, []string{merge.ArrowKey, merge.CSVKey, merge.ParquetKey}) || lines(merge.CSVKey)[0] != whole {
		t.Errorf("after the usual merge: %v", got)
	}
}

// TestReadersOfDatasets opens a dataset by what people use: all see the one file's rows.
func TestReadersOfDatasets(t *testing.T) {
	s := jobtest.Large(t, 60, 2) // more rows than a row group has
	merged := func(parts int) string {
		t.Helper()
		dir := t.TempDir()
		out, err := store.Open(t.Context(), dir, store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := merge.Merge(t.Context(), merge.Options{Jobs: []merge.Source{{Store: s, Judging: jobtest.Judging, Accept: accepted}},
			Out: out, Parts: parts, Console: io.Discard}); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	said, err := exec.Command(filepath.Join(vllmtest.Venv(), "bin/python"), "testdata/read_dataset.py", merged(0), merged(3)).CombinedOutput()
	if want := fmt.Sprintf("3 parts, %d rows", 60*jobtest.LargePerText); err != nil || !strings.HasPrefix(string(said), want) {
		t.Errorf("%v: %s", err, said)
	}
	t.Logf("%s", said)
}

// TestDatasetInS3 writes results, one of them in several parts of an upload, and a
// dataset to a real S3 server: the same bytes as in a folder.
func TestDatasetInS3(t *testing.T) {
	s := jobtest.Large(t, 100, 3) // results.arrow has 18 MB, a part of an upload 16 MiB
	proxy := storetest.StartS3(t)
	bucket, err := store.Open(t.Context(), "s3://"+proxy.Bucket+"/results", store.Options{S3Endpoint: proxy.URL, S3PathStyle: true})
	if err != nil {
		t.Fatal(err)
	}
	folder, err := store.Open(t.Context(), t.TempDir(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, parts := range []int{0, 4} {
		var sums [2]*merge.Summary
		for i, out := range []store.Store{folder, bucket} {
			if sums[i], err = merge.Merge(t.Context(), merge.Options{Jobs: []merge.Source{{Store: s, Judging: jobtest.Judging, Accept: accepted}},
				Out: out, Parts: parts, Console: io.Discard}); err != nil {
				t.Fatal(err)
			}
		}
		if !maps.Equal(sums[0].SHA256, sums[1].SHA256) || len(sums[0].SHA256) != 3*max(1, parts) {
			t.Errorf("%v in the folder, %v in S3", sums[0].SHA256, sums[1].SHA256)
		}
		var there []string
		for o, err := range bucket.List(t.Context(), "results") {
			if err != nil {
				t.Fatal(err)
			}
			there = append(there, o.Key)
			b, err := store.ReadAll(t.Context(), bucket, o.Key)
			if err != nil || job.Sum(b) != sums[1].SHA256[o.Key] {
				t.Errorf("%s: %v, %d bytes are not those that were written", o.Key, err, len(b))
			}
		}
		if len(there) != 3*max(1, parts) {
			t.Errorf("with %d parts there are %v", parts, there)
		}
	}
	uploads := 0 // its beginning, two parts and its end
	for _, o := range proxy.Operations() {
		if o.Action == "s3:PutObject" && strings.HasSuffix(o.Key, "/"+merge.ArrowKey) {
			uploads++
		}
	}
	if uploads != 4 {
		t.Errorf("%d requests wrote %s", uploads, merge.ArrowKey)
	}
}
