package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"tokenfork/internal/vllm/vllmtest"
)

// agreeing is a table in R2R's layout of which the given texts have a mismatch at
// position 30, and the others none.
func agreeing(texts int, differ ...int) string {
	var b strings.Builder
	b.WriteString("row_id,data_id,token_id,real_token,token_type,SLM_predictions,LLM_predictions\n")
	token := func(text, p int) int { return 1000 + (text*311+p*7919)%40000 }
	for n := range texts {
		for p := range 60 {
			small := token(n, p+1)
			for _, d := range differ {
				if d == n && p == 29 {
					small++
				}
			}
			fmt.Fprintf(&b, "%d,t%d,%d,%d,2,%d,%d\n", n*60+p, n, p, token(n, p), small, token(n, p+1))
		}
	}
	return b.String()
}

// No stage needs a mismatch: each ends well, and the results are empty tables that
// have all their columns.
func TestNoMismatch(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	table := write(t, dir, "table.csv", agreeing(3))
	models := fmt.Sprintf(" --small-model %[1]s/small --reference-model %[1]s/reference", vllmtest.Models())
	stages, all := filepath.Join(dir, "stages"), filepath.Join(dir, "run")
	for _, stage := range []string{
		"plan " + table + " --tmp " + dir + models + " --shards 4",
		"infer", "infer --shard 0",
		"judge --judge local --judge-model " + vllmtest.Models() + "/reference",
		"judge --shard 0 --judge local --judge-model " + vllmtest.Models() + "/reference",
		"merge --judge none --format r2r", "report", "check", "status", "submit --dry-run --judge none",
	} {
		said := tokenfork(t, 0, stage+" --job "+stages)
		if strings.Contains(said, "NaN") || strings.Contains(said, "plan INPUT") {
			t.Errorf("%s says\n%s", stage, said)
		}
	}
	tokenfork(t, 0, "run "+table+" --tmp "+dir+models+" --judge none --job "+all)
	for _, job := range []string{stages, all} {
		python(t, "read-results", job)
	}
	if rows := string(read(t, stages, "r2r.csv")); strings.Count(rows, "\n") != 1 || !strings.HasPrefix(rows, "data_id,") {
		t.Errorf("r2r.csv is %q", rows)
	}
	said := tokenfork(t, 4, "infer --job "+dir)
	if !strings.Contains(said, "no shards at "+dir) {
		t.Errorf("infer without a plan says\n%s", said)
	}
}

// Texts without a mismatch are in no shard, however many shards are asked for.
func TestTextsWithoutMismatch(t *testing.T) {
	dir := t.TempDir()
	table := write(t, dir, "table.csv", agreeing(5, 3))
	code, out, complaint := planned(t, "", table, "--job", filepath.Join(dir, "job"), "--shards", "4")
	if code != 0 || !strings.Contains(out, "1 shards") || !strings.Contains(out, "1 mismatches") {
		t.Errorf("exit code %d: %s%s", code, out, complaint)
	}
}

// Texts that plan leaves out are listed and change the exit code, of run too.
func TestSkippedTextsAreTold(t *testing.T) {
	dir := t.TempDir()
	models := fmt.Sprintf(" --small-model %[1]s/small --reference-model %[1]s/reference --tmp %[2]s", vllmtest.Models(), dir)
	table := write(t, dir, "table.csv", agreeing(3)+"180,t3,5,1,2,1,1\n")
	for _, command := range []string{"plan --dry-run", "plan", "plan", "run --judge none"} {
		said := tokenfork(t, 3, command+" "+table+" --on-bad-text skip --job "+filepath.Join(dir, "job")+models)
		for _, part := range []string{"t3: ", "text t3 begins at position 5, most others at 0", "1 texts are left out"} {
			if !strings.Contains(said, part) {
				t.Errorf("%s does not say %q:\n%s", command, part, said)
			}
		}
	}
}
