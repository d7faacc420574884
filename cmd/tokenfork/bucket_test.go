package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tokenfork/internal/failure"
	"tokenfork/internal/store"
	"tokenfork/internal/store/storetest"
	"tokenfork/internal/vllm/vllmtest"
	"tokenfork/judge/merge"
)

var update = flag.Bool("update", false, "rewrite terraform/testdata/recording.jsonl")

// inBucket is the run with table and job in S3, stage by stage as array tasks
// and their user call them. What it asks of S3 is what the policies of
// terraform/ are tested for.
func (m *mainJob) inBucket(t *testing.T, first string) {
	s3 := storetest.StartS3(t)
	table, err := os.ReadFile(m.table)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(s3.Folder, "tables"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s3.Folder, "tables", "demo.csv"), table, 0o644); err != nil {
		t.Fatal(err)
	}
	at := "s3://" + s3.Bucket + "/jobs/first"
	on := func(args ...string) []string {
		return append(args, "--job", at, "--s3-endpoint", s3.URL, "--s3-path-style")
	}

	must(t, []int{0}, on(append([]string{"plan", "s3://" + s3.Bucket + "/tables/*.csv", "--max-new-tokens", maxNewTokens}, m.models()...)...)...)
	must(t, []int{0, failure.Other}, on("doctor", "--vllm", "")...) // a Slurm without a cluster may be here, which it says
	must(t, []int{0}, on(append([]string{"infer", "--shard", "0"}, m.servers()...)...)...)
	must(t, done, on(append([]string{"judge", "--shard", "0"}, m.judge()...)...)...)
	must(t, done, on(append([]string{"merge"}, m.judge()...)...)...)
	must(t, []int{0}, on("report", "--resamples", "10")...)
	must(t, []int{0}, on("status")...)
	sameResults(t, first, filepath.Join(s3.Folder, "jobs", "first"))
	brokenUpload(t, s3, at)
	recorded(t, s3.Operations())
}

// brokenUpload is what becomes of results too large for one request where the
// upload fails: its pieces are dropped.
func brokenUpload(t *testing.T, s3 *storetest.Proxy, at string) {
	t.Helper()
	s, err := store.Open(t.Context(), at, store.Options{S3Endpoint: s3.URL, S3PathStyle: true})
	if err != nil {
		t.Fatal(err)
	}
	s3.Inject(storetest.Fault{Match: storetest.Method(http.MethodPost, "uploadId"), Status: http.StatusBadRequest, Code: "InvalidPart"})
	err = store.CreateBytes(t.Context(), s, merge.ArrowKey+".large", make([]byte, 17<<20))
	if err == nil || failure.Code(err) == 0 {
		t.Errorf("the upload went well: %v", err)
	}
}

// recorded compares what the run asked of S3 with terraform's recording: which
// rights, in which top folder of the bucket, with a key each as an example.
func recorded(t *testing.T, operations []storetest.Operation) {
	t.Helper()
	file := filepath.Join(vllmtest.Root(), "terraform/testdata/recording.jsonl")
	got := map[string]storetest.Operation{}
	for _, op := range operations {
		if right := rightOf(op); got[right].Action == "" {
			got[right] = op
		}
	}
	rights := slices.Sorted(maps.Keys(got))
	if *update {
		var lines bytes.Buffer
		for _, right := range rights {
			if err := json.NewEncoder(&lines).Encode(got[right]); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(file, lines.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for lines := json.NewDecoder(bytes.NewReader(b)); lines.More(); {
		var op storetest.Operation
		if err := lines.Decode(&op); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		want = append(want, rightOf(op))
	}
	if !slices.Equal(rights, want) {
		t.Errorf("a run needs of S3\n%q\nbut %s has\n%q\nto record anew: go test ./cmd/tokenfork -run TestMainJob -update", rights, file, want)
	}
}

// rightOf is as much of an operation as policies tell apart.
func rightOf(op storetest.Operation) string {
	top, _, _ := strings.Cut(op.Key, "/")
	return op.Action + " " + top
}
